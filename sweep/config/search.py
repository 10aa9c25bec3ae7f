"""How the next trial of a sweep is chosen, and when one is stopped."""

from typing import Literal

from pydantic import Field

from trainable.config.section import Section


class SearchConfig(Section):
    """How the next trial is chosen."""

    algorithm: Literal["auto", "gp", "tpe", "random"] = "auto"
    """gp: one Gaussian process over all learning curves, which stops trials, too. tpe:
    Tree-structured Parzen Estimator (Bergstra et al. 2011), in Optuna. random: uniform. auto: gp,
    or tpe where more than the learning rate and fields of the model is searched."""
    goal: Literal["best", "table", "both"] = "both"
    """What a sweep is to find: the best configuration, the best rate of every size, or both. With
    table sizes come in turn (gp: the one that is known least), each trial is stopped by those of
    its own size, and none trains the one answer. The search for best and both is the same."""
    compare: Literal["steps", "flops"] = "steps"
    """At what trials are compared: all have the steps of trial.train, or each those that equal
    FLOPs pay for, a larger model fewer: the best size is then the compute-optimal one."""
    flops: float | None = Field(default=None, gt=0)
    """Only for compare flops: FLOPs of a full trial; unset: the mean over the space's sizes of
    trial.train.steps steps, so that the sweep costs about what it would by steps."""
    vocab_size: int | None = Field(default=None, ge=2, le=2**32)
    """Only for compare flops: token ids of the dataset; filled in when the sweep begins."""
    startup_trials: int = Field(default=10, ge=1, le=10**6)
    """Only for tpe: random trials before it begins to model the losses."""
    warm_start: list[str] = []
    """Older sweeps whose trials the search begins with as data; as a flag: --warm-start NAME,NAME.
    They trained on the same tokens with the same settings, searched fields aside."""


class AshaConfig(Section):
    """Asynchronous successive halving (Li et al. 2020), in optimizer steps, with one bracket."""

    enabled: bool = True
    """Stop the worse trials early; false: every trial runs to its end. Search by gp stops them by
    its model, at any evaluation from the grace period on, and knows no rungs."""
    grace_period: int | None = Field(default=None, ge=1)
    """Steps that every trial gets, the first rung; unset: one evaluation interval."""
    reduction_factor: int = Field(default=3, ge=2, le=1_000)
    """At each rung the best 1 / reduction_factor of the trials seen there go on."""
