"""One sweep as pictures and words need it: read once, fitted once."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.analysis.sizes import SizeRow
from sweep.analysis.study import Size, Study
from sweep.config.sweep import SweepConfig
from sweep.record.events import read_events
from sweep.record.folder import SweepFile, read_sweep
from sweep.record.lines import Event
from sweep.record.results import SweepRecord, TrialRecord

if TYPE_CHECKING:
    from sweep.analysis.surface import Surface


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
    def sizes(self) -> list[Size]:
        """The sizes that were tried, the smallest first."""
        return self.study.tried

    def size_of(self, trial: TrialRecord) -> tuple[Any, ...]:
        """Return the searched fields that make a trial's size, in the order of the space."""
        return self.study.size_of(trial)

    def label_of(self, size: tuple[Any, ...]) -> str:
        """Return a size as people say it: "128x4"."""
        return self.study.label_of(size)
