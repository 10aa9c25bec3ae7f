"""Findings in words: each rule on a record that it speaks of, and on one of which it is silent."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sweep_samples import event, new_sweep, record_of, run_of, session, sweep_config, write_events

from sweep.analysis.finding import Finding, listed
from sweep.analysis.findings import MOST, findings
from sweep.analysis.study import Study
from sweep.record.events import Event
from sweep.record.results import SweepRecord
from sweep.status import main as status

RATE, WIDTH, DEPTH = "optim.lr", "model.d_model", "model.n_layers"
LRS = {"loguniform": [1e-4, 1e-2]}


def found(record: SweepRecord, **changes: Any) -> dict[str, Finding]:
    """Return the findings by kind; none is told twice."""
    every = findings(Study(sweep_config(**changes), record))
    kinds = {finding.kind: finding for finding in every}
    assert len(kinds) == len(every) <= MOST
    for finding in every:
        assert finding.rule
        json.dumps(finding.numbers, allow_nan=False)
    return kinds


def valley(name: str, lr: float, best: float, floor: float, d_model: int = 32) -> list[Event]:
    """Return a finished trial of a size whose loss is least, `floor`, at the rate `best`."""
    off = 0.2 * math.log(lr / best) ** 2
    curve = {0: 5.5, 10: floor + 1.0 + off, 20: floor + 0.6 + off, 80: floor + off}
    events = run_of(name, curve, "finished", lr=lr, d_model=d_model)
    for told in events:
        if told["event"] == "evaluation":
            told["metrics"]["flops"] = told["metrics"]["step"] * d_model**2
    return events


def one_valley(best: float, rates: list[float], **facts: Any) -> list[list[Event]]:
    return [valley(f"t{n:03d}", lr, best, 2.0, **facts) for n, lr in enumerate(rates)]


def whole(*stories: list[Event], **plan: Any) -> SweepRecord:
    """Return the record of a sweep that asked for just these trials."""
    start = session(num_samples=len(stories), **({"plan": plan} if plan else {}))
    return record_of(start, *stories)


PLAN = {"seconds": 82.0, "steps": 640.0, "disk_bytes": 10**6, "standard_error": 0.013}


def two_finished(lead: float, **plan: Any) -> dict[str, Finding]:
    stories = [run_of(f"t{n:03d}", {0: 5.0, 80: 2.0 + n * lead}, "finished") for n in range(2)]
    return found(whole(*stories, **plan))


def test_a_lead_within_the_noise_is_a_tie() -> None:
    told = two_finished(0.002, **PLAN)["lead"]
    noise = told.numbers["noise"]
    assert told.numbers["lead"] == pytest.approx(0.002)
    assert noise > 0.013
    assert told.text == (
        f"t000 leads t001 by 0.0020 nats, less than the noise between two trials, {noise:.3f}: a "
        "tie"
    )
    assert told.numbers["tied"] == ["t000", "t001"]


def test_a_lead_beyond_the_noise_is_told_in_its_measure() -> None:
    record = whole(*one_valley(1e-3, [1e-3, 3e-3, 3e-4, 1e-2]), **PLAN)
    told = found(record)["lead"]
    assert told.numbers["tied"] == ["t000"]
    times = told.numbers["lead"] / told.numbers["noise"]
    assert times > 1
    assert f"by 0.2414 nats, {times:.1f} times the noise" in told.text


def test_the_noise_is_that_of_seeds_and_of_windows() -> None:
    """Two trials, each with its own seed's noise; the windows are common to both."""
    stories = [run_of(f"t{n:03d}", {0: 5.0, 80: 2.0 + n / 1000}, "finished") for n in range(2)]
    without, with_it = (Study(sweep_config(), whole(*stories, **p)) for p in ({}, PLAN))
    assert without.surface is not None
    assert without.noise == pytest.approx(math.sqrt(2) * without.surface.training_noise)
    assert with_it.noise == pytest.approx(math.hypot(without.noise, 0.013))


