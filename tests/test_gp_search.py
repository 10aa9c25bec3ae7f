"""Search by one Gaussian process: what it suggests and stops, and that a resume does the same."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.linalg import cho_factor
from sweep_samples import record_of, run_of, session, sweep_config
from test_answers import BEST, Sweep, loss_at
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.search.methods import product
from benchmarks.search.simulator import simulate
from benchmarks.search.simulator import sweep_config as bench_config
from benchmarks.search.table import load
from sweep.analysis import gaussian_process
from sweep.analysis.axes import axes_of
from sweep.config.sweep import SweepConfig
from sweep.plan.simulation import Simulation
from sweep.plan.valley import Valley
from sweep.record.results import SweepRecord
from sweep.search.ask_tell import build_method, stopped_on_record
from sweep.search.gp_model import MOST_ROWS, ROWS_OF_SCALES, Model
from sweep.search.probes import probes_of

GOALS = ["both", "best", "table"]


def config_of(trials: int = 24, goal: str = "both", **changes: Any) -> SweepConfig:
    search = {"algorithm": "gp", "goal": goal}
    return sweep_config(num_samples=trials, search=search, **changes)


def far(params: dict[str, Any]) -> float:
    """How far a rate is from the best one, in octaves."""
    return abs(math.log2(params["optim.lr"] / BEST))


def test_matrices_are_on_one_thread_while_trials_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """By gp and by the fit for the last trial of tpe; afterwards as before."""
    before, seen = threads(), set()

    def noted(*matrix: Any, **options: Any) -> Any:
        seen.update(threads())
        return cho_factor(*matrix, **options)

    monkeypatch.setattr(gaussian_process, "cho_factor", noted)
    for algorithm in ("gp", "tpe"):
        seen.clear()
        config = sweep_config(num_samples=12, search={"algorithm": algorithm})
        with threadpool_limits(2, user_api="blas"):
            Simulation(config, build_method(config, SweepRecord()), Valley(config, 257)).run(2)
        assert seen == {1}, algorithm
    assert threads() == before


def threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_it_begins_with_start_points_and_probes_that_stop_after_the_grace_period() -> None:
    point = {"optim.lr": 3e-3, "model.d_model": 32}
    sweep = Sweep(config_of(start_points=[point]))
    assert sweep.start(0, point) == point
    probes = probes_of(sweep.config)
    assert probes == 6
    steps = [sweep.run(number) for number in range(1, 1 + probes)]
    assert steps == [sweep.config.grace_period] * probes
    rates = [math.log(sweep.method.ask(n, {})["optim.lr"]) for n in range(1, 1 + probes)]
    gaps = np.diff([math.log(1e-4), *sorted(rates), math.log(1e-2)])
    assert gaps.max() < 0.45 * math.log(100), "they fill the range"
    assert probes_of(config_of(8)) == 3, "a short sweep has few"
    one_more = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.d_model": {"choice": [16, 32]}}
    fixed = {"model.n_layers": {"int": [2, 2]}, "optim.weight_decay": {"choice": [0.1]}}
    assert probes_of(config_of(space=one_more | fixed)) == 6, "a field of one value needs none"


def test_the_first_start_point_is_trained_to_its_end_if_no_loss_of_an_end_is_known() -> None:
    bad = [{"optim.lr": lr, "model.d_model": 32} for lr in (1e-4, 1.1e-4, 1.2e-4)]
    sweep = Sweep(config_of(start_points=bad))
    assert [sweep.run(number, point) for number, point in enumerate(bad)] == [80, 10, 10]
    known = record_of(sweep.events).trials.values()
    warm = Sweep(config_of(start_points=bad[:1]))
    older = SweepRecord(older=[replace(trial, sweep="old") for trial in known])
    warm.method = build_method(warm.config, older)
    assert warm.run(0, bad[0]) < 80


def test_where_no_trial_is_to_come_none_is_stopped() -> None:
    """Its worker would idle from then on. Where twelve of sixteen are to come, some are."""
    for begun, some_stop in ((16, False), (4, True)):
        sweep = Sweep(config_of(16))
        params = [sweep.start(number) for number in range(begun)]
        goes_on = [
            sweep.method.report(number, step, loss_at(params[number], step) + 0.5 * (number > 0))
            for step in range(10, 80, 10)
            for number in range(begun)
        ]
        assert all(goes_on) != some_stop


def test_it_finds_the_best_and_spends_its_steps_there() -> None:
    rates, steps = [], []
    for seed in range(4):
        sweep = Sweep(config_of(seed=seed))
        for number in range(24):
            steps.append((number, sweep.run(number)))
        record = record_of(sweep.events)
        assert record.best is not None
        assert record.best.params["model.d_model"] == 64
        assert far(record.best.params) < 0.4
        rates += [far(t.params) for t in record.trials.values() if t.number >= 12]
    assert np.median(rates) < 1.0, "of all that are drawn, half would be 1.7 octaves off"
    middle = [done for number, done in steps if 8 <= number < 23]
    assert {10, 80} <= set(middle), "some are stopped, some are not"


def test_its_best_place_is_trained_to_the_end_by_the_last_trial_at_the_latest() -> None:
    answers = 0
    for seed in range(6):
        sweep = Sweep(config_of(12, seed=seed))
        for number in range(12):
            step = sweep.run(number)
        record = record_of(sweep.events)
        last = record.trials["t011"]
        answers += last.is_answer
        assert not last.is_answer or step == 80
        whole = [t for t in record.trials.values() if t.outcome == "finished"]
        assert min(far(t.params) for t in whole if t.params["model.d_model"] == 64) < 0.3
    assert answers


def test_a_hopeless_trial_is_stopped_and_a_promising_one_goes_on() -> None:
    sweep = Sweep(config_of())
    for number in range(12):
        sweep.run(number)
    for worse, goes_on in ((1.5, False), (-0.05, True)):
        played = Sweep(sweep.config, sweep.events)
        params = played.start(12)
        assert played.method.report(12, 10, loss_at(params, 10) + worse) is goes_on
        assert played.method.report(12, 10, 0.0) is goes_on, "what was said once is said again"


def test_trials_go_to_what_the_goal_asks_for() -> None:
    """The larger of two sizes is the better one: it is of more interest for the best."""
    of_the_small: dict[str, int] = {}
    for goal in GOALS:
        sweep = Sweep(config_of(20, goal))
        for number in range(20):
            sweep.run(number)
        record = record_of(sweep.events)
        asked = [t for t in record.trials.values() if t.number >= probes_of(sweep.config)]
        of_the_small[goal] = sum(t.params["model.d_model"] == 32 for t in asked)
        assert goal != "table" or not any(t.is_answer for t in asked)
    assert of_the_small["best"] == of_the_small["both"] < of_the_small["table"]


@pytest.mark.parametrize(("goal", "goes_on"), [("both", False), ("table", True)])
def test_a_trial_goes_on_while_it_can_change_what_the_goal_asks_for(
    goal: str, *, goes_on: bool
) -> None:
    """It has the best rate of its size, and the other size is far better."""
    config, events = config_of(24, goal), [session()]
    for number, width in enumerate((32, 64) * 6):
        rate, floor = BEST * 2.0 ** (number - 5.5), 0.01 * (64 - width)
        told = {
            step: loss_at({"optim.lr": rate, "model.d_model": width}, step) + floor
            for step in (range(10, 90, 10) if number in (5, 6) else (10, 20))
        }
        ended = "finished" if 80 in told else "stopped"
        events += run_of(f"t{number:03d}", told, ended, lr=rate, d_model=width)
    method = build_method(config, record_of(events))
    params = {"optim.lr": BEST, "model.d_model": 32}
    method.ask(12, params)
    assert method.report(12, 10, loss_at(params, 10) + 0.01 * 32) is goes_on


def test_nothing_is_stopped_without_early_stopping_or_before_the_grace_period() -> None:
    whole = Sweep(config_of(8, asha={"enabled": False}))
    assert [whole.run(number, worse=float(number)) for number in range(8)] == [80] * 8
    patient = Sweep(config_of(8, asha={"grace_period": 40}))
    assert min(patient.run(number, worse=float(number)) for number in range(8)) == 40


@pytest.mark.parametrize("goal", ["both", "table"])
def test_a_resume_suggests_and_stops_as_if_nothing_had_happened(goal: str) -> None:
    """The driver dies after each event in turn; what the method says next is the same."""
    whole = Sweep(config_of(14, goal))
    for number in range(14):
        whole.run(number)
    record = record_of(whole.events)
    params = {trial.number: trial.params for trial in record.trials.values()}
    for place, event in enumerate(whole.events):
        before = whole.events[:place]
        number = int(event.get("trial", "t0")[1:])
        method = build_method(whole.config, record_of(before))
        if event["event"] == "trial_started":
            assert method.ask(number, {}) == event["params"], place
        elif event["event"] == "evaluation":
            step = event["metrics"]["step"]
            method.ask(number, params[number])
            goes_on = method.report(number, step, event["metrics"]["val_loss"])
            following = whole.events[place + 1]
            assert goes_on == (following["event"] == "evaluation" or step == 80), place
            # The driver died between the evaluation and the word of the trial's end.
            after = whole.events[: place + 1]
            stopped = stopped_on_record(whole.config, record_of(after), after)
            assert stopped == (set() if goes_on else {event["trial"]}), place


def test_workers_side_by_side_are_sent_to_different_places() -> None:
    sweep = Sweep(config_of(40))
    for number in range(10):
        sweep.run(number)
    batch = [sweep.start(number) for number in range(10, 18)]
    assert len({(p["optim.lr"], p["model.d_model"]) for p in batch}) >= 6
    alone = [Sweep(sweep.config, sweep.events[:-8]).method.ask(n, {}) for n in (10, 11)]
    assert alone[0] == batch[0]


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
def test_it_keeps_away_from_where_trials_are_lost(outcome: str) -> None:
    config = config_of(60)
    rates = np.geomspace(1e-4, 1e-2, 16)
    events = [session()]
    for n, rate in enumerate(rates.tolist()):
        lost = rate > 2e-3
        told = {0: 5.5} if lost else {0: 5.5, 80: 3.0 - 0.1 * n}
        width = (32, 64)[n % 2]
        events += run_of(f"t{n:03d}", told, outcome if lost else "finished", lr=rate, d_model=width)
    method = build_method(config, record_of(events))
    asked = [method.ask(number, {})["optim.lr"] for number in range(16, 28)]
    assert max(asked) < 3.5e-3, "the higher the rate the better, but none survives there"


def test_a_failed_trial_says_nothing() -> None:
    config = config_of(30)
    events = [session()]
    for n, rate in enumerate(np.geomspace(2e-4, 8e-3, 10).tolist()):
        events += run_of(f"t{n:03d}", {0: 5.5, 10: 3.0, 80: 2.5}, "finished", lr=rate)
    failed = run_of("t010", {0: 5.5, 10: 0.5}, "failed", lr=9e-3)
    one = build_method(config, record_of([*events, *run_of("t010", {}, "failed", lr=9e-3)]))
    other = build_method(config, record_of([*events, *failed]))
    assert one.ask(11, {}) == other.ask(11, {})


def test_what_a_decision_costs_is_bounded() -> None:
    """By rows, whose cube a fit costs, and by the number of fits."""
    config = config_of(2_000)
    model = Model(axes_of(config.space), lambda _: 80, 4)
    rng, record = np.random.default_rng(0), record_of([])
    for n in range(1_000):
        params = {"optim.lr": float(10 ** rng.uniform(-4, -2)), "model.d_model": 32}
        last, ended = (80, "finished") if n % 3 == 0 else (10, "stopped")
        told = {step: loss_at(params, step) for step in range(10, last + 10, 10)}
        record.apply_all(run_of(f"t{n:03d}", told, ended, lr=params["optim.lr"]))
    known = list(record.trials.values())
    rows = model.rows(known)
    assert rows is not None
    assert len(rows.loss) <= MOST_ROWS
    assert (rows.backwards == 0).sum() >= MOST_ROWS // 2, "those that came furthest count"
    few = model.rows(known, ROWS_OF_SCALES)
    assert few is not None
    assert len(few.loss) <= ROWS_OF_SCALES
    small = model.rows(known[:8])
    assert small is not None
    assert len(small.loss) == 3 * 5 + 5, "of a few trials every evaluation that matters counts"
    exact = model.rows(known[:8], len(small.loss))
    assert exact is not None
    assert len(exact.loss) == len(small.loss), "all that there is room for counts"


def simulated(trials: int, workers: int, seed: int) -> SweepRecord:
    """A sweep on real curves with a simulated clock."""
    table = load("kjv")
    config = bench_config(table, trials, seed, "gp")
    return simulate(table, config, product(config), workers).record


def test_nothing_is_trained_twice() -> None:
    """The same settings would give the same losses, to the bit."""
    trials = simulated(40, 2, seed=1).trials.values()
    assert len({str(trial.params) for trial in trials}) == 40


def test_few_trials_side_by_side_are_not_spent_on_stops() -> None:
    """Sixteen by eight: when the first ones tell anything, most have begun."""
    records = [simulated(16, 8, seed) for seed in range(6)]
    finished = [sum(t.outcome == "finished" for t in r.trials.values()) for r in records]
    assert np.mean(finished) > 3.5
    assert simulated(40, 2, seed=1).counts()["finished"] < 15, "it stops where that is of use"
