"""ASHA as the sweep runs it, against a plain reading of the paper's rule, also over a resume."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from sweep_samples import TRIAL, ended, evaluated, record_of, run_of, started, sweep_config

from sweep.config.sweep import SweepConfig
from sweep.record.events import Event
from sweep.record.values import trial_number
from sweep.search.ask_tell import build_method
from sweep.search.tune_stopping import SweepStopping
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL

Curve = dict[int, float | str]
"""A trial's losses by step; a word in a loss's place is how the trial is lost there."""


class PlainAsha:
    """The rule: at a rung go on with a loss among the best 1 / factor of those seen there before.

    Between two losses the border is interpolated linearly.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.factor = config.asha.reduction_factor
        self.seen: dict[int, list[float]] = {rung: [] for rung in config.rungs}

    def goes_on(self, step: int, loss: float) -> bool:
        if step not in self.seen:
            return True
        losses = sorted(self.seen[step])
        self.seen[step].append(loss)
        if not losses:
            return True
        position = (len(losses) - 1) / self.factor
        below = int(position)
        above = min(below + 1, len(losses) - 1)
        border = losses[below] + (position - below) * (losses[above] - losses[below])
        return loss <= border


@dataclass
class Session:
    """Reports to the sweep's scheduler as Tune does, and writes the events that they leave."""

    config: SweepConfig
    events: list[Event] = field(default_factory=list)
    trials: dict[str, Trial] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.method = build_method(self.config, record_of(self.events))
        self.scheduler = SweepStopping(self.method)

    def start(self, name: str) -> None:
        trial = Trial("trial", config={"name": name}, stub=True)
        self.trials[name] = trial
        self.method.ask(trial_number(name), {})
        answer = {"answer": True} if trial_number(name) in self.method.answers else {}
        self.events.append(started(name, **answer))
        self.scheduler.on_trial_add(None, trial)

    def report(self, name: str, step: int, loss: float) -> bool:
        """Report a loss; say whether the trial goes on."""
        trial, result = self.trials[name], {"step": step, "val_loss": loss, "outcome": None}
        self.events.append(evaluated(name, step, loss))
        goes_on = True
        last = step >= self.config.trial.train.steps
        if not last:  # Tune does not ask about a trial that says it is done
            decision = self.scheduler.on_trial_result(None, trial, result)
            goes_on = decision == TrialScheduler.CONTINUE
        if last or not goes_on:
            self.scheduler.on_trial_complete(None, trial, result)
            if last:
                self.method.report(trial_number(name), step, loss)
            if name not in self.told:
                self.method.tell(trial_number(name), loss)
            self.told.add(name)
            self.events.append(ended(name, "finished" if last else "stopped", step))
        return goes_on and not last

    def lose(self, name: str, step: int, outcome: str) -> None:
        """End a trial that diverged, ran out of memory or failed at a step."""
        if outcome == "failed":
            self.scheduler.on_trial_error(None, self.trials[name])
            self.method.tell(trial_number(name), None)
        else:
            loss = OBJECTIVE_OF_A_LOST_TRIAL
            result = {"step": step, "val_loss": loss, "outcome": outcome, "done": True}
            self.scheduler.on_trial_complete(None, self.trials[name], result)
            self.method.tell(trial_number(name), loss)
        self.events.append(ended(name, outcome, step, reason="why"))

    def interrupt(self, running: list[str], *, crash: bool) -> "Session":
        """End the session, gracefully or not, and begin the next from what it recorded."""
        if not crash:
            for name in running:
                self.events.append(ended(name, "interrupted", 0))
        following = Session(self.config, list(self.events))
        for name in running:
            following.start(name)
        return following


