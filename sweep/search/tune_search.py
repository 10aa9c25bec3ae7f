"""Which trial comes next, as Tune asks for it: unfinished ones first, then a method's new ones."""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import build_method
from sweep.search.upcoming import given_params, new_numbers
from trainable.config.trial import TrialConfig


class SweepSearch(Searcher):  # type: ignore[misc]  # Ray is untyped
    """Suggests trials for one session of a sweep.

    First the unfinished trials of earlier sessions, from their checkpoints, then new ones. It
    numbers the trials; their parameters are those of the sweep's search method. Of evaluations on
    the way the method hears when it is asked whether the trial goes on (see SweepStopping).

    Args:
        config: the sweep.
        record: what earlier sessions did.
        checkpoints: for each unfinished trial the names of its checkpoints, newest first.
        concurrent: how many trials may run at once. No suggestion is made ahead of its turn, so
            each knows all the results there are.
        store: address of the store that the trials save in.
        allows: whether a trial that has done so many steps may still begin; None: each may.
    """

    def __init__(
        self,
        config: SweepConfig,
        record: SweepRecord,
        checkpoints: Mapping[str, list[str]],
        concurrent: int,
        store: str = "",
        allows: Callable[[TrialConfig, int], bool] | None = None,
    ) -> None:
        super().__init__(metric="val_loss", mode="min")
        self.method = build_method(config, record)
        """What suggests the session's trials, and stops them early."""
        self._config = config
        self._checkpoints = dict(checkpoints)
        self._concurrent = concurrent
        self._store, self._session = store, f"session-{record.sessions}"
        self._allows = allows
        self._done = {trial.name: trial.step for trial in record.unfinished}
        self._running: dict[str, int] = {}
        """Numbers of the trials that run, by Tune's id."""
        self._resuming = sorted(record.unfinished, key=lambda trial: trial.number)
        self._new = new_numbers(record)

    def allow(self, concurrent: int) -> None:
        """Let so many trials run at once from now on; those that run already go on."""
        self._concurrent = concurrent

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the Tune config of the next trial (see LanguageModelTrial).

        None: not yet; FINISHED: no other may begin. What was suggested then is suggested again by
        a resume.
        """
        if len(self._running) >= self._concurrent:
            return None
        number, fixed = self._next()
        params = self.method.ask(number, fixed)
        gpus, name = self._config.gpus_per_trial, f"t{number:03d}"
        trial = self._config.trial_config(params)
        if self._allows is not None and not self._allows(trial, self._done.get(name, 0)):
            return str(Searcher.FINISHED)
        self._running[trial_id] = number
        return {
            "name": name,
            "answer": number in self.method.answers,
            "params": params,
            "trial": trial.model_dump(),
            "store": self._store,
            "place": f"{self._session}/{name}",
            "resume_from": self._checkpoints.get(name, []),
            "gpu_share": gpus if 0 < gpus < 1 else None,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the method of a trial that ended; of one without a result, as of one that failed."""
        number = self._running.pop(trial_id, None)
        if number is None:
            return
        result = None if error else result
        if result and result.get("outcome") is None and "step" in result:
            # The last step's, which Tune asks nobody about; an earlier one comes again.
            self.method.report(number, result["step"], result["val_loss"])
        self.method.tell(number, result["val_loss"] if result else None)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a resume reads the sweep's record."""

    def _next(self) -> tuple[int, Mapping[str, Any]]:
        """Return the number of the next trial, and what is given of its parameters."""
        if self._resuming:
            trial = self._resuming.pop(0)
            return trial.number, trial.params
        number = next(self._new)
        return number, given_params(self._config, number)
