"""A sweep with a simulated clock: any search method, any number of workers, a world of curves.

The method is asked and told in the order in which a sweep would, and what happens is a sweep's
record. Workers never fail.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import AskTell
from sweep.search.upcoming import given_params
from trainable.config.trial import TrainConfig


@dataclass(frozen=True)
class Course:
    """What a trial would go through, were it trained to its end."""

    losses: Sequence[tuple[int, float]]
    """Steps, ascending from 0, and the validation losses that are told there, nats per token."""
    step_seconds: float
    """Simulated seconds of a step, with its share of the evaluations."""
    step_flops: float


class World(Protocol):
    """Where trials are trained."""

    start_seconds: float
    """From a trial's beginning to its first step."""

    def course(self, params: Mapping[str, Any], number: int) -> Course:
        """Return what trial `number` with these parameters goes through."""


@dataclass(order=True)
class _Running:
    """A trial and its next evaluation."""

    due: float
    number: int
    course: Course = field(compare=False)
    place: int = field(compare=False)
    """Of the next evaluation."""


class Simulation:
    """A simulated sweep.

    Args:
        config: the sweep.
        method: fresh, of this sweep.
        world: where its trials are trained.
        record: what it begins with, e.g. trials of older sweeps; None: nothing.
    """

    def __init__(
        self,
        config: SweepConfig,
        method: AskTell,
        world: World,
        record: SweepRecord | None = None,
    ) -> None:
        self._config, self._method, self._world = config, method, world
        self._begun = 0
        self.record = SweepRecord() if record is None else record
        """As a real sweep's; its times are simulated seconds."""
        self.seconds = 0.0
        """Simulated, until the last evaluation so far."""
        self.flops = 0.0
        """Of all trials so far."""

    def run(
        self,
        workers: int,
        until: float | None = None,
        heard: Callable[["Simulation"], None] = lambda _: None,
    ) -> None:
        """Run the sweep.

        Args:
            workers: trials at once.
            until: simulated seconds after which nothing happens any more, and until which trials
                begin however many there were; None: `num_samples` trials, to their ends.
            heard: called after each evaluation.
        """
        most = self._config.num_samples if until is None else 10**6
        self._apply("session_started", 0.0, session=1, num_samples=self._config.num_samples)
        running = [self._begin(0.0) for _ in range(min(workers, most))]
        heapq.heapify(running)
        while running:
            trial = heapq.heappop(running)
            if until is not None and trial.due > until:
                break
            if self._goes_on(trial, heard):
                heapq.heappush(running, trial)
            elif self._begun < most:
                heapq.heappush(running, self._begin(trial.due))
        self._apply("session_ended", self.seconds, completed=until is None)

    def _begin(self, now: float) -> _Running:
        number = self._begun
        self._begun += 1
        params = self._method.ask(number, given_params(self._config, number))
        answer = {"answer": True} if number in self._method.answers else {}
        self._apply("trial_started", now, trial=_name(number), params=params, **answer)
        course = self._world.course(params, number)
        return _Running(now + self._world.start_seconds, number, course, 0)

    def _goes_on(self, trial: _Running, heard: Callable[["Simulation"], None]) -> bool:
        """Report a trial's evaluation; say whether there is a next one."""
        course, name = trial.course, _name(trial.number)
        step, loss = course.losses[trial.place]
        self.seconds = trial.due
        if trial.place:
            self.flops += course.step_flops * (step - course.losses[trial.place - 1][0])
        told = {"step": step, "val_loss": loss, "flops": course.step_flops * step}
        self._apply("evaluation", trial.due, trial=name, metrics=told)
        heard(self)
        is_last = trial.place + 1 == len(course.losses)
        if self._method.report(trial.number, step, loss) and not is_last:
            trial.place += 1
            trial.due += course.step_seconds * (course.losses[trial.place][0] - step)
            return True
        self._method.tell(trial.number, loss)
        outcome, rung = ("finished", None) if is_last else ("stopped", step)
        facts = {"trial": name, "outcome": outcome, "step": step, "rung": rung, "reason": None}
        self._apply("outcome", trial.due, **facts)
        return False

    def _apply(self, kind: str, now: float, **facts: Any) -> None:
        self.record.apply({"event": kind, "time": now, **facts})


def evaluation_steps(train: TrainConfig) -> list[int]:
    """Return the steps at which a trial is evaluated, from 0 to its last."""
    return [*range(0, train.steps, train.eval_interval), train.steps]


def _name(number: int) -> str:
    return f"t{number:03d}"
