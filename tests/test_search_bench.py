"""The benchmark of search: its clock, its truth, its tables, and that the product's code is run."""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search import make_table
from benchmarks.search.measures import by_fit, by_rule, interval, regret, regrets
from benchmarks.search.methods import METHODS, RayTune, method_of, product
from benchmarks.search.run import markdown, summary
from benchmarks.search.runs import Runs, Setting
from benchmarks.search.simulator import START, Replay, seen_losses, simulate, sweep_config
from benchmarks.search.table import Curve, Table, load, names
from benchmarks.search.warm_start import of_seed
from sweep.record.results import TrialRecord
from sweep.search.rungs import Rungs

STEPS = list(range(0, 401, 25))
SEEDS = range(8)
LUCK = np.linspace(-1, 1, 8) / np.linspace(-1, 1, 8).std(ddof=1)
RATES = [float(rate) for rate in np.geomspace(1e-4, 3e-2, 13)]
SPACE = {
    "optim.lr": {"loguniform": [1e-4, 3e-2]},
    "model.d_model": {"choice": [64, 128]},
    "model.n_layers": {"int": [4, 4]},
}


def loss(d_model: int, lr: float, step: int) -> float:
    """A parabola in the logarithm of the rate; at the same steps the wider size is better."""
    off = np.log(lr / (3e-3 * 64 / d_model))
    return float(1.5 + 12.8 / d_model + 0.1 * off**2 + 4.0 * np.exp(-step / 60))


def made_table(common: float = 0.0, own: float = 0.0) -> Table:
    """A table of two sizes: a step of the small one takes 10 ms, one of the other 40 ms.

    Args:
        common: deviation of a training seed's luck in a size, nats.
        own: deviation of each of its losses beside that.
    """
    rng = np.random.default_rng(0)
    curves = []
    for d_model in (64, 128):
        luck = common * rng.permutation(LUCK)
        for lr, seed in itertools.product(RATES, SEEDS):
            curves.append(
                Curve(
                    at=(d_model, 4, lr),
                    seed=seed,
                    loss=[
                        loss(d_model, lr, step) + luck[seed] + rng.normal(0, own) for step in STEPS
                    ],
                    seconds=4.0 if d_model == 64 else 16.0,
                    flops=d_model**2,
                )
            )
    head = {
        "name": "made",
        "fields": ["model.d_model", "model.n_layers", "optim.lr"],
        "space": SPACE,
        "steps": STEPS,
    }
    return Table(head, curves)


