"""How far MLflow has a sweep: after power cuts, bit rot, a move, and runs that were deleted."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from stored_runs import Stored, deliver, stored, whole_story
from sweep_samples import (
    ended,
    evaluated,
    event,
    flat,
    new_sweep,
    run_of,
    session,
    started,
    write_events,
)

from sweep.common.errors import SweepError
from sweep.record.events import EVENTS_FILE, EventLog, read_events
from sweep.run import main as run_sweep
from sweep.status import main as status
from sweep.tracking.calls import Call
from sweep.tracking.delivery import STATE_FILE, read_delivery
from sweep.tracking.executor import Executor
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.store import address_shown, address_stored, open_client, tracking_uri

pytestmark = pytest.mark.fault


def curves(found: Stored) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return each curve as steps and values."""
    return {
        (name, key): [(step, value) for step, value, _ in rows]
        for name, run in found.items()
        for key, rows in run["curves"].items()
    }


def later(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return events as they come an hour later."""
    return [told | {"time": told["time"] + 3600} for told in events]


def test_the_record_is_on_the_disk_before_mlflow_is_told(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: list[int] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == EVENTS_FILE:
            durable.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", watched)
    folder, sweep = new_sweep("power")
    runs = MlflowRuns(folder, sweep)
    runs.connect()
    log = EventLog(folder)
    make, told = Executor.make, 0

    def checked(self: Executor, call: Call) -> None:
        nonlocal told
        told += 1
        assert durable
        assert durable[-1] == (folder / EVENTS_FILE).stat().st_size
        make(self, call)

    monkeypatch.setattr(Executor, "make", checked)
    for item in whole_story():
        facts = dict(item)
        log.append(facts.pop("event"), **facts)
        runs.deliver_new()
    assert told > 10
    log.close()


@pytest.mark.parametrize("kept", ["none", "a line", "a part of a line", "no file"])
def test_what_the_record_lost_is_told_again_once(
    store: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    """MLflow has the whole sweep; then the record loses its end, and the trials run it again."""
    folder, sweep = new_sweep("lost")
    story = whole_story()
    write_events(folder, story)
    deliver(folder, sweep)
    before = stored()
    path = folder / EVENTS_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    left = {"none": 0, "a line": 9, "a part of a line": 9, "no file": 0}[kept]
    path.write_bytes(b"".join(lines[:left]) + (b'{"ev' if kept == "a part of a line" else b""))
    if kept == "no file":
        path.unlink()
    assert status(["lost", "--sync"]) == 0
    assert f"{len(read_events(folder))} events delivered" in capsys.readouterr().out
    resumed = [session(2, num_samples=3), started("t000")] if left else []
    write_events(folder, later([*resumed, *story[left:]]))
    deliver(folder, sweep)
    after = stored()
    for name, run in after.items():
        for key, rows in run["curves"].items():
            steps = [step for step, _, _ in rows]
            assert len(steps) == len(set(steps)), f"{name}: {key} has a step twice"
    assert {name: run["id"] for name, run in after.items()} == {
        name: run["id"] for name, run in before.items()
    }
    trials = [name for name in after if name]
    assert {k: c for k, c in curves(after).items() if k[0] in trials} == {
        k: c for k, c in curves(before).items() if k[0] in trials
    }
    assert {run["status"] for run in after.values()} == {"FINISHED"}
    assert status(["lost", "--sync"]) == 0
    assert "0 events delivered" in capsys.readouterr().out


def test_a_record_that_grew_again_is_not_taken_for_the_one_that_was_told(store: Path) -> None:
    """The lost lines were replaced by others, beyond the offset that our notes have."""
    folder, sweep = new_sweep("grown")
    write_events(folder, session(), started("t000"), evaluated("t000", 0, 5.5))
    deliver(folder, sweep)
    (folder / EVENTS_FILE).unlink()
    told = [session(), started("t001"), evaluated("t001", 0, 5.25)]
    write_events(folder, *later(told), later([ended("t001", "finished")]))
    deliver(folder, sweep)
    assert curves(stored())["t001", "val_loss"] == [(0, 5.25)]


def test_a_changed_bit_in_our_notes_is_found(store: Path) -> None:
    folder, sweep = new_sweep("rot")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    first, path = stored(), folder / STATE_FILE
    sound = path.read_bytes()
    assert read_delivery(folder) is not None
    for place in range(len(sound)):
        path.write_bytes(
            sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :]
        )
        assert read_delivery(folder) is None, f"byte {place}"
    place = sound.index(b'"offset": ') + 10
    path.write_bytes(sound[:place] + b"9" + sound[place + 1 :])
    deliver(folder, sweep)
    assert stored() == first
    assert read_delivery(folder) is not None


def test_the_notes_of_another_version_are_not_believed(project: Path) -> None:
    folder, _ = new_sweep("older")
    known = {"tracking_uri": "sqlite:///mlflow.db", "experiment_id": "1", "parent": "a"}
    (folder / STATE_FILE).write_text(json.dumps({**known, "runs": {}, "offset": 10}))
    assert read_delivery(folder) is None


def test_runs_are_found_again_on_every_page_of_the_store_s_answer(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep = new_sweep("pages")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    first = stored()
    whole = MlflowClient.search_runs

    def one(self: MlflowClient, ids: list[str], query: str, **facts: Any) -> Any:
        return whole(self, ids, query, **{**facts, "max_results": 1})

    (folder / STATE_FILE).unlink()
    with monkeypatch.context() as paged:
        paged.setattr(MlflowClient, "search_runs", one)
        deliver(folder, sweep)
    assert stored() == first


def test_a_store_that_lost_the_runs_gets_all_of_them(
    store: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results were moved to another project, the store was not."""
    folder, sweep = new_sweep("bereft")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    before = curves(stored())
    moved = tmp_path / "results" / "bereft"
    moved.parent.mkdir()
    folder.rename(moved)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("LM_SWEEP_HOME", str(tmp_path))
    deliver(moved, sweep)
    assert curves(stored()) == before


def test_a_project_that_moved_goes_on_in_its_store(
    store: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep = new_sweep("moved")
    *story, last = whole_story()
    write_events(folder, story)
    deliver(folder, sweep)
    before = stored()
    home = tmp_path / "elsewhere"
    project.rename(home)
    project.mkdir()  # else the next test would get this path, for which MLflow has a store open
    monkeypatch.setenv("LM_SWEEP_HOME", str(home))
    write_events(home / "results" / "moved", last)
    deliver(home / "results" / "moved", sweep)
    after = stored(f"sqlite:///{home}/mlflow.db")
    assert after[""]["status"] == "FINISHED"
    assert {n: run["id"] for n, run in after.items()} == {n: r["id"] for n, r in before.items()}
    assert curves(after) == curves(before)
    # Another store is refused, with the address as it is now, before Ray or anything else starts.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(SweepError, match=f"began in 'sqlite:///{home}/mlflow.db'"):
        run_sweep(["--resume", "moved"])


def test_the_parents_curve_never_runs_backwards(store: Path) -> None:
    """Interrupted twice: the trials that ran have several outcomes."""
    folder, sweep = new_sweep("steps")
    sessions = []
    for number, (step, outcome) in enumerate(
        [(10, "interrupted"), (20, "interrupted"), (30, "finished")], start=1
    ):
        told = flat(
            session(number, num_samples=2),
            run_of("t000", {step: 5.0 - step / 100}, outcome),
            run_of("t001", {step: 4.0 - step / 100}, outcome),
            event("session_ended", completed=False),
        )
        sessions.append([e | {"time": e["time"] + 100 * number} for e in told])
    for told in sessions:
        write_events(folder, told)
        deliver(folder, sweep)
    found = stored()
    rows = sorted(found[""]["curves"]["best_val_loss"], key=lambda row: row[2])
    steps = [step for step, _, _ in rows]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [value for _, value, _ in rows] == [4.9, 3.9, 3.9, 3.8, 3.8, 3.7]
    assert found[""]["latest"]["best_val_loss"] == 3.7
    (folder / STATE_FILE).unlink()
    deliver(folder, sweep)
    assert stored() == found


@pytest.mark.parametrize(("asked", "state"), [(3, "FINISHED"), (20, "KILLED")])
def test_only_a_complete_sweep_is_finished(store: Path, asked: int, state: str) -> None:
    folder, sweep = new_sweep("some")
    _, *story = whole_story()
    write_events(folder, session(num_samples=asked), story)
    deliver(folder, sweep)
    assert stored()[""]["status"] == state


@pytest.mark.parametrize("lr", [0.1 + 0.2, 3.1622776601683795e-05, 1e-3])
def test_a_rate_is_shown_to_the_last_bit(store: Path, lr: float) -> None:
    folder, sweep = new_sweep("digits")
    write_events(folder, session(), started("t000", lr=lr))
    deliver(folder, sweep)
    assert float(stored()["t000"]["params"]["optim.lr"]) == lr


@pytest.mark.parametrize("gone", ["t000", ""])
def test_a_run_that_somebody_deleted_holds_nothing_up(store: Path, gone: str) -> None:
    folder, sweep = new_sweep("deleted")
    story = whole_story()
    write_events(folder, story[:9])
    runs = MlflowRuns(folder, sweep)
    runs.connect()
    runs.deliver_new()
    open_client(tracking_uri()).delete_run(stored()[gone]["id"])
    write_events(folder, story[9:])
    with pytest.raises(Exception, match="active"):
        runs.deliver_new()
    runs.deliver_new()
    deliver(folder, sweep)
    found = stored()
    assert set(found) == {"", "t000", "t001", "t002"} - {gone or "none"}
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    for name in set(found) - {""}:
        assert found[name]["tags"]["mlflow.parentRunId"] == found[""]["id"]
    assert curves(found)["t002", "val_loss"] == [(0, 5.5)]


def test_a_deleted_experiment_is_told_with_its_remedy(store: Path) -> None:
    client = open_client(tracking_uri())
    number = client.create_experiment("lm-sweep")
    client.delete_experiment(number)
    with pytest.raises(SweepError, match=f"mlflow experiments restore -x {number}") as caught:
        MlflowRuns(*new_sweep("nowhere")).connect()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("uri", "stored", "shown"),
    [
        ("http://me:secret@host:5000/a", "http://***@host:5000/a", "http://***@host:5000/a"),
        ("sqlite:///{project}/mlflow.db", "sqlite:///mlflow.db", "sqlite:///{project}/mlflow.db"),
        ("sqlite:////elsewhere/m.db", "sqlite:////elsewhere/m.db", "sqlite:////elsewhere/m.db"),
    ],
)
def test_a_store_is_remembered_without_secrets_and_relative_to_the_project(
    uri: str, stored: str, shown: str, project: Path
) -> None:
    uri, shown = (each.format(project=project) for each in (uri, shown))
    assert address_stored(uri) == stored
    assert address_shown(stored) == shown
