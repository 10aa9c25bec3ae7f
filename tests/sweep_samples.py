"""Small sweeps and what happened in them, for the tests of sweep/."""

import io
import zlib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.config.sweep import SweepConfig
from sweep.record.events import Event, EventLog
from sweep.record.folder import SweepFile, create_sweep
from sweep.record.identity import Identity
from sweep.record.planned import PlannedCost
from sweep.record.results import SweepRecord
from trainable.common.errors import ConfigError
from trainable.config.explain import validate

SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "model.d_model": {"choice": [32, 64]},
}
TRIAL = {
    "data": {"dataset": "data/none", "raw_dtype": "uint16", "raw_vocab_size": 257},
    "model": {"d_model": 32, "n_layers": 2, "head_dim": 16, "context_length": 16},
    "train": {"steps": 80, "eval_every": 10, "batch_size": 4, "eval_tokens": 128, "device": "cpu"},
}


def sweep_config(**changes: Any) -> SweepConfig:
    """Return a small sweep by tpe: 80 steps, rungs at 10, 20 and 40; `changes` are top-level."""
    search = {"algorithm": "tpe", **changes.pop("search", {})}
    values = {
        "search": search,
        "num_samples": 8,
        "space": SPACE,
        "asha": {"grace_period": 10, "reduction_factor": 2},
        "trial": TRIAL,
    }
    return validate(SweepConfig, {**values, **changes}, "sample")


def planned_cost(steps: float = 100.0, seconds: float | None = 60.0) -> PlannedCost:
    """Return what a sweep is expected to take."""
    return PlannedCost(seconds=seconds, steps=steps, disk_bytes=0, standard_error=None)


def refusal(**changes: Any) -> str:
    """Return the message with which a small sweep with `changes` is refused."""
    with pytest.raises(ConfigError) as caught:
        sweep_config(**changes)
    return str(caught.value)


def new_sweep(name: str, config: SweepConfig | None = None) -> tuple[Path, SweepFile]:
    """Make a sweep's folder in the test's project; return it and its sweep.json."""
    identity = Identity(
        sweep_id=f"id-of-{name}",
        created=1_700_000_000.0,
        dataset_digest="da7a5e7",
        code_digest="c0de",
        git_commit="0123abc",
        versions={"torch": "2"},
    )
    sweep = SweepFile(identity=identity, config=config or sweep_config())
    return create_sweep(name, sweep), sweep


def event(kind: str, **facts: Any) -> Event:
    """Return an event; its time is 1,700,000,000 unless told."""
    return {"event": kind, "time": 1_700_000_000.0, **facts}


def session(number: int = 1, num_samples: int = 8, **facts: Any) -> Event:
    """Return the start of a session."""
    return event("session_started", session=number, num_samples=num_samples, **facts)


def started(trial: str, lr: float = 1e-3, d_model: int = 32, **facts: Any) -> Event:
    """Return the start of a trial."""
    params = {"optim.lr": lr, "model.d_model": d_model}
    return event("trial_started", **{"trial": trial, "params": params, **facts})


def evaluated(trial: str, step: int, val_loss: float, **metrics: Any) -> Event:
    """Return an evaluation, at a time that differs with the step."""
    numbers = {"step": step, "val_loss": val_loss, **metrics}
    return event("evaluation", trial=trial, metrics=numbers, time=1_700_000_000.0 + step)


def saved(trial: str, step: int, val_loss: float, path: str | None = None) -> Event:
    """Return the record of a checkpoint."""
    path = path or f"session-1/{trial}/a-1/checkpoint_{step:06d}"
    return event("checkpoint", trial=trial, step=step, val_loss=val_loss, path=path)


def ended(trial: str, outcome: str, step: int = 80, **facts: Any) -> Event:
    """Return a trial's outcome."""
    told = {"rung": step if outcome == "stopped" else None, "reason": None, **facts}
    return event("outcome", trial=trial, outcome=outcome, step=step, **told)


def run_of(trial: str, losses: dict[int, float], outcome: str | None, **facts: Any) -> list[Event]:
    """Return a trial's whole story; `facts` are its start's (lr, d_model)."""
    events = [started(trial, **facts)]
    events += [evaluated(trial, step, loss) for step, loss in losses.items()]
    if outcome is not None:
        reason = "why" if outcome in ("diverged", "out_of_memory", "failed") else None
        events.append(ended(trial, outcome, step=max(losses, default=0), reason=reason))
    return events


def record_of(*events: Event | list[Event]) -> SweepRecord:
    """Return the record of events, in order."""
    record = SweepRecord()
    record.apply_all(flat(*events))
    return record


def write_events(folder: Path, *events: Event | list[Event]) -> None:
    """Append events to a sweep's record."""
    log = EventLog(folder)
    for item in flat(*events):
        facts = dict(item)
        log.append(facts.pop("event"), **facts)
    log.close()


def sealed(text: bytes) -> bytes:
    """Return the text of a JSON object as a line of the record, with the checksum that fits it."""
    body = text.removesuffix(b"}")
    return b'%b, "crc32": "%08x"}\n' % (body, zlib.crc32(body))


def flat(*events: Event | list[Event]) -> list[Event]:
    """Return events and lists of events as one list."""
    return [e for item in events for e in (item if isinstance(item, list) else [item])]


def shown(renderable: Any) -> str:
    """Return what the terminal would show, 160 columns wide."""
    console = Console(width=160, file=io.StringIO())
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()
