"""What is patched of Ray and Tune: loud where it is gone, undone at the end."""

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.tune.tune
from ray._private import services, worker
from ray._private.node import Node
from ray.tune.execution.tune_controller import TuneController

from sweep.cluster import ray_patches
from sweep.cluster.forgiving import USED, ForgivingController, Witness
from sweep.common.errors import SweepError

PATCHES = {
    "no_helpers": (ray_patches.no_helpers, Node, "start_monitor"),
    "own_sessions": (lambda: ray_patches.own_sessions(print), services, "ConsolePopen"),
    "no_messages": (ray_patches.no_messages, worker, "print_to_stdstream"),
    "forgiving_controller": (
        lambda: ray_patches.forgiving_controller(Witness()),
        ray.tune.tune,
        "TuneController",
    ),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_is_there_within_its_context_only(patch: str) -> None:
    patched, owner, name = PATCHES[patch]
    before = vars(owner)[name]
    with patched():
        assert vars(owner)[name] is not before
    assert vars(owner)[name] is before
    with pytest.raises(RuntimeError), patched():
        raise RuntimeError
    assert vars(owner)[name] is before


@pytest.mark.parametrize("patch", PATCHES)
def test_a_target_that_is_gone_or_another_ray_is_told(
    patch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched, owner, name = PATCHES[patch]
    with monkeypatch.context() as gone:
        gone.delattr(owner, name)
        with pytest.raises(SweepError, match=rf"Ray 2\.60\.\d+: .*{name}.* is gone"), patched():
            pass
    monkeypatch.setattr(ray, "__version__", "2.61.0")
    with pytest.raises(SweepError, match=r"Ray 2\.61\.0: .*ray\[tune\]==2\.60"), patched():
        pass


@pytest.mark.parametrize("name", USED)
def test_what_the_controller_needs_of_tunes_is_required(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(TuneController, name)
    with pytest.raises(SweepError, match=name), ray_patches.forgiving_controller(Witness()):
        pass


def test_a_controller_that_is_not_ours_is_noticed_before_the_first_trial() -> None:
    """Tune calls its callbacks' setup once it has made its controller."""
    assert issubclass(ForgivingController, TuneController)
    with pytest.raises(AssertionError, match="controller"):
        Witness().setup(stop=None, num_samples=1, total_num_samples=1)


def test_the_patches_are_all_in_one_file() -> None:
    package = Path(ray_patches.__file__).parents[1]
    for path in package.glob("**/*.py"):
        if path.name != "ray_patches.py":
            assert "setattr(" not in path.read_text(encoding="utf-8"), path


@pytest.fixture
def sent() -> Iterator[list[int]]:
    """What handlers of this process's own have heard."""
    heard: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGALRM)
    old = [signal.signal(number, lambda number, _: heard.append(number)) for number in numbers]
    yield heard
    signal.alarm(0)
    for number, handler in zip(numbers, old, strict=True):
        signal.signal(number, handler)


def test_own_handlers_are_put_back_and_rays_alarm_is_cancelled(sent: list[int]) -> None:
    libc, ignore = ctypes.CDLL(None), ctypes.c_void_p(int(signal.SIG_IGN))
    with ray_patches.own_signals():
        for number in (signal.SIGTERM, signal.SIGALRM):
            libc.signal(number, ignore)  # behind Python's back, as Ray's C++ does it
        signal.alarm(100)
    assert signal.alarm(0) == 0
    for number in (signal.SIGTERM, signal.SIGALRM):
        os.kill(os.getpid(), number)
    assert sent == [signal.SIGTERM, signal.SIGALRM]


def test_an_alarm_of_somebody_elses_is_kept(sent: list[int]) -> None:
    signal.alarm(100)
    with ray_patches.own_signals():
        pass
    assert signal.alarm(0) > 90
