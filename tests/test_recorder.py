"""What Tune's callbacks leave in the sweep's record, and what they do when it cannot be written."""

import resource
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.experiment import Trial
from sweep_samples import new_sweep, sweep_config

from sweep.control.interruption import Interruption
from sweep.engine.recorder import Recorder
from sweep.engine.stopping import Stopping
from sweep.record.events import Event, EventLog, read_events
from sweep.record.results import SweepRecord
from trainable.storage.folder import FolderStore

pytestmark = pytest.mark.fault


class Session:
    """A recorder in a sweep's folder, told of trials as Tune tells it."""

    def __init__(self, **changes: Any) -> None:
        config = sweep_config(**changes)
        self.folder, _ = new_sweep("recorded", config)
        self.record, self.log = SweepRecord(), EventLog(self.folder)
        self.log.listen(self.record.apply)
        self.stopping = Stopping(Interruption())
        self.recorder = Recorder(
            config, FolderStore(self.folder), self.record, self.log, self.stopping
        )
        self.log.append("session_started", session=1, num_samples=config.num_samples)

    def trial(self, name: str = "t000", **facts: Any) -> Trial:
        config = {"name": name, "params": {"optim.lr": 1e-3}, **facts}
        return Trial("trial", config=config, stub=True)

    def tell(self, callback: str, trial: Trial, **facts: Any) -> None:
        getattr(self.recorder, callback)(iteration=0, trials=[trial], trial=trial, **facts)

    def start(self, name: str = "t000") -> Trial:
        trial = self.trial(name)
        self.tell("on_trial_start", trial)
        return trial

    def report(self, trial: Trial, step: int, loss: float, **facts: Any) -> None:
        told = {"step": step, "val_loss": loss, "notice": None, "outcome": None}
        told |= {"hostname": "here", "pid": 7, **facts}
        self.tell("on_trial_result", trial, result=told)
        trial.run_metadata.last_result = told

    def save(self, trial: Trial, number: int) -> Path:
        name = f"session-1/{trial.config['name']}/a-1/checkpoint_{number:06d}"
        (self.folder / name).mkdir(parents=True)
        named = tune.Checkpoint(name, LocalFileSystem())
        self.tell("on_checkpoint", trial, checkpoint=named)
        return self.folder / name

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.folder) if event["event"] == kind]


@contextmanager
def unwritable(path: Path):
    """Let no file of this process grow beyond the size of `path`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LATER: dict[str, Callable[[Session, Trial], object]] = {
    "an evaluation": lambda session, trial: session.report(trial, 10, 2.0),
    "a checkpoint": lambda session, trial: session.save(trial, 0),
    "an outcome": lambda session, trial: session.tell("on_trial_complete", trial),
}


@pytest.mark.parametrize("lost", LATER)
def test_an_event_that_cannot_be_written_ends_the_session_and_is_kept(lost: str) -> None:
    session = Session()
    trial = session.start()
    session.report(trial, 0, 3.0)
    before = read_events(session.folder)
    with unwritable(session.folder / "events.jsonl"):
        LATER[lost](session, trial)
    assert isinstance(session.recorder.error, OSError)
    assert session.stopping.stop_all()
    session.report(trial, 20, 1.0)  # nothing is recorded that builds on what is not
    assert read_events(session.folder) == before


def test_a_checkpoint_that_need_not_stay_is_removed_at_the_next_ones() -> None:
    session = Session()
    trial = session.start()
    folders = []
    for number, loss in enumerate((3.0, 2.9, 2.8, 2.7)):
        session.report(trial, 10 * (number + 1), loss)
        folders.append(session.save(trial, number))
    assert [folder.exists() for folder in folders] == [False, False, True, True]


def test_an_evaluation_that_a_restart_repeats_is_recorded_once() -> None:
    session = Session()
    trial = session.start()
    for step in (0, 10, 20, 10, 20, 30):
        session.report(trial, step, 3.0)
    assert [e["metrics"]["step"] for e in session.events("evaluation")] == [0, 10, 20, 30]


@pytest.mark.parametrize("callback", ["on_trial_recover", "on_trial_error"])
def test_a_trial_without_room_on_the_disk_goes_on_in_the_next_session(
    callback: str, tmp_path: Path
) -> None:
    session = Session()
    trial = session.start()
    (tmp_path / "error.txt").write_text(
        "Failure # 1 (occurred at noon)\nTraceback\nOSError: [Errno 28] No space left on device\n"
    )
    trial.storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))
    trial.run_metadata.error_filename = "error.txt"
    session.tell(callback, trial)
    assert [session.events(kind) for kind in ("trial_restarted", "outcome")] == [[], []]
    assert session.recorder.disk_full
    assert session.stopping.stop_all()


@pytest.mark.parametrize("own_words", [True, False])
def test_a_failure_is_told_in_the_trials_own_words_where_it_had_any(
    own_words: bool, tmp_path: Path
) -> None:
    session = Session()
    trial = session.start()
    if own_words:
        session.report(trial, 0, 1e9, outcome="failed", notice="KeyError: 'x'")
    (tmp_path / "error.txt").write_text(
        "Failure # 1 (occurred at noon)\nThe actor died unexpectedly: SIGKILL\nmore\n"
    )
    trial.storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))
    trial.run_metadata.error_filename = "error.txt"
    session.tell("on_trial_recover", trial)
    session.tell("on_trial_error", trial)  # the second time its worker was killed
    (restarted,), (ended,) = session.events("trial_restarted"), session.events("outcome")
    killed = "The actor died unexpectedly: SIGKILL"
    assert restarted["reason"] == ("KeyError: 'x'" if own_words else killed)
    assert (ended["outcome"], ended["reason"]) == ("failed", killed)
    assert session.events("evaluation") == []


@pytest.mark.parametrize(("step", "outcome", "rung"), [(80, "finished", None), (40, "stopped", 40)])
def test_a_trial_that_ends_has_finished_or_was_stopped(
    step: int, outcome: str, rung: int | None
) -> None:
    session = Session()
    trial = session.start()
    session.report(trial, step, 2.0)
    session.tell("on_trial_complete", trial)
    (ended,) = session.events("outcome")
    assert (ended["outcome"], ended["step"], ended["rung"]) == (outcome, step, rung)


def test_a_trials_worker_is_recorded_where_it_is_another_one():
    session = Session()
    trial = session.start()
    for step, pid in ((0, 7), (10, 7), (20, 8), (30, 8)):
        session.report(trial, step, 3.0, pid=pid)
    told = [event.get("worker") for event in session.events("evaluation")]
    assert told == ["here:7", None, "here:8", None]


def test_the_record_says_which_trial_is_the_answer() -> None:
    session = Session()
    session.start("t000")
    session.tell("on_trial_start", session.trial("t001", answer=True))
    assert {t.name: t.is_answer for t in session.record.trials.values()} == {
        "t000": False,
        "t001": True,
    }


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
def test_a_trial_that_could_not_go_on_ends_with_its_own_words(outcome: str) -> None:
    session = Session()
    trial = session.start()
    session.report(trial, 10, 3.0)
    session.report(trial, 17, float("nan"), outcome=outcome, notice="at a rate of 1e3")
    session.tell("on_trial_complete", trial)
    (ended,) = session.events("outcome")
    assert (ended["outcome"], ended["reason"], ended["step"]) == (outcome, "at a rate of 1e3", 17)
    assert len(session.events("evaluation")) == 1
