"""What one sweep is: the space, the search, early stopping, resources, and the base trial."""

import re
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from sweep.config.equal_flops import changed, with_own_steps
from sweep.config.resources import Resources, Share, check_resources, require_whole, share_of
from sweep.config.search import AshaConfig, SearchConfig
from sweep.config.space import RATE, Domain, check_space, refused
from trainable.common.errors import ConfigError
from trainable.config.section import Section
from trainable.config.trial import TrialConfig
from trainable.storage.address import require_address

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

_BUDGET_PATTERN = r"(\d+(?:\.\d+)?)([smh])"
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600}

NAME_RULE = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"

FIXED = (
    "train.steps",
    "train.eval_every",
    "train.eval_tokens",
    "train.threads",
    "model.context_length",
)
"""Fields that cannot be searched: losses of different ones could not be compared."""


class TrackingConfig(Section):
    """Recording in MLflow; MLFLOW_TRACKING_URI names another store than the project's."""

    enabled: bool = True
    """Record in MLflow beside the sweep's own index."""
    experiment: str = Field(default="lm-sweep", min_length=1, max_length=200)
    """MLflow experiment that holds the sweep's parent run."""
    system_metrics: bool = False
    """Record CPU, memory, disk, network and GPUs of this machine on that run; needs psutil."""


