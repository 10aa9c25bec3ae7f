"""The data behind each picture: what is drawn, what is left out, and what is said of it."""

import itertools
import math
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sweep_samples import (
    SPACE,
    TRIAL,
    ended,
    evaluated,
    event,
    new_sweep,
    run_of,
    session,
    started,
    sweep_config,
)
from test_surface import best_rate
from test_surface import curves as searched

from sweep.analysis.facts import Facts
from sweep.analysis.workers import worker_spans
from sweep.config.sweep import SweepConfig
from sweep.pictures.curves import BEST, OTHERS, POINTS, curves
from sweep.pictures.frontier import MOST, frontier
from sweep.pictures.gallery import PICTURES
from sweep.pictures.parallel import at_equal_budget, importance, main_effects, parallel
from sweep.pictures.picture import Picture, thinned
from sweep.pictures.rates import rates
from sweep.pictures.static import svg
from sweep.pictures.strip import rungs
from sweep.pictures.timeline import LOOKS, shares, timeline
from sweep.pictures.valleys import valleys
from sweep.record.events import Event
from sweep.record.folder import next_name
from sweep.record.results import SweepRecord
from trainable.model.counts import flops_per_token, parameter_count

VOCABULARY = 257


def facts_of(*events: Event | list[Event], config: SweepConfig | None = None) -> Facts:
    """Return the facts of a sweep."""
    config = config or sweep_config()
    _, sweep = new_sweep(next_name(), config)
    told = [
        session(),
        *(e for item in events for e in (item if isinstance(item, list) else [item])),
    ]
    record = SweepRecord()
    record.apply_all(told)
    return Facts("seen", sweep, told, record)


def random_search(sizes: tuple[int, ...] = (32, 64)) -> list[Event]:
    """Return 24 trials over a known valley, with the FLOPs of their evaluations."""
    events = searched(0)
    config = sweep_config()
    params = {e["trial"]: e["params"] for e in events if e["event"] == "trial_started"}
    for told in events:
        if told["event"] == "evaluation":
            model = config.trial_config(params[told["trial"]]).model
            tokens = told["metrics"]["step"] * config.trial.tokens_per_step
            told["metrics"] |= {
                "tokens": tokens,
                "flops": tokens * flops_per_token(model, VOCABULARY),
            }
    return events


def named(picture: Picture, name: str) -> dict[str, Any]:
    (trace,) = [t for t in picture.traces if t["name"] == name and t.get("showlegend", True)]
    return trace


def points(picture: Picture) -> list[tuple[float, float, str]]:
    """Return all points that can be hovered over: x, y, text."""
    return [
        (x, y, text)
        for trace in picture.traces
        for x, y, text in zip(trace["x"], trace["y"], trace.get("hovertext", []), strict=False)
        if text
    ]


def test_plotly_takes_every_picture() -> None:
    facts = facts_of(random_search())
    for event_ in facts.events:
        event_ |= {"worker": "here:1"} if event_["event"] == "evaluation" else {}
    for draw in PICTURES.values():
        picture = draw(facts)
        assert picture.traces, picture.sentence
        figure = picture.figure()  # refuses what it does not know
        assert len(figure.data) == len(picture.traces)
        for change in picture.switches.values():
            figure.update_layout({k.replace(".", "_"): v for k, v in change.items()})


@pytest.mark.parametrize("name", PICTURES)
def test_a_sweep_in_which_nothing_happened_yet_has_words_for_it(name: str) -> None:
    picture = PICTURES[name](facts_of())
    assert picture.traces == []
    assert picture.sentence.endswith(".")


def test_every_trial_is_a_mark_over_its_rate() -> None:
    lost = run_of("t003", {0: 5.0, 10: 4.0}, "diverged", lr=9e-3)
    facts = facts_of(
        run_of("t000", {0: 5.0, 80: 2.0}, "finished", lr=1e-3),
        [*run_of("t001", {0: 5.0, 10: 3.0}, None, lr=2e-3), ended("t001", "stopped", 10)],
        run_of("t002", {0: 5.0, 20: 2.5}, None, lr=3e-3, d_model=64),
        lost,
    )
    picture = valleys(facts)
    seen = {text.split(" ")[0]: (x, y) for x, y, text in points(picture)}
    top = picture.layout["yaxis"]["range"][1] / 1.01
    assert seen == {
        "t000": (1e-3, 2.0),
        "t001": (2e-3, 3.0),
        "t002": (3e-3, 2.5),
        "t003": (9e-3, pytest.approx(top, rel=1e-5)),
    }
    looks = {
        text.split(" ")[0]: trace["marker"]["symbol"]
        for trace in picture.traces
        for text in trace.get("hovertext", [])
    }
    assert not looks["t000"].endswith("-open")
    assert looks["t001"].endswith("-open")
    assert looks["t002"].endswith("-open")
    assert looks["t000"] != looks["t002"].removesuffix("-open"), "sizes differ in shape, too"
    assert all(t["marker"]["opacity"] == 1 for t in picture.traces if t["name"].startswith("d_"))
    assert looks["t003"] == "x"
    (stopped,) = [t for t in picture.traces if "10" in t.get("text", [])]
    assert "stopped at step 10" in stopped["hovertext"][0]
    (shade,) = picture.layout["shapes"]
    assert [shade["x0"], shade["x1"]] == [1e-4, 1e-2]
    assert "t000" in picture.sentence
    assert "2.0000" in picture.sentence


