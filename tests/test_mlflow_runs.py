"""A sweep in MLflow: what its pages show, once, whatever fails on the way. Real stores only."""

import contextlib
import http.client
import json
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from live_sweeps import free_port
from mlflow import environment_variables as environment
from mlflow_server import mlflow_server
from stored_runs import deliver, stored, whole_story
from sweep_samples import (
    ended,
    evaluated,
    event,
    new_sweep,
    run_of,
    session,
    started,
    sweep_config,
    write_events,
)

from sweep.analysis.study import Study
from sweep.common.errors import SweepError
from sweep.record.events import EVENTS_FILE, read_events
from sweep.record.folder import SweepFile
from sweep.record.results import OUTCOMES, SweepRecord
from sweep.status import main as status
from sweep.tracking.calls import RUN_STATUS
from sweep.tracking.delivery import STATE_FILE
from sweep.tracking.registry import log_model, register_model
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.store import open_client, tracking_uri
from sweep.tracking.tracker import Tracker
from sweep.tracking.view import page_addresses
from trainable.checkpoint.export import export_model, load_model
from trainable.checkpoint.hugging_face import export_hugging_face
from trainable.common.errors import CheckpointError
from trainable.config.trial import TrialConfig
from trainable.model.counts import parameter_count
from trainable.model.transformer import Transformer


