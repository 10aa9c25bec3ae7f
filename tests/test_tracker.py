"""The thread that delivers: idle where nothing happens, patient with a store that fails."""

import contextlib
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stored_runs import deliver, stored, whole_story
from sweep_samples import event, new_sweep, sweep_config, write_events

from sweep.common.errors import SweepError
from sweep.record.folder import SweepFile
from sweep.tracking import tracker as module
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.system import require_psutil
from sweep.tracking.tracker import Tracker


class Watched(MlflowRuns):
    """Counts what is asked of the store, which may be away."""

    def __init__(self, folder: Path, sweep: SweepFile, away: bool = False) -> None:
        super().__init__(folder, sweep)
        self.away = away
        self.attempts: list[float] = []
        """When each was made, seconds."""
        self.delivered: list[int] = []
        """Events of each delivery that succeeded."""
        self.meanwhile: Callable[[], None] | None = None
        """What happens while events are delivered."""

    def connect(self) -> None:
        self.attempts.append(time.monotonic())
        if self.away:
            raise ConnectionError("nobody answers")
        super().connect()

    def deliver_new(self) -> int:
        self.attempts.append(time.monotonic())
        if self.away:
            raise ConnectionError("nobody answers")
        self.delivered.append(super().deliver_new())
        if self.meanwhile and self.delivered[-1]:
            happening, self.meanwhile = self.meanwhile, None
            happening()
        return self.delivered[-1]


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_a_store_is_left_alone_where_nothing_happens(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.02)
    folder, sweep = new_sweep("idle")
    runs = Watched(folder, sweep)
    tracker = Tracker(runs)
    tracker.start()
    assert tracker.wait_connected(30)
    story = whole_story()
    write_events(folder, story)
    tracker.notice(story[-1])
    wait_until(lambda: len(runs.attempts) == 3)  # to connect, what was there, and what came
    time.sleep(0.5)
    assert len(runs.attempts) == 3
    assert tracker.close(30)


def test_what_happens_while_events_are_delivered_is_delivered_next(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.02)
    folder, sweep = new_sweep("meanwhile")
    runs = Watched(folder, sweep)
    tracker = Tracker(runs)
    *story, last = whole_story()

    def happens() -> None:
        write_events(folder, last)
        tracker.notice(last)

    runs.meanwhile = happens
    tracker.start()
    wait_until(lambda: len(runs.delivered) == 1)
    write_events(folder, story)
    tracker.notice(story[-1])
    wait_until(lambda: len(runs.delivered) == 3)
    assert runs.delivered == [0, len(story), 1]
    assert tracker.close(30)


def test_a_burst_of_events_is_delivered_together(store: Path) -> None:
    folder, sweep = new_sweep("burst")
    runs = Watched(folder, sweep)
    tracker = Tracker(runs)
    tracker.start()
    assert tracker.wait_connected(30)
    for told in whole_story():
        write_events(folder, told)
        tracker.notice(told)
    assert tracker.close()
    assert len(runs.attempts) <= 4


@pytest.mark.fault
def test_a_store_that_comes_back_gets_all_at_the_end_without_a_pause(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 60.0)
    folder, sweep = new_sweep("back")
    write_events(folder, whole_story())
    runs = Watched(folder, sweep, away=True)
    tracker = Tracker(runs)
    tracker.start()
    assert not tracker.wait_connected(30)
    assert tracker.trouble == "ConnectionError: nobody answers"
    runs.away = False
    assert tracker.close(30)
    assert tracker.trouble is None
    assert stored()[""]["status"] == "FINISHED"


@pytest.mark.fault
def test_a_store_that_stays_away_does_not_hold_the_end_up(store: Path) -> None:
    runs = Watched(*new_sweep("gone"), away=True)
    tracker = Tracker(runs)
    tracker.start()
    assert not tracker.wait_connected(30)
    asked = len(runs.attempts)
    began = time.monotonic()
    assert not tracker.close()
    assert time.monotonic() - began < 5
    assert len(runs.attempts) - asked == 1, "the end is one more attempt"


@pytest.mark.fault
def test_a_last_attempt_that_hangs_is_given_up(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_TRY_SECONDS", 0.3)
    answer = threading.Event()

    class Hanging(Watched):
        def connect(self) -> None:
            if self.attempts:
                answer.wait(30)
            super().connect()

    tracker = Tracker(Hanging(*new_sweep("hangs"), away=True))
    tracker.start()
    assert not tracker.wait_connected(30)
    began = time.monotonic()
    assert not tracker.close()
    assert time.monotonic() - began < 5
    answer.set()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("first", "longest", "fewest", "most"), [(0.01, 0.04, 12, 40), (0.1, 60.0, 2, 5)]
)
def test_the_pauses_grow_to_a_longest_one(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: float,
    longest: float,
    fewest: int,
    most: int,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", first)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", longest)
    runs = Watched(*new_sweep("pauses"), away=True)
    tracker = Tracker(runs)
    tracker.start()
    time.sleep(1.4)
    assert fewest <= len(runs.attempts) <= most
    tracker.close()


@pytest.mark.parametrize("through", ["tracker", "settle"])
def test_a_sweep_that_ended_is_fast_to_sort(store: Path, through: str) -> None:
    """SQLite's statistics are there: sorted pages of many runs take seconds without them."""
    folder, sweep = new_sweep("sorted")
    write_events(folder, whole_story())
    if through == "tracker":
        tracker = Tracker(MlflowRuns(folder, sweep))
        tracker.start()
        assert tracker.close(30)
    else:
        deliver(folder, sweep)
    with contextlib.closing(sqlite3.connect(store)) as database:
        tables = {name for (name,) in database.execute("SELECT tbl FROM sqlite_stat1")}
    assert {"runs", "latest_metrics"} <= tables


def test_an_end_before_the_store_was_open_still_delivers(store: Path) -> None:
    folder, sweep = new_sweep("short")
    write_events(folder, event("session_started", session=1, num_samples=1))
    tracker = Tracker(MlflowRuns(folder, sweep))
    tracker.start()
    write_events(folder, event("session_ended", completed=False))
    assert tracker.close(30)
    assert stored()[""]["status"] == "KILLED"


def test_a_sweep_that_ended_before_it_began_leaves_no_run(store: Path) -> None:
    tracker = Tracker(MlflowRuns(*new_sweep("early")))
    tracker.start()
    assert tracker.wait_connected(30)
    assert stored()[""]["status"] == "RUNNING"
    assert tracker.close(30)
    assert stored() == {}


def test_the_machine_is_watched_on_request(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psutil")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    config = sweep_config(tracking={"system_metrics": True})
    require_psutil(config.tracking)
    folder, sweep = new_sweep("watched", config)
    *story, last = whole_story()
    write_events(folder, story)
    tracker = Tracker(MlflowRuns(folder, sweep))
    tracker.start()

    def seen(name: str) -> set[str]:
        return {key for key in stored()[name]["latest"] if key.startswith("system/")}

    assert tracker.wait_connected(30)
    wait_until(lambda: bool(seen("")))
    write_events(folder, last)
    tracker.notice(last)
    assert tracker.close(30)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= seen("")
    assert not seen("t000"), "they are the machine's, not the trial's"
    assert stored()[""]["status"] == "FINISHED"


def test_without_psutil_the_flag_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    require_psutil(sweep_config().tracking)
    with pytest.raises(SweepError, match="pip install psutil") as caught:
        require_psutil(sweep_config(tracking={"system_metrics": True}).tracking)
    assert len(str(caught.value).splitlines()) == 1
