"""Which new trials come, in their order, and what the next of them would be."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import build_method


@dataclass(frozen=True)
class Upcoming:
    """The next new trial of a sweep."""

    trial: str
    params: dict[str, Any]
    """Searched fields by dotted name."""
    num_samples: int
    """Trials of the sweep that suggests it; of one whose trials have all begun, twice as many."""
    answer: bool
    """Whether it would train the answer: the best settings by the fit, to the end."""


def new_numbers(record: SweepRecord) -> Iterator[int]:
    """Yield the numbers of new trials, in order.

    A driver may have been killed when a later trial had begun and an earlier one had not.
    """
    taken = {trial.number for trial in record.trials.values()} | record.lost
    return itertools.filterfalse(taken.__contains__, itertools.count())


def given_params(config: SweepConfig, number: int) -> Mapping[str, Any]:
    """Return what is given of a new trial's parameters: a start point's."""
    points = config.start_points
    return points[number] if number < len(points) else {}


def upcoming(config: SweepConfig, record: SweepRecord) -> Upcoming:
    """Return the next new trial that a resume would begin, were all others to run until then.

    A sweep whose trials have all begun is taken to be extended to twice as many: of one trial more,
    that would train the answer, which says nothing of the search.
    """
    number = next(new_numbers(record))
    trials = config.num_samples if number < config.num_samples else 2 * config.num_samples
    config = config.model_copy(update={"num_samples": trials})
    method = build_method(config, record)
    for trial in sorted(record.unfinished, key=lambda trial: trial.number):
        method.ask(trial.number, trial.params)
    params = method.ask(number, given_params(config, number))
    return Upcoming(f"t{number:03d}", params, trials, number in method.answers)
