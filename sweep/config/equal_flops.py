"""Steps of a trial where sizes are compared at equal FLOPs: a larger model gets fewer.

They are planned beforehand, so the schedule of each trial runs to its own end, and its loss is what
that many FLOPs buy. All trials have as many evaluations, at the same shares of their steps.
"""

from typing import Any

from trainable.config.trial import TrialConfig
from trainable.model.counts import flops_per_token


def step_flops(trial: TrialConfig, vocab_size: int) -> int:
    """Return the FLOPs of an optimizer step."""
    return trial.tokens_per_step * flops_per_token(trial.model, vocab_size)


def with_own_steps(trial: TrialConfig, flops: float, vocab_size: int) -> TrialConfig:
    """Return `trial` with the steps that so many FLOPs pay for, to a multiple of its evaluations.

    It has as many evaluations as with its steps before.
    """
    evaluations = trial.train.steps // trial.train.eval_interval
    interval = max(1, round(flops / step_flops(trial, vocab_size) / evaluations))
    own = {"steps": interval * evaluations, "eval_every": interval}
    return trial.model_copy(update={"train": trial.train.model_copy(update=own)})


def changed(trial: TrialConfig, values: dict[str, Any]) -> TrialConfig:
    """Return `trial` with values replaced, not validated: they may fit only once all are there."""
    for name, value in values.items():
        section, field = name.split(".")
        part = getattr(trial, section).model_copy(update={field: value})
        trial = trial.model_copy(update={section: part})
    return trial
