"""The search methods that are compared: the product's own, and peers as their users have them.

Each is a maker: given a sweep's config it returns a fresh method behind the product's door
(sweep/search/ask_tell.py). A method of the product comes from `build_method` itself.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, get_args

from benchmarks.search.syne_tune_peers import SyneTune
from sweep.config.search import SearchConfig
from sweep.config.space import Domain
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import AskTell, build_method

Maker = Callable[[SweepConfig], AskTell]

STOCK = "stock"
"""Ray Tune with Optuna's default sampler and ASHA."""
EARLIER = "tpe without the answer"
"""The default sweep as it was before its last trial trained the answer."""
PRODUCT = "product "
"""Begins the name of a method of the product, before its algorithm."""
REFERENCE = STOCK
"""Whose time and FLOPs are what others' are measured by."""


def product(config: SweepConfig) -> AskTell:
    """Return the product's method for a sweep, `config.search.algorithm`."""
    return build_method(config, SweepRecord())


def algorithms() -> list[str]:
    """Return the product's search algorithms."""
    named = get_args(SearchConfig.model_fields["algorithm"].annotation)
    return [name for name in named if name != "auto"]


def without_answer(config: SweepConfig) -> AskTell:
    """Return the product's method as it was before its last trial trained the answer."""
    # Of a longer sweep this is not the last trial.
    longer = config.model_copy(update={"num_samples": config.num_samples + 1})
    return build_method(longer, SweepRecord())


def stock(config: SweepConfig) -> AskTell:
    """Return Ray Tune's OptunaSearch, its default sampler, and ASHAScheduler."""
    from sweep.search.optuna_search import distribution

    space = {name: distribution(domain) for name, domain in config.space.items()}
    return RayTune(config, space, seed=config.seed)


def random_asha(config: SweepConfig) -> AskTell:
    """Return random search and ASHAScheduler in Ray Tune."""
    from optuna.samplers import RandomSampler

    from sweep.search.optuna_search import distribution

    space = {name: distribution(domain) for name, domain in config.space.items()}
    return RayTune(config, space, sampler=RandomSampler(seed=config.seed))


def optuna_gp(config: SweepConfig) -> AskTell:
    """Return OptunaSearch with Optuna's GPSampler, and ASHAScheduler; choices as whole numbers."""
    from optuna.distributions import IntDistribution
    from optuna.samplers import GPSampler

    from sweep.search.optuna_search import distribution

    space: dict[str, Any] = {}
    for name, domain in config.space.items():
        numbers = _numbers(domain)
        # A list of sizes is no grid of an IntDistribution: its places are.
        space[name] = IntDistribution(0, len(numbers) - 1) if numbers else distribution(domain)
    return RayTune(config, space, sampler=GPSampler(seed=config.seed))


METHODS: dict[str, Maker] = {
    EARLIER: without_answer,
    STOCK: stock,
    "random + ASHA": random_asha,
    "Optuna GP + ASHA": optuna_gp,
    "Syne Tune ASHA": partial(SyneTune, kind="ASHA"),
    "Syne Tune BOHB": partial(SyneTune, kind="BOHB"),
    "Syne Tune ASHA + CQR": partial(SyneTune, kind="ASHACQR"),
}
"""The earlier product and the peers, by name."""


def all_methods() -> list[str]:
    """Return the names of all methods whose package is there."""
    peers = [name for name in METHODS if not name.startswith("Syne") or find_spec("syne_tune")]
    return [*(f"{PRODUCT}{name}" for name in algorithms()), *peers]


def method_of(name: str) -> tuple[str, Maker]:
    """Return the algorithm that a method's config names, and its maker."""
    if name.startswith(PRODUCT):
        return name.removeprefix(PRODUCT), product
    return "tpe" if name == EARLIER else "random", METHODS[name]


class RayTune:
    """OptunaSearch and ASHAScheduler as Tune's loop asks and tells them, behind our door.

    Tune holds one suggestion more than can run, made when the one before it begins. There are no
    start points: they are the product's own. The scheduler's rungs are the sweep's.

    Args:
        config: the sweep.
        space: Optuna's distributions; of a choice of numbers, maybe their places.
        options: of OptunaSearch, `seed` or `sampler`.
    """

    def __init__(self, config: SweepConfig, space: Mapping[str, Any], **options: Any) -> None:
        import optuna
        from ray.tune.schedulers import ASHAScheduler, TrialScheduler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = config.space
        self._search = OptunaSearch(dict(space), metric="val_loss", mode="min", **options)
        self._scheduler = ASHAScheduler(
            time_attr="step",
            metric="val_loss",
            mode="min",
            max_t=config.trial.train.steps,
            grace_period=min(config.rungs),
            reduction_factor=config.asha.reduction_factor,
        )
        self._go_on = TrialScheduler.CONTINUE
        self._ahead: dict[int, dict[str, Any]] = {}
        self._trials: dict[int, Any] = {}
        self._reports: dict[int, int] = {}
        self.answers: frozenset[int] = frozenset()
        """No trial trains the answer: that is the product's own."""

    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that were suggested, and suggest the next trial's."""
        for asked in (number, number + 1):
            if asked not in self._ahead:
                self._ahead[asked] = self._search.suggest(str(asked))
        self._trials[number] = SimpleNamespace(trial_id=str(number))
        self._reports[number] = 0
        self._scheduler.on_trial_add(None, self._trials[number])
        return {name: self._value(name, v) for name, v in self._ahead[number].items()}

    def report(self, number: int, step: int, loss: float) -> bool:
        """Tell searcher and scheduler of a result; return whether the trial goes on."""
        self._reports[number] += 1
        result = {"step": step, "val_loss": loss, "training_iteration": self._reports[number]}
        decision = self._scheduler.on_trial_result(None, self._trials[number], result)
        self._search.on_trial_result(str(number), result)
        return bool(decision == self._go_on)

    def tell(self, number: int, loss: float | None) -> None:
        """Tell the searcher of a trial's end."""
        self._search.on_trial_complete(str(number), {"val_loss": loss})

    def _value(self, name: str, value: Any) -> Any:
        choices = self._space[name].choice
        by_place = choices is not None and value not in choices
        return choices[value] if choices is not None and by_place else value


def _numbers(domain: Domain) -> list[float]:
    choices = domain.choice or []
    return [c for c in choices if isinstance(c, int | float) and not isinstance(c, bool)]