def test_one_of_two_heights_shows_where_the_lowest_losses_lie() -> None:
    facts = facts_of(random_search())
    picture = valleys(facts)
    whole, near = (change["yaxis.range"] for change in picture.switches.values())
    assert whole == picture.layout["yaxis"]["range"]
    ends = [t.best_val_loss for t in facts.record.trials.values() if t.outcome == "finished"]
    bottoms = [min(t["y"]) for t in picture.traces if t["name"].endswith(", fitted")]
    assert near[0] == whole[0]
    assert max(*ends, *bottoms) < near[1] < whole[1]
    stopped = [run_of(f"t{n}", {0: 5.0, 10: 3.0}, "stopped") for n in range(3)]
    assert valleys(facts_of(*stopped)).switches == {}, "nothing finished"


def test_the_valleys_are_those_of_the_fit_for_sizes_with_three_trials() -> None:
    facts = facts_of(random_search())
    fitted = [t for t in valleys(facts).traces if t["name"].endswith(", fitted")]
    assert len(fitted) == 2
    for trace, d_model in zip(fitted, (32, 64), strict=True):
        lowest = trace["x"][int(np.argmin(trace["y"]))]
        assert abs(math.log2(lowest / best_rate(d_model))) < 0.5
        assert facts.surface is not None
        expected = facts.surface.expected([{"optim.lr": lowest, "model.d_model": d_model}])
        assert min(trace["y"]) == pytest.approx(float(expected[0]), abs=1e-4)
    few = facts_of(
        *[run_of(f"t{n}", {0: 5.0, 80: 2.0}, "finished", lr=1e-3 + n * 1e-3) for n in range(2)]
    )
    assert not [t for t in valleys(few).traces if t["name"].endswith(", fitted")]


def test_curves_of_many_trials_are_thinned_by_a_rule_that_is_said() -> None:
    long = {step: 5.0 - step / 100 for step in range(0, 81, 1)}
    trials = [
        run_of(f"t{n:03d}", {s: v + n for s, v in long.items()}, "finished") for n in range(300)
    ]
    picture = curves(facts_of(*trials))
    drawn = {text.split(" ")[0] for _, _, text in points(picture)}
    assert len(drawn) == BEST + OTHERS
    assert {f"t{n:03d}" for n in range(BEST)} <= drawn, "the best are all there"
    assert "t299" in drawn
    one = [text for _, _, text in points(picture) if text.startswith("t001 ")]
    assert len(one) == POINTS
    assert f"Of 300 curves, the {BEST} best" in picture.note
    few = curves(facts_of(random_search()))
    assert "Of " not in few.note
    assert few.traces[-1]["name"].startswith("the best")


def test_rungs_are_lines_and_steps_linear_or_logarithmic() -> None:
    picture = curves(facts_of(random_search()))
    assert [shape["x0"] for shape in picture.layout["shapes"]] == [10, 20, 40]
    assert {change["xaxis.type"] for change in picture.switches.values()} == {"linear", "log"}


def test_the_frontier_is_the_least_loss_that_so_many_flops_bought() -> None:
    facts = facts_of(random_search())
    picture = frontier(facts)
    edge = named(picture, "frontier")
    seen = [(x, y) for x, y, _ in points(picture)]
    for flops, loss in zip(edge["x"], edge["y"], strict=True):
        assert min(y for x, y in seen if x <= flops * (1 + 1e-5)) == pytest.approx(loss, rel=1e-5)
    assert edge["y"] == sorted(edge["y"], reverse=True)
    assert edge["x"] == sorted(edge["x"])
    evaluations = sum(e["event"] == "evaluation" and e["metrics"]["step"] > 0 for e in facts.events)
    assert len(seen) - len(named(picture, "size on the frontier")["x"]) == evaluations < MOST


