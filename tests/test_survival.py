"""Where trials are lost: how far that is known, and what trials that survived say against it."""

import numpy as np
import pytest
from sweep_samples import record_of, run_of, sweep_config

from sweep.analysis.axes import input_axes
from sweep.search.survival import LENGTH, Survival

LRS = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}


def survives(share: float, lost: list[float], sound: list[float], outcome: str) -> bool:
    """Say whether a trial is expected to survive; all places are shares of the rate's axis."""
    config, events = sweep_config(space=LRS), []
    for number, place in enumerate([*lost, *sound]):
        told = {0: 5.5} if number < len(lost) else {0: 5.5, 80: 2.0}
        ended = outcome if number < len(lost) else "finished"
        events += run_of(f"t{number:03d}", told, ended, lr=1e-4 * 100**place)
    trials = list(record_of(events).trials.values())
    return bool(Survival(input_axes(config, []), trials).expected(np.array([[share]]))[0])


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
def test_a_lost_trial_is_known_as_far_as_a_length(outcome: str) -> None:
    assert not survives(1.0, [1.0], [], outcome)
    assert not survives(1.0 - 0.95 * LENGTH, [1.0], [], outcome)
    assert survives(1.0 - 1.25 * LENGTH, [1.0], [], outcome)
    assert survives(1.0, [], [0.5], outcome)


def test_between_one_that_was_lost_and_one_that_was_not_the_nearer_one_tells() -> None:
    assert survives(0.78, [1.0], [0.6], "diverged")
    assert not survives(0.82, [1.0], [0.6], "diverged")


def test_one_lost_by_ill_luck_does_not_outweigh_its_neighbours() -> None:
    assert survives(0.5, [0.5], [0.5, 0.49, 0.51], "out_of_memory")
    assert not survives(0.5, [0.5, 0.49, 0.51], [0.5], "out_of_memory")


def test_a_failed_trial_says_nothing() -> None:
    assert survives(0.5, [0.5], [], "failed")
