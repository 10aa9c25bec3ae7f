"""Faults inside a sweep: trials that raise, die or diverge; mistaken resumes; two of one name."""

import json
import os
import re
import resource
import signal

import pytest
from live_sweeps import ALONE, ENDLESS, FIXED, UNTRACKED, events, make_project, run, start_and_wait

from sweep.record.folder import read_sweep, write_sweep
from sweep.record.results import SweepRecord
from trainable.data.build import prepare
from trainable.data.corpus import TextFiles

pytestmark = [pytest.mark.slow, pytest.mark.fault]
FAULTS = """
num_samples: 5
max_failures: 1
space:
  optim.lr: {loguniform: [1e-3, 1000]}
  optim.weight_decay: {choice: [0.0, 1000.0]}
  model.d_ff: {choice: [64, WIDE]}
  train.device: {choice: [cpu, "cuda:7"]}
start_points:
  - {optim.lr: 0.01, optim.weight_decay: 0.0, model.d_ff: 64, train.device: cpu}
  - {optim.lr: 1000.0, optim.weight_decay: 1000.0, model.d_ff: 64, train.device: cpu}
  - {optim.lr: 0.01, optim.weight_decay: 0.0, model.d_ff: WIDE, train.device: cpu}
  - {optim.lr: 0.01, optim.weight_decay: 0.0, model.d_ff: 64, train.device: "cuda:7"}
  - {optim.lr: 0.02, optim.weight_decay: 0.0, model.d_ff: 64, train.device: cpu}
asha: {enabled: false}
keep_checkpoints: 1
trial:
  data: {dataset: data/long}
  model: {d_model: 32, n_layers: 1, head_dim: 16, context_length: 32}
  train: {steps: 40, batch_size: 4, eval_every: 10, eval_tokens: 8192,
          precision: fp32, attention: products, compile: never}
"""


def test_each_fault_ends_its_own_trial_only(tmp_path):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wide = int(1.25 * memory / (8_192 * 2 * 4))  # gates and values of 8,192 tokens do not fit
    if wide > 1_000_000:
        pytest.skip("a layer too wide for this memory takes too long to make")
    text = tmp_path / "long.txt"
    text.write_text("<|endoftext|>".join(f"document {n} " * 1_000 for n in range(3)))
    prepare(TextFiles([text]), tmp_path / "data" / "long")
    config = tmp_path / "faults.yaml"
    config.write_text(FAULTS.replace("WIDE", str(wide)))
    flags = ("--name", "faults", "--max-concurrent", "1")
    done = run(tmp_path, "sweep/run.py", "--config", str(config), *flags)
    if "disk:" in done.stderr:
        pytest.skip("no 6 GB of disk for the plan of a model that does not fit into memory")
    assert done.returncode == 0, done.stderr + done.stdout
    record = SweepRecord.read(tmp_path / "results" / "faults")
    outcomes = {name: trial.outcome for name, trial in record.trials.items()}
    assert outcomes == {
        "t000": "finished",
        "t001": "diverged",
        "t002": "out_of_memory",
        "t003": "failed",
        "t004": "finished",
    }
    assert record.best.name in ("t000", "t004")
    assert re.search(r"step \d+ with learning rate", record.trials["t001"].reason)
    assert "memory" in record.trials["t002"].reason
    assert "cuda:7" in record.trials["t003"].reason
    assert re.search(r"t003 failed: .*cuda:7", done.stdout)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs(["1"], "tags.`sweep.trial` LIKE 't%'")
    told = {r.data.tags["sweep.trial"]: (r.info.status, r.data.tags["outcome"]) for r in runs}
    assert told == {
        "t000": ("FINISHED", "finished"),
        "t001": ("FINISHED", "diverged"),
        "t002": ("FAILED", "out_of_memory"),
        "t003": ("FAILED", "failed"),
        "t004": ("FINISHED", "finished"),
    }
    reasons = {r.data.tags["sweep.trial"]: r.data.tags.get("outcome.reason") for r in runs}
    assert "cuda:7" in reasons["t003"]
    status = run(tmp_path, "sweep/status.py", "faults").stdout
    assert "cuda:7" in status
    assert "diverged" in status


