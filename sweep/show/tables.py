"""Tables for the terminal."""

from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from sweep.analysis import leaderboard as board
from sweep.analysis import sizes
from sweep.analysis.study import Study
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord
from sweep.show.console import plain

_TEXT_COLUMNS = {"sweep", "trial", "state", "outcome", "reason", "best trial"}
_FOLDED = {"outcome": 12, "reason": 24}
"""Columns of words that may be folded, and to how many cells."""
_FIRST_TO_GO = ("bits/byte", "finished", "trials", "FLOPs", "known by", "step")
"""Columns that a narrow terminal does without, in this order."""
_GAPS = ((3, (0, 1)), (2, (0, 1, 0, 0)), (1, (0, 0)))
"""Cells between two columns, and the padding that makes them."""


class FittedTable:
    """A table without a frame that fits where it is shown, so that no number is ever cut.

    Where it is too wide, gaps narrow, words are folded, and columns that can be missed are left
    out; which, is said below it.
    """

    def __init__(self, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        self._heads = list(heads)
        self._rows = [list(row) for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, and what it leaves out."""
        there = [*range(len(self._heads))]
        left = [name for name in _FIRST_TO_GO if name in self._heads]
        missing: list[str] = []
        while left and self._width(there, gap=1) > options.max_width:
            missing.append(left.pop(0))
            there.remove(self._heads.index(missing[-1]))
        fitting = (
            pad for gap, pad in _GAPS if self._width(there, gap, fold=False) <= options.max_width
        )
        padding = next(fitting, _GAPS[-1][1])
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding)
        for place in there:
            head = self._heads[place]
            side, folds = "left" if head in _TEXT_COLUMNS else "right", head in _FOLDED
            table.add_column(plain(head), justify=side, no_wrap=not folds)  # type: ignore[arg-type]
        for row in self._rows:
            table.add_row(*(plain(row[place]) for place in there))
        yield table
        if missing:
            told = f"no room in {options.max_width} columns for {', '.join(missing)}"
            yield Text(told, style="dim", no_wrap=True, overflow="ellipsis")

    def _width(self, places: list[int], gap: int, *, fold: bool = True) -> int:
        """Return the cells that columns take side by side, words folded as far as they may."""
        whole = gap * (len(places) - 1)
        for place in places:
            head = self._heads[place]
            needed = max(cell_len(text) for text in (head, *(row[place] for row in self._rows)))
            whole += min(needed, _FOLDED[head]) if fold and head in _FOLDED else needed
        return whole


def leaderboard(config: SweepConfig, record: SweepRecord, limit: int | None = 10) -> FittedTable:
    """Return the best trials, by their best validation loss."""
    rows = board.leaderboard(config, record, limit)
    return FittedTable(board.leaderboard_heads(config), (row.cells() for row in rows))


def best_by_size(study: Study) -> FittedTable | None:
    """Return the best rate of each model size; None if the size or the rate is not searched."""
    if not study.sizes:
        return None
    return FittedTable(sizes.size_heads(study.config), (row.cells() for row in study.sizes))
