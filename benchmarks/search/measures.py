"""What is asked of a simulated sweep: how good its answers are, and how well it knows it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.search.simulator import Replay, common_luck
from benchmarks.search.table import Array, Size, Table
from sweep.analysis.recommendation import recommend
from sweep.analysis.study import Study
from sweep.config.space import RATE
from sweep.config.sweep import SweepConfig

WITHIN = 1.2816
"""Deviations on either side of the mean that hold 80 %."""


def regret(table: Table, params: Mapping[str, Any]) -> float:
    """Return a configuration's true final loss less the table's least, nats."""
    return table.final(params) - table.least


def regrets(
    table: Table,
    replay: Replay,
    shares: Sequence[float],
    seconds: float | None = None,
    flops: float | None = None,
) -> list[float]:
    """Return the regrets of what would have been returned at shares of a time, or of FLOPs.

    That is the trial with the lowest loss so far; its regret is by the loss that its configuration
    would come to, were it trained to the end. Before the first loss it is the first trial's.
    """
    found = []
    for share in shares:
        known = [
            answer
            for answer in replay.answers
            if (seconds is None or answer.seconds <= share * seconds)
            and (flops is None or answer.flops <= share * flops)
        ]
        found.append(regret(table, (known or replay.answers[:1])[-1].params))
    return found


@dataclass(frozen=True)
class SizesFound:
    """How well a sweep knows the best rate of each size that it tried, each a mean over them."""

    octaves: float
    """Distance of its rate from the truly best one: |log2|."""
    regret: float
    """True final loss at what it names best, less the size's least, nats."""


def by_rule(table: Table, replay: Replay) -> SizesFound:
    """Judge the rule of comparing losses: the trial of a size with the lowest last loss."""
    best: dict[Size, tuple[float, dict[str, Any]]] = {}
    for trial in replay.record.trials.values():
        if trial.evaluations:
            size, _ = table.split(trial.params)
            loss = trial.evaluations[-1]["val_loss"]
            if size not in best or loss < best[size][0]:
                best[size] = loss, trial.params
    return _judged(table, [params for _, params in best.values()])


@dataclass(frozen=True)
class Fitted:
    """How well the product's fit knows what a sweep found."""

    sizes: SizesFound
    held: float | None
    """How often a trial at what it names best of a size ends within its interval of 80 %: the
    table's expected loss there with the sweep's luck and each of the table's deviations of one
    trial. None where no trial came to its end."""
    recommended: float
    """Regret of what `status.py --recommend` would train in full, nats: it need not be a trial."""


def by_fit(table: Table, config: SweepConfig, replay: Replay) -> Fitted:
    """Judge the product's fit to all that a sweep saw."""
    study = Study(config, replay.record)
    best = recommend(study).in_full.params
    sizes = [name for name in config.space if name.startswith("model.")]
    others = [name for name in config.space if name not in sizes]
    named, held = [], []
    for row in study.sizes:
        params = dict(zip((*sizes, *others), (*row.size, *row.best), strict=True))
        named.append(params)
        if row.loss is not None:
            common = common_luck(table, table.split(params)[0], config.seed)[-1]
            own = table.luck.own[:, -1]
            ends = table.final(params) + common + np.concatenate([own, -own])
            held.append(np.mean(np.abs(ends - row.loss) <= WITHIN * row.deviation))
    mean_held = float(np.mean(held)) if held else None
    return Fitted(_judged(table, named), mean_held, regret(table, best))


def interval(figures: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the bootstrap interval of a mean over seeds (n,)."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(figures), size=(2_000, len(figures)))
    low, high = np.quantile(figures[drawn].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(above: Array, below: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the bootstrap interval of a ratio of means over the same seeds, (n,) each."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(above), size=(2_000, len(above)))
    ratios = above[drawn].mean(1) / below[drawn].mean(1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _judged(table: Table, named: Sequence[Mapping[str, Any]]) -> SizesFound:
    octaves, costs = [], []
    rate = table.free.index(RATE)
    for params in named:
        size, free = table.split(params)
        best, least = table.best(size)
        octaves.append(abs(math.log2(free[rate] / best[rate])))
        costs.append(table.final(params) - least)
    return SizesFound(float(np.mean(octaves)), float(np.mean(costs)))
