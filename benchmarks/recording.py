"""Recording results: what a result costs the driver, and MLflow in all, beside Ray's callback.

Both sides record the same results of the same trials into new SQLite stores. Ours puts an event
down, and delivers the events of a moment together, in a thread of its own.
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Bar, Row, interleave, middle, ratio

TRIALS = 8
RESULTS_A_MOMENT = 2
"""Results of each trial between two deliveries."""


def rows(short: bool) -> Iterator[Row]:
    """Yield the cost of a result on the driver's path, and of recording in all."""
    with tempfile.TemporaryDirectory() as scratch:
        ours, stock = Ours(Path(scratch)), Stock(Path(scratch))
        sides = {"ours": ours.moment, "stock": stock.moment}
        taken = interleave(sides, rounds=5 if short else 25)
        ours.close()
    paths = [1000 * seconds for seconds in ours.seconds_per_result]
    yield Row(
        "recording",
        "driver's path per result",
        *middle(paths),
        unit="ms",
        bar=Bar(at_most=1.0),
        margin=None,
    )
    yield Row(
        "recording",
        "a result in all, MLflow delivered",
        *ratio(taken["ours"], taken["stock"]),
        unit="x Ray's MLflowLoggerCallback",
        bar=Bar(at_most=0.1),
        margin=1.0,
        note=f"theirs {per_result(taken['stock']):.2g} ms, ours {per_result(taken['ours']):.2g} ms",
    )


def per_result(seconds: list[float]) -> float:
    """Return the median milliseconds of one result."""
    return 1000 * statistics.median(seconds) / (TRIALS * RESULTS_A_MOMENT)


def result(step: int) -> dict[str, Any]:
    """Return what Tune gives its callbacks: a trial's own metrics, and those that Tune adds."""
    metrics = {
        "step": step,
        "tokens": 1_024 * step,
        "flops": 10**9 * step,
        "seconds": 0.1 * step,
        "train_loss": 3.0,
        "val_loss": 3.0,
        "val_bpb": 2.0,
        "grad_norm": 1.0,
        "lr": 1e-3,
        "tokens_per_second": 1e4,
    }
    added = {
        "training_iteration": step,
        "time_this_iter_s": 1.0,
        "time_total_s": 1.0 * step,
        "time_since_restore": 1.0 * step,
        "iterations_since_restore": step,
        "timestamp": 1_700_000_000 + step,
        "pid": 4_242,
        "done": False,
        "trial_id": "0123abcd",
        "hostname": "host",
        "node_ip": "127.0.0.1",
        "date": "2026-01-01_00-00-00",
    }
    return {**metrics, **added, "outcome": None, "notice": None}


class Ours:
    """The recorder with its listeners, and the delivery of what it recorded."""

    def __init__(self, scratch: Path) -> None:
        import os

        from ray.tune.experiment import Trial
        from rich.console import Console

        from sweep.config.sweep import SweepConfig
        from sweep.control.interruption import Interruption
        from sweep.engine.recorder import Recorder
        from sweep.engine.stopping import Stopping
        from sweep.record.events import EventLog
        from sweep.record.folder import SweepFile, create_sweep
        from sweep.record.identity import new_identity
        from sweep.record.results import SweepRecord
        from sweep.show.progress import Progress
        from sweep.tracking.runs import MlflowRuns
        from trainable.common.paths import config_file
        from trainable.config.explain import validate
        from trainable.config.yaml_file import read_yaml
        from trainable.storage.folder import FolderStore

        os.environ["LM_SWEEP_HOME"] = str(scratch)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch / 'ours.db'}"
        values = read_yaml(config_file("sweep.yaml"))
        values["trial"] = {"data": {"raw_dtype": "uint16", "raw_vocab_size": 257}}
        config = validate(SweepConfig, values, "sweep.yaml")
        sweep = SweepFile(identity=new_identity(time.time(), "0" * 16), config=config)
        folder = create_sweep("recording", sweep)
        self._log, record = EventLog(folder), SweepRecord()
        progress = Progress(
            config, record, None, Console(file=io.StringIO(), width=110), lambda: None
        )
        self._log.listen(record.apply)
        self._log.listen(progress.notice)
        self._recorder = Recorder(
            config, FolderStore(folder), record, self._log, Stopping(Interruption())
        )
        self._runs = MlflowRuns(folder, sweep)
        self._runs.connect()
        self._log.append("session_started", session=1, num_samples=TRIALS)
        params = {
            name: config.start_points[0].get(name, domain.values[0])
            for name, domain in config.space.items()
        }
        self._trials = []
        for number in range(TRIALS):
            trial = Trial("recorded", stub=True)
            trial.config = {"name": f"t{number:03d}", "params": params}
            self._recorder.on_trial_start(iteration=0, trials=[], trial=trial)
            self._trials.append(trial)
        self._runs.deliver_new()
        self._step = 0
        self.seconds_per_result: list[float] = []

    def moment(self) -> None:
        """Record a few results of each trial, then deliver them."""
        for _ in range(RESULTS_A_MOMENT):
            self._step += 1
            for trial in self._trials:
                started = time.perf_counter()
                self._told(trial)
                self.seconds_per_result.append(time.perf_counter() - started)
        self._runs.deliver_new()

    def _told(self, trial: Any) -> None:
        self._recorder.on_trial_result(
            iteration=0, trials=[], trial=trial, result=result(self._step)
        )

    def close(self) -> None:
        """Raise what the recorder kept, and close the record."""
        if self._recorder.error is not None:
            raise self._recorder.error
        self._log.close()


class Stock:
    """Ray's own callback."""

    def __init__(self, scratch: Path) -> None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback
        from ray.tune.experiment import Trial

        with contextlib.redirect_stderr(io.StringIO()):
            self._callback = MLflowLoggerCallback(
                tracking_uri=f"sqlite:///{scratch / 'stock.db'}", experiment_name="stock"
            )
            self._callback.setup()
            self._trials = []
            for _ in range(TRIALS):
                trial = Trial("recorded", stub=True)
                trial.config = {"optim.lr": 1e-3, "model.d_model": 64}
                self._callback.log_trial_start(trial)
                self._trials.append(trial)
        self._step = 0

    def moment(self) -> None:
        """Record a few results of each trial."""
        for _ in range(RESULTS_A_MOMENT):
            self._step += 1
            for trial in self._trials:
                self._callback.log_trial_result(0, trial, result(self._step))
