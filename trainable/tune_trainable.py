"""The Ray Tune class Trainable: the one file of this package that knows Ray.

Tune calls setup once per worker process, reset_config before each further trial in it, step for
each report, and save_checkpoint / load_checkpoint by the contract.
"""

from pathlib import Path
from typing import Any

import torch
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.train._internal.session import _TrainingResult
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from trainable.checkpoint.folder import MANIFEST_FILE, Snapshot
from trainable.common.errors import DamagedCheckpointError, DivergedError, UserError, first_line
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL
from trainable.config.trial import TrialConfig
from trainable.data.copy import open_here
from trainable.hardware.device import OUT_OF_MEMORY, require_out_of_memory
from trainable.storage.address import open_store
from trainable.storage.store import checkpoint_name, new_attempt, older_of_trial
from trainable.training.ahead import Ahead
from trainable.training.evaluation import Evaluation
from trainable.training.trainer import Trainer


class LanguageModelTrial(tune.Trainable):  # type: ignore[misc]  # Ray is untyped
    """One trial. Its Tune config holds:

    trial: a TrialConfig as a dict, with the suggestion in it.
    name: the trial's name in the sweep, e.g. "t003".
    params, answer: what the sweep records of it when it starts.
    store: where checkpoints lie, as open_store takes it.
    place: the trial's folder there, in this session.
    resume_from: names of checkpoints to go on from, newest first; a damaged one is passed over.
    takes: what it takes of a node, by Ray's names; of a GPU's fraction it may use its memory.
    copy: digest of the dataset's copy that it trains on; None: the dataset where `trial` names it.
    """

    _trainer: Trainer | None = None
    _ahead: Ahead | None = None
    _snapshot: Snapshot | None = None
    """The state of the last evaluation that was reported."""

    def setup(self, config: dict[str, Any]) -> None:
        """Build the trial's model, optimizer and data; step tells what ails them."""
        # The last trial's tensors go before the new one's come: a reused worker never holds both.
        self._let_go()
        self._failure: Exception | None = None
        self._failure_told = False
        self._notices: list[str] = []
        self._store = open_store(config["store"])
        self._attempt = new_attempt(config["place"])
        self._resume_from: list[str] = config["resume_from"]
        share = config["takes"]["GPU"]
        try:
            if 0 < share < 1 and torch.cuda.is_available():
                torch.cuda.set_per_process_memory_fraction(share)
            trial, copy = TrialConfig.model_validate(config["trial"]), config.get("copy")
            self._trainer = Trainer(trial, open_here(trial, copy))
        except Exception as error:
            self._failure = error

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation and report it.

        A diverged trial, or one out of memory, reports its outcome and ends. Any other exception
        is reported in its own words, and raised at the next call: Tune then tries once more.
        """
        if self._failure is not None and self._failure_told:
            raise self._failure
        try:
            return self._result()
        except Exception as error:
            self._failure, self._failure_told = error, True
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            # At step 0 there is no rung, where the stand-in for a loss would count.
            return self._lost("failed", kind + first_line(error), step=0, ends=False)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the checkpoint folder of the last evaluation, while the trial trains on."""
        assert self._snapshot is not None
        self._snapshot.save(Path(checkpoint_dir), durable=False)

    def save(self, checkpoint_dir: str | None = None) -> _TrainingResult:
        """Save into this attempt's own folder; it is there for good when Tune is told.

        Tune would copy a folder without waiting for the disk, to where a worker that it takes for
        dead could write, too.

        Raises:
            OSError, StorageError: it cannot be stored.
        """
        assert self._snapshot is not None
        name = checkpoint_name(self._attempt, self._snapshot.facts["iteration"])
        with self._store.writing(name, last=MANIFEST_FILE) as folder:
            self.save_checkpoint(str(folder))
        # The path is a name in the store, and the store's keys are not Tune's to write down.
        named = tune.Checkpoint(name, LocalFileSystem())
        return _TrainingResult(named, dict(self._last_result or {}))

    def restore(self, checkpoint_path: _TrainingResult) -> None:
        """Go on, after this trial's worker died, from its newest checkpoint that is whole.

        Tune would give the trial up if the one that it knows is damaged or gone.
        """
        newest = checkpoint_path.checkpoint.path
        before = [name for name in self._resume_from if self._store.exists(name)]
        self._resume_from = [newest, *older_of_trial(self._store, newest), *before]

    def load_checkpoint(self, checkpoint: str | dict[str, Any] | None) -> None:
        """Go on from a checkpoint folder."""
        assert self._trainer is not None
        assert isinstance(checkpoint, str)
        assert self._ahead is None
        self._trainer.load(Path(checkpoint))
        self._resume_from = []

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process, with nothing left of the last one."""
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Let go of the model when the worker ends."""
        self._let_go()

    def _let_go(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._trainer = self._ahead = self._snapshot = None

    def _result(self) -> dict[str, Any]:
        """Return what is reported of the next evaluation, or of a trial that is lost."""
        try:
            evaluation = self._next_evaluation()
        except DivergedError as error:
            return self._lost("diverged", str(error), step=error.step)
        except OUT_OF_MEMORY as error:
            require_out_of_memory(error)
            notice, step = first_line(error), self._trainer.iteration if self._trainer else 0
            self._let_go()
            return self._lost("out_of_memory", notice, step)
        told, self._notices = "; ".join(self._notices) or None, []
        assert self._trainer is not None
        return {
            **evaluation.metrics(),
            "notice": told,
            "outcome": None,
            DONE: evaluation.step >= self._trainer.config.train.steps,
            SHOULD_CHECKPOINT: evaluation.step > 0,
        }

    def _next_evaluation(self) -> Evaluation:
        if self._failure is not None:
            raise self._failure
        if self._ahead is None:
            assert self._trainer is not None
            self._resume(self._trainer)
            if self._trainer.iteration >= self._trainer.config.train.steps:
                # Its worker died between the last checkpoint and the word of its end.
                self._snapshot = self._trainer.snapshot()
                return self._trainer.evaluation()
            self._ahead = Ahead(self._trainer)
        self._snapshot = None  # before the next one is made: memory holds one copy at a time
        evaluation, self._snapshot = self._ahead.next()
        return evaluation

    def _resume(self, trainer: Trainer) -> None:
        """Go on from the newest checkpoint that is whole."""
        for name in self._resume_from:
            try:
                with self._store.reading(name) as folder:
                    trainer.load(folder)
            except DamagedCheckpointError as error:
                damaged = f"passed over a damaged checkpoint: {error}"
                gone = f"passed over a checkpoint that is gone: {self._store.address(name)}"
                self._notices.append(damaged if self._store.exists(name) else gone)
            else:
                return
        if self._resume_from:
            self._notices.append("no checkpoint is left: the trial begins anew")

    def _lost(self, outcome: str, reason: str, step: int, *, ends: bool = True) -> dict[str, Any]:
        return {
            "step": step,
            "val_loss": OBJECTIVE_OF_A_LOST_TRIAL,
            "notice": reason,
            "outcome": outcome,
            DONE: ends,
            SHOULD_CHECKPOINT: False,
        }
