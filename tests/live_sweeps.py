"""Real sweeps in real processes, for the tests: make a project, run a command, look inside."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from sweep.results import SweepRecord
from trainable.corpus import TextFiles
from trainable.prepare import prepare

ROOT = Path(__file__).resolve().parents[1]
SWEEP = """
num_samples: 6
space:
  optim.lr: {loguniform: [1e-5, 3e-2]}
  model.d_model: {choice: [16, 32]}
start_points:
  - {optim.lr: 1e-2, model.d_model: 32}
asha: {reduction_factor: 2}
trial:
  data: {dataset: data/words}
  model: {n_layers: 1, head_dim: 16, context_length: 32}
  train: {steps: 40, batch_size: 4, eval_every: 10, eval_tokens: 512}
"""


def make_project(home: Path) -> Path:
    """Make a project folder with a small dataset and a sweep's config; return the config."""
    text = home / "text"
    text.mkdir(parents=True)
    for n in range(30):
        words = " ".join(f"def f{i}(x): return x + {i * n}" for i in range(40))
        (text / f"{n:02d}.txt").write_text(words + "\n")
    prepare(TextFiles([text]), home / "data" / "words")
    config = home / "sweep.yaml"
    config.write_text(SWEEP)
    return config


def run(home: Path, script: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run a command of the checkout from a folder that is not the project's."""
    elsewhere = home / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    env |= {"LM_SWEEP_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


# Steps slow enough that a signal finds trials in their middle.
SLOWER = ("--trial.train.steps", "2000", "--trial.train.eval-every", "100", "--num-samples", "4")


def events(folder: Path) -> list[dict]:
    """Return the whole lines of a sweep's record."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(condition, seconds: float = 120.0) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def evaluated(folder: Path, step: int, trials: int = 1) -> bool:
    """Say whether so many trials have reported so far a step."""
    seen = {
        e["trial"]
        for e in events(folder)
        if e["event"] == "evaluation" and e["metrics"]["step"] >= step
    }
    return len(seen) >= trials


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def processes(pid: int, pattern: bytes) -> list[int]:
    """Return the processes below `pid` whose command line begins with a pattern."""
    found = []
    for child in descendants(pid):
        try:
            if re.match(pattern, Path(f"/proc/{child}/cmdline").read_bytes()):
                found.append(child)
        except OSError:
            continue
    assert found
    return found


def assert_whole(home: Path, name: str, steps: int, trials: int) -> SweepRecord:
    """Every trial ended once and for all, curves are without doubled steps, MLflow agrees."""
    from mlflow import MlflowClient

    record = SweepRecord.read(home / "results" / name)
    assert sorted(record.trials) == [f"t{n:03d}" for n in range(trials)]
    assert {t.outcome for t in record.trials.values()} <= {"finished", "stopped"}
    params = [tuple(t.params.values()) for t in record.trials.values()]
    assert len(set(params)) == trials
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs(["1"], f"tags.`sweep.name` = '{name}'", max_results=1000)
    assert len(runs) == trials + 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    for child in runs:
        trial = record.trials.get(child.data.tags.get("sweep.trial", ""))
        if trial is None:
            continue
        reported = [e["step"] for e in trial.evaluations]
        assert reported == sorted(set(reported))
        assert trial.step == (steps if trial.outcome == "finished" else trial.rung)
        points = client.get_metric_history(child.info.run_id, "val_loss")
        assert sorted(point.step for point in points) == reported
        assert child.data.tags["outcome"] == trial.outcome
    return record