def random_curves(config: SweepConfig, seed: int, *, lost: bool) -> dict[str, Curve]:
    """Return 24 falling, noisy, crossing loss curves; if `lost`, a third of them end badly."""
    rng = random.Random(seed)
    steps = range(0, config.trial.train.steps + 1, config.trial.train.eval_interval)
    curves: dict[str, Curve] = {}
    for number in range(24):
        floor, rate = rng.uniform(1, 4), rng.uniform(0.5, 3)
        curve: Curve = {
            step: floor + 4 / (1 + rate * step / 10) + rng.uniform(0, 0.3) for step in steps
        }
        if lost and rng.random() < 1 / 3:
            curve[rng.choice(list(steps))] = rng.choice(["diverged", "out_of_memory", "failed"])
        curves[f"t{number:03d}"] = curve
    return curves


def play(
    config: SweepConfig,
    curves: dict[str, Curve],
    seed: int,
    interrupt_after: int | None = None,
    *,
    crash: bool = False,
    compare: Callable[[str, int, float, bool], None] = lambda *_: None,
) -> dict[str, int]:
    """Run trials four at a time in a random order; return the step at which each ended."""
    rng = random.Random(seed)
    session = Session(config)
    waiting, running = list(curves), dict.fromkeys([], iter(()))
    ends: dict[str, int] = {}
    reports = 0
    while waiting or running:
        while waiting and len(running) < 4:
            name = waiting.pop(0)
            running[name] = iter(curves[name].items())
            session.start(name)
        name = rng.choice(list(running))
        step, loss = next(running[name])
        if isinstance(loss, str):
            session.lose(name, step, loss)
            goes_on = False
        else:
            goes_on = session.report(name, step, loss)
            compare(name, step, loss, goes_on)
        if not goes_on:
            ends[name] = step
            del running[name]
        reports += 1
        if reports == interrupt_after:
            session = session.interrupt(list(running), crash=crash)
    return ends


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_decides_as_the_plain_rule_does(factor: int, seed: int) -> None:
    config = sweep_config(num_samples=99, asha={"grace_period": 10, "reduction_factor": factor})
    plain = PlainAsha(config)

    def compare(name: str, step: int, loss: float, goes_on: bool) -> None:
        expected = step < 80 and plain.goes_on(step, loss)
        assert goes_on == expected, (name, step, loss)

    ends = play(config, random_curves(config, seed, lost=False), seed, compare=compare)
    assert len(ends) == 24
    assert set(ends.values()) <= {*config.rungs, 80}
    assert len(set(ends.values())) >= 2, "some stop, some finish"


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("after", [1, 7, 20, 33, 50])
@pytest.mark.parametrize("lost", [False, True], ids=["", "with lost trials"])
def test_a_resume_changes_no_decision(after: int, *, crash: bool, lost: bool) -> None:
    config = sweep_config()
    for seed in range(4):
        curves = random_curves(config, seed, lost=lost)
        undisturbed = play(config, curves, seed)
        assert play(config, curves, seed, after, crash=crash) == undisturbed, seed


@pytest.mark.parametrize(
    ("steps", "grace", "factor"),
    [(80, 10, 2), (80, 10, 3), (90, 10, 3), (243, 1, 3), (125, 1, 5), (100, 10, 10), (80, 80, 2)],
)
def test_trials_stop_at_the_rungs_that_the_config_names(
    steps: int, grace: int, factor: int
) -> None:
    trial = {**TRIAL, "train": {"steps": steps, "eval_every": grace}}
    config = sweep_config(trial=trial, asha={"reduction_factor": factor})
    for worse_at in range(grace, steps, grace):
        session = Session(config)
        for name in ("t000", "t001"):
            session.start(name)
        for step in range(0, worse_at, grace):
            assert session.report("t000", step, 1.0)
            assert session.report("t001", step, 1.0)
        assert session.report("t000", worse_at, 1.0)
        assert session.report("t001", worse_at, 2.0) == (worse_at not in config.rungs)


def test_a_resumed_trial_does_not_enter_a_rung_that_it_has_passed() -> None:
    config = sweep_config()
    before = [run_of("t000", {0: 5.0, 10: 4.0, 20: 3.0}, "interrupted")]
    session = Session(config, [e for events in before for e in events])
    session.start("t000")
    assert session.report("t000", 30, 1.0)
    session.start("t001")
    # At step 10 there was a 4.0; the 1.0 of step 30 says nothing about that rung.
    assert session.report("t001", 10, 3.9)
    assert session.report("t001", 20, 2.9)


