"""Which trial comes next, as Tune asks for it: unfinished ones first, then a method's new ones."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ray.tune.search import Searcher

from sweep.config.parts import parts_of
from sweep.config.resources import Fits, Share
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import build_method
from sweep.search.upcoming import given_params, new_numbers
from trainable.config.trial import TrialConfig


class _Suggestion(NamedTuple):
    number: int
    params: dict[str, Any]
    trial: TrialConfig
    share: Share


class SweepSearch(Searcher):  # type: ignore[misc]  # Ray is untyped
    """Suggests trials for one session of a sweep.

    First the unfinished trials of earlier sessions, from their checkpoints, then new ones. It
    numbers the trials; their parameters are those of the sweep's search method. Of evaluations on
    the way the method hears when it is asked whether the trial goes on (see SweepStopping).

    Args:
        config: the sweep.
        record: what earlier sessions did.
        checkpoints: for each unfinished trial the names of its checkpoints, newest first.
        fits: says whether a trial may begin. No suggestion is made before some trial may, so each
            knows all the results there are; one that takes more waits, and the others behind it.
        store: address of the store that the trials save in.
        allows: whether a trial that has done so many steps may still begin; None: each may.
        copy: digest of the dataset's copy that trials train on; None: the dataset at its path.
    """

    def __init__(
        self,
        config: SweepConfig,
        record: SweepRecord,
        checkpoints: Mapping[str, list[str]],
        fits: Fits,
        store: str = "",
        allows: Callable[[TrialConfig, int], bool] | None = None,
        copy: str | None = None,
    ) -> None:
        super().__init__(metric="val_loss", mode="min")
        self.method = build_method(config, record)
        """What suggests the session's trials, and stops them early."""
        self._config = config
        self._checkpoints = dict(checkpoints)
        self._fits = fits
        self._shares = {part.share for part in parts_of(config)}
        self._store, self._session = store, f"session-{record.sessions}"
        self._allows = allows
        self._copy = copy
        self._done = {trial.name: trial.step for trial in record.unfinished}
        self._running: dict[str, _Suggestion] = {}
        """The trials that run, by Tune's id."""
        self._waiting: _Suggestion | None = None
        """The next trial, which was suggested and has no room yet."""
        self._resuming = sorted(record.unfinished, key=lambda trial: trial.number)
        self._new = new_numbers(record)

    def allow(self, fits: Fits) -> None:
        """Let trials begin by `fits` from now on; those that run already go on."""
        self._fits = fits

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the Tune config of the next trial (see LanguageModelTrial).

        None: not yet; FINISHED: no other may begin. What was suggested then is suggested again by
        a resume.
        """
        takes = [each.share for each in self._running.values()]
        if self._waiting is None and any(self._fits(takes, share) for share in self._shares):
            self._waiting = self._suggested()
        if self._waiting is None or not self._fits(takes, self._waiting.share):
            return None
        number, params, trial, share = self._waiting
        name = f"t{number:03d}"
        if self._allows is not None and not self._allows(trial, self._done.get(name, 0)):
            return str(Searcher.FINISHED)
        self._running[trial_id], self._waiting = self._waiting, None
        return {
            "name": name,
            "answer": number in self.method.answers,
            "params": params,
            "trial": trial.model_dump(),
            "store": self._store,
            "place": f"{self._session}/{name}",
            "resume_from": self._checkpoints.get(name, []),
            "takes": {"CPU": share.cpus, "GPU": share.gpus},
            "copy": self._copy,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the method of a trial that ended; of one without a result, as of one that failed."""
        ended = self._running.pop(trial_id, None)
        if ended is None:
            return
        number = ended.number
        result = None if error else result
        if result and result.get("outcome") is None and "step" in result:
            # The last step's, which Tune asks nobody about; an earlier one comes again.
            self.method.report(number, result["step"], result["val_loss"])
        self.method.tell(number, result["val_loss"] if result else None)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a resume reads the sweep's record."""

    def _suggested(self) -> _Suggestion:
        """Return the next trial."""
        number, fixed = self._next()
        params = self.method.ask(number, fixed)
        trial = self._config.trial_config(params)
        return _Suggestion(number, params, trial, self._config.share_of(trial))

    def _next(self) -> tuple[int, Mapping[str, Any]]:
        """Return the number of the next trial, and what is given of its parameters."""
        if self._resuming:
            trial = self._resuming.pop(0)
            return trial.number, trial.params
        number = next(self._new)
        return number, given_params(self._config, number)