class Script:
    """A method that suggests and stops what it is told to; it notes its calls."""

    def __init__(
        self, params: list[tuple[int, float]], stops: dict[int, int] | None = None
    ) -> None:
        self._params, self._stops = params, stops or {}
        self.answers: frozenset[int] = frozenset()
        self.calls: list[tuple[str, int, Any]] = []

    def ask(self, number: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append(("ask", number, dict(fixed)))
        d_model, lr = self._params[number % len(self._params)]
        return {"model.d_model": d_model, "model.n_layers": 4, "optim.lr": lr}

    def report(self, number: int, step: int, loss: float) -> bool:
        self.calls.append(("report", number, step))
        return self._stops.get(number) != step

    def tell(self, number: int, loss: float | None) -> None:
        self.calls.append(("tell", number, loss))


def test_the_clock_orders_what_two_workers_report() -> None:
    table, script = made_table(), Script([(64, 3e-3), (128, 1e-3)], stops={1: 50})
    replay = simulate(table, sweep_config(table, 3, 0), script, workers=2)
    order = [(kind, number) for kind, number, _ in script.calls]
    assert order[:4] == [("ask", 0), ("ask", 1), ("report", 0), ("report", 1)], "both begin at once"
    reports = [call[1:] for call in script.calls if call[0] == "report"]
    # The small size's 50 steps take half a second, the other's two; it is stopped after them.
    assert reports[2:7] == [(0, 50), (0, 100), (0, 150), (0, 200), (1, 50)]
    assert order[order.index(("tell", 1)) + 1] == ("ask", 2), "a free worker takes the next trial"
    record = replay.record
    assert [record.trials[name].outcome for name in ("t000", "t001", "t002")] == [
        "finished",
        "stopped",
        "finished",
    ]
    assert record.trials["t001"].rung == 50
    assert record.trials["t000"].ended == pytest.approx(START + 4.0)
    assert record.trials["t002"].started == pytest.approx(START + 2.0)
    assert replay.seconds == record.trials["t002"].ended == pytest.approx(2 * START + 2.0 + 4.0)
    assert replay.flops == 2 * 400 * 64**2 + 50 * 128**2
    assert record.complete


def test_more_workers_than_trials_begin_no_more() -> None:
    table, script = made_table(), Script([(64, 3e-3)])
    replay = simulate(table, sweep_config(table, 3, 0), script, workers=8)
    assert len(replay.record.trials) == 3
    assert replay.seconds == pytest.approx(START + 4.0)


def test_a_time_ends_a_sweep_however_many_trials_there_were() -> None:
    table, script = made_table(), Script([(64, 3e-3)])
    replay = simulate(table, sweep_config(table, 1, 0), script, workers=2, until=10.0)
    assert len(replay.record.trials) == 6, "two each 4.15 s"
    assert replay.seconds <= 10.0
    assert [trial.outcome for trial in replay.record.trials.values()][-2:] == [None, None]


def test_the_regret_of_the_best_is_nothing() -> None:
    table = made_table()
    assert table.least == pytest.approx(loss(128, 1.5e-3, 400), abs=1e-3)
    (rate,), least = table.best((128, 4))
    assert rate == pytest.approx(1.5e-3, rel=0.03)
    assert least == table.least
    best = {"model.d_model": 128, "model.n_layers": 4, "optim.lr": rate}
    assert regret(table, best) == pytest.approx(0.0, abs=1e-12)
    assert regret(table, best | {"optim.lr": rate * 4}) == pytest.approx(
        0.1 * np.log(4) ** 2, rel=0.05
    )
    assert regret(table, best | {"optim.lr": 3.0}) == regret(table, best | {"optim.lr": 3e-2})


def test_regrets_are_of_the_answer_at_each_time() -> None:
    table, script = made_table(), Script([(64, 2e-2), (128, 1.5e-3)])
    replay = simulate(table, sweep_config(table, 2, 0), script, workers=1)
    early, late = regrets(table, replay, [0.1, 1.0], seconds=replay.seconds)
    assert early > 0.2
    assert late == pytest.approx(0, abs=1e-3)
    assert regrets(table, replay, [0.1, 1.0], flops=replay.flops) == [early, late]


def test_curves_and_seeds_are_averaged() -> None:
    table = made_table(common=0.1, own=0.02)
    for d_model, lr in itertools.product((64, 128), (3e-4, 1e-3, 3e-3, 1e-2)):
        params = {"model.d_model": d_model, "model.n_layers": 4, "optim.lr": lr}
        assert abs(table.final(params) - loss(d_model, lr, 400)) < 0.02


def test_luck_is_told_apart_into_a_seeds_and_a_trials() -> None:
    luck = made_table(common=0.1, own=0.02).luck
    assert luck.own.std() == pytest.approx(0.02, rel=0.1)
    assert np.sqrt(np.square(luck.common).mean()) == pytest.approx(0.1, rel=0.2)
    alone = made_table(own=0.02).luck
    assert alone.own.std() == pytest.approx(0.02, rel=0.1)
    assert np.sqrt(np.square(alone.common).mean()) < 0.003, "a mean's rest of them is not common"


def test_trials_of_a_size_share_a_sweeps_luck_and_each_has_its_own() -> None:
    table = made_table(common=0.1, own=0.02)

    def deviation(d_model: int, seed: int, number: int) -> float:
        params = {"model.d_model": d_model, "model.n_layers": 4, "optim.lr": 3e-3}
        seen = seen_losses(table, params, seed, number)
        assert (seen == seen_losses(table, params, seed, number)).all()
        return float((seen - table.expected(params))[-1])

    small, large = (
        np.array([[deviation(d_model, seed, n) for n in range(20)] for seed in range(60)])
        for d_model in (64, 128)
    )
    assert small.mean() == pytest.approx(0, abs=0.04)
    for size in (small, large):
        assert size.std(axis=1).mean() == pytest.approx(0.02, rel=0.15), "beside it"
        assert size.mean(axis=1).std() == pytest.approx(0.1, rel=0.2), "of a sweep"
    assert abs(np.corrcoef(small.mean(axis=1), large.mean(axis=1))[0, 1]) < 0.4, "of a size"


def due(table: Table, trial: TrialRecord, step: float) -> float:
    """When an evaluation is reported, seconds."""
    size, _ = table.split(trial.params)
    return trial.started + START + step * table.seconds_per_step(size)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_what_is_stopped_is_what_the_rungs_stop(workers: int) -> None:
    table = made_table(own=0.02)
    config = sweep_config(table, 24, 5, "random")
    replay = simulate(table, config, product(config), workers)
    arrivals = sorted(
        (due(table, trial, e["step"]), trial.number, int(e["step"]), e["val_loss"])
        for trial in replay.record.trials.values()
        for e in trial.evaluations
    )
    rungs = Rungs(config.rungs, config.asha.reduction_factor)
    (answer,) = (t.number for t in replay.record.trials.values() if t.is_answer)
    assert answer == 23, "the last trial enters no rung"
    stopped = [
        n for _, n, step, loss in arrivals if n != answer and not rungs.arrive(step, n, loss)
    ]
    ended = replay.record.trials.values()
    assert sorted(stopped) == [trial.number for trial in ended if trial.outcome == "stopped"]
    assert len(stopped) > 8


def test_the_default_sweeps_start_point_comes_first() -> None:
    table = load("python-stdlib")
    config = sweep_config(table, 4, 0)
    replay = simulate(table, config, product(config), 1)
    assert replay.record.trials["t000"].params == config.start_points[0]


def test_a_simulation_is_a_function_of_its_seed() -> None:
    table = load("python-stdlib")
    replays = []
    for seed in (0, 0, 1):
        config = sweep_config(table, 12, seed)
        replays.append(simulate(table, config, product(config), 2))
    assert replays[0].answers == replays[1].answers
    assert replays[0].answers != replays[2].answers


def test_stock_ray_tune_suggests_one_ahead_and_stops_by_its_own_rungs() -> None:
    table = load("python-stdlib")
    config = sweep_config(table, 16, 3)
    method = METHODS["stock"](config)
    assert isinstance(method, RayTune)
    replay = simulate(table, config, method, 2)
    outcomes = [trial.outcome for trial in replay.record.trials.values()]
    assert len(outcomes) == 16
    assert {"finished", "stopped"} == set(outcomes)
    assert len(method._search._ot_study.trials) == 17
    assert {t.rung for t in replay.record.trials.values() if t.outcome == "stopped"} == {50, 150}


def test_the_fit_names_better_rates_than_the_ranking_of_losses() -> None:
    table, recommended = load("python-stdlib"), []
    for seed in range(4):
        config = sweep_config(table, 32, seed)
        replay = simulate(table, config, product(config), 2)
        fit, rule = by_fit(table, config, replay), by_rule(table, replay)
        assert fit.sizes.regret < rule.regret
        assert fit.held is not None
        assert 0 < fit.held <= 1
        assert fit.recommended > -1e-4, "the table's least is found on a grid"
        recommended.append(fit.recommended)
    assert np.mean(recommended) < 0.02


def test_runs_are_kept_and_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    setting = Setting("python-stdlib", "product random", 2, 4)
    first = Runs(path).of(setting, range(3), fits=1)
    path.write_bytes(path.read_bytes() + b'{"setting": {"ta')  # the process was killed
    again = Runs(path).of(setting, range(4), fits=1)
    assert again[:3] == first
    assert path.read_text().count("\n") == 4
    found = summary(again, 30.0, 1e12)
    assert len(found.by_time) == 4
    assert found.at_end == pytest.approx(np.mean([run.answers[-1][2] for run in again]))


def test_intervals_hold_the_mean() -> None:
    figures = np.random.default_rng(1).normal(1.0, 0.5, 200)
    low, high = interval(figures)
    assert low < figures.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(200), rel=0.25)


