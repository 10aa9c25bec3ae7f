"""One session of a sweep: Ray started for it, Tune run to its end or to an interruption."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sweep.config import SweepConfig
from sweep.errors import SweepError
from sweep.events import EventLog
from sweep.placement import Machine
from sweep.results import SweepRecord
from sweep.retention import existing
from trainable.paths import PACKAGE_PARENT, cache_folder

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

OBJECT_STORE_BYTES = 80 * 2**20
"""Trials read memory-mapped files and share no objects, so Ray's smallest store is enough."""

FULL_BYTES = 2**20
"""A disk with less room than this counts as full."""

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
_SCRATCH = "lm-sweep-"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ray_started(machine: Machine, last_words: Callable[[], int]) -> Iterator[None]:
    """Run a Ray of our own, on loopback and silent, and stop it at the end.

    The umask must be 077: Ray keeps a token for its processes in the home folder. If Ray dies
    meanwhile, this process ends with the status that `last_words` returns.

    Raises:
        SweepError: Ray cannot be started here.
    """
    os.environ.update(_ENVIRONMENT)
    paths = [str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray
    from ray._private import worker as ray_worker

    from sweep.watch import RayWatch

    # Messages of Ray's own, twenty lines of a dead raylet's log, would bury the one that is told.
    ray_worker.print_to_stdstream = lambda *_, **__: None

    remove_stale_scratch()
    scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-")
    # A killed worker leaves its temporary files there, too; compiled kernels are kept for others.
    temporary = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = scratch
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    try:
        try:
            ray.init(
                address="local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                _temp_dir=scratch,
            )
        except Exception as error:  # whatever it was, nothing has begun
            raise not_started(error) from error
        for name in ("ray", "ray.tune", "ray.train"):
            # What fails is told by us, in a line; Ray's own log files keep the tracebacks.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with RayWatch(last_words, Path(scratch)):
            yield
    finally:
        ray.shutdown()
        if temporary is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = temporary
        shutil.rmtree(scratch, ignore_errors=True)


def not_started(error: Exception) -> SweepError:
    """Return what to say when Ray cannot be started."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return SweepError(
        f"Ray did not start: {reason}; is {tempfile.gettempdir()} (TMPDIR) full or not writable, "
        "or memory short?"
    )


def remove_stale_scratch() -> None:
    """Remove the temporary folders of our own sweeps whose driver was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if owner.isdigit() and folder.lstat().st_uid == os.geteuid() and not _lives(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def run_trials(
    config: SweepConfig, folder: Path, record: SweepRecord, log: EventLog, concurrent: int
) -> None:
    """Run the trials that are still to do, until the last has ended or a signal stops them.

    `record` and `log` take in all that happens. Ray must have been started.

    Raises:
        SweepError: the disk is full.
    """
    from ray import tune

    from sweep.recorder import Recorder
    from sweep.scheduler import build_scheduler
    from sweep.searcher import SweepSearch
    from trainable.tune_trainable import LanguageModelTrial

    recorder = Recorder(config, folder, record, log)
    unfinished = record.unfinished
    to_do = len(unfinished) + max(0, config.num_samples - len(record.trials))
    checkpoints = {
        trial.name: [str(folder / c.path) for c in existing(folder, trial)] for trial in unfinished
    }
    tuner = tune.Tuner(
        tune.with_resources(
            LanguageModelTrial, {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}
        ),
        tune_config=tune.TuneConfig(
            num_samples=to_do,
            max_concurrent_trials=concurrent if config.max_concurrent else None,
            search_alg=SweepSearch(config, record, checkpoints),
            scheduler=build_scheduler(config, record),
            reuse_actors=True,
            trial_dirname_creator=trial_name,
            trial_name_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"session-{record.sessions}",
            storage_path=str(folder),
            callbacks=[recorder],
            # The trial says when to save: a lost one must not, at its end, either.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        if not recorder.disk_full and shutil.disk_usage(folder).free > FULL_BYTES:
            raise
        raise disk_full_error(folder) from error
    if recorder.disk_full:
        raise disk_full_error(folder)


def disk_full_error(folder: Path) -> SweepError:
    """Return what to say when there is no room for a sweep's files."""
    free = shutil.disk_usage(folder).free
    return SweepError(
        f"sweep {folder.name}: the disk is full ({free / 2**20:,.0f} MiB free in {folder}); what "
        "was saved is whole: make room and go on with "
        f"`python sweep/run.py --resume {folder.name}`"
    )


def trial_name(trial: "Trial") -> str:
    """Return our name of a Tune trial: it is the name of its folder, too."""
    name: str = trial.config["name"]
    return name


class Interruption:
    """Turns the first SIGINT or SIGTERM into a graceful end, and the second into an immediate one.

    Used as a context: `signal` is then the number of the signal that is obeyed, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.heard: int | None = None
        """The same, known at once, even while the main thread is deep in C++."""

    def __enter__(self) -> "Interruption":
        self._old = {number: signal.getsignal(number) for number in _SIGNALS}
        # Python runs handlers between two of its own instructions, and Ray may be deep in C++
        # for seconds: a thread hears of signals at once.
        hears, tells = socket.socketpair()
        tells.setblocking(False)
        signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
        self._sockets = (hears, tells)
        threading.Thread(target=self._listen, args=(hears,), name="signals", daemon=True).start()
        self.arm()
        return self

    def arm(self) -> None:
        """Install the handlers, again after Ray has started: its own ends the process at once."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        for end in self._sockets:
            end.close()

    def _listen(self, hears: socket.socket) -> None:
        count = 0
        while True:
            try:
                told = hears.recv(1)
            except OSError:
                return
            if not told:
                return
            if told[0] not in _SIGNALS:
                continue
            self.heard = told[0]
            count += 1
            if count == 2:
                os._exit(128 + told[0])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return  # the second ends the process: see _listen
        self.signal = number
        # Tune's own signal for "finish what is running and return"; without a running Tune its
        # handler is not there, and the default would end the process without a word.
        if signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, signal.SIG_IGN, None):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGUSR1)
