"""What happened in a sweep, built from its events: outcomes, the best, and nothing invented."""

import copy
import json
import math
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_samples import (
    ended,
    evaluated,
    event,
    new_sweep,
    record_of,
    run_of,
    saved,
    sealed,
    session,
    started,
    write_events,
)

from sweep.common.errors import SweepError
from sweep.record.events import EVENTS_FILE
from sweep.record.planned import PlannedCost
from sweep.record.results import COMPARABLE, OUTCOMES, SweepRecord


def test_the_outcomes_are_these() -> None:
    named = {"finished", "stopped", "diverged", "out_of_memory", "failed", "interrupted"}
    assert set(OUTCOMES) == named


def test_a_record_is_what_its_events_say() -> None:
    folder, _ = new_sweep("told")
    write_events(
        folder,
        session(num_samples=2, time=100.0),
        started("t000", lr=3e-3, d_model=64, time=101.0),
        evaluated("t000", 0, 5.5, val_bpb=7.9) | {"time": 102.0},
        evaluated("t000", 10, 3.5, val_bpb=5.0) | {"time": 103.0},
        saved("t000", 10, 3.5, "session-1/t000/checkpoint_000000") | {"time": 103.5},
        event("trial_restarted", trial="t000", reason="worker died", time=104.0),
        event("notice", trial="t000", text="passed over a damaged checkpoint", time=105.0),
        evaluated("t000", 20, 3.75) | {"time": 106.0},
        ended("t000", "stopped", step=20, time=109.0),
        event("session_ended", completed=True, time=110.0),
    )
    record = SweepRecord.read(folder)
    assert (record.num_samples, record.sessions, record.seconds) == (2, 1, 10.0)
    assert record.session_started is None
    assert (record.ended, record.steps) == (1, 20)
    (trial,) = record.trials.values()
    assert trial.params == {"optim.lr": 3e-3, "model.d_model": 64}
    assert (trial.name, trial.number, trial.started, trial.ended) == ("t000", 0, 101.0, 109.0)
    assert (trial.outcome, trial.rung, trial.step, trial.restarts) == ("stopped", 20, 20, 1)
    assert [(e["step"], e["val_loss"]) for e in trial.evaluations] == [
        (0, 5.5),
        (10, 3.5),
        (20, 3.75),
    ]
    assert trial.best_val_loss == 3.5
    assert trial.best is not None
    assert trial.best["val_bpb"] == 5.0
    (checkpoint,) = trial.checkpoints
    assert (checkpoint.step, checkpoint.val_loss) == (10, 3.5)
    assert checkpoint.path == "session-1/t000/checkpoint_000000"


def test_a_sweep_without_events_is_an_empty_record() -> None:
    record = SweepRecord.read(new_sweep("empty")[0])
    assert (record.trials, record.best, record.ranked, record.unfinished) == ({}, None, [], [])
    assert record.counts() == {}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_is_recorded_with_its_reason(outcome: str) -> None:
    last = ended("t000", outcome, step=10, reason="because", time=1_700_000_123.0)
    record = record_of(session(), started("t000"), evaluated("t000", 10, 3.0), last)
    trial = record.trials["t000"]
    assert (trial.outcome, trial.reason, trial.ended) == (outcome, "because", 1_700_000_123.0)
    assert record.counts() == {outcome: 1}
    counts = outcome in ("finished", "stopped", "interrupted")
    assert (record.best is trial) == counts, "a diverged or failed trial is never the best"
    assert (trial in record.unfinished) == (outcome == "interrupted")


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory", "failed"])
def test_the_lowest_loss_does_not_win_if_its_trial_is_lost(outcome: str) -> None:
    record = record_of(
        run_of("t000", {0: 5.0, 10: 1.0}, outcome), run_of("t001", {0: 5.0, 10: 4.0}, "stopped")
    )
    assert record.best is record.trials["t001"]
    assert [t.name for t in record.ranked] == ["t001", "t000"]


def test_a_trial_counts_with_its_best_loss_not_its_last() -> None:
    record = record_of(
        run_of("t000", {0: 5.0, 10: 2.0, 20: 4.0}, "finished"),
        run_of("t001", {0: 5.0, 10: 3.5, 20: 3.0}, "finished"),
    )
    assert record.best is record.trials["t000"]