def test_names_of_sizes_on_the_frontier_do_not_lie_on_one_another() -> None:
    """Sizes that follow closely on the frontier: the lower loss has its name written."""
    trials = []
    for n in range(40):
        told_ = run_of(f"t{n:03d}", {0: 5.0, 80: 3 - n / 100}, "finished", d_model=32 * (1 + n % 2))
        told_[-2]["metrics"]["flops"] = 1e9 * (1 + n / 40)
        trials.append(told_)
    picture = frontier(facts_of(*trials))
    sizes = named(picture, "size on the frontier")
    assert len(sizes["x"]) == 40, "each is marked"
    width, height = math.log(max(sizes["x"]) / min(sizes["x"])), max(sizes["y"]) - min(sizes["y"])
    places = [p for *p, text in zip(sizes["x"], sizes["y"], sizes["text"], strict=True) if text]
    assert 5 < len(places) < 40
    assert places[-1] == [sizes["x"][-1], sizes["y"][-1]]
    for (x, y), (other, beside) in itertools.pairwise(places):
        assert math.log(other / x) > width / 15 or y - beside > height / 20


def test_parameters_follow_from_what_evaluations_tell() -> None:
    facts = facts_of(random_search())
    assert facts.study.vocab_size == VOCABULARY
    for size in facts.sizes:
        model = facts.config.trial_config({"model.d_model": size.values[0]}).model
        assert size.parameters == parameter_count(model, VOCABULARY)


def test_the_best_rates_are_those_of_the_table_of_sizes() -> None:
    facts = facts_of(random_search())
    picture = rates(facts)
    for row, size in zip(facts.by_size, facts.sizes, strict=True):
        trace = named(picture, size.label)
        assert row.rates is not None
        assert trace["x"] == [size.parameters]
        assert trace["y"][0] == pytest.approx(row.best[0], rel=1e-4)
        assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(row.rates[1], rel=1e-4)
        assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(
            row.rates[0], rel=1e-4
        )
    assert "fewer than 3 sizes" in picture.sentence
    assert not [t for t in picture.traces if t["name"] == "predicted"]


def test_a_law_through_three_sizes_predicts_larger_ones() -> None:
    space = {**SPACE, "model.d_model": {"choice": [32, 64, 128]}}
    rng, events = np.random.default_rng(0), []
    for n in range(36):
        lr, d_model = float(10 ** rng.uniform(-4, -2)), (32, 64, 128)[n % 3]
        off = math.log(lr / best_rate(d_model))
        loss = 2.0 - 0.1 * math.log(d_model / 32) + 0.15 * off**2
        events += run_of(f"t{n:03d}", {0: 5.5, 80: loss}, "finished", lr=lr, d_model=d_model)
    picture = rates(facts_of(events, config=sweep_config(space=space)))
    predicted, sizes = named(picture, "predicted"), [t for t in picture.traces if "error_y" in t]
    largest = max(t["x"][0] for t in sizes)
    assert predicted["x"] == pytest.approx([2 * largest, 4 * largest], rel=1e-4)
    assert predicted["marker"]["symbol"].endswith("-open")
    (x, y) = zip(*[(t["x"][0], t["y"][0]) for t in sizes], strict=True)
    slope, level = np.polyfit(np.log(x), np.log(y), 1)
    for count, rate in zip(predicted["x"], predicted["y"], strict=True):
        assert math.log(rate) == pytest.approx(level + slope * math.log(count), abs=0.1)
    assert "to the power -0." in picture.sentence


def test_text_of_a_record_is_no_markup_of_plotlys() -> None:
    events = run_of("t000", {0: 5.0, 10: 3.0}, "diverged")
    events[-1]["reason"] = "<a href='x'>click</a> & <b>"
    (_, _, text), *_ = points(valleys(facts_of(events)))
    assert "&lt;a href='x'&gt;click&lt;/a&gt; &amp; &lt;b&gt;" in text


def test_thinning_keeps_both_ends() -> None:
    assert thinned(range(5), 9) == [0, 1, 2, 3, 4]
    assert thinned(range(1000), 3) == [0, 500, 999]
    assert len(thinned(range(1000), 40)) == 40


