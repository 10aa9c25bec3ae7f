"""The best trial of each model size, as rows of data."""

from dataclasses import dataclass
from typing import Any

from sweep.analysis.words import loss_text, short_name, show_value
from sweep.config.sweep import SweepConfig
from sweep.record.results import COMPARABLE, SweepRecord, TrialRecord


@dataclass(frozen=True)
class SizeRow:
    """What was found for one model size."""

    size: tuple[Any, ...]
    """The size's searched fields, in the order of the space."""
    params: tuple[Any, ...]
    """The other searched fields of its best trial."""
    val_loss: float | None
    """That trial's lowest validation loss, nats per token; None where none counts."""
    trials: int
    finished: int

    def cells(self) -> list[str]:
        """Return the row as people read it."""
        values = map(show_value, (*self.size, *self.params))
        return [*values, loss_text(self.val_loss), str(self.trials), str(self.finished)]


def size_heads(config: SweepConfig) -> list[str]:
    """Return the names of the columns of SizeRow.cells."""
    sizes, others = _fields(config)
    return [
        *map(short_name, sizes),
        *(f"best {short_name(name)}" for name in others),
        "val_loss",
        "trials",
        "finished",
    ]


def best_by_size(config: SweepConfig, record: SweepRecord) -> list[SizeRow]:
    """Return the best trial of each model size; none if the size or the rate is not searched."""
    sizes, others = _fields(config)
    if not sizes or not others:
        return []
    groups: dict[tuple[Any, ...], list[TrialRecord]] = {}
    for trial in record.ranked:
        groups.setdefault(tuple(trial.params[name] for name in sizes), []).append(trial)
    rows = []
    for size, trials in sorted(groups.items(), key=lambda item: item[0]):
        first = trials[0]
        counts = first.evaluations and first.outcome in COMPARABLE
        rows.append(
            SizeRow(
                size=size,
                params=tuple(first.params[name] for name in others),
                val_loss=first.best_val_loss if counts else None,
                trials=len(trials),
                finished=sum(trial.outcome == "finished" for trial in trials),
            )
        )
    return rows


def _fields(config: SweepConfig) -> tuple[list[str], list[str]]:
    """Return the searched fields that make the size, and the others."""
    sizes = [name for name in config.space if name.startswith("model.")]
    return sizes, [name for name in config.space if name not in sizes]
