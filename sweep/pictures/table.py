"""All trials as rows for the page's table, with what to type about each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.analysis.leaderboard import leaderboard, leaderboard_heads
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord


@dataclass(frozen=True)
class Commands:
    """How to call a command on any trial: words before its settings or its checkpoint."""

    replay: str
    """Trains it again; its searched settings follow as flags."""
    flags: Mapping[str, str]
    """The flag of each searched field."""
    own: Mapping[str, str]
    """By trial, flags that follow from its size, if any, with a blank before each."""
    use: str
    """Uses a checkpoint; its path follows."""
    go_on: str
    """Trains on; the checkpoint's path follows, then the settings."""
    checkpoints: Mapping[str, str]
    """By trial, the path of a checkpoint that is still there, quoted for a shell."""


@dataclass(frozen=True)
class TrialTable:
    """The trials of a sweep, by rank."""

    config: SweepConfig
    record: SweepRecord
    commands: Commands

    def __len__(self) -> int:
        return len(self.record.trials)

    def data(self) -> dict[str, Any]:
        """Return heads and rows, numbers as numbers, and what commands are made of."""
        rows = [
            [
                row.rank,
                row.trial,
                row.val_loss,
                row.val_bpb,
                *row.params,
                row.step,
                row.outcome,
                self.record.trials[row.trial].reason,
                self.commands.checkpoints.get(row.trial),
            ]
            for row in leaderboard(self.config, self.record)
        ]
        first, *heads = leaderboard_heads(self.config)
        return {
            "heads": [first or "rank", *heads, "reason"],
            "fields": len(self.config.space),
            "flags": [self.commands.flags[name] for name in self.config.space],
            "own": dict(self.commands.own),
            "rows": rows,
            "replay": self.commands.replay,
            "use": self.commands.use,
            "go_on": self.commands.go_on,
        }