def test_trials_of_unlike_length_do_not_lead_each_other() -> None:
    record = whole(
        run_of("t000", {0: 5.0, 80: 2.0}, "finished"), run_of("t001", {0: 5.0, 10: 3.0}, "stopped")
    )
    assert "lead" not in found(record)
    ahead = whole(
        run_of("t000", {0: 5.0, 80: 2.0}, "finished"),
        run_of("t001", {0: 5.0, 80: 2.1}, "finished"),
        run_of("t002", {0: 5.0, 40: 1.5}, "stopped"),
    )
    assert "lead" not in found(ahead), "the best was stopped"


def test_a_lead_of_more_than_the_noise_is_no_tie() -> None:
    lead = 0.06
    told = two_finished(lead, **PLAN)["lead"]
    assert told.numbers["noise"] < lead < 2 * told.numbers["noise"]
    assert told.numbers["tied"] == ["t000"]
    assert ": a tie" not in told.text


def two_sizes(floor: float) -> SweepRecord:
    """Return a valley of width 32, and one of 64 tried at some distance from its best rate."""
    far = [valley(f"t{n:03d}", lr, 1e-3, floor, 64) for n, lr in ((4, 2.5e-4), (5, 4e-3))]
    return whole(*one_valley(1e-3, [2e-4, 5e-4, 1e-3, 3e-3]), *far)


def test_a_size_that_is_expected_to_be_better_is_named() -> None:
    told = found(two_sizes(1.7))["better_elsewhere"]
    numbers = told.numbers
    assert numbers["sizes"] == [[64]]
    assert numbers["params"][WIDTH] == 64
    assert 4e-4 < numbers["params"][RATE] < 2.5e-3
    assert numbers["loss"] + numbers["deviation"] < numbers["best_loss"] == pytest.approx(2.0)
    by = numbers["best_loss"] - numbers["loss"]
    assert told.text.startswith("d_model=64 at lr=0.00")
    assert f"{numbers['loss']:.3f} +- {numbers['deviation']:.3f}, {by:.3f} below" in told.text


def test_a_size_that_is_expected_to_be_worse_is_not() -> None:
    assert "better_elsewhere" not in found(two_sizes(2.1))


def test_a_size_that_is_expected_to_be_better_by_less_than_its_deviation_is_not() -> None:
    record = two_sizes(1.88)
    large = Study(sweep_config(), record).sizes[1]
    assert record.best is not None
    assert large.loss is not None
    assert large.loss < record.best.best_val_loss < large.loss + large.deviation
    assert "better_elsewhere" not in found(record)


def test_what_was_finished_at_its_best_rate_is_not_a_prediction() -> None:
    study = Study(sweep_config(), two_sizes(1.7))
    kinds = [finding.kind for finding in findings(study)]
    study.__dict__["sizes"] = [replace(row, known=True) for row in study.sizes]
    assert set(kinds) - {f.kind for f in findings(study)} == {"better_elsewhere"}


@pytest.mark.parametrize(("best", "end"), [(1e-2, "upper"), (1e-4, "lower"), (1e-3, None)])
@pytest.mark.parametrize("sizes", [True, False])
def test_a_best_rate_at_the_edge_of_the_range_is_told(
    best: float, end: str | None, *, sizes: bool
) -> None:
    space = {RATE: LRS, **({WIDTH: {"choice": [32, 64]}} if sizes else {})}
    told = found(whole(*one_valley(best, [1e-4, 5e-4, 2e-3, 1e-2])), space=space)
    assert ("edge_of_the_range" in told) == (end is not None)
    if end is None:
        return
    text, numbers = told["edge_of_the_range"].text, told["edge_of_the_range"].numbers
    assert f"lies at the {end} end of the range that was searched, 0.0001 .. 0.01" in text
    low, high = numbers["try"]
    assert low <= best * (1 + 1e-9)
    assert high >= best * (1 - 1e-9)
    assert (high / best if end == "upper" else best / low) == pytest.approx(3)


def test_two_trials_say_nothing_of_an_edge() -> None:
    assert "edge_of_the_range" not in found(whole(*one_valley(1e-2, [1e-4, 1e-2])))