def test_a_trial_that_repeats_a_rung_after_a_lost_checkpoint_counts_there_once() -> None:
    session = Session(sweep_config(), run_of("t000", {0: 5.0, 10: 4.0, 20: 3.0}, "interrupted"))
    session.start("t000")
    assert session.report("t000", 10, 4.0)
    assert session.report("t000", 20, 3.0)
    session.start("t001")
    assert not session.report("t001", 10, 4.1)


def test_a_stopped_trial_stays_stopped_where_its_worker_dies_before_it_is() -> None:
    """Tune forgets its decision with the worker, and goes on from the checkpoint before."""
    session = Session(sweep_config())
    for name, loss in (("t000", 1.0), ("t001", 2.0)):
        session.start(name)
        goes_on = session.report(name, 10, loss)
    assert not goes_on
    assert not session.report("t001", 0, 5.0)
    assert not session.report("t001", 10, 2.0)
    assert session.report("t000", 20, 0.9)


def test_what_ended_trials_left_in_the_rungs_counts_after_a_resume() -> None:
    session = Session(sweep_config(), run_of("t000", {0: 5.0, 10: 2.0}, "stopped"))
    session.start("t001")
    assert session.report("t001", 0, 9.0), "step 0 is no rung"
    assert not session.report("t001", 10, 2.1)


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_lost_trials_count_as_the_worst_at_most(outcome: str, factor: int) -> None:
    """A few lost trials at a rung leave its border between the losses of sound ones."""
    config = sweep_config(asha={"grace_period": 10, "reduction_factor": factor})
    session = Session(config)
    for number in range(9):
        session.start(f"t{number:03d}")
        session.report(f"t{number:03d}", 10, 3.0 + number / 10)
    session.start("t009")
    session.lose("t009", 10, outcome)
    for number, loss in enumerate((10.0, 3.9), start=10):
        session.start(f"t{number:03d}")
        assert not session.report(f"t{number:03d}", 10, loss)
    session.start("t012")
    assert session.report("t012", 10, 2.9)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_lost_trial_lets_through_none_that_is_far_worse_than_a_sound_one(factor: int) -> None:
    session = Session(sweep_config(asha={"grace_period": 10, "reduction_factor": factor}))
    session.start("t000")
    session.start("t001")
    session.report("t000", 10, 3.0)
    session.lose("t001", 10, "diverged")
    session.start("t002")
    assert not session.report("t002", 10, 1_000.0)


def test_without_early_stopping_every_trial_runs_to_its_end() -> None:
    config = sweep_config(asha={"enabled": False})
    ends = play(config, random_curves(config, 0, lost=False), 0)
    assert set(ends.values()) == {80}


def test_decisions_do_not_depend_on_randomness_elsewhere() -> None:
    config = sweep_config()
    ends = []
    for seed in (0, 1):
        np.random.seed(seed)  # Ray draws a bracket from the global state
        ends.append(play(config, random_curves(config, 0, lost=False), 0))
    assert ends[0] == ends[1]


def test_the_first_arrival_at_a_rung_goes_on() -> None:
    session = Session(sweep_config())
    session.start("t000")
    assert session.report("t000", 10, 100.0)


def test_a_failure_s_stand_in_for_a_loss_is_no_evaluation() -> None:
    session = Session(sweep_config())
    for name in ("t000", "t001"):
        session.start(name)
    told = {"step": 10, "val_loss": OBJECTIVE_OF_A_LOST_TRIAL, "outcome": "failed"}
    decision = session.scheduler.on_trial_result(None, session.trials["t000"], told)
    assert decision == TrialScheduler.CONTINUE
    assert session.report("t001", 10, 5.0), "it is the first to arrive"
    assert not session.report("t000", 10, 6.0)
