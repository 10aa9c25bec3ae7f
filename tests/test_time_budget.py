"""A sweep within a time: `--time-budget 30m`."""

import signal

import pytest
from live_sweeps import ALONE, ENDLESS, FIXED, assert_whole, events, make_project, run, wait_for
from stored_runs import stored
from sweep_samples import (
    evaluated,
    event,
    new_sweep,
    record_of,
    refusal,
    run_of,
    session,
    started,
    sweep_config,
    write_events,
)

from sweep.cluster.packing import at_most
from sweep.engine.closing import close_session
from sweep.plan import budget as budgets
from sweep.plan.budget import TimeBudget
from sweep.plan.sizes import trial_flops
from sweep.record.events import EventLog
from sweep.record.results import SweepRecord
from sweep.search.tune_search import SweepSearch
from sweep.show.commands import resume_command

VOCAB = 257
T0 = 1_700_000_000.0


def budget_of(text: str | None = "100s", **paces) -> TimeBudget:
    return TimeBudget(sweep_config(time_budget=text), VOCAB, **paces)


def small_and_large():
    config = sweep_config()
    return [config.trial_config({"optim.lr": 1e-3, "model.d_model": d}) for d in (32, 64)]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("1.5h", 5_400), (None, None)]
)
def test_a_budget_is_a_number_with_its_unit(text, seconds):
    assert sweep_config(time_budget=text).budget_seconds == seconds


@pytest.mark.parametrize(
    "text", ["30", "30 m", "-5m", "0m", "m", "1d", "", "1h30m", "inf h", "1e3s"]
)
def test_what_is_no_time_is_refused(text):
    assert "90s, 30m or 2h" in refusal(time_budget=text)


def test_the_pace_is_measured_with_set_up_evaluations_and_saves():
    small, large = small_and_large()
    budget = budget_of()
    assert budget.expected_seconds(small) == 0, "nothing is known: it may begin"
    for told in (
        started("t000", time=T0),
        evaluated("t000", 0, 5.0, time=None) | {"time": T0 + 3},
        evaluated("t000", 10, 4.0) | {"time": T0 + 8},
        event("trial_restarted", trial="t000", reason="died", time=T0 + 50),
        evaluated("t000", 20, 4.0) | {"time": T0 + 55},
    ):
        budget.notice(told)
    assert budget.expected_seconds(small) == pytest.approx(3 + 80 * 0.5)
    assert budget.expected_seconds(small, done=60) == pytest.approx(3 + 20 * 0.5)
    ratio = trial_flops(large, VOCAB) / trial_flops(small, VOCAB)
    assert budget.expected_seconds(large) == pytest.approx(3 + 80 * 0.5 * ratio)


def test_what_was_not_measured_is_forecast_by_the_plan_until_something_was():
    small, large = small_and_large()
    flops = trial_flops(large, VOCAB)
    budget = budget_of(paces={flops: 20.0})
    assert budget.expected_seconds(large) == pytest.approx(20.0)
    assert budget.expected_seconds(small) == pytest.approx(20.0)
    budget.notice(started("t000", d_model=64))
    budget.notice(evaluated("t000", 40, 4.0))  # a second each step
    assert budget.expected_seconds(large) == pytest.approx(80.0)