def test_the_earlier_of_equals_is_the_best() -> None:
    record = record_of(
        started("t000"),
        started("t001"),
        evaluated("t001", 10, 3.0, lr=1.0),
        evaluated("t001", 20, 3.0, lr=2.0),
        evaluated("t000", 20, 3.0),
        ended("t001", "finished"),
        ended("t000", "finished"),
    )
    assert record.best is record.trials["t000"]
    best = record.trials["t001"].best
    assert best is not None
    assert best["step"] == 10


def test_running_trials_count_and_a_trial_without_a_loss_is_not_the_best() -> None:
    record = record_of(session(), started("t000"))
    assert record.best is None
    assert math.isinf(record.trials["t000"].best_val_loss)
    assert record.trials["t000"].step == 0
    assert record.counts() == {"running": 1}
    assert record.unfinished == [record.trials["t000"]]
    record.apply(evaluated("t000", 0, 5.0))
    assert record.best is record.trials["t000"]


def test_counts_add_up() -> None:
    record = record_of(
        *[run_of(f"t{n:03d}", {0: 5.0}, outcome) for n, outcome in enumerate(OUTCOMES)],
        run_of("t006", {0: 5.0}, "stopped"),
        run_of("t007", {0: 5.0}, None),
    )
    assert record.counts() == {"running": 1, **dict.fromkeys(OUTCOMES, 1), "stopped": 2}
    assert sum(record.counts().values()) == len(record.trials)
    assert [t.name for t in record.unfinished] == ["t005", "t007"]


def test_ranks_go_from_the_best_to_the_lost() -> None:
    record = record_of(
        run_of("t000", {0: 4.0}, "diverged"),
        run_of("t001", {0: 3.0}, "finished"),
        run_of("t002", {0: 2.0}, "failed"),
        run_of("t003", {0: 3.0}, "stopped"),
        run_of("t004", {0: 2.5}, "interrupted"),
        run_of("t005", {}, None),
        run_of("t006", {0: 2.75}, None),
    )
    names = [t.name for t in record.ranked]
    assert names == ["t004", "t006", "t001", "t003", "t005", "t002", "t000"]


def test_a_resume_clears_the_outcome_and_keeps_the_rest() -> None:
    story = run_of("t000", {0: 5.0, 10: 4.0}, "interrupted", lr=2e-3)
    first = [told | {"time": 110.0} for told in story]
    record = record_of(
        session(time=100.0), first, event("session_ended", completed=False, time=150.0)
    )
    record.apply_all([session(2, 16, time=1_000.0), started("t000", lr=2e-3, time=1_001.0)])
    trial = record.trials["t000"]
    assert (trial.outcome, trial.ended, trial.reason, trial.rung) == (None, None, None, None)
    assert (trial.step, trial.started) == (10, 110.0)
    assert (record.sessions, record.num_samples, record.seconds) == (2, 16, 51.0)
    assert record.session_started == 1_000.0
    record.apply(evaluated("t000", 20, 3.0) | {"time": 1_010.0})
    record.apply(ended("t000", "finished", time=1_020.0))
    assert record.counts() == {"finished": 1}
    record.apply(event("session_ended", completed=True, time=1_025.0))
    assert record.seconds == 75.0


def test_the_time_of_a_killed_session_counts_to_its_last_event() -> None:
    record = record_of(session(time=100.0), started("t000", time=130.0), session(2, time=5_000.0))
    assert record.seconds == 30.0
    record.apply(event("session_ended", completed=True, time=5_007.0))
    assert record.seconds == 37.0


def test_a_clock_that_is_set_back_takes_no_time_away() -> None:
    record = record_of(
        session(time=1_000.0),
        started("t000", time=1_300.0),
        event("notice", trial="t000", text="the clock is 600 s behind", time=700.0),
        ended("t000", "finished", time=760.0),
        event("session_ended", completed=True, time=770.0),
    )
    assert record.seconds == 370.0


