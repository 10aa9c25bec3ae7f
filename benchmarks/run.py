"""All benchmarks: `python benchmarks/run.py` prints a table and writes it as JSON.

Each part is a module of this folder, or of one in it, with `rows(short)`. Parts that need another
program to compare with say so where it is missing: `pip install -e ".[benchmark]"`.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread a trial, as in a sweep
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

MODULES = (
    "step",
    "batches",
    "evaluation",
    "checkpoint",
    "start",
    "recording",
    "driver",
    "cluster",
    "cores",
    "packed",
    "sweep",
    "search.part",
    "parametrization",
)
PARTS = {module.partition(".")[0]: module for module in MODULES}
COLUMNS = ("part", "case", "figure", "quartiles", "unit", "bar", "of peak", "note")
BASELINE = Path(__file__).with_name("baseline.json")


def main() -> int:
    """Run the benchmarks; with --check, exit 1 where a figure fell behind the baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts of {', '.join(PARTS)}")
    parser.add_argument("--short", action="store_true", help="fewer cases and rounds")
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    parser.add_argument("--markdown", type=Path, default=None, help="where to write the table")
    parser.add_argument("--check", action="store_true", help="compare with baseline.json")
    parser.add_argument("--save-baseline", action="store_true", help="write baseline.json")
    arguments = parser.parse_args()
    console = Console(width=150)
    rows: list[Row] = []
    for row in all_rows(arguments.only.split(","), arguments.short):
        rows.append(row)
        console.print(line(row), highlight=False, markup=False, soft_wrap=True)
        # After each row: an hour's figures must not be lost with the last of them.
        if arguments.json:
            described = {"machine": machine(), "rows": [row.as_json() for row in rows]}
            arguments.json.write_text(json.dumps(described, indent=1) + "\n")
        if arguments.markdown:
            arguments.markdown.write_text(markdown(rows))
    console.print(table(rows))
    if arguments.save_baseline:
        save_baseline(rows)
    worse = check(rows, arguments.short, console) if arguments.check else []
    return 1 if worse else 0


def all_rows(parts: list[str], short: bool) -> Iterator[Row]:
    """Yield the rows of some parts as they are measured."""
    for part in parts:
        yield from importlib.import_module(f"benchmarks.{PARTS[part]}").rows(short)


def line(row: Row) -> str:
    """Return a row as one line, for reading along."""
    spread = f"[{row.low:.3g} .. {row.high:.3g}]"
    return f"{row.part:<11} {row.case:<44} {row.figure:8.3g} {spread:<18} {row.unit} {row.verdict}"


def table(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    shown = Table(title=machine(), title_justify="left")
    for name in COLUMNS:
        shown.add_column(name, justify="right" if name in ("figure", "of peak") else "left")
    for row in rows:
        shown.add_row(*cells(row))
    return shown


def markdown(rows: list[Row]) -> str:
    """Return the rows as a Markdown table, below a line that names the machine."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(cells, rows)]
    return f"{machine()}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(row: Row) -> tuple[str, ...]:
    """Return what stands in each of COLUMNS."""
    return (
        row.part,
        row.case,
        f"{row.figure:.3g}",
        f"{row.low:.3g} .. {row.high:.3g}",
        row.unit,
        row.verdict,
        "" if row.peak is None else f"{row.peak:.0%}",
        row.note,
    )


def machine() -> str:
    """Return what the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), "")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name or platform.processor()}, {cores} cores{gpu}; Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def save_baseline(rows: list[Row]) -> None:
    """Write the ratios of `rows` into baseline.json; the worse of two stays, as machines differ."""
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    for row in rows:
        if row.margin is not None:
            part, figure = known.setdefault(row.part, {}), float(f"{row.figure:.3g}")
            worse = max if row.smaller_is_better else min
            part[row.case] = worse(figure, part.get(row.case, figure))
    BASELINE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def check(rows: list[Row], short: bool, console: Console) -> list[Row]:
    """Return the rows that are behind the baseline twice: their parts are measured once more.

    A neighbour's burst must not fail a build; what really became slower is slower again.
    """
    baseline = json.loads(BASELINE.read_text())
    worse = behind(rows, baseline)
    if worse:
        parts = list(dict.fromkeys(row.part for row in worse))
        cases = {(row.part, row.case) for row in worse}
        console.print(f"measured once more: {', '.join(parts)}")
        again = [row for row in all_rows(parts, short) if (row.part, row.case) in cases]
        worse = behind(again, baseline)
    for row in worse:
        text = f"behind the baseline of {baseline[row.part][row.case]:.3g}: {line(row)}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return worse


def behind(rows: list[Row], baseline: dict[str, dict[str, float]]) -> list[Row]:
    """Return the rows that are worse than the baseline by more than their margin."""
    worse = []
    for row in rows:
        known = baseline.get(row.part, {}).get(row.case)
        if known is None or row.margin is None:
            continue
        # The quartile nearest to the baseline: noise alone must not fail a build.
        seen = row.low if row.smaller_is_better else row.high
        limit = known * (1 + row.margin) if row.smaller_is_better else known / (1 + row.margin)
        if seen > limit if row.smaller_is_better else seen < limit:
            worse.append(row)
    return worse


if __name__ == "__main__":
    sys.exit(main())
