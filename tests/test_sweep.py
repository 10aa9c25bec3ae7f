"""The main job end to end: real processes, real Ray, a real MLflow store, small sizes."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_sweeps import FIXED, make_project, run, wait_for
from sweep_samples import sweep_config
from test_report import data_of

from sweep.common.errors import SweepError
from sweep.conduct import start
from sweep.record.events import read_events
from sweep.record.folder import read_sweep
from sweep.record.results import SweepRecord
from sweep.search.upcoming import upcoming
from sweep.tracking.calls import RUN_STATUS


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory):
    """A project in which the sweep "small" has run; with the run's output."""
    home = tmp_path_factory.mktemp("project")
    config = make_project(home)
    done = run(home, "sweep/run.py", "--config", str(config), "--name", "small")
    assert done.returncode == 0, done.stderr + done.stdout
    return home, done


def test_each_trial_has_exactly_one_outcome(finished_sweep):
    home, _ = finished_sweep
    lines = (home / "results/small/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    ended = [event["trial"] for event in events if event["event"] == "outcome"]
    assert sorted(ended) == [f"t{n:03d}" for n in range(6)]
    record = SweepRecord.read(home / "results/small")
    assert {trial.outcome for trial in record.trials.values()} <= {"finished", "stopped"}
    for trial in record.trials.values():
        steps = [evaluation["step"] for evaluation in trial.evaluations]
        assert steps == list(range(0, trial.step + 1, 10))
        if trial.outcome == "stopped":
            assert trial.rung == trial.step
            assert trial.rung in (10, 20, 30)
        else:
            assert trial.step == 40


def test_early_stopping_saves_steps_and_spares_the_best(finished_sweep):
    home, _ = finished_sweep
    record = SweepRecord.read(home / "results/small")
    assert sum(trial.step for trial in record.trials.values()) < 6 * 40
    assert record.best.outcome == "finished"
    first_rung = {t.name: t.evaluations[1]["val_loss"] for t in record.trials.values()}
    stopped_there = [t.name for t in record.trials.values() if t.rung == 10]
    assert stopped_there
    assert min(first_rung, key=first_rung.get) not in stopped_there


def test_output_fits_the_eye(finished_sweep):
    _, done = finished_sweep
    lines = done.stdout.splitlines()
    assert len(lines) < 80
    assert done.stderr == ""
    assert not re.search(r"ray|raylet|\(pid=|WARNING|Traceback", done.stdout, re.IGNORECASE)
    assert re.search(r"^best: t\d{3} lr=", done.stdout, re.MULTILINE)
    assert "best learning rate for each model size" in done.stdout
    assert re.search(r"^  - the plan said .+, it took .+$", done.stdout, re.MULTILINE)
    for words in ("sweep/best.py small", "--resume small --num-samples 12", "ui"):
        assert words in done.stdout


def test_mlflow_agrees_with_the_record(finished_sweep):
    home, _ = finished_sweep
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "lm-sweep"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["sweep.trial"]: run for run in runs if run is not parent}
    record = SweepRecord.read(home / "results/small")
    assert children.keys() == record.trials.keys()
    assert parent.info.run_name == "small"
    assert parent.info.status == "FINISHED"
    assert parent.inputs.dataset_inputs[0].dataset.name == "words"
    assert parent.data.metrics["best_val_loss"] == record.best.best_val_loss
    for name, trial in record.trials.items():
        run = children[name]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["outcome"] == trial.outcome
        assert run.info.status == RUN_STATUS[trial.outcome]
        assert float(run.data.params["optim.lr"]) == pytest.approx(
            trial.params["optim.lr"], rel=1e-3
        )
        history = client.get_metric_history(run.info.run_id, "val_loss")
        curve = sorted((point.step, point.value) for point in history)
        assert curve == [(e["step"], e["val_loss"]) for e in trial.evaluations]


def test_best_checkpoint_restores_to_the_same_loss_and_generates(finished_sweep):
    home, _ = finished_sweep
    done = run(home, "sweep/best.py", "small", "--register", "words")
    assert done.returncode == 0, done.stderr
    assert "the same to the last bit" in done.stdout
    record = SweepRecord.read(home / "results/small")
    assert f"recorded {record.best.best_val_loss!r}" in done.stdout
    assert "registered as words version 1" in done.stdout
    exported = home / "results/small/best"
    assert {p.name for p in exported.iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }
    text = run(home, "trainable/generate.py", str(exported), "--prompt", "def ")
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("def ")


def test_status_shows_sweep_and_trials(finished_sweep):
    home, _ = finished_sweep
    everything = run(home, "sweep/status.py")
    assert re.search(r"small\s+complete\s+6/6", everything.stdout)
    one = run(home, "sweep/status.py", "small")
    assert one.returncode == 0, one.stderr
    assert all(f"t{n:03d}" in one.stdout for n in range(6))


