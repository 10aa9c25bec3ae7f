"""Real sweeps in real processes, for the tests: make a project, run a command, look inside."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweep.record.results import SweepRecord
from trainable.data.build import prepare
from trainable.data.corpus import TextFiles

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


def run(
    home: Path, script: str, *arguments: str, before: tuple[str, ...] = (), **more_env: str
) -> subprocess.CompletedProcess:
    """Run a command of the checkout from a folder that is not the project's.

    `before` is what the shell command begins with.
    """
    elsewhere = home / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    env |= {"LM_SWEEP_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **more_env}
    return subprocess.run(
        [*before, sys.executable, str(ROOT / script), *arguments],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def own_mount(command: str) -> tuple[str, ...]:
    """Return what a shell command begins with to run where a mount is made for it alone."""
    before = ("unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("mounting in a namespace of one's own takes root")
    return before


# Nothing to probe: a fault's test starts a sweep several times.
FIXED = ("--trial.train.precision", "fp32", "--trial.train.attention", "products")
FIXED += ("--trial.train.compile", "never")
# Steps slow enough that a fault finds trials in their middle, few enough to end soon.
SLOWER = ("--trial.train.steps", "2000", "--trial.train.eval-every", "100", "--num-samples", "3")
SLOWER += FIXED
# Trials that run until something ends them, with a report every half a second or so; one at a time
# leaves a core to the other tests.
ENDLESS = ("--trial.train.steps", "1000000", "--trial.train.eval-every", "500", "--asha.no-enabled")
ENDLESS += FIXED
REPORT = 1  # second
ALONE = ("--max-concurrent", "1")
UNTRACKED = ("--tracking.no-enabled",)
WORKER = rb"ray::ResourceTrainable"


def start_and_wait(start, home: Path, name: str, *flags: str, step: int) -> subprocess.Popen:
    """Start a sweep in a new project, or resume one; return it once a trial is at `step`."""
    folder = home / "results" / name
    if folder.exists():
        sweep = start(home, "--resume", name, *flags)
        before = len(events(folder))
    else:
        sweep = start(home, "--config", str(make_project(home)), "--name", name, *flags)
        before = 0

    def there() -> bool:
        assert sweep.poll() is None, sweep.communicate()
        return evaluated(folder, step, since=before)

    wait_for(there)
    return sweep


def events(folder: Path) -> list[dict]:
    """Return the whole lines of a sweep's record."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(condition, seconds: float = 300.0) -> None:
    """Wait until `condition()` holds; return what it then is."""
    deadline = time.monotonic() + seconds
    while not (there := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return there


def promised(seconds: float) -> float:
    """Return the seconds that something may take: more of them beside other tests."""
    alone = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) == 1
    return seconds if alone else 4 * seconds


def read_until(sweep: subprocess.Popen, pattern: str, seconds: float = 120.0) -> str:
    """Return what a sweep that `start` began writes up to a line; end it if the line stays away."""
    timer = threading.Timer(seconds, sweep.kill)
    timer.start()
    output = ""
    try:
        for line in sweep.stdout:
            output += line
            if re.search(pattern, line):
                return output
    finally:
        timer.cancel()
    raise AssertionError(f"{pattern!r} is not in {output!r}")


def evaluated(folder: Path, step: int, since: int = 0) -> bool:
    """Say whether a trial has reported a step, or a later one, after the first `since` events."""
    told = [e["metrics"] for e in events(folder)[since:] if e["event"] == "evaluation"]
    return any(metrics["step"] >= step for metrics in told)


def bytes_read() -> int:
    """Return how many bytes this process has read from files, pipes and sockets."""
    told = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in told if line.startswith("rchar:"))


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def gone(pids: list[int]) -> bool:
    """Say whether all these processes have ended."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def processes(pid: int, pattern: bytes) -> list[int]:
    """Return the processes below `pid` whose command line begins with a pattern."""
    found = []
    for child in descendants(pid):
        try:
            if re.match(pattern, Path(f"/proc/{child}/cmdline").read_bytes()):
                found.append(child)
        except OSError:
            continue
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
