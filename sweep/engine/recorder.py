"""From Tune's callbacks to the sweep's events: the one place that knows both."""

import functools
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sweep.config.sweep import SweepConfig
from sweep.engine.failures import failure_reason, is_disk_full, told
from sweep.engine.stopping import Stopping
from sweep.record.events import EventLog
from sweep.record.results import Outcome, SweepRecord
from sweep.record.retention import prune
from trainable.storage.store import Store
from trainable.training.evaluation import Evaluation

METRICS = tuple(Evaluation.__dataclass_fields__)


def _kept(callback: Callable[..., None]) -> Callable[..., None]:
    """Keep the first error of a callback and end the session; what follows it is not recorded.

    Tune logs and forgets some errors of callbacks, and takes others for the trial's own.
    """

    @functools.wraps(callback)
    def guarded(self: "Recorder", **facts: Any) -> None:
        if self.error is not None:
            return
        try:
            callback(self, **facts)
        except Exception as error:  # raised by run_trials
            self.error = error
            self._stopping.ask()

    return guarded


class Recorder(tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Records every start, evaluation, checkpoint and outcome once, and prunes checkpoints.

    Args:
        config: the sweep.
        store: where its checkpoints lie.
        record: kept up to date by the log's events.
        log: where events go.
        stopping: ends the session.
        node_of: returns the address of the node that a trial's worker is on; None: this machine.
        is_full: says whether the sweep's own disk is full, asked where nodes have disks, too.
    """

    def __init__(
        self,
        config: SweepConfig,
        store: Store,
        record: SweepRecord,
        log: EventLog,
        stopping: Stopping,
        node_of: Callable[[Trial], str | None] = lambda _: None,
        is_full: Callable[[], bool] = lambda: True,
    ) -> None:
        self.disk_full = False
        """Whether the session was ended for want of disk space."""
        self.error: Exception | None = None
        """The first error of a callback, which ended the session."""
        self._stopping = stopping
        self._config = config
        self._store = store
        self._record = record
        self._log = log
        self._node_of = node_of
        self._is_full = is_full
        self._nodes: dict[str, str] = {}
        """Where trials run, by their names."""
        self._started: set[str] = set()
        self._lost: dict[str, tuple[Outcome, str, int]] = {}
        self._workers: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing: Tune writes its callbacks down for a restore that is never made."""
        return {}

    @_kept
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Record the first start in this session; a restart is recorded by on_trial_recover."""
        node = self._node_of(trial)
        if node is not None:
            self._nodes[trial.config["name"]] = node
        self._require_started(trial)

    @_kept
    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Record that a trial goes on after its worker died or raised."""
        name, reason = self._require_started(trial), self._failure(trial)
        if self._is_for_room(reason):
            return
        self._log.append("trial_restarted", trial=name, reason=reason)

    @_kept
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Record an evaluation, unless its step was recorded before a restart."""
        name = trial.config["name"]
        if result["outcome"] is not None:
            self._lost[name] = (result["outcome"], result["notice"], result["step"])
            return
        if result["notice"]:
            self._log.append("notice", trial=name, text=result["notice"])
        known = self._record.trials[name]
        if not known.evaluations or result["step"] > known.step:
            metrics = {key: result[key] for key in METRICS if key in result}
            self._log.append(
                "evaluation", trial=name, metrics=metrics, **self._new_worker(name, result)
            )

    @_kept
    def on_checkpoint(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        checkpoint: tune.Checkpoint,
        **_: Any,
    ) -> None:
        """Record a checkpoint, which is stored by now, by the name that its worker gave it."""
        self._log.append(
            "checkpoint",
            trial=trial.config["name"],
            step=trial.last_result["step"],
            val_loss=trial.last_result["val_loss"],
            path=checkpoint.path,
        )
        prune(self._store, self._record, self._config.keep_checkpoints)

    @_kept
    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """Record that a trial finished, was stopped at a rung, diverged or ran out of memory."""
        name = trial.config["name"]
        if name in self._lost:
            outcome, reason, step = self._lost[name]
            self._end(name, outcome, step=step, reason=reason)
            return
        record = self._record.trials[name]
        step = record.step
        if step >= self._config.full_steps(record.params):
            self._end(name, "finished", step=step)
        else:
            self._end(name, "stopped", step=step, rung=step)

    @_kept
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Record that a trial failed for good."""
        name = self._require_started(trial)
        reason = self._failure(trial)
        if self._is_for_room(reason):
            return
        self._end(name, "failed", step=self._record.trials[name].step, reason=reason)

    def _new_worker(self, name: str, result: dict[str, Any]) -> dict[str, str]:
        """Return who trained, where that is another process than before: `worker`, or nothing."""
        worker = f"{result['hostname']}:{result['pid']}"
        if self._workers.get(name) == worker:
            return {}
        self._workers[name] = worker
        return {"worker": worker}

    def _failure(self, trial: Trial) -> str:
        """Return why a trial failed: in its own words, if it still had any."""
        name = trial.config["name"]
        _, reason, _ = self._lost.pop(name, (None, None, None))
        reason = failure_reason(trial) if reason is None else told(reason)
        return f"node {self._nodes[name]}: {reason}" if name in self._nodes else reason

    def _is_for_room(self, reason: str) -> bool:
        """Say whether a trial failed for want of disk space; it goes on in the next session.

        Every other trial would fail alike: the session ends while nothing is lost. On a cluster it
        may be a node's own disk that is full, which ails that node's trials alone.
        """
        if is_disk_full(reason) and (not self._nodes or self._is_full()):
            self.disk_full = True
            self._stopping.ask()
        return self.disk_full

    def _require_started(self, trial: Trial) -> str:
        """Return the trial's name; record its start, if a worker died before it had begun."""
        name: str = trial.config["name"]
        if name not in self._started:
            self._started.add(name)
            facts: dict[str, Any] = {"answer": True} if trial.config.get("answer") else {}
            facts |= {"node": self._nodes[name]} if name in self._nodes else {}
            self._log.append("trial_started", trial=name, params=trial.config["params"], **facts)
        return name

    def _end(
        self,
        name: str,
        outcome: Outcome,
        *,
        step: int,
        rung: int | None = None,
        reason: str | None = None,
    ) -> None:
        self._log.append(
            "outcome", trial=name, outcome=outcome, step=step, rung=rung, reason=reason
        )
        prune(self._store, self._record, self._config.keep_checkpoints)
