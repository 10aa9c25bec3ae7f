"""The best rate of each model size and the loss to expect there, as rows of data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sweep.analysis.words import loss_text, magnitude, short_name, show_value
from sweep.config.space import RATE
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord

if TYPE_CHECKING:
    from sweep.analysis.surface import Surface


@dataclass(frozen=True)
class SizeRow:
    """What a sweep says of one model size."""

    size: tuple[Any, ...]
    """The size's searched fields, in the order of the space."""
    best: tuple[Any, ...]
    """The best values of the other searched fields, by a fit to all trials' curves."""
    rates: tuple[float, float] | None
    """Interval that holds the best learning rate with 80 %; None if the rate is not searched."""
    loss: float | None
    """Expected loss of a full trial there, nats per token; None while no trial came to its end."""
    deviation: float
    """Standard deviation of that expectation, nats."""
    flops: float | None
    """Floating-point operations of a full trial; None where no evaluation told."""
    tried: tuple[float, float] | None
    """Least and largest learning rate that was trained at this size; None as for `rates`."""
    trials: int
    finished: int
    known: bool
    """Whether a trial came to its end at a rate within `rates`, to the precision that they are
    given with; else the loss is predicted."""

    @property
    def known_by(self) -> Literal["finished", "predicted"] | None:
        """What the loss is known by; None where it is not known."""
        if self.loss is None:
            return None
        return "finished" if self.known else "predicted"

    def cells(self) -> list[str]:
        """Return the row as people read it."""
        return [
            *map(show_value, (*self.size, *self.best)),
            *([f"{self.rates[0]:.2g} .. {self.rates[1]:.2g}"] if self.rates else []),
            loss_text(self.loss),
            f"{self.deviation:.3f}" if self.known_by else "-",
            self.known_by or "-",
            magnitude(self.flops) if self.flops else "-",
            str(self.trials),
            str(self.finished),
        ]


def size_heads(config: SweepConfig) -> list[str]:
    """Return the names of the columns of SizeRow.cells."""
    sizes, others = size_fields(config)
    return [
        *map(short_name, sizes),
        *(f"best {short_name(name)}" for name in others),
        *(["80% band"] if RATE in others else []),
        *("final loss", "+-", "known by", "FLOPs", "trials", "finished"),
    ]


def best_by_size(
    config: SweepConfig, record: SweepRecord, surface: "Surface | None"
) -> list[SizeRow]:
    """Return a row for each model size that was tried; none if size or rate is not searched.

    Losses of unlike steps are not compared: all curves together are fitted (surface.py).
    """
    sizes, others = size_fields(config)
    if surface is None or not sizes or not others:
        return []
    rows = []
    for size, trials in trials_by_size(sizes, record):
        found = surface.best(dict(zip(sizes, size, strict=True)))
        rates = [t.params[RATE] for t in trials if RATE in others and t.is_comparable and t.step]
        rows.append(
            SizeRow(
                size=size,
                best=tuple(found.params[name] for name in others),
                rates=found.rates,
                loss=found.loss,
                deviation=found.deviation,
                flops=_full_flops(trials, config.full_steps(trials[0].params)),
                tried=(min(rates), max(rates)) if rates else None,
                trials=len(trials),
                finished=sum(trial.outcome == "finished" for trial in trials),
                known=any(_is_within(trial, found.near) for trial in trials),
            )
        )
    return rows


def trials_by_size(
    fields: list[str], record: SweepRecord
) -> list[tuple[tuple[Any, ...], list[TrialRecord]]]:
    """Return the sizes that were tried, by their fields, ascending, each with its trials."""
    groups: dict[tuple[Any, ...], list[TrialRecord]] = {}
    for trial in record.trials.values():
        groups.setdefault(tuple(trial.params[name] for name in fields), []).append(trial)
    return sorted(groups.items(), key=lambda item: item[0])


def place_of(config: SweepConfig, row: SizeRow) -> dict[str, Any]:
    """Return the searched fields where a size does best, by the fit."""
    sizes, others = size_fields(config)
    return dict(zip((*sizes, *others), (*row.size, *row.best), strict=True))


def _is_within(trial: TrialRecord, rates: tuple[float, float] | None) -> bool:
    """Say whether a trial came to its end, and at one of these rates, where there are any."""
    if trial.outcome != "finished":
        return False
    return rates is None or rates[0] <= trial.params[RATE] <= rates[1]


def _full_flops(trials: list[TrialRecord], steps: int) -> float | None:
    told = (e for trial in trials for e in trial.evaluations if e["step"] and "flops" in e)
    return next((e["flops"] / e["step"] * steps for e in told), None)


def size_fields(config: SweepConfig) -> tuple[list[str], list[str]]:
    """Return the searched fields that make the size, and the others."""
    sizes = [name for name in config.space if name.startswith("model.")]
    return sizes, [name for name in config.space if name not in sizes]
