"""How trials end that could not tell it themselves: by what is on record, and else interrupted."""

from pathlib import Path
from typing import Any

import pytest
from sweep_samples import (
    ended,
    evaluated,
    new_sweep,
    run_of,
    saved,
    session,
    started,
    write_events,
)

from sweep.conduct.settle import settle_record
from sweep.engine.closing import close_session
from sweep.record.events import Event, EventLog, read_events
from sweep.record.results import EndedBy, SweepRecord

pytestmark = pytest.mark.fault


def settled(*events: Event | list[Event], **facts: Any) -> tuple[Path, list[Event]]:
    """Return a sweep's folder and what settling adds to these events of a session."""
    folder, sweep = new_sweep("settled")
    write_events(folder, session(**facts), *events)
    before = read_events(folder)
    for event in before:
        if event["event"] == "checkpoint":
            (folder / event["path"]).mkdir(parents=True)
    settle_record(folder, sweep.config)
    after = read_events(folder)
    assert after[: len(before)] == before
    settle_record(folder, sweep.config)
    assert read_events(folder) == after, "settled once and for all"
    return folder, after[len(before) :]


def outcomes(events: list[Event]) -> dict[str, tuple[str, int | None]]:
    return {e["trial"]: (e["outcome"], e["rung"]) for e in events if e["event"] == "outcome"}


WAYS = {
    "a killed driver": [],
    "a signal": [ended("t001", "interrupted"), {"event": "session_ended", "completed": False}],
}
LAST = [started("t001"), evaluated("t001", 0, 5.0), evaluated("t001", 80, 1.0)]

AT_A_RUNG = [started("t000"), started("t001"), evaluated("t000", 10, 1.0)]


@pytest.mark.parametrize("way", WAYS)
def test_a_trial_with_its_last_step_on_record_is_finished(way: str) -> None:
    worse = [*run_of("t000", {0: 5.0, 80: 2.0}, None), saved("t000", 80, 2.0)]
    folder, added = settled(
        [*worse, ended("t000", "finished")],
        [*LAST, saved("t001", 70, 1.5), saved("t001", 80, 1.0)],
        WAYS[way],
        num_samples=2,
    )
    assert outcomes(added) == {"t001": ("finished", None)}
    assert (added[-1]["event"], added[-1]["completed"]) == ("session_ended", True)
    record = SweepRecord.read(folder)
    assert record.best is not None
    assert record.best.name == "t001"
    older, last = record.best.checkpoints
    assert [(folder / c.path).is_dir() for c in (older, last)] == [False, True]


def test_what_a_killed_driver_left_ended_with_the_last_that_it_recorded() -> None:
    folder, added = settled(LAST, saved("t001", 80, 1.0), AT_A_RUNG, evaluated("t000", 20, 1.0))
    assert len(added) == 3
    assert {event["time"] for event in added} == {read_events(folder)[-4]["time"]}


def test_a_trial_without_its_last_checkpoint_goes_on() -> None:
    _, added = settled(LAST, saved("t001", 70, 1.5))
    assert outcomes(added) == {"t001": ("interrupted", None)}


@pytest.mark.parametrize("way", WAYS)
def test_a_trial_that_a_rung_had_stopped_does_not_go_on(way: str) -> None:
    _, added = settled(AT_A_RUNG, evaluated("t001", 10, 2.0), WAYS[way])
    assert outcomes(added)["t001"] == ("stopped", 10)
    assert outcomes(added).get("t000") != ("stopped", 10)


def test_rungs_decide_in_the_order_of_the_record() -> None:
    _, added = settled(
        started("t000"), started("t001"), evaluated("t001", 10, 2.0), evaluated("t000", 10, 1.0)
    )
    assert outcomes(added) == {"t000": ("interrupted", None), "t001": ("interrupted", None)}


def test_a_trial_that_went_on_from_a_rung_is_not_stopped_there() -> None:
    _, added = settled(AT_A_RUNG, evaluated("t001", 10, 2.0), evaluated("t001", 20, 1.9))
    assert outcomes(added)["t001"] == ("interrupted", None)


def test_an_interrupted_trial_is_interrupted_once() -> None:
    earlier = [started("t000"), ended("t000", "interrupted"), {"event": "session_ended"}]
    earlier[-1]["completed"] = False
    _, added = settled(earlier, session(2), started("t001"))
    assert outcomes(added) == {"t001": ("interrupted", None)}


@pytest.mark.parametrize(("asked", "completed"), [(1, True), (20, False)])
def test_a_session_is_complete_once_all_trials_have_ended(asked: int, completed: bool) -> None:
    _, added = settled(run_of("t000", {0: 5.0, 80: 1.0}, "finished"), num_samples=asked)
    assert [(e["event"], e["completed"]) for e in added] == [("session_ended", completed)]


@pytest.mark.parametrize(
    ("asked", "given", "told"),
    [(1, "time_budget", None), (20, "time_budget", "time_budget"), (20, None, None)],
)
def test_what_ended_a_session_is_told_only_where_trials_are_left(
    asked: int, given: EndedBy | None, told: str | None
) -> None:
    folder, sweep = new_sweep("ended")
    events = [session(num_samples=asked), *run_of("t000", {0: 5.0, 80: 1.0}, "finished")]
    write_events(folder, *events)
    record, log = SweepRecord.read(folder), EventLog(folder)
    log.listen(record.apply)
    close_session(folder, sweep.config, record, log, ended_by=given)
    log.close()
    (end,) = read_events(folder)[len(events) :]
    assert end["event"] == "session_ended"
    assert end.get("ended_by") == told
    assert ("ended_by" in end) == (told is not None)