def test_rates_below_all_that_a_size_was_tried_at() -> None:
    stories = one_valley(3e-3, [4e-4, 1e-3, 2e-3, 4e-3, 9e-3])
    stories += [
        valley(f"t{n:03d}", lr, 2e-3, 1.9, 64) for n, lr in ((5, 7e-3), (6, 8e-3), (7, 1e-2))
    ]
    told = found(whole(*stories))["beyond_what_was_tried"]
    low, high = told.numbers["try"]
    assert told.numbers["sizes"] == [[64]]
    assert told.numbers["tried"] == [7e-3, 1e-2]
    assert low < high < 7e-3
    assert "lies below all that were tried of it, from 0.007: try" in told.text
    stories += [valley("t009", 2e-3, 2e-3, 1.9, 64)]
    assert "beyond_what_was_tried" not in found(whole(*stories))


def test_rates_above_all_that_a_size_was_tried_at() -> None:
    stories = one_valley(1e-3, [4e-4, 1e-3, 2e-3, 4e-3, 9e-3])
    low_ones = [(5, 1e-4), (6, 1.5e-4), (7, 2e-4)]
    stories += [valley(f"t{n:03d}", lr, 1e-3, 1.9, 64) for n, lr in low_ones]
    told = found(whole(*stories))["beyond_what_was_tried"]
    assert told.numbers["sizes"] == [[64]]
    assert told.numbers["try"][0] > 2e-4
    assert "lies above all that were tried of it, from 0.0002: try" in told.text
    straddled = 0
    for reached in np.geomspace(7e-4, 1.1e-3, 12).tolist():
        record = whole(*stories, valley("t008", reached, 1e-3, 1.9, 64))
        low, high = Study(sweep_config(), record).sizes[-1].rates or (0.0, 0.0)
        straddled += low < reached < high
        assert ("beyond_what_was_tried" in found(record)) == (reached < low), reached
    assert straddled, "or nothing was tested"


@pytest.mark.parametrize(
    ("floors", "kind", "text"),
    [
        ((2.0, 1.5), "largest_is_best", "search larger ones, or compare at equal FLOPs"),
        ((1.5, 2.0), "smallest_is_best", "search smaller ones"),
        ((2.0, 1.999), None, ""),
    ],
)
def test_the_best_size_at_an_end_of_those_tried(
    floors: tuple[float, float], kind: str | None, text: str
) -> None:
    stories = [
        valley(f"t{n:03d}", lr, 1e-3, floor, size)
        for n, (lr, (size, floor)) in enumerate(
            (lr, pair) for lr in (3e-4, 1e-3, 3e-3) for pair in zip((32, 64), floors, strict=True)
        )
    ]
    told = found(whole(*stories))
    assert {"largest_is_best", "smallest_is_best"} & set(told) == ({kind} if kind else set())
    if kind:
        assert told[kind].text.endswith(text)
        assert told[kind].numbers["loss"] == pytest.approx(1.5, abs=0.1)


def test_without_flops_no_size_is_the_largest() -> None:
    stories = [
        run_of(f"t{n}", {0: 5.0, 80: 2.0 - n}, "finished", d_model=32 + 32 * n) for n in (0, 1)
    ]
    assert not {"largest_is_best", "smallest_is_best"} & set(found(whole(*stories)))


def test_a_size_tried_once_and_stopped_is_not_known() -> None:
    finished = run_of("t000", {0: 5.0, 80: 2.0}, "finished")
    told = found(whole(finished, run_of("t001", {0: 5.0, 10: 3.0}, "stopped", d_model=64)))
    assert told["tried_once"].text == (
        "d_model=64 was tried once, and stopped at step 10: the answer there is not known"
    )
    assert told["tried_once"].numbers == {"sizes": [[64]], "steps": [10]}
    again = [run_of(f"t00{n}", {0: 5.0, 10: 3.0}, "stopped", d_model=64) for n in (1, 2)]
    assert "tried_once" not in found(whole(finished, *again))
    assert "tried_once" not in found(
        whole(finished, run_of("t001", {80: 3.0}, "finished", d_model=64))
    )
    assert "tried_once" not in found(whole(run_of("t000", {10: 3.0}, "stopped")), space={RATE: LRS})


