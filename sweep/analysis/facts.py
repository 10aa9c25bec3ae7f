"""One sweep as pictures and words need it: read once, fitted once."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.analysis.sizes import SizeRow, size_fields
from sweep.analysis.study import Study
from sweep.analysis.words import size_text
from sweep.config.sweep import SweepConfig
from sweep.record.events import read_events
from sweep.record.folder import SweepFile, read_sweep
from sweep.record.lines import Event
from sweep.record.results import SweepRecord, TrialRecord
from trainable.model.counts import flops_per_token, parameter_count

if TYPE_CHECKING:
    from sweep.analysis.surface import Surface


@dataclass(frozen=True)
class Size:
    """A model size that was tried."""

    values: tuple[Any, ...]
    """Its searched fields, in the order of the space; () where no size is searched."""
    label: str
    """As people say it: "128x4"."""
    parameters: int | None
    """Trainable parameters; None where no evaluation tells the vocabulary."""
    trials: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class Facts:
    """A sweep's settings, its events, and what follows from them."""

    name: str
    sweep: SweepFile
    events: list[Event]
    record: SweepRecord

    @classmethod
    def read(cls, folder: Path) -> "Facts":
        """Read a sweep's folder.

        Raises:
            SweepError: a file of it is missing or damaged.
        """
        events = read_events(folder)
        record = SweepRecord()
        record.apply_all(events)
        return cls(folder.name, read_sweep(folder), events, record)

    @property
    def config(self) -> SweepConfig:
        """The sweep's settings."""
        return self.sweep.config

    @functools.cached_property
    def study(self) -> Study:
        """What the record says, computed once."""
        return Study(self.config, self.record)

    @property
    def surface(self) -> "Surface | None":
        """The fit to all learning curves; None if there is nothing to fit."""
        return self.study.surface

    @property
    def by_size(self) -> list[SizeRow]:
        """What is known of each size; none if size or rate is not searched."""
        return self.study.sizes

    @property
    def size_fields(self) -> list[str]:
        """The searched fields that make the size."""
        return size_fields(self.config)[0]

    @functools.cached_property
    def vocab_size(self) -> int | None:
        """Number of token ids, as the FLOPs of an evaluation tell it; None where none does."""
        for trial in self.record.trials.values():
            for told in trial.evaluations:
                if told.get("flops") and told.get("tokens"):
                    model = self.config.trial_config(trial.params).model
                    head = told["flops"] / told["tokens"] - flops_per_token(model, 0)
                    found = round(head / (6 * model.d_model))
                    return found if found > 0 else None
        return self.config.trial.data.raw_vocab_size

    @functools.cached_property
    def sizes(self) -> list[Size]:
        """The sizes that were tried, the smallest first."""
        groups: dict[tuple[Any, ...], list[TrialRecord]] = {}
        for trial in self.record.trials.values():
            groups.setdefault(self.size_of(trial), []).append(trial)
        found = [
            Size(values, self.label_of(values), self._parameters(trials[0]), tuple(trials))
            for values, trials in groups.items()
        ]
        return sorted(found, key=lambda size: (size.parameters or 0, str(size.values)))

    def size_of(self, trial: TrialRecord) -> tuple[Any, ...]:
        """Return the searched fields that make a trial's size, in the order of the space."""
        return tuple(trial.params.get(name) for name in self.size_fields)

    def label_of(self, size: tuple[Any, ...]) -> str:
        """Return a size as people say it: "128x4"."""
        return size_text(self.size_fields, size) or "the model"

    def _parameters(self, trial: TrialRecord) -> int | None:
        if self.vocab_size is None:
            return None
        return parameter_count(self.config.trial_config(trial.params).model, self.vocab_size)
