"""The bars of search as rows of the benchmarks: regret, rates of each size, calibration, driver.

Every figure but the driver's is a pure function of the seeds: it changes when the code does. The
quartiles are those of a bootstrap over the seeds. The short form has the default setting alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.measure import Bar, Row, middle
from benchmarks.search.measures import interval, ratio_interval
from benchmarks.search.methods import EARLIER, PRODUCT, STOCK, method_of
from benchmarks.search.runs import USUAL, Run, Runs, Setting, fewer
from benchmarks.search.simulator import START, sweep_config
from benchmarks.search.table import Array, Table, load, names
from sweep.config.search import SearchConfig
from sweep.plan.workload import Stint, expected_workload

SHORT, LONG = range(1_000, 1_016), range(1_000, 1_200)
"""Seeds. No setting was chosen by their figures."""
GP, TPE = f"{PRODUCT}gp", f"{PRODUCT}tpe"
WORKERS = 2
FIRST, SECOND = "python-stdlib", "kjv"
"""The table that methods were chosen on, and the one of other text that chose none."""
PLANS = 8
"""Plans that are made, each of another seed."""
VOCAB_SIZE = 257
"""Token ids of the tables' trials: bytes and <|endoftext|>."""
MANY = 1_000
"""Trials of a sweep whose driver is timed, with the default search by gp."""
AT_END = None
"""The share of the time that stands for a method's own end."""


def rows(short: bool) -> Iterator[Row]:
    """Yield the bars, simulating all that they need."""
    yield from bars(Runs(None), SHORT if short else LONG, short)


def bars(runs: Runs, seeds: Sequence[int], short: bool) -> Iterator[Row]:
    """Yield the bars.

    Args:
        runs: where sweeps are looked up, or simulated.
        seeds: of each setting.
        short: the default number of workers and trials alone.
    """
    compared = _Compared(runs, seeds)
    tables = (FIRST, SECOND) if short else tuple(names())
    for table in tables:
        own = Setting(table, default_method(table), WORKERS, USUAL)
        bar = Bar(at_most=0.25 if table == FIRST else 0.5)
        yield compared.regret(own, STOCK, 1.0, bar)
        yield compared.regret(replace(own, method=TPE), STOCK, 1.0, bar)
        yield compared.rates(own)
        yield compared.missed(own)
        if not short and table in (FIRST, SECOND):
            yield from _long(compared, own)
        for method in (GP, TPE):
            yield compared.planned(replace(own, method=method))
    for method in (GP, TPE):
        yield compared.driver([Setting(t, method, WORKERS, USUAL) for t in tables], 20)
    if not short:
        yield _Compared(runs, seeds[:1]).driver([Setting(FIRST, GP, WORKERS, MANY)], 50)


def default_method(table: str) -> str:
    """Return the method that a sweep of a table's space takes by default."""
    config = sweep_config(load(table), USUAL, 0, SearchConfig().algorithm)
    return f"{PRODUCT}{config.algorithm}"


