"""A Ray of our own: started in the background, on loopback, silent, and stopped at the end."""

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sweep.cluster import ray_patches
from sweep.cluster.packing import Machine
from sweep.cluster.quiet import keep_quiet, quiet
from sweep.cluster.scratch import remove_stale_scratch, scratch_folder, scratch_place
from sweep.cluster.survivors import survivors_ended
from sweep.common.errors import SweepError
from trainable.common.errors import first_line
from trainable.common.paths import PACKAGE_PARENT, cache_folder

OBJECT_STORE_BYTES = 80 * 2**20
"""Trials read memory-mapped files and share no objects, so Ray's smallest store is enough."""

_ENVIRONMENT = {
    # Bind every port to loopback: a sweep on one machine is nobody else's business.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


@contextlib.contextmanager
def ray_starting(
    machine: Machine, concurrent: int, last_words: Callable[[], int]
) -> Iterator[Callable[[], None]]:
    """Begin to start Ray for a sweep of `concurrent` trials at a time; stop it at the end.

    Starting takes seconds, most of them spent waiting: the caller does other things meanwhile and
    calls what this gives it to wait for the rest. The umask must be 077: Ray's token lies in its
    temporary folder. If Ray dies later, this process ends with the status that `last_words`
    returns.

    Raises:
        SweepError: Ray cannot be started here; from the waiting.
    """
    keep_quiet()
    os.environ.update(_ENVIRONMENT)
    # Tune asks for so many suggestions before their workers are up; the searcher bounds them.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrent)
    paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # Compiled kernels are kept for other sweeps, not in the temporary folder.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    remove_stale_scratch()
    with (
        scratch_folder() as scratch,
        survivors_ended(scratch) as ends_with_us,
        # A killed worker leaves its temporary files there, too.
        _environment(TMPDIR=scratch, RAY_AUTH_TOKEN_PATH=_new_token(scratch)),
        # Ray's processes end with the thread that started them: it must live to the end.
        ThreadPoolExecutor(1, "ray") as thread,
        contextlib.ExitStack() as watch,
    ):
        to_the_end = contextlib.ExitStack()
        started = thread.submit(_start, machine, scratch, ends_with_us, to_the_end)

        def wait() -> None:
            started.result()
            from sweep.cluster.watch import RayWatch, own_ray_is_dead

            watch.enter_context(RayWatch(own_ray_is_dead(), last_words))

        try:
            yield wait
        finally:
            watch.close()
            thread.submit(to_the_end.close).result()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables of this process, and of those that it starts, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _new_token(scratch: str) -> str:
    """Write a token for the processes of this Ray alone; return its path.

    Ray would keep one for all that this user runs in the home folder, which may be read-only.
    """
    path = Path(scratch) / "token"
    path.write_text(secrets.token_hex(32), encoding="ascii")
    return str(path)


def _start(
    machine: Machine,
    scratch: str,
    ends_with_us: Callable[[int], None],
    to_the_end: contextlib.ExitStack,
) -> None:
    import ray
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader

    AuthenticationTokenLoader.instance().reset_cache()  # of a session before, in this process
    to_the_end.enter_context(quiet())
    to_the_end.callback(ray.shutdown)
    with (
        ray_patches.no_helpers(),
        ray_patches.own_sessions(ends_with_us),
        ray_patches.own_signals(),
    ):
        try:
            ray.init(
                address="local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=True,
                _temp_dir=f"{scratch}/r",  # Ray opens it to all; what it lies in is private
            )
        except Exception as error:  # whatever it was, nothing has begun
            raise not_started(error) from error


def not_started(error: Exception) -> SweepError:
    """Return what to say when Ray cannot be started."""
    return SweepError(
        f"Ray did not start: {first_line(error)}; is {scratch_place()} (TMPDIR) full or not "
        "writable, or memory short?"
    )
