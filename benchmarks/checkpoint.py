"""Checkpoints: a verified folder against the plain writing, or reading, of the same bytes.

The notes tell what parts of it take alone, in the same unit. A trial waits for the copy in memory
only: the rest happens beside its next steps.

Plain writing: one file, fsync, rename, fsync of the folder, in the same place. Plain reading:
Path.read_bytes. Both sides of a reading start from the disk, as after a restart, or from the page
cache, where a copy takes a fifth of the time that any good digest does.
"""

import io
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from benchmarks.measure import Bar, Row, interleave, ratio
from benchmarks.samples import trial
from trainable.checkpoint.contract import training_state
from trainable.common.files import write_atomic
from trainable.training.trainer import Trainer

SIZES = {
    "1 M": {"model.d_model": 128, "model.n_layers": 4},
    "10 M": {"model.d_model": 384, "model.n_layers": 6},
    "50 M": {"model.d_model": 768, "model.n_layers": 7},
}
"""By number of parameters; the state is three times that in fp32, with AdamW's two means."""


def rows(short: bool) -> Iterator[Row]:
    """Yield the rows of this part."""
    for name, values in SIZES.items():
        if short and name != "1 M":
            return
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # not on a tmpfs
            rounds = {"1 M": 31, "10 M": 15, "50 M": 9}[name]
            yield from _rows(name, Path(folder), _trained(values), 7 if short else rounds)


def _trained(values: dict[str, Any]) -> Trainer:
    trainer = trial(values)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    trainer.optimizer.step()  # AdamW has its means only now
    trainer.optimizer.zero_grad(set_to_none=True)
    return trainer


def _rows(name: str, folder: Path, trainer: Trainer, rounds: int) -> Iterator[Row]:
    manifest = trainer.save(folder / "ours")
    state = folder / "ours" / manifest.state_file
    content = state.read_bytes()
    weight = next(trainer.model.parameters())

    def save() -> None:
        with torch.no_grad():
            weight.view(-1)[0] += 1  # another digest, so another file, as between two evaluations
        trainer.save(folder / "ours")

    def whole_state() -> dict[str, Any]:
        return training_state(trainer.model, trainer.optimizer, 0)

    def torch_save() -> None:
        with (folder / "torch").open("wb") as file:
            torch.save(whole_state(), file)
            file.flush()
            os.fsync(file.fileno())

    saving: dict[str, Callable[[], object]] = {
        "plain": lambda: write_atomic(folder / "plain", content),
        "ours": save,
        "torch": torch_save,
        "copy": trainer.snapshot,
        "BLAKE3": lambda: blake3(content).digest(),
        "torch.save to memory": lambda: torch.save(whole_state(), io.BytesIO()),
    }
    taken = interleave(saving, rounds)
    note = f"{len(content) / 1e6:,.0f} MB; " + parts(taken, "BLAKE3", "torch.save to memory")
    unit = "x writing and fsyncing the bytes"
    ours = ratio(taken["ours"], taken["plain"])
    yield Row("checkpoint", f"save {name}", *ours, unit, Bar(at_most=1.3), note=note)
    yield Row(
        "checkpoint",
        f"training waits for a save of {name}",
        *ratio(taken["copy"], taken["ours"]),
        unit="x the save",
        bar=Bar(at_most=1.0),
        note=f"{1e3 * statistics.median(taken['copy']):.1f} ms, for the copy in memory",
        margin=1.0,
    )
    yield Row(
        "checkpoint",
        f"torch.save and fsync {name}",
        *ratio(taken["torch"], taken["plain"]),
        unit,
        note="a peer: no digest, not atomic",
        margin=None,
    )
    for cold in (True, False):
        yield _loading(name, folder, trainer, rounds, cold)


def _loading(name: str, folder: Path, trainer: Trainer, rounds: int, cold: bool) -> Row:
    (state,) = (folder / "ours").glob("state-*.pt")
    plain = folder / "plain"
    content = plain.read_bytes()
    reading: dict[str, Callable[[], object]] = {
        "ours": lambda: trainer.load(folder / "ours"),
        "plain": plain.read_bytes,
        "BLAKE3": lambda: blake3(content).digest(),
        "torch.load from memory": lambda: torch.load(io.BytesIO(content), weights_only=True),
    }
    taken: dict[str, list[float]] = {side: [] for side in reading}
    for number in range(rounds + 1):
        for side in reading if number % 2 else reversed(list(reading)):
            for path in (state, plain):
                _forget(path) if cold else path.read_bytes()
            (seconds,) = interleave({side: reading[side]}, 1, warm_up=0)[side]
            if number:
                taken[side].append(seconds)
    return Row(
        "checkpoint",
        f"load {name}, {'from disk' if cold else 'from the page cache'}",
        *ratio(taken["ours"], taken["plain"]),
        unit="x reading the bytes",
        bar=Bar(at_most=1.5) if cold else Bar(),
        note=parts(taken, "BLAKE3", "torch.load from memory"),
        margin=0.35 if cold else None,
    )


def parts(taken: dict[str, list[float]], *names: str) -> str:
    """Return what some sides take beside the plain one, in words."""
    plain = statistics.median(taken["plain"])
    return ", ".join(f"{name} {statistics.median(taken[name]) / plain:.2f}" for name in names)


def _forget(path: Path) -> None:
    """Drop a file from the page cache, where the system can."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
