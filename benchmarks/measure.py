"""How things are compared: both sides in turn, and the ratio of the medians with its quartiles."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

Clock = Callable[[], float]
MIB = 2**20


@dataclass(frozen=True)
class Bar:
    """What a figure must reach: a floor, a ceiling, both, or nothing."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, figure: float) -> bool:
        """Say whether a figure reaches it."""
        above = self.at_least is None or figure >= self.at_least
        return above and (self.at_most is None or figure <= self.at_most)

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} .. {self.at_most:g}"
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    part: str
    """Which part of the product, e.g. "step"."""
    case: str
    """What was run, e.g. "d128 32x128 V257 bf16"; part and case name the row in the baseline."""
    figure: float
    """The median, or the ratio of two medians."""
    low: float
    """Lower quartile of the figure over the rounds; the figure itself where there is one round."""
    high: float
    """Upper quartile."""
    unit: str
    """What the figure is, e.g. "x HF Llama eager fp32", "s", "% of a trial"."""
    bar: Bar = Bar()
    peak: float | None = None
    """Share of the machine's measured matrix-multiply peak, where FLOPs are counted."""
    note: str = ""
    margin: float | None = 0.35
    """How much worse than the baseline `--check` lets it be, as a share; None: times, which are
    never compared between machines."""

    @property
    def met(self) -> bool:
        """Whether the bar is reached."""
        return self.bar.met(self.figure)

    @property
    def smaller_is_better(self) -> bool:
        """Whether the bar is a ceiling."""
        return self.bar.at_most is not None

    @property
    def verdict(self) -> str:
        """The bar and whether it is reached, in words; empty without one."""
        return f"{self.bar} {'met' if self.met else 'MISSED'}" if str(self.bar) else ""

    def as_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return {**asdict(self), "met": self.met}


def interleave(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Clock = time.perf_counter,
    warm_up: int = 1,
) -> dict[str, list[float]]:
    """Run all sides in turn, `rounds` times; return the seconds of each, round by round.

    Args:
        sides: by name; what each does in one round.
        rounds: how often; the order turns round in every other one.
        clock: time.thread_time where only this thread works: neighbours then do not count.
        warm_up: rounds before, that do not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for number in range(-warm_up, rounds):
        for name in sides if number % 2 else reversed(list(sides)):
            started = clock()
            sides[name]()
            elapsed = clock() - started
            if number >= 0:
                taken[name].append(elapsed)
    return taken


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Return the ratio of the medians, and the quartiles of the rounds' own ratios."""
    rounds = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(above) / statistics.median(below), *quartiles(rounds)


def middle(figures: list[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles."""
    return statistics.median(figures), *quartiles(figures)


def quartiles(figures: list[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile."""
    if len(figures) < 2:
        return figures[0], figures[0]
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
    return low, high


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return what is worth measuring: fp32 alone on a processor without products in bf16.

    There they are emulated, at a tenth of the speed and less, and no trial takes them.
    """
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    fast = device.type != "cpu" or words & {"avx512_bf16", "bf16"}
    return ("fp32", "bf16") if fast else ("fp32",)


@cache
def peak_flops(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Return this machine's best FLOP/s in a plain matrix product, with torch's threads of now.

    The best of several sizes that fit the caches: what a training step could at most reach.
    """
    # On a CPU this thread's own time, as for what is compared with it.
    clock = time.thread_time if device == "cpu" else time.perf_counter
    best = 0.0
    for size in (256, 512, 1_024) if device == "cpu" else (4_096, 8_192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(8):
            started = clock()
            for _ in range(4):
                a @ b
            if device != "cpu":
                torch.cuda.synchronize()
            best = max(best, 4 * 2 * size**3 / (clock() - started))
    return best


def resident(kind: str) -> float:
    """Return bytes of this process's memory: RssAnon, RssFile, VmRSS or its peak, VmHWM.

    NaN where the system does not tell.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    return math.nan


def forget_peak() -> None:
    """Let VmHWM start again from what is resident now, where there is one."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
