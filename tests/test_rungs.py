"""The rule of early stopping: to the bit that of Ray's ASHA, and the same read from a record."""

import math
import random

import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from sweep_samples import evaluated, flat, run_of, started, sweep_config

from sweep.search.rungs import Rungs, recorded


class RaysAsha:
    """Ray's own scheduler: the reference, which the rule was first taken from."""

    def __init__(self, steps: int, grace_period: int, reduction_factor: int) -> None:
        self.scheduler = ASHAScheduler(
            time_attr="step",
            metric="val_loss",
            mode="min",
            max_t=steps,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
        )
        self.trials: dict[str, Trial] = {}

    def arrive(self, step: int, name: str, loss: float) -> bool:
        if name not in self.trials:
            self.trials[name] = Trial("trial", stub=True)
            self.scheduler.on_trial_add(None, self.trials[name])
        result = {"step": step, "val_loss": loss}
        decision = self.scheduler.on_trial_result(None, self.trials[name], result)
        if decision == TrialScheduler.STOP:  # Tune tells of a last result twice
            self.scheduler.on_trial_complete(None, self.trials[name], result)
        return decision == TrialScheduler.CONTINUE


def a_loss(kind: str, rng: random.Random, before: list[float], factor: int) -> float:
    """Return a loss: anything, one of few values, or one beside the border of those before."""
    if kind == "ties":
        return rng.choice([2.0, 2.5, 3.0, 3.3])
    if kind == "last bits" and before and rng.random() < 0.5:
        border = float(np.percentile([-loss for loss in before], (1 - 1 / factor) * 100))
        return rng.choice([-border, math.nextafter(-border, 0), math.nextafter(-border, 9)])
    return rng.lognormvariate(1, 0.5)


@pytest.mark.parametrize("kind", ["any", "ties", "last bits"])
@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6, 7, 10, 49])
def test_decides_as_rays_asha_does_to_the_last_bit(factor: int, kind: str) -> None:
    config = sweep_config(asha={"grace_period": 10, "reduction_factor": factor})
    rng = random.Random(factor)
    for _ in range(12):
        ours, rays = Rungs(config.rungs, factor), RaysAsha(80, 10, factor)
        at = {f"t{n:03d}": 0 for n in range(60)}
        before: dict[int, list[float]] = {step: [] for step in range(0, 90, 10)}
        while at:
            name = rng.choice(list(at))
            at[name] += 10
            loss = a_loss(kind, rng, before[at[name]], factor)
            before[at[name]].append(loss)
            goes_on = ours.arrive(at[name], name, loss)
            if at[name] < 80:
                assert goes_on == rays.arrive(at[name], name, loss), (name, at[name])
            if not goes_on or at[name] == 80:
                del at[name]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_one_and_two_before(factor: int) -> None:
    for second, third in ((2.0, 1.5), (1.0, 1.0), (1.0, 1.5), (0.5, 0.75), (0.5, 1.0)):
        ours, rays = Rungs([10], factor), RaysAsha(80, 10, factor)
        arrivals = [("t000", 1.0), ("t001", second), ("t002", third)]
        decided = [ours.arrive(10, *arrival) for arrival in arrivals]
        assert decided == [rays.arrive(10, *arrival) for arrival in arrivals]
        assert decided[:2] == [True, second <= 1.0], "the first goes on, and who is as good"


def test_a_trial_enters_a_rung_once_and_at_its_step_only() -> None:
    rungs = Rungs([10, 20], 2)
    assert rungs.arrive(10, "t000", 4.0)
    assert rungs.arrive(10, "t000", 9.0), "again, after a restart"
    assert rungs.arrive(15, "t001", 1.0), "no rung: it does not enter the one it has passed"
    assert rungs.arrive(10, "t002", 3.9)
    assert not rungs.arrive(10, "t003", 4.0), "the border lies between 3.9 and 4.0"


def test_what_a_record_holds_decides_as_it_did_when_it_came() -> None:
    config = sweep_config()
    rng = random.Random(3)
    live, events, decided = Rungs(config.rungs, 2), [], {}
    at = {f"t{n:03d}": 0 for n in range(20)}
    events += [started(name) for name in at]
    while at:
        name = rng.choice(list(at))
        loss = rng.uniform(1, 4)
        events.append(evaluated(name, at[name], loss))
        goes_on = live.arrive(at[name], name, loss)
        if at[name] in config.rungs:
            decided[name, at[name]] = goes_on
        at[name] += 10
        if not goes_on or at[name] > 80:
            del at[name]
    assert Rungs(config.rungs, 2).replay(recorded(config, events)) == decided
    assert set(decided.values()) == {True, False}


def test_a_driver_killed_before_an_outcome_leaves_the_decision_to_be_read() -> None:
    """The losses before the last one decide, not those that came after it."""
    config = sweep_config()
    killed = flat(
        run_of("t000", {0: 5.0, 10: 2.0}, None),
        run_of("t001", {0: 5.0, 10: 3.0}, None),  # the rule stops it; nobody wrote that down
        run_of("t002", {0: 5.0}, "diverged"),
    )
    decisions = Rungs(config.rungs, 2).replay(recorded(config, killed))
    assert decisions == {("t000", 10): True, ("t001", 10): False}
    later = [*killed, evaluated("t003", 10, 9.0), evaluated("t004", 10, 9.0)]
    assert Rungs(config.rungs, 2).replay(recorded(config, later))["t001", 10] is False