def test_one_size_alone_is_a_table() -> None:
    whole, alone = load("kjv"), load("kjv:128x4")
    assert alone.sizes == [(128, 4)]
    assert alone.least == whole.best((128, 4))[1] > whole.least
    assert len(alone.luck.own) == len(whole.luck.own), "what three seeds of a size tell is no luck"
    config = sweep_config(alone, 6, 0)
    replay = simulate(alone, config, product(config), 2)
    assert {alone.split(t.params)[0] for t in replay.record.trials.values()} == {(128, 4)}


@pytest.mark.parametrize("name", sorted(names()))
def test_tables_are_whole_and_small(name: str) -> None:
    path = Path(make_table.FOLDER, f"{name}.jsonl")
    table = load(name)
    assert path.stat().st_size < 150_000
    assert len(table.curves) == len(path.read_text().splitlines()) - 1
    assert all(len(curve.loss) == len(table.steps) for curve in table.curves)
    assert len({(curve.at, curve.seed) for curve in table.curves}) == len(table.curves)
    assert all(regret(table, _params(table, curve)) > -1e-9 for curve in table.curves)
    assert 0.003 < table.luck.own[:, -1].std() < 0.05


def _params(table: Table, curve: Curve) -> dict[str, Any]:
    return dict(zip(table.fields, curve.at, strict=True))


