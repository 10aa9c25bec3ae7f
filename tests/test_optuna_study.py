"""A sweep as Optuna reads it, and as optuna-dashboard shows it."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from live_sweeps import free_port
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sweep_samples import (
    SPACE,
    event,
    new_sweep,
    run_of,
    session,
    started,
    sweep_config,
    write_events,
)

from sweep import load_sweep
from sweep.common.errors import SweepError
from sweep.report import main as report


@pytest.fixture
def mixed(project: Path) -> str:
    """A sweep with a trial of each outcome; t003's start is lost."""
    space = {**SPACE, "model.n_layers": {"int": [1, 4]}}
    folder, _ = new_sweep("mixed", sweep_config(space=space))

    def story(trial, losses, outcome, **params):
        first, *rest = run_of(trial, losses, outcome)
        first["params"] = {"optim.lr": 1e-3, "model.d_model": 32, "model.n_layers": 2, **params}
        return [first, *rest]

    write_events(
        folder,
        session(),
        story("t000", {0: 5.5, 40: 3.0, 80: 3.25}, "finished"),
        story("t001", {0: 5.5, 10: 2.5, 20: 2.75}, "stopped", **{"model.d_model": 64}),
        story("t002", {0: 5.5}, "diverged", **{"optim.lr": 1e-2}),
        event("trial_lost", trial="t003"),
        story("t004", {}, "failed"),
        story("t005", {0: 5.5}, "out_of_memory"),
        story("t006", {0: 5.5, 10: 4.0}, "interrupted"),
        story("t007", {0: 5.5}, None),
    )
    return "mixed"


def test_optuna_reads_what_happened(mixed: str, tmp_path: Path) -> None:
    sweep, path = load_sweep(mixed), tmp_path / "study.db"
    sweep.write_optuna_study(path)
    study = optuna.load_study(study_name="mixed", storage=f"sqlite:///{path}")
    trials = study.trials
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.metric_names == ["val_loss"]
    assert [trial.number for trial in trials] == list(range(8))
    assert [trial.state for trial in trials] == [
        *(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL),
        *(TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING),
    ]
    assert [trial.user_attrs["outcome"] for trial in trials] == [
        *("finished", "stopped", "diverged", "lost"),
        *("failed", "out_of_memory", "interrupted", "running"),
    ]
    assert [trial.value for trial in trials] == [3.0, 2.75, *[None] * 6]
    assert study.best_trial.number == 0
    assert trials[0].intermediate_values == {0: 5.5, 40: 3.0, 80: 3.25}
    assert trials[1].params == {"optim.lr": 1e-3, "model.d_model": 64, "model.n_layers": 2}
    assert trials[1].distributions == {
        "optim.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "model.d_model": CategoricalDistribution([32, 64]),
        "model.n_layers": IntDistribution(1, 4),
    }
    assert trials[1].user_attrs["rung"] == 20
    assert trials[1].user_attrs["val_loss"] == 2.5
    assert trials[2].user_attrs["reason"] == "why"
    assert trials[1].user_attrs["size"] == "64x2"
    assert trials[1].user_attrs["parameters"] > 64 * 257
    assert "optim.lr" not in trials[1].user_attrs
    assert trials[0].datetime_start == datetime.fromtimestamp(1_700_000_000)
    assert trials[0].datetime_complete == datetime.fromtimestamp(1_700_000_000)
    assert study.user_attrs["findings"] == [finding.text for finding in sweep.findings] != []


def test_a_newer_study_takes_the_place_of_the_older_and_of_no_other(
    mixed: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.db"
    storage = f"sqlite:///{path}"
    optuna.create_study(study_name="theirs", storage=storage)
    load_sweep(mixed).write_optuna_study(path)
    folder, _ = new_sweep("other")
    write_events(folder, session(), started("t000"))
    load_sweep("other").write_optuna_study(path)
    assert len(optuna.load_study(study_name="other", storage=storage).trials) == 1
    write_events(folder, started("t001"))
    load_sweep("other").write_optuna_study(path)
    assert len(optuna.load_study(study_name="other", storage=storage).trials) == 2
    assert sorted(optuna.get_all_study_names(storage)) == ["mixed", "other", "theirs"]
    assert {file.name for file in tmp_path.iterdir()} == {"study.db"}


def test_what_is_not_ours_is_left_as_it_is(mixed: str, tmp_path: Path) -> None:
    sweep = load_sweep(mixed)
    theirs, text, table = (tmp_path / name for name in ("theirs.db", "text", "table.db"))
    optuna.create_study(study_name="mixed", storage=f"sqlite:///{theirs}")
    text.write_text("no database " * 1000)
    with contextlib.closing(sqlite3.connect(table)) as database:
        database.execute("CREATE TABLE studies (n)")
    places = {
        theirs: "not this sweep's",
        text: "not a database",
        table: "database of Optuna",
        tmp_path / "none" / "study.db": "No such file",
        tmp_path: "Is a directory",
    }
    for place, why in places.items():
        before = place.read_bytes() if place.is_file() else None
        with pytest.raises(SweepError, match=why) as caught:
            sweep.write_optuna_study(place)
        assert "\n" not in str(caught.value)
        assert before is None or place.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"theirs.db", "text", "table.db"}


def test_the_command_writes_it_where_one_stands(
    mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report([mixed, "--optuna", "study.db"]) == 0
    assert "optuna-dashboard sqlite:///study.db" in capsys.readouterr().out
    assert optuna.get_all_study_names("sqlite:///study.db") == ["mixed"]


@pytest.mark.slow
def test_the_dashboard_shows_it(mixed: str, tmp_path: Path) -> None:
    path, port = tmp_path / "study.db", free_port()
    load_sweep(mixed).write_optuna_study(path)
    command = Path(sys.executable).parent / "optuna-dashboard"
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        dashboard = subprocess.Popen(
            [command, f"sqlite:///{path}", "--port", str(port)], stdout=log, stderr=log,
            env=os.environ | {"PYTHONWARNINGS": "default"},
        )  # fmt: skip

    def asked(place: str) -> dict:
        with urllib.request.urlopen(f"{address}{place}") as answer:
            return json.load(answer)

    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError):
                studies = asked("/api/studies")["study_summaries"]
                break
            assert dashboard.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (study,) = studies
        assert study["study_name"] == "mixed"
        shown = asked(f"/api/studies/{study['study_id']}?after=0")
        states = [trial["state"] for trial in shown["trials"]]
        assert states == [
            "Complete",
            "Pruned",
            "Fail",
            "Fail",
            "Fail",
            "Fail",
            "Running",
            "Running",
        ]
        assert {one["key"] for one in shown["trials"][1]["user_attrs"]} > {"outcome", "rung"}
        assert {one["step"] for one in shown["trials"][0]["intermediate_values"]} == {0, 40, 80}
        assert {one["name"] for one in shown["union_search_space"]} == {
            *("optim.lr", "model.d_model", "model.n_layers")
        }
    finally:
        dashboard.terminate()
        dashboard.wait(20)
