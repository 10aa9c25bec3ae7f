"""A Ray of our own: started in the background, on loopback, silent, and stopped at the end."""

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sweep.cluster.placement import Machine
from sweep.cluster.scratch import new_scratch, remove_stale_scratch, scratch_place
from sweep.common.errors import SweepError
from trainable.common.errors import first_line
from trainable.common.paths import PACKAGE_PARENT, cache_folder

OBJECT_STORE_BYTES = 80 * 2**20
"""Trials read memory-mapped files and share no objects, so Ray's smallest store is enough."""

_ENVIRONMENT = {
    # Bind every port to loopback: a sweep on one machine is nobody else's business.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Workers keep the driver's folder: all paths are absolute.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The terminal is ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Signals are ours, too.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A resume reads the sweep's own record: Tune's snapshots would only cost time.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}


@contextlib.contextmanager
def ray_starting(
    machine: Machine, concurrent: int, last_words: Callable[[], int]
) -> Iterator[Callable[[], None]]:
    """Begin to start Ray for a sweep of `concurrent` trials at a time; stop it at the end.

    Starting takes seconds, most of them spent waiting: the caller does other things meanwhile and
    calls what this gives it to wait for the rest. The umask must be 077: Ray keeps a token for its
    processes in the home folder. If Ray dies later, this process ends with the status that
    `last_words` returns.

    Raises:
        SweepError: Ray cannot be started here; from the waiting.
    """
    os.environ.update(_ENVIRONMENT)
    # Tune asks for so many suggestions before their workers are up; the searcher bounds them.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrent)
    paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    remove_stale_scratch()
    scratch = new_scratch()
    # A killed worker leaves its temporary files there, too; compiled kernels are kept for others.
    temporary = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = scratch
    try:
        # Ray's processes end with the thread that started them: it must live to the end.
        with ThreadPoolExecutor(1, "ray") as thread, contextlib.ExitStack() as watch:
            started = thread.submit(_start, machine, scratch)

            def wait() -> None:
                started.result()
                from sweep.cluster.watch import RayWatch

                watch.enter_context(RayWatch(last_words, Path(scratch)))

            try:
                yield wait
            finally:
                watch.close()
                thread.submit(_stop).result()
    finally:
        if temporary is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = temporary
        shutil.rmtree(scratch, ignore_errors=True)


def _start(machine: Machine, scratch: str) -> None:
    import ray
    from ray._private import worker as ray_worker
    from ray._private.node import Node

    # A sweep has no use for Ray's autoscaler, log reader and dashboard: three Pythons that would
    # start before anything else can. Ray offers no settings for them.
    for method in ("start_monitor", "start_log_monitor", "start_api_server"):
        setattr(Node, method, _no_helper)
    # Messages of Ray's own, twenty lines of a dead raylet's log, would bury the one that is told.
    ray_worker.print_to_stdstream = lambda *_, **__: None
    # What fails is told by us, in a line; Ray's own log files keep the tracebacks.
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with _own_handler_of(signal.SIGTERM):
            ray.init(
                address="local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=True,
                _temp_dir=scratch,
            )
    except Exception as error:  # whatever it was, nothing has begun
        raise not_started(error) from error


def _no_helper(node: Any, **_: Any) -> None:
    """Stand in for the methods of Ray's node that start a helper."""
    node._webui_url = None  # what is told where no dashboard was started


def not_started(error: Exception) -> SweepError:
    """Return what to say when Ray cannot be started."""
    return SweepError(
        f"Ray did not start: {first_line(error)}; is {scratch_place()} (TMPDIR) full or not "
        "writable, or memory short?"
    )


@contextlib.contextmanager
def _own_handler_of(number: int) -> Iterator[None]:
    """Put the process's handler of a signal back: Ray's C++ installs one that dumps the stack.

    Python's own signal.signal serves the main thread only, so the system is asked itself.
    """
    libc, action = ctypes.CDLL(None), ctypes.create_string_buffer(512)  # a struct sigaction
    libc.sigaction(number, None, action)
    try:
        yield
    finally:
        libc.sigaction(number, action, None)
        signal.alarm(0)  # it aborts the process some seconds after a signal that it heard


def _stop() -> None:
    import ray

    ray.shutdown()