def test_sizes_that_were_never_tried() -> None:
    space = {RATE: LRS, WIDTH: {"choice": [32, 64, 96]}, DEPTH: {"int": [1, 2]}}
    stories = []
    for n, (width, depth) in enumerate([(32, 1), (32, 2), (64, 1), (64, 2), (96, 1)]):
        start, *rest = run_of(f"t{n:03d}", {0: 5.0, 80: 2.0}, "finished")
        stories.append([start | {"params": {RATE: 1e-3, WIDTH: width, DEPTH: depth}}, *rest])
    told = found(whole(*stories), space=space)["never_tried"]
    assert told.text == "1 of 6 sizes was never tried: 96x2"
    assert told.numbers == {"sizes": [[96, 2]], "of": 6}
    running = record_of(session(num_samples=9), *stories)
    assert "never_tried" not in found(running, space=space), "they may come yet"
    less = {**space, WIDTH: {"choice": [32, 64]}}
    assert "never_tried" not in found(whole(*stories[:4]), space=less)
    assert "never_tried" not in found(whole(*stories[:1]), space={RATE: LRS})


def test_diverged_trials_and_their_rates() -> None:
    finished = run_of("t000", {0: 5.0, 80: 2.0}, "finished", lr=1e-3)
    lost = [run_of(f"t00{n}", {0: 5.0}, "diverged", lr=lr) for n, lr in ((1, 9e-3), (2, 5e-3))]
    told = found(whole(finished, *lost))["diverged"]
    assert told.text == "2 of 3 trials diverged, all at rates of 0.005 and more"
    assert told.numbers == {
        "diverged": ["t001", "t002"],
        "trials": 3,
        "least_rate": 5e-3,
        "largest_rate": 9e-3,
    }
    low = run_of("t003", {0: 5.0}, "diverged", lr=2e-4)
    assert (
        "from 0.0002 on, though the best trial's is 0.001"
        in found(whole(finished, *lost, low))["diverged"].text
    )
    assert "diverged" not in found(whole(finished))
    one = found(whole(finished, lost[0]))["diverged"].text
    assert one == "1 of 2 trials diverged, at a rate of 0.009"
    assert "at a rate of 0.0002, though" in found(whole(finished, low))["diverged"].text
    widths = {WIDTH: {"choice": [32, 64]}}
    assert found(whole(finished, *lost), space=widths)["diverged"].text == "2 of 3 trials diverged"


def test_trials_out_of_memory_by_size() -> None:
    finished = run_of("t000", {0: 5.0, 80: 2.0}, "finished")
    lost = run_of("t001", {}, "out_of_memory", d_model=64)
    told = found(whole(finished, lost))["out_of_memory"]
    assert told.text.startswith("1 of 2 trials ran out of memory, of d_model=64: lower ")
    assert told.numbers["sizes"] == [[64]]
    assert "out_of_memory" not in found(whole(finished))
    rates = found(whole(finished, lost), space={RATE: LRS})["out_of_memory"]
    assert rates.text.startswith("1 of 2 trials ran out of memory: lower")


def test_failed_trials_with_their_commonest_reason() -> None:
    stories = [run_of(f"t{n:03d}", {0: 5.0}, "failed") for n in range(3)]
    for n, reason in enumerate(["OSError: gone", "ValueError: no luck\nmore", "OSError: gone"]):
        stories[n][-1]["reason"] = reason
    told = found(whole(*stories))["failed"]
    assert told.text == "3 of 3 trials failed, 2 of them for the same reason: OSError: gone"
    assert found(whole(stories[1]))["failed"].text == "1 of 1 trials failed: ValueError: no luck"
    assert "failed" not in found(whole(run_of("t000", {0: 5.0}, "diverged")))


def test_an_unfinished_sweep_says_so_first() -> None:
    stories = [
        run_of("t000", {0: 5.0, 80: 2.0}, "finished"),
        run_of("t001", {0: 5.0, 80: 2.001}, "finished"),
        run_of("t002", {0: 5.0, 10: 3.0}, "interrupted"),
    ]
    first = next(iter(found(record_of(session(num_samples=4), *stories)).values()))
    assert first.text == "2 of 4 trials have ended: what is found so far may change"
    assert "unfinished" not in found(whole(*stories[:2]))
    assert found(SweepRecord()) == {}