def test_the_report_is_written_at_the_end_and_named(finished_sweep):
    home, done = finished_sweep
    path = home / "results/small/report.html"
    assert f"report: {path}" in done.stdout
    html = path.read_text()
    rows = data_of(html)["table"]["rows"]
    assert sorted(row[1] for row in rows) == [f"t{n:03d}" for n in range(6)]
    best = SweepRecord.read(home / "results/small").best
    assert f"Best: {best.name} " in html
    assert f"{best.best_val_loss:.4f}" in html
    events = read_events(home / "results/small")
    workers = {event.get("worker") for event in events if event["event"] == "evaluation"} - {None}
    assert all(re.fullmatch(r"[\w.-]+:\d+", worker) for worker in workers)
    began = next(event for event in events if event["event"] == "session_started")
    assert "cores" in began["machine"]
    assert began["machine"] in html


def test_nothing_is_left_behind(finished_sweep):
    home, _ = finished_sweep
    marker = str(home).encode()

    def processes_of_the_sweep():
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if marker in (process / "environ").read_bytes():
                    found.append(process.name)
            except OSError:
                continue  # it ended while we looked
        return set(found) - {str(os.getpid())}

    wait_for(lambda: not processes_of_the_sweep(), seconds=30)  # Ray's last worker may be ending


def test_a_taken_name_is_refused(finished_sweep):
    home, _ = finished_sweep
    before = (home / "results/small/events.jsonl").read_bytes()
    done = run(home, "sweep/run.py", "--config", str(home / "sweep.yaml"), "--name", "small")
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert "--resume small" in done.stderr
    assert (home / "results/small/events.jsonl").read_bytes() == before


def test_impossible_resources_are_refused_at_once(finished_sweep):
    home, _ = finished_sweep
    config = ("--config", str(home / "sweep.yaml"))
    for flags in (("--cpus-per-trial", "4096"), ("--gpus-per-trial", "512")):
        done = run(home, "sweep/run.py", *config, *flags)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_dry_run_prints_the_plan_and_writes_nothing(finished_sweep):
    home, _ = finished_sweep
    before = sorted((home / "results").iterdir())
    done = run(home, "sweep/run.py", "--config", str(home / "sweep.yaml"), "--dry-run")
    assert done.returncode == 0, done.stderr
    for word in ("trials", "parameters", "FLOP", "tokens", "stops", "time", "MiB"):
        assert word in done.stdout
    assert sorted((home / "results").iterdir()) == before


def test_unnamed_sweeps_that_begin_together_all_get_a_name(project):
    config = sweep_config()
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: start._create(config, "da7a"), range(64)))
    assert sorted(sweep.config.name for _, sweep in made) == [
        f"sweep-{n:03d}" for n in range(1, 65)
    ]
    start._create(sweep_config(name="taken"), "da7a")
    with pytest.raises(SweepError, match="--name taken"):
        start._create(sweep_config(name="taken"), "da7a")


@pytest.mark.slow
def test_a_finished_sweep_can_be_extended(tmp_path):
    config = make_project(tmp_path)
    flags = ("--config", str(config), "--name", "grown", "--num-samples", "3", "--quiet")
    quiet = run(tmp_path, "sweep/run.py", *flags)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert re.fullmatch(r"grown: complete; .* val_loss \d\.\d{4}\n", quiet.stdout)
    first = SweepRecord.read(tmp_path / "results/grown")
    told = upcoming(read_sweep(tmp_path / "results/grown").config, first)
    report = tmp_path / "results/grown/report.html"
    report.unlink()
    report.mkdir()  # a report that cannot be written changes nothing else
    done = run(tmp_path, "sweep/run.py", "--resume", "grown", "--num-samples", "6", "--json")
    assert done.returncode == 0, done.stderr
    assert "report: not written (" in done.stderr
    assert "sweep/report.py grown" in done.stderr
    document = json.loads(done.stdout)
    assert (document["state"], len(document["trials"])) == ("complete", 6)
    assert "resuming grown: " in done.stderr
    record = SweepRecord.read(tmp_path / "results/grown")
    assert len(record.trials) == told.num_samples == 6
    assert record.sessions == 2
    for name, trial in first.trials.items():
        assert record.trials[name] == trial
    assert record.trials["t003"].params == told.params, "as status.py --recommend says"
    params = [tuple(trial.params.values()) for trial in record.trials.values()]
    assert len(set(params)) == 6


@pytest.mark.slow
def test_same_seed_and_one_worker_give_the_same_sweep_twice(tmp_path):
    config = make_project(tmp_path)
    seen = []
    for name in ("once", "again"):
        flags = ("--config", str(config), "--name", name, "--max-concurrent", "1", *FIXED)
        # Few random trials first, so that TPE's own choices are compared, too.
        done = run(tmp_path, "sweep/run.py", *flags, "--search.startup-trials", "3")
        assert done.returncode == 0, done.stderr
        record = SweepRecord.read(tmp_path / "results" / name)
        seen.append(
            {
                trial.name: (
                    trial.params,
                    trial.outcome,
                    [(e["step"], e["val_loss"], e.get("train_loss")) for e in trial.evaluations],
                )
                for trial in record.trials.values()
            }
        )
    assert seen[0] == seen[1]
    assert len(seen[0]) == 6