def test_a_lost_trial_that_begins_again_may_be_the_best_again() -> None:
    record = record_of(
        run_of("t000", {0: 5.0, 10: 1.0}, "failed"), run_of("t001", {0: 5.0, 10: 4.0}, "stopped")
    )
    assert record.best is record.trials["t001"]
    record.apply(started("t000"))
    assert record.best is record.trials["t000"]
    record.apply(ended("t000", "diverged"))
    assert record.best is record.trials["t001"]
    record.apply_all([started("t000"), evaluated("t000", 20, 2.0), ended("t000", "interrupted")])
    assert record.best is record.trials["t000"]
    assert record.best.best_val_loss == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        ended("t000", "lost"),
        ended("t009", "finished"),
        evaluated("t009", 0, 1.0),
        saved("t009", 0, 1.0),
        event("notice", trial="t009", text="x"),
        event("outcome", trial="t000", outcome="finished"),
        event("outcome", trial=["t000"], outcome="finished", step=1, rung=None, reason=None),
        event("evaluation", trial="t000"),
        event("checkpoint", trial="t000", step=1),
        event("trial_started", trial="t001"),
        event("session_started"),
    ],
    ids=lambda e: json.dumps({k: v for k, v in e.items() if k != "time"})[:60],
)
def test_an_event_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SweepError, match="event 3 of the sweep is damaged"):
        record_of(session(), started("t000"), wrong)


PLAN = {"seconds": 82.0, "steps": 640.0, "disk_bytes": 1_000_000, "standard_error": 0.013}


def test_the_plan_is_that_of_the_first_session() -> None:
    record = record_of(session(plan=PLAN), session(2, plan=None), session(3))
    assert record.plan == PlannedCost(82.0, 640.0, 1_000_000, 0.013)
    unknown = record_of(session(plan=PLAN | {"seconds": None, "standard_error": None}))
    assert unknown.plan == PlannedCost(None, 640.0, 1_000_000, None)
    assert record_of(session()).plan is None


STORY = [
    session(plan=PLAN),
    *run_of("t000", {0: 5.0, 10: 4.0}, "stopped"),
    started("t001"),
    evaluated("t001", 0, 5.0),
    saved("t001", 10, 4.0),
    event("trial_restarted", trial="t001", reason="worker died"),
    event("session_ended", completed=False),
]
FIELDS = [
    (number, place)
    for number, told in enumerate(STORY)
    for place in [(key,) for key in told]
    + [(inner, key) for inner in ("metrics", "plan") for key in told.get(inner, ())]
]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 100)
    | st.floats()
    | st.text(max_size=5)
    # Beyond what a float holds, and names that are none of ours.
    | st.sampled_from([10**400, -(10**400), "t000", "t", "", "t-1", "../x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(changes=st.lists(st.tuples(st.sampled_from(FIELDS), anything), max_size=2))
def test_a_record_with_a_wrong_value_is_refused_or_can_be_shown(changes: list[Any]) -> None:
    events = copy.deepcopy(STORY)
    for (number, (*outer, key)), value in changes:
        node = events[number]
        for name in outer:
            node = node[name]
        if isinstance(node, dict):
            node[key] = value
    require_refused_or_sound(b"".join(sealed(json.dumps(e).encode()) for e in events))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(lines=st.lists(anything.map(json.dumps).map(str.encode) | st.binary(max_size=9), max_size=4))
def test_arbitrary_lines_are_refused_or_can_be_shown(lines: list[bytes]) -> None:
    require_refused_or_sound(b"\n".join(lines))
    require_refused_or_sound(b"".join(map(sealed, lines)))


def require_refused_or_sound(content: bytes) -> None:
    """Read a record; all that the commands ask of it must then have an answer."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / EVENTS_FILE).write_bytes(content)
        try:
            record = SweepRecord.read(Path(name))
        except SweepError:
            return
    assert sum(record.counts().values()) == len(record.trials)
    assert math.isfinite(record.seconds)
    counting = [t for t in record.ranked if t.outcome in COMPARABLE and t.evaluations]
    assert record.best is next(iter(counting), None)
    assert record.ended == sum(t.outcome is not None for t in record.trials.values())
    assert record.steps == sum(t.step for t in record.trials.values())
    for before, after in pairwise(record.ranked):
        assert before.sort_key <= after.sort_key
    for trial in record.trials.values():
        assert isinstance(trial.step, int)
        assert trial.best_val_loss > -math.inf
        assert trial.best is min(trial.evaluations, key=lambda e: e["val_loss"], default=None)