def test_a_sweep_in_which_no_trial_came_to_its_end() -> None:
    told = found(whole(run_of("t000", {0: 5.0, 10: 3.0}, "stopped")))
    assert "none of 1 trials came to its end" in told["none_finished"].text
    assert "none_finished" not in two_finished(0.5)


def test_the_time_that_was_planned_and_taken() -> None:
    """The sample's clock goes with the steps: 80 s to the last evaluation."""
    story = run_of("t000", {0: 5.0, 80: 2.0}, "finished")
    told = found(whole(story, **PLAN))["time_taken"]
    assert told.text == "the plan said 1 min 22 s, it took 1 min 20 s"
    assert told.numbers == {"planned_seconds": 82.0, "seconds": 80.0}
    assert "time_taken" not in found(whole(story))
    assert "time_taken" not in found(whole(story, **PLAN | {"seconds": None}))
    twice = record_of(session(num_samples=1, plan=PLAN), session(2, 1), story)
    assert "time_taken" not in found(twice)


def test_of_many_findings_the_most_useful_are_told() -> None:
    space = {RATE: LRS, WIDTH: {"choice": [32, 64, 96, 128, 160]}}
    stories = [
        *one_valley(1e-2, [1e-4, 5e-4, 2e-3, 1e-2]),
        *[valley(f"t{n:03d}", lr, 1e-2, 1.0, 64) for n, lr in ((4, 1e-4), (5, 2e-4))],
        run_of("t006", {0: 5.0, 10: 3.0}, "stopped", d_model=96),
        run_of("t007", {0: 5.0}, "diverged", lr=2e-3),
        run_of("t008", {0: 5.0}, "failed"),
        run_of("t009", {0: 5.0}, "out_of_memory", d_model=128),
    ]
    told = found(whole(*stories, **PLAN), space=space)
    assert list(told)[:3] == ["failed", "out_of_memory", "lead"]
    assert len(told) == MOST
    assert "time_taken" not in told


def test_what_is_told_is_of_the_goal() -> None:
    stories = [
        *one_valley(2e-3, [1e-3, 2e-3, 4e-3, 8e-3]),
        *[valley(f"t{n:03d}", lr, 1e-3, 1.0, 64) for n, lr in ((4, 8e-3), (5, 9.5e-3))],
        run_of("t006", {0: 5.0, 10: 3.0}, "stopped", d_model=96),
    ]
    space = {RATE: LRS, WIDTH: {"choice": [32, 64, 96, 128]}}
    told = {
        goal: found(whole(*stories), space=space, search={"algorithm": "gp", "goal": goal})
        for goal in ("best", "table", "both")
    }
    of_the_best, of_the_table = {"lead"}, {"beyond_what_was_tried", "tried_once"}
    assert of_the_best | of_the_table <= set(told["both"])
    assert of_the_best <= set(told["best"])
    assert not of_the_table & set(told["best"])
    assert of_the_table <= set(told["table"])
    assert not of_the_best & set(told["table"])
    known = told["table"]["least_known"]
    assert known.numbers["size"] == [96], "the one that was tried once"
    low, high = known.numbers["rates"]
    assert known.text.endswith(f"the least for d_model=96: {low:.2g} .. {high:.2g}")
    assert known.text.startswith(
        f"the best rate is known within a factor of 2 for {known.numbers['known_well']} of 3 sizes"
    )


def test_names_are_listed_as_people_do() -> None:
    names = list("abcdef")
    assert [listed(names[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert listed(names) == "a, b, c and 3 more"


def test_status_shows_the_findings(capsys: pytest.CaptureFixture[str]) -> None:
    folder, sweep = new_sweep("found")
    stories = [run_of(f"t{n:03d}", {0: 5.0, 80: 2.0 + n / 1000}, "finished") for n in range(2)]
    write_events(folder, session(num_samples=2), *stories, event("session_ended", completed=True))
    assert status(["found"]) == 0
    record = SweepRecord.read(folder)
    texts = [f"  - {f.text}" for f in findings(Study(sweep.config, record))]
    assert len(texts) > 1
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("findings")
    assert shown[at + 1 : at + 1 + len(texts)] == texts
