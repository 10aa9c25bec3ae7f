"""The rule of early stopping: asynchronous successive halving over one bracket."""

import bisect
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from sweep.analysis.sizes import size_fields
from sweep.config.sweep import SweepConfig
from sweep.record.lines import Event
from sweep.record.results import SweepRecord

Arrival = tuple[Hashable, int, float, Hashable]
"""A trial, the step of an evaluation on the plan's clock, its validation loss, and among which
trials it is ranked."""


class Rungs:
    """The losses seen at each rung, and what they decide (Li et al. 2020, algorithm 2, stopping).

    At a rung a trial goes on if its loss is within the best 1 / reduction_factor of the losses
    that arrived there before it; between two of them the border is interpolated as by
    numpy.percentile. So the first to arrive goes on. A trial enters a rung once, at its very step.

    Args:
        steps: the rungs, in steps of the plan.
        reduction_factor: the eta of the paper.
    """

    def __init__(self, steps: Iterable[int], reduction_factor: int) -> None:
        # In percent and back, as Ray's scheduler computes it: the same bits.
        self._quantile = (1 - 1 / reduction_factor) * 100 / 100
        self._entered: dict[int, set[Hashable]] = {step: set() for step in steps}
        self._rewards: dict[tuple[int, Hashable], list[float]] = {}
        """By rung and group, the negated losses in ascending order: the best third is the top."""

    def arrive(self, step: int, trial: Hashable, loss: float, group: Hashable = None) -> bool:
        """Take in a trial's loss at a step; return whether the trial goes on.

        It does where no rung lies, and where it had entered the rung before. It is ranked among
        those of its group (see `group_of`).
        """
        if step not in self._entered or trial in self._entered[step]:
            return True
        rewards = self._rewards.setdefault((step, group), [])
        goes_on = not rewards or not -loss < self._border(rewards)
        bisect.insort(rewards, -loss)
        self._entered[step].add(trial)
        return goes_on

    def replay(self, arrivals: Iterable[Arrival]) -> dict[tuple[Hashable, int], bool]:
        """Take in evaluations in the order in which they were recorded (see `recorded`).

        Returns:
            By trial and rung, whether the trial went on, by the losses that had arrived before.
        """
        decisions: dict[tuple[Hashable, int], bool] = {}
        for trial, step, loss, group in arrivals:
            if step in self._entered and (trial, step) not in decisions:
                decisions[trial, step] = self.arrive(step, trial, loss, group)
        return decisions

    def _border(self, rewards: list[float]) -> float:
        """Return the quantile of ascending numbers, to the bit as numpy.percentile has it."""
        place = (len(rewards) - 1) * self._quantile
        low = int(place)
        below, above = rewards[low], rewards[min(low + 1, len(rewards) - 1)]
        share, gap = place - low, above - below
        return above - gap * (1 - share) if share >= 0.5 else below + gap * share


class RungStops:
    """Which trials of a session the rungs stop.

    The rungs are a function of the recorded evaluations, so a resume refills them from the record.
    A trial that was stopped stays so, where its worker died before it was. Without early stopping
    there are no rungs, and every trial goes on to its end.

    Args:
        config: the sweep.
        record: what earlier sessions did.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        self._stopped: set[int] = set()
        self._rungs = Rungs(config.rungs, config.asha.reduction_factor)
        for trial in record.trials.values():
            if trial.is_answer:
                continue
            for evaluation in trial.evaluations:
                at = config.plan_step(trial.params, evaluation["step"])
                group = group_of(config, trial.params)
                self._rungs.arrive(at, trial.number, evaluation["val_loss"], group)

    def report(self, number: int, step: int, loss: float, group: Hashable) -> bool:
        """Take in an evaluation of trial `number`; return whether the trial goes on.

        Args:
            number: the trial.
            step: in steps of the plan.
            loss: its loss.
            group: see `group_of`.
        """
        if not self._rungs.arrive(step, number, loss, group):
            self._stopped.add(number)
        return number not in self._stopped


def group_of(config: SweepConfig, params: Mapping[str, Any]) -> Hashable:
    """Return among which trials one is ranked: all, or where the goal is a table its size's."""
    if config.search.goal != "table":
        return None
    return tuple(params.get(name) for name in size_fields(config)[0])


def recorded(config: SweepConfig, events: Iterable[Event]) -> Iterator[Arrival]:
    """Yield the evaluations among a sweep's events, in the order in which they were recorded.

    Their steps are those of the plan. A lost trial's last report is none: it enters no rung. Nor
    does a trial that trains the answer.
    """
    answers: set[str] = set()
    params: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "trial_started":
            params[event["trial"]] = event["params"]
            if event.get("answer"):
                answers.add(event["trial"])
        elif event["event"] == "evaluation" and event["trial"] not in answers:
            own, told = params.get(event["trial"], {}), event["metrics"]
            at = config.plan_step(own, told["step"])
            yield event["trial"], at, told["val_loss"], group_of(config, own)