def test_only_one_process_runs_a_sweep(tmp_path, start):
    folder = tmp_path / "results" / "one"
    sweep = start_and_wait(start, tmp_path, "one", *ENDLESS, *ALONE, *UNTRACKED, step=500)
    config = ("--config", str(tmp_path / "sweep.yaml"))
    second = run(tmp_path, "sweep/run.py", *config, "--name", "one")
    assert second.returncode == 2
    assert "exists" in second.stderr
    resume = ("sweep/run.py", "--resume", "one")
    resumed = run(tmp_path, *resume)
    assert resumed.returncode == 2
    assert "another process is running it" in resumed.stderr
    assert "running" in run(tmp_path, "sweep/status.py").stdout
    assert sweep.poll() is None
    sweep.send_signal(signal.SIGTERM)
    sweep.communicate(timeout=60)
    assert SweepRecord.read(folder).sessions == 1


def test_a_record_that_cannot_be_written_ends_the_sweep_with_one_line(tmp_path, start):
    folder = tmp_path / "results" / "unwritable"
    sweep = start_and_wait(start, tmp_path, "unwritable", *ENDLESS, *ALONE, *UNTRACKED, step=500)
    size = (folder / "events.jsonl").stat().st_size
    resource.prlimit(sweep.pid, resource.RLIMIT_FSIZE, (size, size))
    output, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 2, output + errors
    told = r"^error: sweep unwritable: its record cannot be written \(.*--resume unwritable`$"
    assert re.search(told, errors, re.MULTILINE)  # beside Ray's own complaints of its log files
    assert "Traceback" not in errors


def test_a_resume_with_another_config_data_or_code_is_refused(tmp_path):
    config = make_project(tmp_path)
    flags = ("--name", "same", "--num-samples", "2", *ALONE, *UNTRACKED, *FIXED)
    assert run(tmp_path, "sweep/run.py", "--config", str(config), *flags).returncode == 0
    folder = tmp_path / "results" / "same"
    resume = ("sweep/run.py", "--resume", "same", "--num-samples", "3")
    before = (folder / "events.jsonl").read_bytes()

    done = run(tmp_path, *resume, "--trial.optim.weight-decay", "0.5")
    assert done.returncode == 2
    assert "trial.optim.weight_decay: 0.1 -> 0.5" in done.stderr

    original = read_sweep(folder)
    other = original.identity.model_copy(update={"code_digest": "0" * 16})
    write_sweep(folder, original.model_copy(update={"identity": other}))
    done = run(tmp_path, *resume)
    assert done.returncode == 2
    assert "began with 0000000000000000" in done.stderr
    write_sweep(folder, original)

    tokens = tmp_path / "data" / "words" / "train.npy"
    content = bytearray(tokens.read_bytes())
    content[-6] ^= 1
    tokens.write_bytes(content)
    done = run(tmp_path, *resume)
    assert done.returncode == 2
    assert "dataset" in done.stderr
    content[-6] ^= 1
    tokens.write_bytes(content)
    assert (folder / "events.jsonl").read_bytes() == before

    threads = min(2, len(os.sched_getaffinity(0)))
    allowed = ("--max-concurrent", "2", "--cpus-per-trial", str(threads))
    done = run(tmp_path, *resume, *allowed)
    assert done.returncode == 0, done.stderr
    assert len(SweepRecord.read(folder).trials) == 3
    warning = "warning: 2 threads a trial instead of 1: low-order bits will differ"
    assert (warning in done.stdout) == (threads == 2)

    *whole, outcome, _ = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "events.jsonl").write_bytes(b"".join(whole))  # killed after the last checkpoint
    assert json.loads(whole[-1])["event"] == "checkpoint"
    done = run(tmp_path, *resume, *allowed)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    ended, closed = events(folder)[-2:]
    assert (ended["event"], ended["outcome"]) == ("outcome", json.loads(outcome)["outcome"])
    assert (closed["event"], closed["completed"]) == ("session_ended", True)
