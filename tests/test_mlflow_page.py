"""What a sweep's own page in MLflow carries, and how the experiment lists its sweeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from stored_runs import deliver, stored, whole_story
from sweep_samples import event, new_sweep, run_of, session, sweep_config, write_events

from sweep.analysis.findings import findings
from sweep.analysis.leaderboard import leaderboard
from sweep.analysis.study import Study
from sweep.analysis.words import counts_text
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord
from sweep.status import main as status
from sweep.tracking.store import open_client, tracking_uri
from sweep.tracking.view import run_name
from trainable.config.explain import validate
from trainable.config.yaml_file import read_yaml

FILES = ["config.yaml", "leaderboard.json", "pictures", "report.html"]


@pytest.fixture
def carried(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a sweep with a report, delivered."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    folder, sweep = new_sweep("carried")
    write_events(folder, whole_story())
    (folder / "report.html").write_text("<p>first</p>")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "valleys.svg").write_text("<svg/>")
    deliver(folder, sweep)
    return folder


def files_of(run_id: str, path: str = "") -> list[str]:
    return sorted(f.path for f in open_client(tracking_uri()).list_artifacts(run_id, path))


def load_text_of(run_id: str, path: str) -> str:
    return Path(open_client(tracking_uri()).download_artifacts(run_id, path)).read_text()


def test_the_parent_carries_report_leaderboard_and_config(carried: Path, tmp_path: Path) -> None:
    parent = stored()[""]
    assert files_of(parent["id"]) == FILES
    assert files_of(parent["id"], "pictures") == ["pictures/valleys.svg"]
    assert load_text_of(parent["id"], "report.html") == "<p>first</p>"
    config = tmp_path / "config.yaml"
    config.write_text(load_text_of(parent["id"], "config.yaml"))
    assert validate(SweepConfig, read_yaml(config), "logged") == sweep_config()
    table = json.loads(load_text_of(parent["id"], "leaderboard.json"))
    rows = leaderboard(sweep_config(), SweepRecord.read(carried))
    assert table["data"] == [row.cells() for row in rows]
    assert len(rows) == 3
    assert {len(row) for row in table["data"]} == {len(table["columns"])}
    assert json.loads(parent["tags"]["mlflow.loggedArtifacts"]) == [
        {"path": "leaderboard.json", "type": "table"}
    ]


def test_the_note_begins_with_the_best_and_has_findings_and_pages(carried: Path) -> None:
    parent, study = stored()[""], Study(sweep_config(), SweepRecord.read(carried))
    best, *rest = parent["tags"]["mlflow.note.content"].split("\n\n")
    assert best.startswith("**Best: val_loss 3.0000** with lr=0.001 d_model=32 (t000)")
    for shown in ("[report](", "[all trials](", "[charts]("):
        assert shown in best
    assert f"/{parent['id']}/artifacts/report.html" in best
    told = findings(study)
    assert told
    assert rest[0] == "\n".join(f"- {finding.text}" for finding in told)
    assert "`python sweep/best.py carried`" in rest[1]


def test_what_changed_since_replaces_what_was_logged(
    carried: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report made anew, and files that somebody lost, come with the next delivery."""
    parent = stored()[""]
    (carried / "report.html").write_text("<p>second</p>")
    again = [e | {"time": e["time"] + 1_000} for e in run_of("t003", {0: 5.0}, "finished")]
    write_events(carried, session(2, num_samples=4), again, event("session_ended", completed=True))
    for _ in range(2):
        assert status(["carried", "--sync"]) == 0
        assert files_of(parent["id"]) == FILES
        assert load_text_of(parent["id"], "report.html") == "<p>second</p>"
        table = json.loads(load_text_of(parent["id"], "leaderboard.json"))
        assert [row[1] for row in table["data"]] == ["t000", "t001", "t003", "t002"]


@pytest.mark.fault
def test_a_store_that_cannot_take_files_has_all_else(
    store: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, sweep = new_sweep("full")
    write_events(folder, whole_story())
    (project / "mlruns").write_text("no folder")
    with pytest.raises(OSError, match="mlruns"):
        deliver(folder, sweep)
    found = stored()
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    (project / "mlruns").unlink()
    assert status(["full", "--sync"]) == 0
    assert stored()[""]["tags"]["mlflow.note.content"].startswith("**Best")


def test_the_experiment_lists_its_sweeps_with_their_pages(store: Path) -> None:
    for number, name in enumerate(("older", "newer")):
        folder, sweep = new_sweep(name)
        identity = sweep.identity.model_copy(update={"created": 1_700_000_000.0 + number})
        write_events(folder, whole_story())
        deliver(folder, sweep.model_copy(update={"identity": identity}))
    client = open_client(tracking_uri())
    experiment = client.get_experiment_by_name("lm-sweep")
    first, _, *rows = experiment.tags["mlflow.note.content"].split("\n")
    assert first.startswith("Sweeps, the newest first: [newer](#/experiments/")
    assert first.index("[newer]") < first.index("[older]")
    listed = rows[2:]
    for row, name in zip(listed, ("newer", "older"), strict=True):
        (run,) = client.search_runs(
            [experiment.experiment_id], f"tags.`sweep.name` = '{name}' and tags.`sweep.code` != ''"
        )
        assert f"/runs/{run.info.run_id}?" in row
        assert f"viewStateShareKey={name}&" in row
        assert f"viewStateShareKey={name}%3Acharts&" in row
        record = SweepRecord.read(folder.with_name(name))
        assert f"| 3.0000 | lr=0.001 d_model=32 | {counts_text(record)} |" in row


def test_a_description_of_somebodys_own_is_left_alone(store: Path) -> None:
    folder, sweep = new_sweep("own")
    write_events(folder, whole_story())
    deliver(folder, sweep)
    client = open_client(tracking_uri())
    experiment = client.get_experiment_by_name("lm-sweep").experiment_id
    client.set_experiment_tag(experiment, "mlflow.note.content", "Our words.")
    deliver(folder, sweep)
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "Our words."


@pytest.mark.parametrize(
    ("params", "shown"),
    [
        ({"optim.lr": 3.13e-3, "model.d_model": 128, "model.n_layers": 4}, "t031 3.1e-3 128x4"),
        ({"optim.lr": 0.0316227766, "model.d_model": 1024}, "t031 3.2e-2 d_model=1024"),
        ({"model.n_layers": 12, "optim.weight_decay": 0.1}, "t031 n_layers=12"),
        ({"optim.lr": 1e-10}, "t031 1.0e-10"),
        ({"optim.weight_decay": 0.12345678, "optim.beta2": 0.99}, "t031 weight_decay=0.1235"),
    ],
)
def test_a_run_is_named_by_its_rate_and_size(params: dict[str, Any], shown: str) -> None:
    assert run_name(TrialRecord("t031", params, 0.0)) == shown
