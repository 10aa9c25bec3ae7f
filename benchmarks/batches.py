"""Batches: against the textbook loader, as a share of a step, and from a file of any size.

The textbook loader is CS336's and nanoGPT's: draw the starts with torch, slice the memory-mapped
file once for each window of x and of y, widen, and stack.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import MIB, Bar, Row, interleave, middle, ratio, resident
from benchmarks.samples import trial
from trainable.data.batches import batch_rng, get_batch
from trainable.data.tokenfile import open_raw


def rows(short: bool) -> Iterator[Row]:
    """Yield the rows of this part."""
    rounds = 7 if short else 31
    with tempfile.TemporaryDirectory() as folder:
        yield from _against_the_textbook(Path(folder), rounds)
        yield _share_of_a_step(rounds)
        yield from _memory(Path(folder), 200 if short else 2_000)
        yield from _vocabulary_check(Path(folder), (32 if short else 256) * MIB, min(rounds, 9))


def textbook_batch(
    data: NDArray[Any], batch_size: int, context_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a batch as textbooks do."""
    starts = torch.randint(len(data) - context_length, (batch_size,))
    x = [torch.from_numpy(data[i : i + context_length].astype(np.int64)) for i in starts]
    y = [torch.from_numpy(data[i + 1 : i + 1 + context_length].astype(np.int64)) for i in starts]
    return torch.stack(x), torch.stack(y)


def _against_the_textbook(folder: Path, rounds: int) -> Iterator[Row]:
    path = folder / "tokens.bin"
    np.random.default_rng(0).integers(0, 50_257, 10_000_000).astype(np.uint16).tofile(path)
    data = np.memmap(path, dtype=np.uint16, mode="r")
    ours = np.asarray(data)  # as open_dataset maps it
    steps = itertools.count()
    for batch, context in ((64, 256), (8, 128)):
        sides: dict[str, Callable[[], object]] = {
            "textbook": lambda b=batch, c=context: textbook_batch(data, b, c),
            "ours": lambda b=batch, c=context: get_batch(
                ours, b, c, "cpu", rng=batch_rng(0, next(steps))
            ),
        }
        taken = interleave(
            {name: _often(side, 20) for name, side in sides.items()}, rounds, time.thread_time
        )
        figure, low, high = ratio(taken["textbook"], taken["ours"])
        bar = Bar(at_least=5) if (batch, context) == (64, 256) else Bar()
        yield Row("batches", f"{batch}x{context}", figure, low, high, "x the textbook loader", bar)


def _share_of_a_step(rounds: int) -> Row:
    trainer = trial()
    tokens = trainer.dataset.train.tokens
    steps = itertools.count(1)
    sides: dict[str, Callable[[], object]] = {
        "batch": _often(
            lambda: get_batch(tokens, 8, 128, "cpu", rng=batch_rng(0, next(steps))), 20
        ),
        "step": lambda: trainer.train_step(next(steps) % 500 + 1),
    }
    taken = interleave(sides, rounds, time.thread_time)
    shares = ([100 * seconds / 20 for seconds in taken["batch"]], taken["step"])
    return Row(
        "batches",
        "8x128, part of a step",
        *ratio(*shares),
        "% of a step",
        Bar(at_most=1),
        margin=3.0,
    )


def _memory(folder: Path, batches: int) -> Iterator[Row]:
    if not Path("/proc/self/status").exists():
        return
    path = folder / "sparse.bin"
    with path.open("wb") as sparse:
        sparse.truncate(100 * 10**9)
    tokens = np.memmap(path, dtype=np.uint16, mode="r")

    def draw(steps: range) -> None:
        for step in steps:
            get_batch(tokens, 64, 256, "cpu", rng=batch_rng(0, step))

    draw(range(50))
    before, mapped = resident("RssAnon"), resident("RssFile")
    draw(range(50, 50 + batches))
    grown = (resident("RssAnon") - before) / MIB
    cached = (resident("RssFile") - mapped) / MIB
    yield Row(
        "batches",
        "memory, sparse 100 GB file",
        grown,
        grown,
        grown,
        f"MiB more after {batches:,} batches",
        Bar(at_most=4),
        note=f"and {cached:+,.0f} MiB of mapped files, which the system takes back at will",
        margin=None,
    )


def _vocabulary_check(folder: Path, size: int, rounds: int) -> Iterator[Row]:
    path = folder / "check.bin"
    np.random.default_rng(0).integers(0, 257, size // 2).astype(np.uint16).tofile(path)
    clock = time.thread_time
    taken: dict[str, list[float]] = {"first": [], "again": []}
    with _cache_in(folder / "cache"):
        for _ in range(rounds):
            os.utime(path)  # changed, for all that the remembered check knows
            for name in taken:
                started = clock()
                open_raw(path, "uint16", 257)
                taken[name].append(clock() - started)
    rates = [size / 1e9 / seconds for seconds in taken["first"]]
    yield Row(
        "batches",
        "vocabulary check and digest",
        *middle(rates),
        "GB/s",
        Bar(at_least=1.5),
        note="of a uint16 file in the page cache, one thread",
        margin=None,
    )
    again = [1e3 * seconds for seconds in taken["again"]]
    yield Row(
        "batches",
        "vocabulary check, remembered",
        *middle(again),
        "ms",
        margin=None,
    )


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    old = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        if old is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = old


def _often(side: Callable[[], object], times: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(times):
            side()

    return repeat