class SweepConfig(Section):
    """A search over learning rates and model sizes."""

    name: str | None = None
    """Name of the sweep and of its folder below results/; unset: sweep-001 and so on."""
    num_samples: int = Field(default=32, ge=1, le=10**6)
    """Number of trials."""
    time_budget: str | None = None
    """Time that trials may run, all sessions together: 90s, 30m or 2h; unset: until all end."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the search; a trial's own is trial.train.seed."""
    cpus_per_trial: float = Field(default=1.0, ge=0.1, le=4_096)
    """CPU cores of one trial; a fraction shares a core, above 1 it must be whole."""
    gpus_per_trial: float = Field(default=0.0, ge=0, le=1_024)
    """GPUs of one trial; a fraction shares one GPU, above 1 it must be whole."""
    resources: dict[str, Resources] = Field(default={}, max_length=8)
    """What trials take that meet a condition, e.g. model.d_model >= 512: {gpus: 1}; the first
    condition that holds counts, what it leaves out is as in cpus_per_trial and gpus_per_trial."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Most trials at once; unset: as many as the resources allow."""
    max_failures: int = Field(default=2, ge=0, le=1_000)
    """Times a trial whose worker died or raised is tried again from its last checkpoint."""
    keep_checkpoints: int = Field(default=5, ge=1, le=10**6)
    """Ended trials that keep their best checkpoint: the best of the sweep."""
    storage: str | None = None
    """Where checkpoints go: a folder that all nodes see (a relative one starts at the project
    folder), or s3://BUCKET/PREFIX, with keys and endpoint in AWS_*; unset: results/NAME."""
    stage_data: bool = False
    """On a cluster: send the dataset to each node that has no copy of it yet, and train on copies;
    else every node must see it at its path. On one machine there is nothing to send."""
    search: SearchConfig = SearchConfig()
    asha: AshaConfig = AshaConfig()
    tracking: TrackingConfig = TrackingConfig()
    space: dict[str, Domain] = {}
    """Fields to search, by dotted name, e.g. optim.lr: {loguniform: [1e-4, 3e-2]}."""
    start_points: list[dict[str, Any]] = []
    """Points to try first; fields left out are drawn."""
    trial: TrialConfig = TrialConfig()
    """What all trials share."""

    @property
    def budget_seconds(self) -> float | None:
        """The time budget in seconds; None: there is none."""
        told = re.fullmatch(_BUDGET_PATTERN, self.time_budget or "")
        return float(told[1]) * _UNIT_SECONDS[told[2]] if told else None

    @property
    def grace_period(self) -> int:
        """Steps before the first rung, given or derived."""
        return self.asha.grace_period or self.trial.train.eval_interval

    @property
    def has_answer(self) -> bool:
        """Whether the last trial trains the one answer: the table of sizes has many."""
        return self.search.goal != "table"

    @property
    def stops_by(self) -> Literal["rungs", "model", "nothing"]:
        """What stops trials early."""
        if not self.asha.enabled:
            return "nothing"
        return "model" if self.algorithm == "gp" else "rungs"

    @property
    def algorithm(self) -> Literal["gp", "tpe", "random"]:
        """How the next trial is chosen.

        What a weight decay does shows late in a curve, if at all, and a trial is stopped by what
        its beginning and its neighbours tell: on curves of rate and decay search by gp was behind.
        """
        if self.search.algorithm != "auto":
            return self.search.algorithm
        return "tpe" if self.unlike_fields else "gp"

    @property
    def unlike_fields(self) -> list[str]:
        """The searched fields beside the learning rate and those of the model."""
        return [
            name
            for name, domain in self.space.items()
            if name != RATE and not name.startswith("model.") and not domain.is_fixed
        ]

    @property
    def by_flops(self) -> bool:
        """Whether trials are compared at equal FLOPs."""
        return self.search.compare == "flops"

    def full_steps(self, params: dict[str, Any]) -> int:
        """Return the steps of a full trial with the suggested `params`."""
        if not self.by_flops:
            return self.trial.train.steps
        return self._with_own_steps(changed(self.trial, params)).train.steps

    def plan_step(self, params: dict[str, Any], step: float) -> int:
        """Return where a trial is at a step of its own, in steps of the plan, trial.train.steps.

        There all that are compared have spent the same share of their steps.
        """
        if not self.by_flops:
            return int(step)
        return int(step) * self.trial.train.steps // self.full_steps(params)

    @property
    def rungs(self) -> list[int]:
        """Steps of the plan (see `plan_step`) at which ASHA may stop a trial, ascending.

        Empty without it (see `stops_by`).
        """
        rungs = []
        rung = self.grace_period
        while self.stops_by == "rungs" and rung < self.trial.train.steps:
            rungs.append(rung)
            rung *= self.asha.reduction_factor
        return rungs

    @property
    def share(self) -> Share:
        """What a trial takes that meets no condition of `resources`."""
        return Share(self.cpus_per_trial, self.gpus_per_trial)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.name is not None and not re.fullmatch(NAME_PATTERN, self.name):
            raise ValueError(f"name {self.name!r:.80}: must be {NAME_RULE}")
        self._require_older()
        if self.storage is not None:
            require_address(self.storage)
        if self.time_budget is not None and not self.budget_seconds:
            raise ValueError(
                f"time_budget {self.time_budget!r:.80}: must be a number above 0 and s, m or h, as "
                "in 90s, 30m or 2h"
            )
        if not self.space:
            raise ValueError(
                "space: empty, so there is nothing to search; name a field, e.g. "
                "optim.lr: {loguniform: [1e-4, 3e-2]}"
            )
        for name in ("cpus_per_trial", "gpus_per_trial"):
            require_whole(name, getattr(self, name))
        self._require_comparison()
        train = self.trial.train
        swept = [n for n in self.space if n in FIXED or n.startswith("data.")]
        if swept:
            raise ValueError(
                f"space.{swept[0]}: trials are compared at the same steps, on the same windows and "
                f"threads, so data and {', '.join(FIXED)} are fixed; set them under trial"
            )
        if self.asha.enabled:
            if self.grace_period > train.steps:
                raise ValueError(
                    f"asha.grace_period {self.grace_period} is beyond trial.train.steps "
                    f"{train.steps}: no trial would ever be stopped; lower it"
                )
            if self.grace_period % train.eval_interval:
                near = max(1, round(self.grace_period / train.eval_interval))
                raise ValueError(
                    f"asha.grace_period {self.grace_period} is not a multiple of the evaluation "
                    f"interval {train.eval_interval}: rungs lie on evaluations; take "
                    f"{near * train.eval_interval}"
                )
        check_space(self.space, self.start_points, self.trial)
        check_resources(self.resources, self.space, self.trial)
        if self.search.goal == "table":
            self._require_table()
        return self

    def _require_comparison(self) -> None:
        """Refuse a budget that nothing is compared at, and evaluations at unlike shares of it."""
        train = self.trial.train
        if self.search.flops is not None and not self.by_flops:
            raise ValueError(
                f"search.flops {self.search.flops:g}: trials are compared at equal steps; add "
                "--search.compare flops, or leave it out"
            )
        if self.by_flops and train.steps % train.eval_interval:
            near = max(1, round(train.steps / train.eval_interval)) * train.eval_interval
            raise ValueError(
                f"search.compare flops: trial.train.steps {train.steps} is not a multiple of the "
                f"evaluation interval {train.eval_interval}, so the last one would be at another "
                f"share; take {near}"
            )

    def _require_table(self) -> None:
        """Refuse the table of sizes as a goal where there can be none."""
        sized = [name.startswith("model.") for name in self.space]
        if all(sized) or not any(sized):
            raise ValueError(
                "search.goal table: it is the best rate of every size, so the space must have a "
                "field of model. and one beside, e.g. optim.lr; take --search.goal best"
            )

    def _require_older(self) -> None:
        """Refuse older sweeps to start from that the search has no use for."""
        names = self.search.warm_start
        where = f"search.warm_start {', '.join(names)}"
        if names and self.algorithm == "random":
            raise ValueError(f"{where}: random search learns from no trial; take tpe or gp")
        if self.name in names:
            raise ValueError(f"{where}: a sweep cannot start from itself; choose another --name")
        if len({*names}) < len(names):
            raise ValueError(f"{where}: a sweep stands twice; keep one")

    def share_of(self, trial: TrialConfig) -> Share:
        """Return what a trial takes while it runs."""
        return share_of(self.resources, self.share, trial)

    def trial_config(self, params: dict[str, Any]) -> TrialConfig:
        """Return the full settings of the trial with the suggested `params`.

        Raises:
            ConfigError: they are none that the trial accepts, as in a record that was changed.
        """
        try:
            trial = self.trial.with_values(params)
        except ValidationError as error:
            raise ConfigError(f"trial: {refused(params, error)}") from error
        train = trial.train.model_copy(update={"threads": self.share_of(trial).threads})
        trial = trial.model_copy(update={"train": train})
        return self._with_own_steps(trial) if self.by_flops else trial

    def _with_own_steps(self, trial: TrialConfig) -> TrialConfig:
        flops, vocab_size = self.search.flops, self.search.vocab_size
        assert flops is not None
        assert vocab_size is not None, "both are filled in when a sweep begins"
        return with_own_steps(trial, flops, vocab_size)
