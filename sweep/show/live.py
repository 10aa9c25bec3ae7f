"""A running sweep at a glance: the best trials, the running ones, and why the last ones ended."""

import bisect
import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterator
from itertools import zip_longest

from rich.console import ConsoleOptions, JustifyMethod
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.analysis.sizes import size_fields
from sweep.analysis.words import (
    counts_text,
    loss_text,
    outcome_text,
    rung_text,
    short_name,
    show_value,
    size_text,
)
from sweep.config.sweep import SweepConfig
from sweep.record.lines import Event
from sweep.record.results import SweepRecord, TrialRecord
from sweep.search.rungs import group_of
from sweep.show.console import plain

BEST = 5
RUNNING = 8
"""Running trials that are shown; of more, their number."""
ENDS = 4
"""Ends that are shown with their reasons: the last ones."""
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.,-=+*#"
CURVE = 12
"""Columns of a curve."""
WIDEST = 16
"""Columns that a cell keeps on a narrow terminal."""
WITH_CURVES = 78
"""Columns from which on there is room for curves."""


class LiveView:
    """What is shown of a sweep while it runs: a function of its record, whoever runs it.

    Args:
        config: the sweep's settings.
        record: kept up to date by whoever sends the events.
    """

    def __init__(self, config: SweepConfig, record: SweepRecord) -> None:
        self._config = config
        self._record = record
        self._rungs = set(config.rungs)
        self._arrived: dict[tuple[int, Hashable], list[float]] = {}
        """Losses by rung and by who is ranked together."""
        self._ends: deque[str] = deque(maxlen=ENDS)
        for trial in record.trials.values():
            for evaluation in trial.evaluations:
                self._arrive(trial, evaluation)

    def notice(self, event: Event) -> None:
        """Take in what just happened, after the record has."""
        if event["event"] == "evaluation":
            self._arrive(self._record.trials[event["trial"]], event["metrics"])
        elif event["event"] == "outcome":
            self._ends.append(self.reason(self._record.trials[event["trial"]]))

    def reason(self, trial: TrialRecord) -> str:
        """Return how a trial ended and why, in one line."""
        how = f"{trial.name} {outcome_text(trial)}"
        if trial.reason:
            return f"{how}: {trial.reason}"
        if not trial.evaluations:
            return how
        loss = trial.evaluations[-1]["val_loss"]
        at = self._config.plan_step(trial.params, trial.rung or 0)
        there = self._arrived.get((at, group_of(self._config, trial.params)))
        if trial.outcome != "stopped" or not there:
            return f"{how}: {loss:.4f}"
        place, of = bisect.bisect_left(there, loss) + 1, len(there)
        share = f"1/{self._config.asha.reduction_factor}"
        return f"{how}: rank {place} of {of}, best {share} go on"

    def lines(
        self, options: ConsoleOptions, time: str, trouble: str | None
    ) -> Iterator[Text | Table]:
        """Yield the parts of the view, from the top.

        Args:
            options: of the console that it is shown on.
            time: how long it runs and what is left, in words.
            trouble: what ails MLflow, or None.
        """
        record, total = self._record, self._config.num_samples
        head = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(
            total=total, completed=record.ended, width=min(24, options.max_width // 4)
        )
        head.add_row(bar, f"{record.ended}/{total} trials", time)
        yield head
        yield _line(counts_text(record) or "the workers start")
        trials = list(record.trials.values())  # at once: another thread may add to them
        running = [trial for trial in trials if trial.outcome is None]
        good = (trial for trial in trials if trial.best and trial.is_comparable)
        best = heapq.nsmallest(BEST, good, key=lambda trial: trial.sort_key)
        shown = {trial.name for trial in best}
        running = [trial for trial in running if trial.name not in shown]
        if best or running:
            yield self._table(best, running[:RUNNING], options)
        if len(running) > RUNNING:
            yield _line(f"and {len(running) - RUNNING} more are running")
        for end in list(self._ends):
            yield _line(end, style="dim")
        if trouble:
            yield _line(f"MLflow is away, training goes on: {trouble}", style="yellow")

    def _table(
        self, best: list[TrialRecord], running: list[TrialRecord], options: ConsoleOptions
    ) -> Table:
        sizes, others = size_fields(self._config)
        rows = [*((str(n), trial) for n, trial in enumerate(best, 1)), *(("", t) for t in running)]
        curves = [_curve(trial) for _, trial in rows] if options.max_width >= WITH_CURVES else []
        heads = [
            "",
            "trial",
            "loss",
            *map(short_name, others),
            *(["size"] if sizes else []),
            "step",
        ]
        blocks = ASCII_BLOCKS if options.ascii_only else BLOCKS
        least = min((loss for curve in curves for loss in curve), default=0.0)
        most = max((loss for curve in curves for loss in curve), default=0.0)
        cells = [
            [
                rank or "-",
                trial.name,
                loss_text(_loss(trial, best=bool(rank))),
                *(show_value(trial.params.get(name)) for name in others),
                *([size_text(sizes, [trial.params.get(n) for n in sizes])] if sizes else []),
                f"{trial.step:,}",
                self._where(trial),
            ]
            for rank, trial in rows
        ]
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        for place, head in enumerate(heads):
            width = max(len(head), *(len(row[place]) for row in cells), 0)
            side: JustifyMethod = "left" if head in ("", "trial") else "right"
            table.add_column(no_wrap=True, justify=side, min_width=min(width, WIDEST))
        table.add_column(no_wrap=True, overflow="ellipsis")  # the one that gives way
        table.add_row(*(Text(head, style="dim") for head in heads))
        for row, curve in zip_longest(cells, curves):
            drawn = [_drawn(curve, least, most, blocks)] if curve else []
            table.add_row(*map(plain, [*row, *drawn]))
        return table

    def _where(self, trial: TrialRecord) -> str:
        """Return how far a trial is, or how it ended."""
        if trial.outcome is not None:
            return outcome_text(trial)
        if trial.is_answer:
            return "trains the answer"
        at = self._config.plan_step(trial.params, trial.step)
        following = next((rung for rung in self._config.rungs if rung > at), None)
        return f"runs to {f'rung {rung_text(self._config, following)}' if following else 'its end'}"

    def _arrive(self, trial: TrialRecord, evaluation: dict[str, float]) -> None:
        step = self._config.plan_step(trial.params, evaluation["step"])
        group = group_of(self._config, trial.params)
        if step in self._rungs and not trial.is_answer:
            bisect.insort(self._arrived.setdefault((step, group), []), evaluation["val_loss"])


def _line(text: str, style: str = "") -> Text:
    line = plain(text)
    line.no_wrap, line.overflow, line.style = True, "ellipsis", style
    return line


def _loss(trial: TrialRecord, *, best: bool) -> float | None:
    """Return a trial's best loss or its last one; None before the first evaluation."""
    if best:
        return trial.best_val_loss
    return trial.evaluations[-1]["val_loss"] if trial.evaluations else None


def _curve(trial: TrialRecord) -> list[float]:
    """Return the losses of a trial once it was trained, at most as many as a curve is wide."""
    losses = [e["val_loss"] for e in list(trial.evaluations) if e["step"] > 0]
    if len(losses) <= CURVE:
        return losses
    return [losses[round(n * (len(losses) - 1) / (CURVE - 1))] for n in range(CURVE)]


def _drawn(losses: list[float], least: float, most: float, blocks: str) -> str:
    """Return a curve in blocks; all that are shown have one scale, a logarithm above the least."""
    height = math.log1p(most - least) or 1.0
    top = len(blocks) - 1
    return "".join(blocks[round(top * math.log1p(loss - least) / height)] for loss in losses)
