"""Search among the benchmarks: its rows, its peers, and that a search that became worse is seen."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import Bar, Row
from benchmarks.run import PARTS, behind
from benchmarks.search import part
from benchmarks.search.methods import EARLIER, METHODS, method_of
from benchmarks.search.runs import Runs, Setting
from benchmarks.search.simulator import Replay, simulate, sweep_config
from benchmarks.search.table import load


def replayed(method: str, trials: int = 8) -> Replay:
    table, (algorithm, maker) = load("kjv"), method_of(method)
    config = sweep_config(table, trials, 5, algorithm)
    return simulate(table, config, maker(config), workers=2)


def test_every_part_has_rows() -> None:
    assert all(hasattr(importlib.import_module(f"benchmarks.{m}"), "rows") for m in PARTS.values())


@pytest.mark.slow
def test_rows_are_functions_of_their_seeds(tmp_path: Path) -> None:
    seeds = part.SHORT[:2]
    once = list(part.bars(Runs(tmp_path / "runs"), seeds, short=True))
    again = list(part.bars(Runs(None), seeds, short=True))
    watched = [row for row in once if row.margin is not None]
    assert watched == [row for row in again if row.margin is not None]
    assert len(watched) == 12, "two methods' regret and plan, rates and calibration, on two tables"
    assert len({row.case for row in once}) == len(once)
    assert all(row.low <= row.high for row in once)


def test_the_default_is_judged_by_what_it_searches_a_table_with() -> None:
    found = [part.default_method(name) for name in ("kjv", "weight-decay")]
    assert found == ["product gp", "product tpe"]


def test_a_ratio_is_of_the_mean_regrets() -> None:
    compared, runs = part._Compared(Runs(None), part.SHORT[:3]), Runs(None)
    own = Setting("kjv", "product random", 2, 4)
    row = compared.regret(own, "stock", part.AT_END, Bar(at_most=0.5))
    mine, theirs = (
        np.mean([run.answers[-1][2] for run in runs.of(s, part.SHORT[:3], 0)])
        for s in (own, replace(own, method="stock"))
    )
    assert row.figure == pytest.approx(mine / theirs)
    early = compared.regret(own, "stock", 0.01, Bar())
    assert "at 1% of stock's time" in early.case
    assert early.figure != row.figure


def test_a_search_that_became_worse_is_behind() -> None:
    row = Row("search", "a", 0.9, 0.85, 0.95, "x", Bar(at_most=0.5))
    assert behind([row], {"search": {"a": 0.6}}) == [row]
    assert behind([replace(row, low=0.8)], {"search": {"a": 0.6}}) == []


def test_a_bar_of_two_ends() -> None:
    bar = Bar(at_least=10, at_most=30)
    assert (str(bar), bar.met(9), bar.met(20), bar.met(31)) == ("10 .. 30", False, True, False)


def test_the_earlier_product_differs_in_its_last_trial_alone() -> None:
    now, before = (replayed(name).record.trials for name in ("product tpe", EARLIER))
    assert [t.is_answer for t in now.values()] == [False] * 7 + [True]
    assert not any(trial.is_answer for trial in before.values())
    same = [now[name].params == before[name].params for name in now]
    assert same == [True] * 7 + [False]


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("Syne")])
def test_syne_tune_suggests_and_stops_by_the_sweeps_rungs(name: str) -> None:
    pytest.importorskip("syne_tune", reason="no dependency: pip install syne-tune")
    first, again = replayed(name, 16), replayed(name, 16)
    assert first.answers == again.answers
    trials = first.record.trials.values()
    assert {trial.outcome for trial in trials} == {"finished", "stopped"}
    assert {trial.rung for trial in trials if trial.outcome == "stopped"} == {50, 150}
