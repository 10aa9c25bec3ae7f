"""A sweep for the table of sizes, by TPE and at random: sizes in turn, each ranked in itself."""

import itertools
from typing import Any

import pytest
from sweep_samples import new_sweep, record_of, session, started, sweep_config, write_events
from test_answers import Sweep

from sweep.analysis.facts import Facts
from sweep.config.sweep import SweepConfig
from sweep.pictures.strip import rungs
from sweep.plan.workload import expected_workload
from sweep.search.ask_tell import build_method, stopped_on_record
from sweep.show.live import LiveView

WIDTHS, LAYERS = [32, 64], [1, 2, 3]
SPACE = {
    "model.d_model": {"choice": WIDTHS},
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "model.n_layers": {"int": [1, 3]},
}
POINT = {"optim.lr": 2e-3, "model.d_model": 32, "model.n_layers": 1}


def config_of(algorithm: str = "tpe", **changes: Any) -> SweepConfig:
    search = {"algorithm": algorithm, "goal": "table", "startup_trials": 4}
    return sweep_config(**{"space": SPACE, "num_samples": 20, **changes, "search": search})


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_sizes_come_in_turn_and_no_trial_trains_the_answer(algorithm: str) -> None:
    sweep = Sweep(config_of(algorithm, start_points=[POINT]))
    assert sweep.start(0, POINT) == POINT
    for number in range(1, 20):
        sweep.run(number)
    params = [t.params for t in record_of(sweep.events).trials.values()]
    sizes = [(p["model.d_model"], p["model.n_layers"]) for p in params]
    every = sorted(itertools.product(WIDTHS, LAYERS))
    rounds = [sizes[n : n + 6] for n in (1, 7, 13)]
    assert [sorted(one) for one in rounds] == [every] * 3
    assert len({tuple(one) for one in rounds}) > 1, "each round has an order of its own"
    assert all(list(p) == list(SPACE) for p in params)
    assert len({p["optim.lr"] for p in params}) == 20
    assert not any(t.is_answer for t in record_of(sweep.events).trials.values())


def test_a_start_point_may_leave_the_size_or_all_else_to_the_search() -> None:
    points = [{"optim.lr": 2e-3}, {"model.d_model": 32}]
    sweep = Sweep(config_of(start_points=points))
    assert sweep.start(0, points[0])["optim.lr"] == 2e-3
    assert sweep.start(1, points[1])["model.d_model"] == 32


def test_a_trial_is_ranked_among_those_of_its_size() -> None:
    """The large models are far better than the small ones: these go on all the same."""
    sweep = Sweep(config_of())
    ended: dict[tuple[int, int], list[int]] = {}
    for number in range(18):
        params = sweep.method.ask(number, {})
        size = params["model.d_model"], params["model.n_layers"]
        worse = 3.0 * (size[0] == 32) + 0.1 * len(ended.get(size, []))
        ended.setdefault(size, []).append(Sweep.run(sweep, number, worse=worse))
    firsts = [steps[0] for steps in ended.values()]
    assert firsts == [80] * 6, "the first of its size has nobody to be ranked among"
    assert min(min(steps) for steps in ended.values()) < 80


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_a_resume_suggests_and_stops_as_if_nothing_had_happened(algorithm: str) -> None:
    whole = Sweep(config_of(algorithm, num_samples=14))
    for number in range(14):
        whole.run(number, worse=0.1 * number)
    for place, event in enumerate(whole.events):
        before = whole.events[:place]
        method = build_method(whole.config, record_of(before))
        if event["event"] == "trial_started":
            assert method.ask(int(event["trial"][1:]), {}) == event["params"], place
        elif event["event"] == "outcome":
            stopped = stopped_on_record(whole.config, record_of(before), before)
            assert stopped == ({event["trial"]} if event["outcome"] == "stopped" else set()), place
    begun = [*whole.events, started("t014", params=POINT)]
    resumed = build_method(whole.config, record_of(begun))
    assert resumed.ask(14, POINT) == POINT, "an unfinished trial goes on as it was"


def test_what_is_shown_of_rungs_is_of_each_size() -> None:
    sweep = Sweep(config_of())
    for number in range(18):
        sweep.run(number, worse=0.1 * number)
    folder, _ = new_sweep("table", sweep.config)
    write_events(folder, session(num_samples=18), *sweep.events)
    facts = Facts.read(folder)
    picture = rungs(facts)
    assert "Each trial is ranked among those of its size" in picture.note
    assert not [trace for trace in picture.traces if "border" in str(trace["name"])]
    view = LiveView(facts.config, facts.record)
    last = [t for t in facts.record.trials.values() if t.outcome == "stopped"][-1]
    assert "rank 3 of 3, best 1/2 go on" in view.reason(last) or "of 2" in view.reason(last)


def test_the_share_that_is_planned_is_that_of_rungs_within_sizes() -> None:
    for algorithm in ("tpe", "gp"):
        table, both = (
            expected_workload(
                sweep_config(
                    space=SPACE, num_samples=32, search={"algorithm": algorithm, "goal": goal}
                ),
                257,
                2,
            ).share
            for goal in ("table", "both")
        )
        assert table > 1.2 * both