def test_each_rung_tells_who_came_stayed_and_left() -> None:
    facts = facts_of(random_search())
    picture = rungs(facts)
    stayed, left = named(picture, "went on"), named(picture, "was stopped here")
    trials = facts.record.trials.values()
    for place, rung in enumerate(facts.config.rungs):
        came = [t for t in trials if any(e["step"] == rung for e in t.evaluations)]
        gone = [t for t in trials if t.rung == rung]
        assert sum(round(x) == place for x in stayed["x"]) == len(came) - len(gone)
        assert sum(round(x) == place for x in left["x"]) == len(gone)
        assert f"{len(came)} came" in picture.layout["xaxis"]["ticktext"][place]
        assert f"{len(gone)} of {len(came)} trials at step {rung}" in picture.sentence
        border = [t for t in picture.traces if t["name"].startswith("border")][place]["y"][0]
        losses = [e["val_loss"] for t in came for e in t.evaluations if e["step"] == rung]
        assert border == pytest.approx(np.quantile(losses, 1 / 2), rel=1e-5)


def test_losses_far_above_the_rest_are_drawn_on_the_top_edge_of_the_rungs() -> None:
    trials = [run_of(f"t{n:03d}", {0: 9.0, 10: 3 + n / 100}, "stopped") for n in range(40)]
    picture = rungs(facts_of(*trials, run_of("t040", {0: 9.0, 10: 8.0}, "stopped")))
    top = picture.layout["yaxis"]["range"][1]
    assert max(y for _, y, _ in points(picture)) < top < 4
    assert any("loss 8.0000" in text for _, _, text in points(picture))
    assert picture.note.endswith("Losses beyond the top edge are drawn on it.")
    assert "top edge" not in rungs(facts_of(*trials)).note


def test_where_a_model_stops_trials_its_steps_stand_for_rungs() -> None:
    config = sweep_config(search={"algorithm": "gp"})
    trials = [
        run_of(f"t{n:03d}", {0: 5.0, 10: 4.0, 20: 3.5 + n / 100}, "stopped") for n in range(3)
    ]
    late = run_of("t003", {0: 5.0, 10: 4.0, 20: 3.6, 30: 3.4, 40: 3.2}, "stopped")
    whole = run_of("t004", {0: 5.0, **dict.fromkeys(range(10, 90, 10), 3.0)}, "finished")
    picture = rungs(facts_of(*trials, late, whole, config=config))
    assert picture.sentence == (
        "Early stopping ended 3 of 5 trials at step 20, 1 of 2 trials at step 40."
    )
    names = picture.layout["xaxis"]["ticktext"]
    assert names == [
        "step 20<br>5 came<br>2 stayed, 3 left",
        "step 40<br>2 came<br>1 stayed, 1 left",
    ]
    assert [trace["name"] for trace in picture.traces] == ["went on", "was stopped here"]
    assert "at step 20" in picture.traces[0]["hovertext"][0]
    assert "no border for all" in picture.note
    none = rungs(facts_of(whole, config=config))
    assert none.sentence == "The search's model has stopped no trial yet."
    often = sweep_config(
        search={"algorithm": "gp"}, trial={**TRIAL, "train": {**TRIAL["train"], "eval_every": 5}}
    )
    once = [run_of(f"t{n:03d}", {0: 5.0, 5 * n: 4.0}, "stopped") for n in range(2, 12)]
    twice = run_of("t012", {0: 5.0, 55: 4.0}, "stopped")
    shown = rungs(facts_of(*once, twice, config=often)).layout["xaxis"]["ticktext"]
    assert len(shown) == 8, "those at which most were stopped"
    assert shown[-1].startswith("step 55<br>")


def test_without_rungs_it_says_so() -> None:
    config = sweep_config(asha={"enabled": False})
    assert "no rungs" in rungs(facts_of(random_search(), config=config)).sentence


def test_stopped_trials_are_compared_at_the_budget_of_finished_ones() -> None:
    facts = facts_of(random_search())
    ranked = at_equal_budget(facts)
    assert [loss for _, loss in ranked] == sorted(loss for _, loss in ranked)
    assert facts.surface is not None
    for trial, loss in ranked:
        expected = float(facts.surface.expected([trial.params])[0])
        wanted = trial.best_val_loss if trial.outcome == "finished" else expected
        assert loss == pytest.approx(wanted)
    picture = parallel(facts)
    assert {text.split(" ")[0] for _, _, text in points(picture)} == {t.name for t, _ in ranked}
    assert all(0 <= y <= 1 for _, y, _ in points(picture))


