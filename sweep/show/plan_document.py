"""A plan as a JSON document: what programs read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from sweep.config.sweep import SweepConfig
from sweep.plan.plan import End, Plan, PlannedPart
from sweep.record.results import TrialRecord
from trainable.common.document import Document


class EndDocument(Document):
    """The smallest or the largest trial of a plan."""

    model: dict[str, Any]
    parameters: int
    steps: int
    tokens: int
    flops: int


class PartDocument(Document):
    """The trials of a plan that take the same."""

    condition: str | None
    """As `resources` have it; null: trials that meet none."""
    cpus: float
    """Of one trial."""
    gpus: float
    concurrent: int
    """Of them at once, alone."""
    share: float
    """Of the trials, about."""


class PlanDocument(Document):
    """What a sweep would do: `run.py --dry-run --json`."""

    format: Literal["lm-sweep.plan/1"] = "lm-sweep.plan/1"
    num_samples: int
    concurrent: int
    """Trials at once, at the most."""
    resources: list[PartDocument]
    """What trials take: one entry where all take the same."""
    sizes: int
    smallest: EndDocument
    largest: EndDocument
    rungs: list[int]
    share: float
    """Expected share of the steps that all trials in full would take."""
    seconds: float | None
    """Expected time, once started; null if it is not known."""
    eval_windows: int
    standard_error: float | None
    """Of a difference of two losses on these windows, nats."""
    disk_bytes: int
    memory_bytes: int
    """Of the trial that takes the most, at the least."""
    available_bytes: int
    warm_start: dict[str, int]
    """Trials of older sweeps that the search begins with, by sweep."""
    config: dict[str, Any]


def plan_document(
    config: SweepConfig,
    plan: Plan,
    concurrent: int,
    seconds: float | None,
    older: Sequence[TrialRecord] = (),
) -> PlanDocument:
    """Return a plan as programs read it."""
    return PlanDocument(
        num_samples=config.num_samples,
        concurrent=concurrent,
        resources=[_part(planned) for planned in plan.parts],
        sizes=plan.sizes,
        smallest=_end(plan.smallest),
        largest=_end(plan.largest),
        rungs=config.rungs,
        share=plan.share,
        seconds=seconds,
        eval_windows=plan.eval_windows,
        standard_error=plan.standard_error,
        disk_bytes=plan.disk_bytes,
        memory_bytes=plan.memory_bytes,
        available_bytes=plan.available_bytes,
        warm_start=Counter(str(trial.sweep) for trial in older),
        config=config.model_dump(mode="json", by_alias=True),
    )


def _part(planned: PlannedPart) -> PartDocument:
    return PartDocument(
        condition=planned.part.condition,
        cpus=planned.part.share.cpus,
        gpus=planned.part.share.gpus,
        concurrent=planned.concurrent,
        share=planned.weight,
    )


def _end(end: End) -> EndDocument:
    return EndDocument(
        model=end.model.model_dump(),
        parameters=end.parameters,
        steps=end.steps,
        tokens=end.tokens,
        flops=end.flops,
    )
