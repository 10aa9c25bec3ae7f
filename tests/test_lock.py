"""Who may write a sweep's folder: one process at a time, and only its owner."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_samples import new_sweep, run_of, session, write_events

from sweep.common.errors import SweepError
from sweep.record.lock import is_running, locked, require_private
from sweep.status import main as status

pytestmark = pytest.mark.fault


def test_one_process_at_a_time_holds_a_sweep() -> None:
    folder, _ = new_sweep("held")
    code = (
        "import sys; from pathlib import Path; from sweep.record.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    assert not is_running(folder)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert is_running(folder)
        with pytest.raises(SweepError, match="held: another process"), locked(folder):
            pytest.fail("two processes hold the sweep")
        other.kill()  # no clean-up runs, and still the lock is gone
    assert not is_running(folder)
    with locked(folder), pytest.raises(SweepError), locked(folder):
        pytest.fail("the sweep is held twice")
    assert not is_running(folder)


def test_looking_whether_a_sweep_runs_keeps_nobody_from_it() -> None:
    """Not even two processes that do nothing else; each try of ours gets the sweep."""
    folder, _ = new_sweep("watched")
    code = (
        "import sys; from pathlib import Path; from sweep.record.lock import is_running\n"
        "print('looking', flush=True)\nwhile True: is_running(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            other = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(other.kill)
            assert other.stdout is not None
            assert other.stdout.readline() == b"looking\n"
        for _ in range(500):
            with locked(folder), pytest.raises(SweepError, match="is running it"), locked(folder):
                pytest.fail("the sweep is held twice")


def test_looking_leaves_nothing_behind() -> None:
    folder, _ = new_sweep("looked")
    assert not is_running(folder)
    assert [path.name for path in folder.iterdir()] == ["sweep.json"]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def shared_umask() -> Iterator[None]:
    """Let all new files be the group's, as many systems do."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_what_the_commands_write_is_private_under_any_umask(shared_umask: None) -> None:
    folder, _ = new_sweep("mine")
    write_events(folder, session(), *run_of("t000", {0: 5.0, 10: 4.0}, "finished"))
    path = folder / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b"4.0", b"!!!"))
    for arguments in (["mine", "--repair"], [], ["mine"]):
        assert status(arguments) == 0
    require_private(folder)


@pytest.mark.parametrize("mode", [0o020, 0o002])
@pytest.mark.parametrize("place", ["", "sweep.json", "session-1", "session-1/t000/manifest.json"])
def test_a_folder_that_others_can_write_is_refused(place: str, mode: int) -> None:
    folder, _ = new_sweep("open")
    deep = folder / "session-1" / "t000"
    deep.mkdir(parents=True)
    (deep / "manifest.json").write_text("{}", encoding="utf-8")
    for path in (deep.parent, deep, deep / "manifest.json"):
        path.chmod(path.stat().st_mode & ~0o022)
    require_private(folder)
    path = folder / place
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(SweepError, match="yours alone to write") as caught:
        require_private(folder)
    assert f"{path} belongs to user {os.geteuid()} with mode" in str(caught.value)


def test_links_that_lead_nowhere_are_passed_over(tmp_path: Path) -> None:
    folder, _ = new_sweep("linked")
    (folder / "gone").symlink_to(tmp_path / "gone")
    (folder / "self").symlink_to(folder / "self")
    require_private(folder)
    (tmp_path / "theirs").write_text("x", encoding="utf-8")
    (tmp_path / "theirs").chmod(0o666)
    (folder / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(SweepError, match="yours alone to write"):
        require_private(folder)


def test_a_folder_that_is_pruned_meanwhile_is_looked_at_nevertheless() -> None:
    folder, _ = new_sweep("pruned")
    done = threading.Event()

    def prune() -> None:
        while not done.is_set():
            for number in range(20):
                (folder / "session-1" / f"t{number:03d}" / "deep").mkdir(0o700, parents=True)
            shutil.rmtree(folder / "session-1")

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        for _ in range(300):
            require_private(folder)
    finally:
        done.set()
        pruner.join()
