"""Tables for the terminal."""

from collections.abc import Iterable

from rich import box
from rich.table import Table

from sweep.analysis import leaderboard as board
from sweep.analysis import sizes
from sweep.analysis.study import Study
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.show.console import plain

_TEXT_COLUMNS = {"sweep", "trial", "state", "outcome", "reason", "best trial"}


def leaderboard(config: SweepConfig, record: SweepRecord, limit: int | None = 10) -> Table:
    """Return the best trials, by their best validation loss."""
    rows = board.leaderboard(config, record, limit)
    return plain_table(board.leaderboard_heads(config), (row.cells() for row in rows))


def best_by_size(study: Study) -> Table | None:
    """Return the best rate of each model size; None if the size or the rate is not searched."""
    if not study.sizes:
        return None
    return plain_table(sizes.size_heads(study.config), (row.cells() for row in study.sizes))


def plain_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a table without a frame; text columns are those that hold no numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(plain(head), justify="left" if head in _TEXT_COLUMNS else "right")
    for cells in rows:
        table.add_row(*map(plain, cells))
    return table
