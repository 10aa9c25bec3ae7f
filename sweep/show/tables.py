"""Tables for the terminal."""

from rich import box
from rich.table import Table

from sweep.analysis import leaderboard as board
from sweep.analysis import sizes
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord

_TEXT_COLUMNS = {"sweep", "trial", "state", "outcome", "reason", "best trial"}


def leaderboard(config: SweepConfig, record: SweepRecord, limit: int | None = 10) -> Table:
    """Return the best trials, by their best validation loss."""
    table = plain_table(*board.leaderboard_heads(config))
    for row in board.leaderboard(config, record, limit):
        table.add_row(*row.cells())
    return table


def best_by_size(config: SweepConfig, record: SweepRecord) -> Table | None:
    """Return the best trial of each model size; None if the size or the rate is not searched."""
    rows = sizes.best_by_size(config, record)
    if not rows:
        return None
    table = plain_table(*sizes.size_heads(config))
    for row in rows:
        table.add_row(*row.cells())
    return table


def plain_table(*columns: str) -> Table:
    """Return an empty table without a frame; text columns are those that hold no numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
    return table
