"""The trials of a sweep by rank, as rows of data."""

from dataclasses import dataclass
from typing import Any

from sweep.analysis.words import loss_text, outcome_text, short_name, show_value
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord


@dataclass(frozen=True)
class LeaderboardRow:
    """One trial."""

    rank: int
    """From 1, the best."""
    trial: str
    val_loss: float | None
    """Lowest validation loss, nats per token; None where it does not count."""
    val_bpb: float | None
    """The same evaluation in bits per byte."""
    params: tuple[Any, ...]
    """The suggestion, in the order of the space; None for a field that it lacks."""
    step: int
    """Last reported step."""
    full_steps: int | None
    """Of the trial in full, where trials have steps of their own; None: all have as many."""
    outcome: str
    """In words."""

    def cells(self) -> list[str]:
        """Return the row as people read it."""
        return [
            str(self.rank),
            self.trial,
            loss_text(self.val_loss),
            loss_text(self.val_bpb),
            *("" if value is None else show_value(value) for value in self.params),
            f"{self.step:,}" + (f" of {self.full_steps:,}" if self.full_steps else ""),
            self.outcome,
        ]


def leaderboard_heads(config: SweepConfig) -> list[str]:
    """Return the names of the columns of LeaderboardRow.cells."""
    fields = map(short_name, config.space)
    return ["", "trial", "val_loss", "bits/byte", *fields, "step", "outcome"]


def leaderboard(
    config: SweepConfig, record: SweepRecord, limit: int | None = None
) -> list[LeaderboardRow]:
    """Return the best `limit` trials (None: all), by their best validation loss."""
    rows = []
    for rank, trial in enumerate(record.ranked[:limit], start=1):
        best = {} if trial.best is None or trial.outcome == "diverged" else trial.best
        rows.append(
            LeaderboardRow(
                rank=rank,
                trial=trial.name,
                val_loss=best.get("val_loss"),
                val_bpb=best.get("val_bpb"),
                params=tuple(trial.params.get(name) for name in config.space),
                step=trial.step,
                full_steps=config.full_steps(trial.params) if config.by_flops else None,
                outcome=outcome_text(trial),
            )
        )
    return rows
