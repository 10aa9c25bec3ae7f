"""Search methods on tables of real curves: `python benchmarks/search/run.py --seeds 200`.

Prints a Markdown table for each table of curves, number of workers and number of trials, and one
of all regrets. With `--runs FILE` each simulated sweep is kept as it ends, and the same command
goes on where it was; delete the file when the code has changed. `--bars` prints what the product
must reach.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from benchmarks.search.measures import interval
from benchmarks.search.methods import all_methods
from benchmarks.search.runs import Run, Runs, Setting, fewer
from benchmarks.search.table import names

SHARES = (0.1, 0.25, 0.5, 1.0)
HEADS = (
    "method",
    *(f"regret at {share:.0%} of the time" for share in SHARES),
    "interval at 100%",
    "at its own end",
    "its time",
    "trials, finished",
    *(f"at {share:.0%} of the FLOPs" for share in SHARES[1:]),
    "per-size rates off by, octaves: rule -> fit",
    "cost of the per-size rates: rule -> fit",
    "80% intervals hold",
    "what --recommend names",
    "driver, ms a trial",
)


def main() -> None:
    """Simulate what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default=",".join(names()))
    parser.add_argument("--methods", default=",".join(all_methods()))
    parser.add_argument("--workers", default="2", help="trials at once, e.g. 1,2,8,32")
    parser.add_argument("--trials", default="32", help="of a sweep, e.g. 16,32,100,300")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=1_000, help="tune below 1000")
    parser.add_argument("--fits", type=int, default=50, help="seeds whose records are fitted")
    parser.add_argument("--equal-time", action="store_true", help="as many trials as fit the time")
    parser.add_argument("--runs", type=Path, default=None, help="file that keeps the runs")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that simulate")
    parser.add_argument("--bars", action="store_true", help="the bars alone, as benchmarks/run.py")
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    parser.add_argument("--markdown", type=Path, default=None, help="where to write the tables")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    runs = Runs(arguments.runs, arguments.processes)
    if arguments.bars:
        from benchmarks.run import markdown as rows_as_markdown
        from benchmarks.search.part import bars

        print(rows_as_markdown(list(bars(runs, seeds, short=False))))
        return
    told, figures = [], []
    regrets: dict[tuple[str, str], list[str]] = {}
    for table in arguments.tables.split(","):
        for workers in map(int, arguments.workers.split(",")):
            for trials in map(int, arguments.trials.split(",")):
                lines = []
                some = fewer(seeds, trials)
                for method in arguments.methods.split(","):
                    setting = Setting(table, method, workers, trials, arguments.equal_time)
                    own = runs.of(setting, some, arguments.fits)
                    found = summary(own, *runs.time(setting, some))
                    figures.append(asdict(setting) | asdict(found))
                    lines.append(cells(method, found))
                    of = f"{table}, {workers} x {trials}", str(len(some))
                    both = f"{found.by_time[-1]:.4f} / {found.at_end:.4f}"
                    regrets.setdefault(of, []).append(both)
                told.append(heading(table, workers, trials, len(some)) + markdown(HEADS, lines))
                print(told[-1], flush=True)
    heads = ("table, workers x trials", "seeds", *arguments.methods.split(","))
    told.append(markdown(heads, [[*of, *both] for of, both in regrets.items()]))
    print(told[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(told))


@dataclass(frozen=True)
class Summary:
    """The figures of a setting: means over its runs; regrets in nats, intervals of 95 %."""

    by_time: list[float]
    """Regrets at SHARES of the reference's time."""
    between: tuple[float, float]
    """Interval of the last of them."""
    by_flops: list[float]
    """Regrets at SHARES of the reference's FLOPs."""
    at_end: float
    """Regret when all its trials have ended."""
    between_at_end: tuple[float, float]
    time: float
    """Its own time in units of the reference's."""
    trials: float
    finished: float
    rule: tuple[float, float]
    """Octaves and regret of the rates that the losses' ranking names for each size."""
    fit: tuple[float, float] | None
    """The same of the product's fit."""
    held: float | None
    """Share of final losses within the fit's intervals of 80 %."""
    recommended: tuple[float, float, float] | None
    """Regret of what the fit would train in full, and its interval."""
    driver_ms: float
    """CPU of the method, a trial."""


def summary(runs: list[Run], seconds: float, flops: float) -> Summary:
    """Return the figures of a setting; `seconds` and `flops` are the reference's."""
    at_time = [np.array([run.regret_at(0, share * seconds) for run in runs]) for share in SHARES]
    at_flops = [np.array([run.regret_at(1, share * flops) for run in runs]) for share in SHARES]
    end = np.array([run.answers[-1][2] for run in runs])
    fits = [run.fit for run in runs if run.fit is not None]
    sizes = [fit.sizes for fit in fits]
    held = [fit.held for fit in fits if fit.held is not None]
    named = np.array([fit.recommended for fit in fits])
    return Summary(
        by_time=[float(row.mean()) for row in at_time],
        between=interval(at_time[-1]),
        by_flops=[float(row.mean()) for row in at_flops],
        at_end=float(end.mean()),
        between_at_end=interval(end),
        time=mean(run.seconds / seconds for run in runs),
        trials=mean(run.asked for run in runs),
        finished=mean(run.finished for run in runs),
        rule=(mean(run.rule.octaves for run in runs), mean(run.rule.regret for run in runs)),
        fit=(mean(s.octaves for s in sizes), mean(s.regret for s in sizes)) if fits else None,
        held=mean(held) if held else None,
        recommended=(mean(named), *interval(named)) if fits else None,
        driver_ms=mean(1e3 * run.driver_seconds / run.asked for run in runs),
    )


def mean(figures: Iterable[float]) -> float:
    """Return the mean."""
    return float(np.mean(list(figures)))


def cells(method: str, found: Summary) -> list[str]:
    """Return a line of the table."""
    fit = found.fit
    return [
        method,
        *(f"{figure:.4f}" for figure in found.by_time),
        "{:.4f} .. {:.4f}".format(*found.between),
        "{:.4f} ({:.4f} .. {:.4f})".format(found.at_end, *found.between_at_end),
        f"{found.time:.2f} x",
        f"{found.trials:.0f}, {found.finished:.1f}",
        *(f"{figure:.4f}" for figure in found.by_flops[1:]),
        f"{found.rule[0]:.2f} -> {fit[0]:.2f}" if fit else f"{found.rule[0]:.2f}",
        f"{found.rule[1]:.4f} -> {fit[1]:.4f}" if fit else f"{found.rule[1]:.4f}",
        "-" if found.held is None else f"{found.held:.0%}",
        "{:.4f} ({:.4f} .. {:.4f})".format(*found.recommended) if found.recommended else "-",
        f"{found.driver_ms:.1f}",
    ]


def heading(table: str, workers: int, trials: int, seeds: int) -> str:
    """Return what a table is of, in words."""
    return f"{table}, {workers} worker(s), {trials} trials, {seeds} seeds:\n\n"


def markdown(heads: Sequence[str], lines: list[list[str]]) -> str:
    """Return rows below their heads as a Markdown table."""
    rows = [list(heads), ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