SMALL = {
    "model": {"d_model": 32, "n_layers": 1, "head_dim": 16, "context_length": 16},
    "train": {"steps": 50, "batch_size": 2, "eval_tokens": 64, "precision": "fp32"},
}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LM_SWEEP_HOME", str(tmp_path))
    monkeypatch.setattr(
        make_table, "read_yaml", lambda _: {"space": SPACE, "trial": json.loads(json.dumps(SMALL))}
    )
    path = tmp_path / "text"
    path.write_text("<|endoftext|>".join(f"a text {n} " * 40 for n in range(20)))
    return path


def arguments(text: Path, tmp_path: Path) -> list[str]:
    return [
        "make_table.py",
        "made",
        "--text",
        str(text),
        "--out",
        str(tmp_path / "tables"),
        "--sizes",
        "32:1",
    ]


def test_an_interrupted_table_goes_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed while it trains, and while it writes: what it has is kept, the rest comes."""
    whole = make_table.trained
    count: Iterator[int] = iter(range(100))

    def killed(*job: Any) -> dict[str, Any]:
        if next(count) == 3:
            raise KeyboardInterrupt
        return whole(*job)

    monkeypatch.setattr(sys, "argv", arguments(text, tmp_path))
    monkeypatch.setattr(make_table, "trained", killed)
    with pytest.raises(KeyboardInterrupt):
        make_table.main()
    path = tmp_path / "tables" / "made.jsonl"
    before = path.read_text()
    assert before.count("\n") == 4
    path.write_text(before + '{"at": [32, 1, 0.0')
    make_table.main()
    after = path.read_text()
    assert after.startswith(before)
    table = Table.read(path)
    places = [(curve.at, curve.seed) for curve in table.curves]
    assert len(set(places)) == len(places)
    (rate,), _ = table.best((32, 1))
    near = sorted({at[2] for at, _ in places}, key=lambda r: abs(np.log(r / rate)))[:2]
    assert all(sum(at[2] == r for at, _ in places) == 3 for r in near), "three seeds near the best"
    assert not list(make_table.missing(table, [(32, 1)], []))


def test_a_summary_is_a_row_of_markdown() -> None:
    lines = markdown(["b"] * 3, [["a"] * 3]).splitlines()
    assert lines == ["| b | b | b |", "| --- | --- | --- |", "| a | a | a |"]
    assert method_of("product tpe") == ("tpe", product)
    assert isinstance(Replay, type)


def test_a_sweep_from_older_trials_is_simulated_beside_one_from_nothing() -> None:
    table = load("python-stdlib")
    told = [of_seed(table, "tpe", seed) for seed in (10_000, 10_001)]
    assert told[0] == of_seed(table, "tpe", 10_000)
    for cold, *_ in told:
        assert cold[0] == cold[1], "it is judged at its own end"
    assert all(seconds > 0 for row in told for _, _, seconds in row)
    nothing, long = (np.mean([row[place][1] for row in told]) for place in (0, -1))
    assert long < nothing
