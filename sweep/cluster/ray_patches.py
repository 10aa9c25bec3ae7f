"""Every patch of Ray and Tune: where they have no setting for what a sweep needs.

A patch is a context, undone at its end. It is refused where its target is gone, and for another
version of Ray than it was written for: an update would otherwise take it off in silence.
"""

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sweep.common.errors import SweepError

if TYPE_CHECKING:
    from sweep.cluster.forgiving import ForgivingController, Witness

WRITTEN_FOR = "2.60"
"""The version of Ray whose source the patches were read against."""


@contextlib.contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """Put `new` in the place of what a class or module of Ray calls `name`.

    Raises:
        SweepError: it is not there, or Ray is of another version.
    """
    _require(owner, name)
    old = vars(owner)[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def _require(owner: Any, *names: str) -> None:
    import ray

    if not ray.__version__.startswith(f"{WRITTEN_FOR}."):
        raise SweepError(
            f"Ray {ray.__version__}: a sweep mends parts of it that are {WRITTEN_FOR}'s; "
            f"install ray[tune]=={WRITTEN_FOR}.*"
        )
    for name in names:
        if name not in vars(owner):
            raise SweepError(
                f"Ray {ray.__version__}: {owner.__name__}.{name}, which a sweep mends, is gone; "
                f"install an unchanged ray[tune]=={WRITTEN_FOR}.*"
            )


@contextlib.contextmanager
def no_helpers() -> Iterator[None]:
    """Start no autoscaler, log reader and dashboard with a Ray that is started meanwhile.

    A sweep has no use for them: three Pythons that would start before anything else can.
    """
    from ray._private.node import Node

    def no_helper(node: Any, **_: Any) -> None:
        node._webui_url = None  # what is told where no dashboard was started

    with contextlib.ExitStack() as all_three:
        for method in ("start_monitor", "start_log_monitor", "start_api_server"):
            all_three.enter_context(replaced(Node, method, no_helper))
        yield


@contextlib.contextmanager
def own_sessions(started: Callable[[int], None]) -> Iterator[None]:
    """Start each of Ray's own processes in a new session; tell `started` its number.

    What such a process starts is in that session, too. A signal to the driver's process group, by
    a closed terminal, `timeout` or a batch system, is not for them: the trials are saved first.
    """
    from ray._private import services

    _require(services, "ConsolePopen")
    popen = services.ConsolePopen

    def start(*command: Any, **settings: Any) -> Any:
        process = popen(*command, start_new_session=True, **settings)
        started(process.pid)
        return process

    with replaced(services, "ConsolePopen", start):
        yield


@contextlib.contextmanager
def no_messages() -> Iterator[None]:
    """Print no messages of Ray's: a dead raylet's twenty lines would bury the one that is told."""
    from ray._private import worker

    with replaced(worker, "print_to_stdstream", lambda *_, **__: None):
        yield


@contextlib.contextmanager
def forgiving_controller(
    witness: "Witness",
    make: "Callable[..., ForgivingController] | None" = None,
    *,
    patient: bool = False,
) -> Iterator[None]:
    """Have a Tune that runs meanwhile conducted by a ForgivingController.

    Args:
        witness: has to be among Tune's callbacks.
        make: makes the controller, given what Tune gives its own; None: the class itself.
        patient: see there.
    """
    import ray.tune.tune
    from ray.tune.execution.tune_controller import TuneController

    from sweep.cluster import forgiving

    def made(**settings: Any) -> forgiving.ForgivingController:
        witness.made = True
        controller = (make or forgiving.ForgivingController)(**settings)
        controller.patient = patient
        return controller

    _require(TuneController, *forgiving.USED)
    with replaced(ray.tune.tune, "TuneController", made):
        yield


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Put the process's handlers back at the end: Ray's C++ installs one that dumps the stack.

    Having heard a SIGTERM it also sets an alarm, which aborts the process seconds later. An alarm
    is taken for Ray's, and cancelled, if its handler is another than before.
    """
    # Python's own signal.signal serves the main thread only, so the system is asked itself.
    libc = ctypes.CDLL(None)
    old = {number: _action(libc, number) for number in (signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        if _handler(_action(libc, signal.SIGALRM)) != _handler(old[signal.SIGALRM]):
            signal.alarm(0)
        for number, action in old.items():
            libc.sigaction(number, action, None)


def _action(libc: ctypes.CDLL, number: int) -> "ctypes.Array[ctypes.c_char]":
    action = ctypes.create_string_buffer(512)  # longer than any system's struct sigaction
    libc.sigaction(number, None, action)
    return action


def _handler(action: "ctypes.Array[ctypes.c_char]") -> bytes:
    return action.raw[: ctypes.sizeof(ctypes.c_void_p)]  # the struct's first field