def test_artifacts_of_a_local_store_lie_in_the_project_wherever_one_stands(
    store: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = deliver(*new_sweep("placed"))
    experiment = open_client(tracking_uri()).get_experiment(runs.experiment_id)
    assert experiment.artifact_location == (project / "mlruns" / "lm-sweep").as_uri()


def test_a_sweep_is_one_parent_with_a_child_for_each_trial(store: Path) -> None:
    folder, sweep = new_sweep("one")
    write_events(folder, whole_story())
    runs = deliver(folder, sweep)
    found = stored()
    assert set(found) == {"", "t000", "t001", "t002"}
    parent = found.pop("")
    assert (parent["name"], parent["id"], parent["status"]) == ("one", runs.parent, "FINISHED")
    assert parent["times"] == (1_700_000_000_000, 1_700_000_100_000)
    assert "mlflow.parentRunId" not in parent["tags"]
    for run in found.values():
        assert run["tags"]["mlflow.parentRunId"] == parent["id"]
    # MLflow's pages cut names at about 20 characters.
    shown = {name: run["name"] for name, run in found.items()}
    assert shown == {
        "t000": "t000 1.0e-3 d_model=32",
        "t001": "t001 3.2e-3 d_model=64",
        "t002": "t002 9.0e-3 d_model=32",
    }
    outcomes = {name: run["tags"]["outcome"] for name, run in found.items()}
    assert outcomes == {"t000": "finished", "t001": "stopped", "t002": "diverged"}
    assert found["t001"]["tags"]["outcome.rung"] == "10"
    assert found["t002"]["tags"]["outcome.step"] == "7"
    assert found["t002"]["tags"]["outcome.reason"] == "loss nan at step 7"
    assert "outcome.rung" not in found["t000"]["tags"]


def test_the_outcomes_have_the_statuses_that_mlflow_draws(store: Path) -> None:
    assert RUN_STATUS == {
        "finished": "FINISHED",
        "stopped": "FINISHED",
        "diverged": "FINISHED",
        "out_of_memory": "FAILED",
        "failed": "FAILED",
        "interrupted": "KILLED",
    }
    folder, sweep = new_sweep("all")
    stories = [run_of(f"t{n:03d}", {0: 5.0}, outcome) for n, outcome in enumerate(OUTCOMES)]
    last = event("session_ended", completed=False)
    write_events(folder, session(), *stories, run_of("t009", {0: 5.0}, None), last)
    deliver(folder, sweep)
    found = stored()
    for number, outcome in enumerate(OUTCOMES):
        run = found[f"t{number:03d}"]
        assert (run["status"], run["tags"]["outcome"]) == (RUN_STATUS[outcome], outcome)
    assert (found["t009"]["status"], "outcome" in found["t009"]["tags"]) == ("RUNNING", False)
    assert found[""]["status"] == "KILLED"


def test_curves_are_drawn_against_the_step_with_the_best_so_far(store: Path) -> None:
    folder, sweep = new_sweep("curves")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    found = stored()
    curves = found["t000"]["curves"]
    assert set(curves) == {"val_loss", "best_val_loss", "lr"}
    assert [(s, v) for s, v, _ in curves["val_loss"]] == [
        (0, 5.5),
        (10, 4.0),
        (20, 4.25),
        (80, 3.0),
    ]
    best = [(s, v) for s, v, _ in curves["best_val_loss"]]
    assert best == [(0, 5.5), (10, 4.0), (20, 4.0), (80, 3.0)]
    assert [t for _, _, t in curves["val_loss"]] == [
        1_700_000_000_000 + 1_000 * step for step in (0, 10, 20, 80)
    ]
    # The parent's curve falls as trials end, and the tables show its latest value.
    assert [(s, v) for s, v, _ in found[""]["curves"]["best_val_loss"]] == [
        (1, 4.0),
        (2, 4.0),
        (3, 3.0),
    ]
    assert found[""]["latest"]["best_val_loss"] == 3.0


def test_a_trial_shows_all_that_decides_it(store: Path) -> None:
    folder, sweep = new_sweep("params")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    run = stored()["t001"]
    config = sweep.config.trial_config({"optim.lr": 3.16227766e-3, "model.d_model": 64})
    assert TrialConfig.model_validate_json(run["tags"]["sweep.config"]) == config
    params = run["params"]
    assert (params["optim.lr"], params["model.d_model"]) == ("0.00316227766", "64")
    assert (params["model.n_heads"], params["model.d_ff"]) == ("4", str(config.model.ff_width))
    assert params["train.seed"] == "0"
    assert params["parameters"] == str(parameter_count(config.model, 257))


def test_the_parent_shows_the_search_the_data_and_the_best(store: Path) -> None:
    folder, sweep = new_sweep("parent")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    parent = stored()[""]
    assert parent["datasets"] == [("none", "da7a5e7", [("mlflow.data.context", "training")])]
    assert parent["params"]["num_samples"] == "8"
    assert parent["params"]["rungs"] == "10, 20, 40"
    assert parent["params"]["space.optim.lr"] == "loguniform [0.0001, 0.01]"
    tags = parent["tags"]
    assert (tags["sweep.name"], tags["sweep.id"]) == ("parent", "id-of-parent")
    assert tags["mlflow.source.git.commit"] == "0123abc"
    assert tags["version.torch"] == "2"
    assert (tags["best.trial"], tags["best.params"]) == ("t000", "lr=0.001 d_model=32")
    assert tags["outcomes"] == "1 finished, 1 stopped, 1 diverged"
    note = tags["mlflow.note.content"]
    assert note.startswith("**Best: val_loss 3.0000** with lr=0.001 d_model=32 (t000)")
    assert "best.py parent`" in note
    record = SweepRecord.read(folder)
    for row in Study(sweep.config, record).sizes:
        assert f"\n| {' | '.join(row.cells())} |" in note
    assert re.search(r"^\| 32 \| .* \| 2 \| 1 \|$", note, re.MULTILINE)


def test_delivering_again_without_our_notes_changes_nothing(store: Path) -> None:
    folder, sweep = new_sweep("twice")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    first = stored()
    for loss in (lambda p: None, Path.unlink, lambda p: p.write_text("{", encoding="utf-8")):
        loss(folder / STATE_FILE)
        deliver(folder, sweep)
        assert stored() == first


def test_events_are_delivered_once_as_they_come(store: Path) -> None:
    folder, sweep = new_sweep("pieces")
    runs = MlflowRuns(folder, sweep)
    runs.connect()
    assert runs.deliver_new() == 0
    for told in whole_story():
        write_events(folder, told)
        assert runs.deliver_new() == 1
        assert runs.deliver_new() == 0
    in_pieces = stored()
    write_events(new_sweep("whole")[0], whole_story())
    curves = {name: run["curves"] for name, run in in_pieces.items()}
    assert [v for _, v, _ in curves["t000"]["best_val_loss"]] == [5.5, 4.0, 4.0, 3.0]
    assert sum(len(rows) for curve in curves.values() for rows in curve.values()) == 21
    assert in_pieces[""]["status"] == "FINISHED"


@pytest.mark.fault
@pytest.mark.parametrize("known", [0, 2, 6, 10, 16])
def test_a_crash_before_our_notes_are_saved_doubles_nothing(store: Path, known: int) -> None:
    """The store got the whole sweep; our notes say that it has only the first `known` events."""
    folder, sweep = new_sweep("crashed")
    events = whole_story()
    write_events(folder, *events[:known])
    deliver(folder, sweep)
    older = (folder / STATE_FILE).read_bytes()
    write_events(folder, *events[known:])
    deliver(folder, sweep)
    first = stored()
    (folder / STATE_FILE).write_bytes(older)
    deliver(folder, sweep)
    assert stored() == first


@pytest.mark.fault
def test_a_crash_while_a_run_is_made_leaves_no_bare_run(store: Path) -> None:
    """A run was made, then nothing more was said of it: a later delivery completes it."""
    folder, sweep = new_sweep("bare")
    write_events(folder, whole_story())
    whole, whole_sweep = new_sweep("whole")
    write_events(whole, whole_story())
    deliver(whole, whole_sweep)
    expected = stored()
    client = open_client(tracking_uri())
    for run in expected.values():
        client.delete_run(run["id"])
    (experiment,) = {
        e.experiment_id for e in client.search_experiments(filter_string="name = 'lm-sweep'")
    }
    tags = {"sweep.id": "id-of-bare", "sweep.name": "bare"}
    parent = client.create_run(experiment, run_name="bare", tags=tags)
    tags |= {"mlflow.parentRunId": parent.info.run_id, "sweep.trial": "t000"}
    client.create_run(experiment, run_name="t000", tags=tags)
    deliver(folder, sweep)
    found = stored()
    assert found["t000"]["params"] == expected["t000"]["params"]
    assert found[""]["params"] == expected[""]["params"]
    assert found[""]["datasets"] == expected[""]["datasets"]


def test_a_resume_goes_on_in_the_same_runs(store: Path) -> None:
    folder, sweep = new_sweep("resumed")
    story = run_of("t000", {0: 5.0, 10: 4.0}, "interrupted")
    write_events(folder, session(num_samples=1), story, event("session_ended", completed=False))
    deliver(folder, sweep)
    before = stored()
    assert (before["t000"]["status"], before[""]["status"]) == ("KILLED", "KILLED")
    again = session(2, num_samples=1)
    write_events(folder, again, started("t000"), evaluated("t000", 20, 3.0))
    deliver(folder, sweep)
    during = stored()
    assert (during["t000"]["status"], during[""]["status"]) == ("RUNNING", "RUNNING")
    write_events(folder, ended("t000", "finished"), event("session_ended", completed=True))
    deliver(folder, sweep)
    after = stored()
    assert {name: run["id"] for name, run in after.items()} == {
        name: run["id"] for name, run in before.items()
    }
    assert (after["t000"]["status"], after[""]["status"]) == ("FINISHED", "FINISHED")
    assert after["t000"]["tags"]["outcome"] == "finished"
    assert [v for _, v, _ in after["t000"]["curves"]["best_val_loss"]] == [5.0, 4.0, 3.0]


def test_a_resume_with_other_resources_is_delivered(store: Path) -> None:
    folder, sweep = new_sweep("threads")
    write_events(folder, session(), run_of("t000", {0: 5.0}, "interrupted"))
    deliver(folder, sweep)
    config = sweep_config(cpus_per_trial=2, num_samples=9)
    sweep = SweepFile(identity=sweep.identity, config=config)
    write_events(folder, session(2), started("t000"), ended("t000", "finished"), started("t001"))
    deliver(folder, sweep)
    found = stored()
    assert found["t000"]["status"] == "FINISHED"
    assert found["t001"]["params"]["train.threads"] == "2"


def test_two_sweeps_in_one_store_do_not_meet(store: Path) -> None:
    for name in ("one", "two"):
        folder, sweep = new_sweep(name)
        write_events(folder, whole_story())
        deliver(folder, sweep)
    client = open_client(tracking_uri())
    experiment = client.get_experiment_by_name("lm-sweep")
    for name in ("one", "two"):
        query = f"tags.`sweep.id` = 'id-of-{name}'"
        assert len(client.search_runs([experiment.experiment_id], query)) == 4


def test_a_long_record_goes_over_in_batches(store: Path) -> None:
    folder, sweep = new_sweep("long")
    points = [evaluated("t000", step, 5.0 - step / 1_000) for step in range(700)]
    write_events(folder, session(), started("t000"), points, ended("t000", "finished"))
    deliver(folder, sweep)
    curves = stored()["t000"]["curves"]
    assert {key: len(rows) for key, rows in curves.items()} == {
        "val_loss": 700,
        "best_val_loss": 700,
    }


def test_the_default_store_is_the_one_that_plain_mlflow_ui_opens(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{project}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"


def test_mlflow_tells_nobody_and_loads_no_pickle(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (environment.MLFLOW_DISABLE_TELEMETRY, environment.MLFLOW_ALLOW_PICKLE_DESERIALIZATION)
    for variable in asked:
        monkeypatch.delenv(variable.name, raising=False)
    open_client(tracking_uri())
    assert [variable.get() for variable in asked] == [True, False]


def test_the_printed_pages_lie_where_a_browser_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def server() -> set[str]:
        return {address.partition("/#/")[0] for address in page_addresses("1", "sweep-001")}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert server() == {"http://mlflow:5000"}
    monkeypatch.setenv("LM_SWEEP_MLFLOW_PAGE", "http://ann:pw@localhost:5001/")
    assert server() == {"http://***@localhost:5001"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert server() == {"http://***@localhost:5001"}


def test_the_printed_pages_are_views_that_the_experiment_holds(store: Path) -> None:
    folder, sweep = new_sweep("a.b-c")
    runs = MlflowRuns(folder, sweep)
    runs.connect()
    assert runs.experiment_id is not None
    write_events(folder, whole_story())
    runs.deliver_new()
    other, other_sweep = new_sweep("other")
    write_events(other, whole_story())
    deliver(other, other_sweep)
    client = open_client(tracking_uri())
    experiment = client.get_experiment(runs.experiment_id)
    trials, charts = page_addresses(runs.experiment_id, "a.b-c")
    for address, mode in ((trials, []), (charts, ["CHART"])):
        place, _, query = address.partition("?")
        assert place == f"http://127.0.0.1:5000/#/experiments/{runs.experiment_id}/runs"
        words = parse_qs(query)
        assert words["workflowType"] == ["machine_learning"]
        assert words.get("compareRunsMode", []) == mode
        (key,) = words["viewStateShareKey"]
        state = json.loads(json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])["state"])
        assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best_val_loss`", True)
        assert {"params.`optim.lr`", "params.`model.d_model`"} <= set(state["selectedColumns"])
        found = client.search_runs([runs.experiment_id], state["searchFilter"])
        # The filter is one that MLflow takes, and shows this sweep's trials only.
        assert sorted(run.data.tags["sweep.trial"] for run in found) == ["t000", "t001", "t002"]
        assert {run.data.tags["sweep.name"] for run in found} == {"a.b-c"}
    for chart in state["compareRunCharts"]:
        for axis in (*chart.get("selectedParams", []), chart.get("xaxis", {}).get("key")):
            assert axis is None or all(float(run.data.params[axis]) for run in found)


def refused(folder: Path, sweep: SweepFile) -> str:
    """Return the one line with which a store is refused."""
    with pytest.raises(SweepError) as caught:
        MlflowRuns(folder, sweep).connect()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.fault
def test_a_store_of_another_version_is_refused(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    folder, sweep = new_sweep("old")
    text = refused(folder, sweep)
    assert str(store) in text
    assert "mlflow db upgrade" in text
    assert "--tracking.no-enabled" in text
    assert not (folder / STATE_FILE).exists()


@pytest.mark.fault
@pytest.mark.parametrize(
    "uri", ["sqlite:////dev/null/mlflow.db", "nothing://here", "sqlite:///{file}"]
)
def test_a_store_that_cannot_be_opened_is_refused(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "no-database.db"
    file.write_bytes(b"this is no database" * 100)
    uri = uri.format(file=file)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert uri in refused(*new_sweep("closed"))


@pytest.mark.slow
@pytest.mark.fault
def test_a_database_that_does_not_open_is_given_up_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}")  # a folder
    began = time.monotonic()
    assert "unable to open database file" in refused(*new_sweep("closed"))
    assert time.monotonic() - began < 60  # MLflow by itself tries for 102 s


@pytest.mark.fault
def test_a_sweep_stays_in_the_store_that_it_began_in(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep = new_sweep("moved")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store.parent}/other.db")
    text = refused(folder, sweep)
    assert f"{store.parent}/other.db" in text
    assert str(store) in text


def tracked(folder: Path, sweep: SweepFile) -> Tracker:
    tracker = Tracker(MlflowRuns(folder, sweep))
    tracker.start()
    return tracker


def test_the_tracker_delivers_beside_the_training(store: Path) -> None:
    folder, sweep = new_sweep("beside")
    tracker = tracked(folder, sweep)
    assert tracker.wait_connected(30)
    for told in whole_story():
        write_events(folder, told)
        before = time.perf_counter()
        tracker.notice(told)
        assert time.perf_counter() - before < 0.1, "training never waits"
    assert tracker.close(30)
    assert tracker.trouble is None
    assert stored()["t000"]["status"] == "FINISHED"
    assert stored()[""]["status"] == "FINISHED"


def test_the_tracker_says_at_once_that_a_store_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    tracker = tracked(*new_sweep("refused"))
    with pytest.raises(SweepError, match="/dev/null"):
        tracker.wait_connected(30)
    assert not tracker.close(10)


def exported_model(folder: Path, sweep: SweepFile) -> Transformer:
    """Export a small model to a folder; return it."""
    trial = sweep.config.trial_config({"optim.lr": 1e-3, "model.d_model": 32})
    model = Transformer(trial.model, 257, seed=3)
    export_model(folder, model, trial, folder / "none.json", {"trial": "t000"})
    return model


def require_champion(uri: str, name: str, model: Transformer, folder: Path) -> None:
    """Download a registered model by its alias, as a user would, and compare its weights."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        fetched = mlflow.artifacts.download_artifacts(
            f"models:/{name}@champion", dst_path=str(folder)
        )
    finally:
        mlflow.set_tracking_uri(None)
    loaded, _ = load_model(Path(fetched))
    for key, value in model.state_dict().items():
        assert value.equal(loaded.state_dict()[key]), key
    assert not list(Path(fetched).rglob("*.pkl")), "nothing in it can run code"


def test_a_model_for_hugging_face_is_registered_if_it_is_whole(store: Path, tmp_path: Path) -> None:
    folder, sweep = new_sweep("theirs")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    trial = sweep.config.trial_config({"optim.lr": 1e-3, "model.d_model": 32})
    model, exported = Transformer(trial.model, 257), tmp_path / "hf"
    export_hugging_face(exported, model, trial, tmp_path / "none.json", {})
    assert register_model("their-lm", exported, folder, "t000", 80) == 1
    (exported / "generation_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        register_model("their-lm", exported, folder, "t000", 80)


def test_a_registered_model_comes_back_by_its_alias(store: Path, tmp_path: Path) -> None:
    folder, sweep = new_sweep("champion")
    write_events(folder, whole_story())
    runs = deliver(folder, sweep)
    first = exported_model(tmp_path / "first", sweep)
    assert register_model("my-lm", tmp_path / "first", folder, "t000", 80) == 1
    require_champion(tracking_uri(), "my-lm", first, tmp_path)
    assert register_model("my-lm", tmp_path / "first", folder, "t001", 10) == 2
    client = open_client(tracking_uri())
    champion = client.get_model_version_by_alias("my-lm", "champion")
    assert (int(champion.version), champion.run_id) == (2, stored()["t001"]["id"])
    assert runs.experiment_id is not None


def test_a_logged_model_is_the_trials_and_the_sweeps_and_logged_once(
    store: Path, tmp_path: Path
) -> None:
    folder, sweep = new_sweep("log.ged")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    exported_model(tmp_path / "model", sweep)
    model = log_model(tmp_path / "model", folder, "t000", 80)
    assert log_model(tmp_path / "model", folder, "t000", 80) == model
    client = open_client(tracking_uri())
    for name in ("", "t000"):
        outputs = client.get_run(stored()[name]["id"]).outputs.model_outputs
        assert [(told.model_id, told.step) for told in outputs] == [(model, 80)]
    found = client.search_logged_models([client.get_run(stored()[""]["id"]).info.experiment_id])
    assert [(m.model_id, m.name, m.status.value) for m in found] == [(model, "log-ged", "READY")]
    with pytest.raises(SweepError, match="--log-model: trial t009 is not in MLflow"):
        log_model(tmp_path / "model", folder, "t009", 80)


def test_a_model_is_registered_only_for_a_trial_in_mlflow(store: Path, tmp_path: Path) -> None:
    folder, sweep = new_sweep("unknown")
    with pytest.raises(SweepError, match="--sync"):
        register_model("my-lm", tmp_path, folder, "t000", 80)
    write_events(folder, session(), started("t000"))
    deliver(folder, sweep)
    with pytest.raises(SweepError, match="t001 is not in MLflow"):
        register_model("my-lm", tmp_path, folder, "t001", 80)
    exported_model(tmp_path / "model", sweep)
    for name in ("a/b", "", "it's"):
        with pytest.raises(SweepError, match="--register") as caught:
            register_model(name, tmp_path / "model", folder, "t000", 80)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.fault
@pytest.mark.parametrize(("outcome", "state"), [("finished", "FINISHED"), (None, "KILLED")])
def test_what_a_killed_driver_left_open_is_closed_once(
    store: Path, capsys: pytest.CaptureFixture[str], outcome: str | None, state: str
) -> None:
    folder, sweep = new_sweep("killed")
    story = run_of("t000", {0: 5.5, 10: 4.0}, outcome)
    write_events(folder, session(num_samples=1), story)
    deliver(folder, sweep)
    assert stored()[""]["status"] == "RUNNING"
    for _ in range(2):
        assert status(["killed", "--sync"]) == 0
        found = stored()
        assert {run["status"] for run in found.values()} == {state}
        assert [v for _, v, _ in found["t000"]["curves"]["val_loss"]] == [5.5, 4.0]
        kinds = [event["event"] for event in read_events(folder)]
        assert kinds.count("session_ended") == 1
        assert kinds.count("outcome") == 1
    record = SweepRecord.read(folder)
    assert record.seconds == 10.0  # as of the last event
    assert bool(record.unfinished) == (outcome is None)


@pytest.mark.fault
def test_a_repaired_record_is_delivered_whole(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was delivered before the damage stays as it was; what comes after it arrives."""
    folder, sweep = new_sweep("mended")
    *story, last = whole_story()
    write_events(folder, story)
    deliver(folder, sweep)
    path = folder / EVENTS_FILE
    path.write_bytes(path.read_bytes().replace(b"5.25", b"!!!!", 1))
    assert status(["mended", "--repair"]) == 0
    write_events(folder, last)
    assert status(["mended", "--sync"]) == 0
    found = stored()
    other, whole = new_sweep("undamaged", sweep_config(tracking={"experiment": "undamaged"}))
    write_events(other, story, last)
    deliver(other, whole)
    expected = stored(experiment="undamaged")
    for name in ("t000", "t001", "t002"):
        for part in ("status", "times", "params", "curves"):
            assert found[name][part] == expected[name][part]


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a real server."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with mlflow_server(free_port(), folder) as address:
        yield address


@pytest.mark.slow
def test_a_model_is_registered_through_a_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    folder, sweep = new_sweep("remote", sweep_config(tracking={"experiment": "remote"}))
    write_events(folder, whole_story())
    deliver(folder, sweep)
    model = exported_model(tmp_path / "model", sweep)
    assert register_model("my-lm", tmp_path / "model", folder, "t000", 80) == 1
    require_champion(server, "my-lm", model, tmp_path)


@contextlib.contextmanager
def losing_answers(server: str, lost: list[str], port: int = 0) -> Iterator[str]:
    """Pass requests on to a server, but lose its first answer to each of the calls in `lost`."""

    class Line(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            upstream = http.client.HTTPConnection(server.removeprefix("http://"), timeout=20)
            with contextlib.closing(upstream):
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
            self.close_connection = True
            for call in lost:
                if self.path.partition("?")[0].endswith(call):
                    lost.remove(call)
                    return
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_POST()

        def do_PATCH(self) -> None:
            self.do_POST()

        def do_PUT(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Line) as line:
        thread = threading.Thread(target=line.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{line.server_port}"
        finally:
            line.shutdown()
            thread.join()


@pytest.mark.fault
@pytest.mark.slow
def test_a_server_that_was_away_gets_everything_once_later(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    folder, sweep = new_sweep("away", sweep_config(tracking={"experiment": "away"}))
    tracker = tracked(folder, sweep)
    begun = time.monotonic()
    assert not tracker.wait_connected(60)
    assert time.monotonic() - begun < 20, "an absent server hardly holds a sweep up"
    assert tracker.trouble is not None
    write_events(folder, whole_story())
    begun = time.monotonic()
    assert not tracker.close(30)
    assert time.monotonic() - begun < 25

    with pytest.raises(SweepError, match=f"127.0.0.1:{port}") as caught:
        status(["away", "--sync"])
    assert len(str(caught.value).splitlines()) == 1

    with losing_answers(server, [], port) as address:
        assert status(["away", "--sync"]) == 0
        assert f"{len(read_events(folder))} events" in capsys.readouterr().out
        first = stored(address, "away")
        deliver(folder, sweep)
        (folder / STATE_FILE).unlink()
        deliver(folder, sweep)
        again = stored(address, "away")
    for parent in (first[""], again[""]):
        del parent["tags"]["mlflow.note.content"]  # its commands are for the folder one stands in
    assert again == first
    assert set(first) == {"", "t000", "t001", "t002"}
    losses = [(s, v) for s, v, _ in first["t000"]["curves"]["val_loss"]]
    assert losses == [(0, 5.5), (10, 4.0), (20, 4.25), (80, 3.0)]
    assert {run["status"] for run in first.values()} == {"FINISHED"}


def require_delivered(folder: Path) -> None:
    """Wait until our notes say that the whole record is delivered."""
    deadline = time.monotonic() + 30
    written = (folder / EVENTS_FILE).stat().st_size
    while json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["offset"] != written:
        assert time.monotonic() < deadline, "the record was not delivered"
        time.sleep(0.05)


@pytest.mark.fault
@pytest.mark.slow
def test_an_answer_lost_on_the_way_doubles_nothing(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server did what it was asked, and the tracker, which cannot know, asks again."""
    folder, sweep = new_sweep("lost", sweep_config(tracking={"experiment": "lost"}))
    lost: list[str] = []
    with losing_answers(server, lost) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        tracker = tracked(folder, sweep)
        assert tracker.wait_connected(30)
        *story, last = whole_story()
        for told in story:
            write_events(folder, told)
            tracker.notice(told)
        require_delivered(folder)
        lost += ["runs/create", "runs/log-batch", "runs/update"]
        write_events(folder, run_of("t003", {0: 5.0, 10: 4.0, 20: 2.0}, "finished"), last)
        tracker.notice(last)
        require_delivered(folder)
        assert not lost
        assert tracker.close(30), tracker.trouble
    found = stored(server, "lost")
    assert set(found) == {"", "t000", "t001", "t002", "t003"}
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    for key in ("val_loss", "best_val_loss"):
        assert [v for _, v, _ in found["t003"]["curves"][key]] == [5.0, 4.0, 2.0]
    assert [v for _, v, _ in found[""]["curves"]["best_val_loss"]] == [4.0, 4.0, 3.0, 2.0]


def test_our_notes_are_json_and_name_no_secret(store: Path) -> None:
    folder, sweep = new_sweep("notes")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    notes = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    names = {"tracking_uri", "experiment_id", "parent", "runs", "offset", "tail", "blake3"}
    assert set(notes) == names
    assert notes["tracking_uri"] == "sqlite:///mlflow.db", "relative: a project may move"
    assert set(notes["runs"]) == {"t000", "t001", "t002"}