def test_nothing_begins_that_cannot_end_in_time(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(budgets.time, "monotonic", lambda: now[0])
    small, large = small_and_large()
    budget = budget_of("100s", paces={trial_flops(large, VOCAB): 30.0})
    record = record_of(session(), event("session_ended", completed=False, time=T0 + 40))
    budget.begin(record)
    assert budget.left == 60
    now[0] += 25
    assert budget.allows(large, 0)
    now[0] += 10
    assert not budget.is_used_up
    assert budget.allows(large, 40)
    assert not budget.allows(large, 0)
    assert not budget.allows(small, 79), "no size is looked at more than the others"
    assert budget.is_used_up


def test_without_a_budget_time_does_not_matter():
    budget = budget_of(None, paces={1: 1e9})
    budget.begin(SweepRecord())
    assert budget.allows(small_and_large()[1], 0)
    assert not budget.is_used_up


def test_the_search_ends_with_what_may_not_begin_and_a_resume_suggests_it_again():
    config, asked = sweep_config(), []

    def allows(trial, done):
        asked.append((trial.model.d_model, done))
        return len(asked) < 3

    record = record_of(run_of("t000", {0: 5.0, 30: 4.0}, "interrupted"))
    search = SweepSearch(config, record, {}, at_most(8), allows=allows)
    suggested = [search.suggest(f"id{n}") for n in range(3)]
    assert [s["name"] for s in suggested[:2]] == ["t000", "t001"]
    assert suggested[2] == "FINISHED"
    assert asked[0] == (32, 30)
    assert [done for _, done in asked[1:]] == [0, 0]
    search.on_trial_complete("id2")  # Tune tells of it, too


def test_a_sweep_out_of_time_says_so_and_how_to_go_on():
    folder, sweep = new_sweep("late", sweep_config(time_budget="30m"))
    write_events(folder, session(), run_of("t000", {0: 5.0}, None))
    record, log = SweepRecord.read(folder), EventLog(folder)
    log.listen(record.apply)
    close_session(folder, sweep.config, record, log, ended_by="time_budget")
    log.close()
    again = SweepRecord.read(folder)
    assert (again.end, again.ended_by) == ("out of time", "time_budget")
    assert resume_command("late", sweep.config, again).endswith("--resume late --time-budget 60m")


@pytest.mark.slow
@pytest.mark.fault
def test_a_sweep_ends_within_its_time_and_a_longer_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_SWEEP_HOME", str(tmp_path))
    folder = tmp_path / "results" / "brief"
    flags = ("--config", str(make_project(tmp_path)), "--name", "brief", *FIXED, *ALONE)
    slow = ("--trial.train.steps", "400", "--trial.train.eval-every", "100", "--asha.no-enabled")
    done = run(
        tmp_path, "sweep/run.py", *flags, *slow, "--num-samples", "300", "--time-budget", "25s"
    )
    assert done.returncode == 0, done.stderr
    record = SweepRecord.read(folder)
    assert 0 < len(record.trials) < 300
    assert record.seconds < 30
    assert record.end == "out of time"
    assert len(record.unfinished) <= 1, "the machine may have become slower"
    assert "the time budget of 25s allows about" in done.stdout
    assert (
        f"out of time: the time budget of 25s was enough for {record.ended} of 300" in done.stdout
    )
    assert "--resume brief --time-budget 50s" in done.stdout
    assert run(tmp_path, "sweep/status.py", "brief").stdout.startswith("brief: out of time; ")
    same = run(tmp_path, "sweep/run.py", "--resume", "brief")
    assert (same.returncode, same.stderr) == (0, "")
    assert "nothing to do: " in same.stdout
    few = str(len(record.trials) + 1)
    more = ("--num-samples", few, "--time-budget", "10m")
    done = run(tmp_path, "sweep/run.py", "--resume", "brief", *more)
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path, "brief", steps=400, trials=int(few))


@pytest.mark.slow
@pytest.mark.fault
def test_what_runs_at_the_end_of_the_time_is_saved(tmp_path, start, monkeypatch):
    """Nothing was known of the pace; then all is, and trials without an end do not begin."""
    monkeypatch.setenv("LM_SWEEP_HOME", str(tmp_path))
    folder = tmp_path / "results" / "cut"
    flags = ("--config", str(make_project(tmp_path)), "--name", "cut", *ENDLESS, *ALONE)
    sweep = start(tmp_path, *flags)
    wait_for(lambda: events(folder))
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(60) == 143
    seconds = int(SweepRecord.read(folder).seconds) + 20
    done = run(tmp_path, "sweep/run.py", "--resume", "cut", "--time-budget", f"{seconds}s")
    assert done.returncode == 0, done.stderr
    record = SweepRecord.read(folder)
    assert (record.end, record.seconds < seconds + 5) == ("out of time", True)
    (trial,) = record.unfinished
    assert trial.step > 0
    assert trial.step - trial.checkpoints[-1].step <= 500, "a report was just being saved"
    runs = stored()
    assert (runs[""]["status"], runs[trial.name]["status"]) == ("FINISHED", "KILLED")
    assert runs[""]["tags"]["sweep.state"] == "out of time"
    done = run(tmp_path, "sweep/run.py", "--resume", "cut", "--time-budget", f"{2 * seconds}s")
    assert done.returncode == 0, done.stderr
    again = SweepRecord.read(folder)
    assert again.sessions == record.sessions + 1
    assert again.trials == record.trials
    assert again.end == "out of time"