def _long(compared: "_Compared", own: Setting) -> Iterator[Row]:
    bar = Bar(at_most=0.3 if own.table == FIRST else 0.5)
    yield compared.regret(own, EARLIER, 1.0, bar)
    yield compared.regret(own, EARLIER, 0.25, Bar(at_most=1.0))
    for trials in (USUAL, 100):
        many = replace(own, workers=8, trials=trials)
        yield compared.regret(many, EARLIER, AT_END, Bar(at_most=0.7))
    half = replace(own, trials=USUAL // 2)
    for method in (GP, TPE):
        less = replace(half, method=method)
        yield compared.regret(less, EARLIER, AT_END, Bar(at_most=1.0), USUAL)
        yield compared.recommended(less, own)
    for trials in (16, 32, 100):
        for workers in (2, 8):
            gp = Setting(own.table, GP, workers, trials)
            yield compared.regret(gp, TPE, AT_END, Bar())


@dataclass(frozen=True)
class _Compared:
    runs: Runs
    seeds: Sequence[int]

    def regret(
        self, own: Setting, other: str, share: float | None, bar: Bar, trials: int | None = None
    ) -> Row:
        """Return the ratio of the regrets of two methods.

        Args:
            own: the one.
            other: the other method.
            share: of the mean time of stock Ray Tune; AT_END: when all trials have ended.
            bar: what the ratio must reach.
            trials: of the other method; None: as many.
        """
        theirs = replace(own, method=other, trials=trials or own.trials)
        seconds = (
            np.inf
            if share is None
            else share * self.runs.time(own, fewer(self.seeds, own.trials))[0]
        )
        mine = self._figures(own, lambda run: run.regret_at(0, seconds))
        peers = self._figures(theirs, lambda run: run.regret_at(0, seconds))[: len(mine)]
        ends = [
            f"{np.mean(self._figures(setting, lambda run: run.regret_at(0, np.inf))):.4f}"
            for setting in (own, theirs)
        ]
        when = "at their ends" if share is None else f"at {share:.0%} of stock's time"
        of = f"{theirs.trials} trials of {other}" if trials else other
        row = _ratio(f"{_words(own)}, {when}", mine, peers, f"x the regret of {of}", bar)
        return replace(row, note=f"{row.note}, at their ends {' against '.join(ends)}")

    def rates(self, own: Setting) -> Row:
        """Return what the fit's best rates of the sizes cost, beside the ranking's."""
        runs = self.runs.of(own, self.seeds, len(self.seeds))
        fit = np.array([run.fit.sizes.regret for run in runs if run.fit])
        rule = np.array([run.rule.regret for run in runs])
        unit = "x the regret of the best-ranked trial of each"
        return _ratio(f"{_words(own)}, best rate of each size", fit, rule, unit, Bar(at_most=0.1))

    def missed(self, own: Setting) -> Row:
        """Return how many final losses lie outside what the fit expects of them."""
        runs = self.runs.of(own, self.seeds, len(self.seeds))
        held = [run.fit.held for run in runs if run.fit and run.fit.held is not None]
        outside = 100 * (1 - np.array(held))
        return Row(
            "search",
            f"{_words(own)}, final losses",
            float(outside.mean()),
            *interval(outside, 0.5),
            unit="% outside their intervals of 80 %",
            bar=Bar(at_least=10, at_most=30),
            margin=0.5,
        )

    def recommended(self, own: Setting, whole: Setting) -> Row:
        """Return the regret of what the fit would train in full, beside the trial of another sweep.

        Args:
            own: the sweep whose record is fitted.
            whole: the other one, by EARLIER.
        """
        runs = self.runs.of(own, self.seeds, len(self.seeds))
        named = np.array([run.fit.recommended for run in runs if run.fit])
        theirs = self._figures(replace(whole, method=EARLIER), lambda run: run.answers[-1][2])
        unit = f"x the regret of {whole.trials} trials of {EARLIER}"
        return _ratio(
            f"{_words(own)}, what --recommend names", named, theirs, unit, Bar(at_most=1.0)
        )

    def planned(self, own: Setting) -> Row:
        """Return what the plan expects a sweep to take, beside what it takes."""
        table, runs = load(own.table), self.runs.of(own, self.seeds, 0)
        expected = np.array([forecast(table, own, seed) for seed in self.seeds[:PLANS]])
        taken = float(np.mean([run.seconds for run in runs]))
        return Row(
            "search",
            f"{_words(own)}, the plan's time",
            float(expected.mean()) / taken,
            *np.array(interval(expected, 0.5)) / taken,
            unit="x the time taken",
            bar=Bar(at_least=0.8, at_most=1.2),
            note=f"{expected.mean():.0f} against {taken:.0f} simulated seconds",
        )

    def driver(self, settings: Sequence[Setting], bar: float) -> Row:
        """Return the driver's CPU time of a trial: all that the method suggests and stops."""
        taken = [
            1_000 * run.driver_seconds / run.asked
            for setting in settings
            for run in self.runs.of(setting, self.seeds, 0)
        ]
        return Row(
            "search",
            f"{settings[0].method}, {settings[0].trials:,} trials",
            *middle(taken),
            unit="ms of the driver's CPU a trial",
            bar=Bar(at_most=bar),
            margin=None,
        )

    def _figures(self, setting: Setting, figure: Callable[[Run], float]) -> Array:
        seeds = fewer(self.seeds, setting.trials)
        return np.array([figure(run) for run in self.runs.of(setting, seeds, 0)])


def forecast(table: Table, own: Setting, seed: int) -> float:
    """Return the seconds that a plan expects, told the true ones of a step of each size."""
    algorithm, _ = method_of(own.method)
    config = sweep_config(table, own.trials, seed, algorithm)
    flops = {table.flops_per_step(size): table.seconds_per_step(size) for size in table.sizes}

    def seconds(stint: Stint) -> float:
        return START + stint.share * stint.full_steps * flops[stint.flops // stint.full_steps]

    return expected_workload(config, VOCAB_SIZE, own.workers).seconds(own.workers, seconds)


def _words(setting: Setting) -> str:
    usual = (setting.workers, setting.trials) == (WORKERS, USUAL)
    more = "" if usual else f", {setting.workers} workers, {setting.trials} trials"
    return f"{setting.table}, {setting.method}{more}"


def _ratio(name: str, mine: Array, theirs: Array, unit: str, bar: Bar) -> Row:
    """Return the ratio of the mean regrets of the same seeds, (n,) each."""
    low, high = ratio_interval(mine, theirs)
    return Row(
        "search",
        name,
        float(mine.mean() / theirs.mean()),
        *ratio_interval(mine, theirs, 0.5),
        unit=unit,
        bar=bar,
        note=f"{mine.mean():.4f} against {theirs.mean():.4f} nats, 95 % {low:.2f} .. {high:.2f}",
    )