def test_the_field_that_decides_the_loss_matters_the_most() -> None:
    shares = main_effects(facts_of(random_search()))
    assert shares["optim.lr"] > 0.7
    assert shares["model.d_model"] < 0.3
    assert sum(shares.values()) <= 1.02
    assert "lr matters the most" in importance(facts_of(random_search())).sentence


def test_shares_of_the_variance_are_those_of_a_full_factorial() -> None:
    facts = facts_of(random_search())
    assert facts.surface is not None
    rates = 1e-4 * (1e-2 / 1e-4) ** ((np.arange(64) + 0.5) / 64)
    grid = [{"optim.lr": lr, "model.d_model": d} for lr in rates for d in (32, 64)]
    losses = facts.surface.expected(grid).reshape(64, 2)
    found = main_effects(facts)
    for axis, name in enumerate(("optim.lr", "model.d_model")):
        alone = losses.mean(axis=1 - axis).var() / losses.var()
        assert found[name] == pytest.approx(alone, abs=0.02)


def worked(worker: str, trial: str, began: float, *told: tuple[int, float, float]) -> list[Event]:
    """Return a trial's events; `told` are step, seconds of training so far, seconds since began."""
    events = [{**started(trial), "time": began}]
    for number, (step, seconds, at) in enumerate(told):
        item = {**evaluated(trial, step, 3.0, seconds=seconds), "time": began + at}
        events.append(item | ({"worker": worker} if not number else {}))
    end = began + told[-1][2] + 0.5
    return [*events, {**ended(trial, "finished", step=told[-1][0]), "time": end}]


def test_the_time_of_workers_is_training_evaluation_waiting_and_idle() -> None:
    first = worked("a:1", "t000", 100.0, (0, 0.0, 1.0), (10, 4.0, 6.0), (20, 7.0, 9.5))
    other = worked("a:2", "t001", 100.0, (0, 0.0, 0.5), (10, 2.0, 3.5))
    events = sorted([*first, *other], key=lambda e: e["time"])
    spans = worker_spans(events)
    spent = {d: sum(s.seconds for s in spans if s.doing == d) for d in LOOKS}
    assert spent == {
        "training": pytest.approx(7 + 2),
        "evaluation": pytest.approx((1 + 1 + 0.5) + (0.5 + 1)),
        "waiting": pytest.approx(0.5 + 0.5),
    }
    parts = shares(spans, 2)
    assert parts["idle"] == pytest.approx(1 - 14 / 20)
    assert sum(parts.values()) == pytest.approx(1)
    picture = timeline(facts_of(events))
    assert "2 workers in 10 s: 45% training" in picture.sentence
    assert {name for trace in picture.traces for name in trace["y"]} == {"a:1", "a:2"}


def test_names_stand_over_bars_where_there_is_room() -> None:
    """Of short trials one after another only some have their names written."""
    events = [
        told
        for n in range(60)
        for told in worked("a:1", f"t{n:03d}", 100.0 + n, (0, 0.0, 0.2), (10, 0.5, 0.7))
    ]
    places = [note["x"] for note in timeline(facts_of(events)).layout["annotations"]]
    assert places[0] == 0
    gaps = np.diff(places)
    assert gaps.min() >= 60 / 40 - 1e-6
    assert 25 <= len(places) <= 40


def test_a_trial_that_was_resumed_counts_its_training_once() -> None:
    first = worked("a:1", "t000", 100.0, (0, 0.0, 1.0), (10, 4.0, 6.0))
    again = worked("b:9", "t000", 200.0, (20, 8.0, 5.0))
    spans = worker_spans([*first, event("session_ended", completed=False), session(2), *again])
    assert [s.seconds for s in spans if s.worker == "b:9" and s.doing == "training"] == [4.0]


def test_svg_files_hold_the_picture_and_are_the_same_each_time() -> None:
    facts = facts_of(random_search())
    picture = valleys(facts)
    text = svg(picture).decode()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert len(text) < 200_000
    for told in (picture.title, "learning rate", "d_model=32"):
        assert told in text
    assert svg(picture).decode() == text


def test_an_svg_file_of_ten_thousand_trials_shows_them_all_and_stays_small() -> None:
    many = [{"name": "d_model=32", "mode": "markers", "x": [], "y": []}]
    grid = [(1e-3 * (1 + n % 100), 2 + n // 100 / 100) for n in range(10_000)]
    many[0] |= {"x": [x for x, _ in grid], "y": [y for _, y in grid]}
    layout = {"xaxis": {}, "yaxis": {}}
    text = svg(Picture("many", "Many", "", many, layout)).decode()
    assert "<image " in text
    assert len(text) < 500_000
