"""The last trial trains the answer: at the best place by the fit, and to its end."""

import math
from typing import Any

import pytest
from sweep_samples import ended, evaluated, record_of, run_of, started, sweep_config

from sweep.config.sweep import SweepConfig
from sweep.record.events import Event
from sweep.search.ask_tell import build_method, stopped_on_record
from sweep.search.rungs import Rungs, recorded

BEST = 1e-3
ALGORITHMS = ["tpe", "random", "gp"]


def loss_at(params: dict[str, Any], step: int) -> float:
    """A valley along the rate, lower for the larger model."""
    off = math.log(params["optim.lr"] / BEST)
    return 2.0 + 0.1 * off**2 - 0.002 * params["model.d_model"] + 0.4 * math.log(80 / step)


class Sweep:
    """A sweep played with its method, one trial after another, and what it records."""

    def __init__(self, config: SweepConfig, events: list[Event] | None = None) -> None:
        self.config, self.events = config, list(events or [])
        self.method = build_method(config, record_of(self.events))

    def start(self, number: int, fixed: dict[str, Any] | None = None) -> dict[str, Any]:
        params = self.method.ask(number, fixed or {})
        answer = {"answer": True} if number in self.method.answers else {}
        self.events.append(started(f"t{number:03d}", params=params, **answer))
        return params

    def run(self, number: int, fixed: dict[str, Any] | None = None, worse: float = 0.0) -> int:
        """Run a trial to its end; return its last step."""
        params, name = self.start(number, fixed), f"t{number:03d}"
        for step in range(10, 90, 10):
            loss = loss_at(params, step) + worse
            self.events.append(evaluated(name, step, loss))
            if not self.method.report(number, step, loss):
                break
        self.method.tell(number, loss)
        self.events.append(ended(name, "finished" if step == 80 else "stopped", step))
        return step


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_last_trial_is_at_the_best_place_by_the_fit_and_is_never_stopped(
    algorithm: str,
) -> None:
    sweep = Sweep(sweep_config(num_samples=16, search={"algorithm": algorithm}))
    steps = [sweep.run(number) for number in range(15)]
    assert min(steps) < 80, "others are stopped"
    assert sweep.run(15, worse=3.0) == 80, "however bad it is"
    record = record_of(sweep.events)
    assert [t.number for t in record.trials.values() if t.is_answer] == [15]
    params = record.trials["t015"].params
    assert params["model.d_model"] == 64
    assert params["optim.lr"] == pytest.approx(BEST, rel=0.2)
    assert all(sweep.config.space[name].contains(value) for name, value in params.items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("trained", [False, True])
def test_a_resume_trains_the_same_answer(algorithm: str, *, trained: bool) -> None:
    """The driver dies before the last trial begins, or while it runs."""
    sweep = Sweep(sweep_config(num_samples=12, search={"algorithm": algorithm}))
    for number in range(11):
        sweep.run(number)
    before = list(sweep.events)
    params = sweep.start(11)
    if trained:
        before = [*sweep.events, evaluated("t011", 10, 9.0)]
    resumed = Sweep(sweep.config, before)
    assert resumed.method.ask(11, params if trained else {}) == params
    assert 11 in resumed.method.answers
    assert resumed.method.report(11, 20, 99.0)
    assert stopped_on_record(sweep.config, record_of(before), before) == set()


def test_the_answer_enters_no_rung() -> None:
    sweep = Sweep(sweep_config(num_samples=4))
    for number in range(4):
        sweep.run(number)
    arrived = {trial for trial, _, _, _ in recorded(sweep.config, sweep.events)}
    assert "t003" not in arrived
    longer = sweep_config(num_samples=9)
    sweep = Sweep(longer, sweep.events)
    others = Rungs(longer.rungs, longer.asha.reduction_factor)
    others.replay(recorded(sweep.config, sweep.events))
    for number in range(4, 8):
        params = sweep.start(number)
        loss = loss_at(params, 10)
        assert sweep.method.report(number, 10, loss) == others.arrive(10, number, loss)


def test_a_sweep_that_is_extended_has_a_new_answer_and_keeps_the_old_one() -> None:
    sweep = Sweep(sweep_config(num_samples=4))
    for number in range(4):
        sweep.run(number)
    longer = Sweep(sweep_config(num_samples=7), sweep.events)
    for number in range(4, 7):
        longer.run(number)
    record = record_of(longer.events)
    assert [t.number for t in record.trials.values() if t.is_answer] == [3, 6]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_what_was_trained_to_the_end_is_not_trained_again(algorithm: str) -> None:
    """The best rate lies at the end of the range, where two answers would be the same."""
    space = {"optim.lr": {"loguniform": [1e-5, 1e-4]}, "model.d_model": {"choice": [32, 64]}}
    search = {"algorithm": algorithm}
    first = Sweep(sweep_config(num_samples=8, space=space, search=search))
    for number in range(8):
        first.run(number)
    longer = Sweep(sweep_config(num_samples=12, space=space, search=search), first.events)
    for number in range(8, 12):
        longer.run(number)
    trials = record_of(longer.events).trials.values()
    (answer,) = (t for t in trials if t.is_answer)
    assert answer.number == 7
    assert answer.params == {"optim.lr": 1e-4, "model.d_model": 64}
    assert sum(t.params == answer.params for t in trials) == 1


def test_there_is_none_where_nothing_was_trained_or_the_point_is_given() -> None:
    only = Sweep(sweep_config(num_samples=1))
    only.run(0)
    point = {"optim.lr": 9e-3, "model.d_model": 32}
    given = Sweep(sweep_config(num_samples=2, start_points=[{}, point]))
    given.run(0)
    assert given.start(1, point) == point
    lost = Sweep(sweep_config(num_samples=2))
    lost.start(0)
    lost.method.tell(0, None)
    lost.start(1)
    for sweep in (only, given, lost):
        assert not any(t.is_answer for t in record_of(sweep.events).trials.values())


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
def test_the_answer_is_where_trials_survive(outcome: str) -> None:
    """The higher the rate the better, but beyond 2e-3 trials are lost."""
    rates = [1e-4, 2e-4, 4e-4, 8e-4, 1.5e-3]
    events = [
        run_of(f"t{n:03d}", {0: 5.0, 40: 3 - n / 10, 80: 2.5 - n / 10}, "finished", lr=rate)
        for n, rate in enumerate(rates)
    ]
    events += [
        run_of(f"t{n:03d}", {0: 5.0}, outcome, lr=rate)
        for n, rate in enumerate([3e-3, 6e-3, 1e-2], start=5)
    ]
    config = sweep_config(num_samples=9, space={"optim.lr": {"loguniform": [1e-4, 1e-2]}})
    told = [e for story in events for e in story]
    for event in told:
        event.get("params", {}).pop("model.d_model", None)
    rate = Sweep(config, told).method.ask(8, {})["optim.lr"]
    assert 1e-3 < rate < 2.8e-3
