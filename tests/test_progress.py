"""What the terminal shows while a sweep runs."""

import io
import re
import time

from rich.console import Console
from sweep_samples import evaluated, flat, planned_cost, run_of, session, sweep_config

from sweep.record.events import EventLog
from sweep.record.results import SweepRecord
from sweep.show.progress import PLAIN_LINES, Progress


def seconds_to_follow(trials: int) -> float:
    """Return the CPU seconds that a record and what is shown of it take, each trial the best."""
    config, record = sweep_config(num_samples=trials), SweepRecord()
    progress = Progress(config, record, planned_cost(), Console(file=io.StringIO()))
    stories = [run_of(f"t{n:04d}", {0: 5.0, 10: 4 - n / trials}, "stopped") for n in range(trials)]
    begun = time.process_time()
    for event in flat(session(num_samples=trials), *stories):
        record.apply(event)
        progress.notice(event)
        assert len(record.trials) < 2 or record.best
    return time.process_time() - begun


def play(tmp_path, trials, *, terminal=False, fail=()):
    """Record a sweep of so many trials; return what was shown."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=110)
    config = sweep_config(num_samples=trials)
    record = SweepRecord()
    log = EventLog(tmp_path)
    log.listen(record.apply)
    log.append("session_started", session=1, num_samples=trials)
    with Progress(config, record, planned_cost(), console) as progress:
        log.listen(progress.notice)
        for number in range(trials):
            name = f"t{number:03d}"
            params = {field: domain.values[0] for field, domain in config.space.items()}
            log.append("trial_started", trial=name, params=params)
            metrics = {"step": 5, "val_loss": 3.0 - number / 1000}
            log.append("evaluation", trial=name, metrics=metrics)
            lost = number in fail
            log.append(
                "outcome",
                trial=name,
                outcome="failed" if lost else "stopped",
                step=5,
                rung=None if lost else 5,
                reason="ValueError: no luck" if lost else None,
            )
    log.close()
    return output.getvalue()


def test_plain_output_stays_short_however_many_trials(tmp_path):
    lines = play(tmp_path, 500).splitlines()
    assert 10 <= len(lines) <= PLAIN_LINES
    assert lines[-1].startswith("[500/500] t499 ")
    assert "stopped at step 5" in lines[-1]
    assert "best 2.5010 (t499)" in lines[-1]


def test_every_failure_is_told_with_its_reason(tmp_path):
    lines = play(tmp_path, 40, fail={3, 17}).splitlines()
    assert "t003 failed: ValueError: no luck" in lines
    assert "t017 failed: ValueError: no luck" in lines


def test_a_terminal_shows_counts_and_the_best(tmp_path):
    shown = play(tmp_path, 4, terminal=True)
    assert "4/4 trials" in shown
    assert "4 stopped" in shown
    assert re.search(r"1  t003   2\.9970 ", shown)


def test_a_sweep_of_thousands_is_followed_at_the_cost_of_a_small_one():
    """Ten times the trials take some ten times as long, not a hundred times."""
    seconds_to_follow(100)
    assert seconds_to_follow(3_000) < 30 * seconds_to_follow(300)


def test_a_sweep_whose_trials_have_all_ended_has_no_time_left(tmp_path):
    *_, before, last = play(tmp_path, 8).splitlines()
    assert last.startswith("[8/8]")
    assert last.endswith("; 0 s left")
    assert not before.endswith("; 0 s left")


def test_the_time_left_is_told_by_the_pace_of_this_session(monkeypatch):
    """In 60 s 40 of 280 steps to go, which leaves 6 min, and 1 of 4 trials, which leaves 3 min."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    config, record = sweep_config(num_samples=4, asha={"enabled": False}), SweepRecord()
    before, *after = run_of("t000", {80: 3.0}, "finished")
    for event in (session(num_samples=4), before, evaluated("t000", 40, 4.0)):
        record.apply(event)
    console = Console(file=io.StringIO(), width=110)
    progress = Progress(config, record, planned_cost(320.0, 9_999.0), console)
    clock[0] = 60.0
    for event in after:
        record.apply(event)
        progress.notice(event)
    assert "about 4 min 30 s left" in console.file.getvalue()
