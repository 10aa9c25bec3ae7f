"""A sweep that starts from older ones: what it takes over, and what that is used for."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_samples import (
    SPACE,
    TRIAL,
    ended,
    evaluated,
    new_sweep,
    record_of,
    refusal,
    run_of,
    session,
    started,
    sweep_config,
    write_events,
)
from test_answers import BEST, Sweep, loss_at

from sweep.analysis.axes import input_axes, inputs_of
from sweep.analysis.study import Study
from sweep.common.errors import SweepError
from sweep.conduct import start
from sweep.conduct.warm_start import older_events, warm_started
from sweep.config.sweep import SweepConfig
from sweep.record.events import EVENTS_FILE, Event, read_events
from sweep.record.folder import find_sweep
from sweep.record.results import SweepRecord, TrialRecord
from sweep.search.ask_tell import build_method
from sweep.search.gp_model import MOST_ROWS
from trainable.common.errors import ConfigError

DATA = "da7a5e7"
"""Digest of the dataset of new_sweep's sweeps."""
LEARNING = ["tpe", "gp"]


def ran(name: str, trials: int = 12, seed: int = 5, **changes: Any) -> list[Event]:
    """Play an older sweep and keep it; return its events."""
    sweep = Sweep(sweep_config(num_samples=trials, seed=seed, **changes))
    for number in range(trials):
        sweep.run(number)
    folder, _ = new_sweep(name, sweep.config)
    write_events(folder, session(num_samples=trials), sweep.events)
    return sweep.events


def warm_config(*older: str, algorithm: str = "gp", **changes: Any) -> SweepConfig:
    search = {"algorithm": algorithm, "warm_start": list(older), "startup_trials": 4}
    return sweep_config(**{"search": search, **changes})


def begun(config: SweepConfig) -> tuple[SweepConfig, list[Event]]:
    """Return a warm-started sweep's settings, and the events that its record begins with."""
    found, older = warm_started(config, DATA)
    return found, older_events(older)


def far(params: dict[str, Any]) -> float:
    return abs(math.log2(params["optim.lr"] / BEST))


@pytest.mark.parametrize("algorithm", LEARNING)
def test_it_begins_where_the_older_sweep_had_found_the_best(algorithm: str) -> None:
    ran("old", 24)
    config, known = begun(warm_config("old", algorithm=algorithm, num_samples=10))
    first = [build_method(config, record_of(known)).ask(0, {})]
    for seed in range(7):
        other = config.model_copy(update={"seed": seed + 100})
        first.append(build_method(other, record_of(known)).ask(0, {}))
    cold = sweep_config(num_samples=10, search={"algorithm": algorithm})
    blind = [
        build_method(cold.model_copy(update={"seed": s}), SweepRecord()).ask(0, {})
        for s in range(8)
    ]
    assert max(map(far, first)) < 1.5 < max(map(far, blind))
    assert sum(p["model.d_model"] == 64 for p in first) >= 6


@pytest.mark.parametrize("algorithm", LEARNING)
def test_a_resume_suggests_the_same_though_the_older_sweep_is_gone(algorithm: str) -> None:
    ran("old")
    asked = warm_config("old", algorithm=algorithm, num_samples=12)
    config, older = warm_started(asked, DATA)
    folder, _ = start._create(config.model_copy(update={"name": "new"}), DATA, older_events(older))
    sweep = Sweep(config, read_events(folder))
    kept = []
    for number in range(12):
        kept.append(list(sweep.events))
        sweep.run(number)
    params = [t.params for t in record_of(sweep.events).trials.values()]
    write_events(find_sweep("old"), run_of("t050", {0: 5.0, 80: 0.1}, "finished"))
    again = [build_method(config, record_of(events)) for events in kept]
    assert [method.ask(n, {}) for n, method in enumerate(again)] == params
    shutil.rmtree(find_sweep("old"))
    assert SweepRecord.read(folder).older == record_of(kept[0]).older
    resumed = Sweep(config, [*read_events(folder), *kept[6][len(kept[0]) :]])
    for number in range(6, 12):
        resumed.run(number)
    assert [t.params for t in record_of(resumed.events).trials.values()] == params


def test_what_is_taken_over_is_data_alone() -> None:
    """It is no trial of the new sweep: not ranked, judged at no rung, counted nowhere."""
    ran("old")
    config, known = begun(warm_config("old", algorithm="tpe", num_samples=4))
    record = record_of(known)
    assert (len(record.older), {t.sweep for t in record.older}) == (12, {"old"})
    assert (record.trials, record.best, record.ended, record.counts()) == ({}, None, 0, {})
    sweep = Sweep(config, known)
    assert sweep.method.ask(0, {}).keys() == SPACE.keys()
    assert sweep.method.report(0, 10, 99.0), "the first to arrive at a rung goes on"
    study = Study(config, record_of([*known, started("t000"), evaluated("t000", 80, 2.0)]))
    assert [row.trials for row in study.sizes] == [1]


def test_the_tables_and_the_answer_use_what_the_older_sweep_knew() -> None:
    ran("old", 24)
    config, known = begun(warm_config("old", algorithm="tpe", num_samples=1))
    params = {"optim.lr": 6e-3, "model.d_model": 64}
    curve = {step: loss_at(params, step) for step in (10, 40, 80)}
    own = run_of("t000", curve, "finished", lr=6e-3, d_model=64)
    warm, cold = (Study(config, record_of([*events, *own])) for events in (known, []))
    assert warm.surface is not None
    assert cold.surface is not None
    assert far(warm.surface.best({}).params) < 0.4 < far(cold.surface.best({}).params)
    only = build_method(config, record_of(known))
    assert far(only.ask(0, {})) < 0.4
    assert 0 in only.answers


def test_an_older_sweep_has_an_offset_of_its_own() -> None:
    """Its losses are all lower by 0.1: the valley is believed, the level is the new sweep's."""
    points = [(2.5e-4, 64), (5e-4, 64), (1e-3, 64), (2e-3, 64), (4e-3, 64)]
    older, own = [], []
    for n, (rate, width) in enumerate(points):
        params = {"optim.lr": rate, "model.d_model": width}
        curve = {step: loss_at(params, step) for step in (10, 20, 40, 80)}
        low = [[step, loss - 0.1] for step, loss in curve.items()]
        told = {"sweep": "old", "older": f"t{n:03d}", "outcome": "finished", "curve": low}
        older.append({"event": "older_trial", "time": 1.0, "params": params, **told})
        if n in (0, 4):
            own += run_of(f"t{n:03d}", curve, "finished", lr=rate, d_model=width)
    config = warm_config("old")
    mixed = [{**e, "sweep": "new"} for e in older]
    surface = Study(config, record_of([*older, *own])).surface
    assert surface is not None
    found = surface.best({"model.d_model": 64})
    assert far(found.params) < 0.3
    truth = loss_at({"optim.lr": BEST, "model.d_model": 64}, 80)
    assert found.loss == pytest.approx(truth, abs=0.04)
    assert len({t.sweep for t in record_of([*older, *mixed]).older}) == 2


def test_what_one_sweep_searched_and_the_other_fixed_is_an_input() -> None:
    ran("both", 24)
    trial = {**TRIAL, "model": {**TRIAL["model"], "d_model": 64}}
    config, known = begun(
        warm_config("both", trial=trial, space={"optim.lr": SPACE["optim.lr"]}, num_samples=9)
    )
    record = record_of(known)
    assert {t.params["model.d_model"] for t in record.older} == {32, 64}
    axes = input_axes(config, record.older)
    assert [axis.name for axis in axes] == ["optim.lr", "model.d_model"]
    point = {"optim.lr": 1e-3}
    assert inputs_of(axes, [point, {**point, "model.d_model": 32}]).tolist() == [
        pytest.approx([0.5, 1.0]),
        pytest.approx([0.5, 0.0]),
    ]
    first = build_method(config, record).ask(0, {})
    assert first.keys() == {"optim.lr"}
    assert far(first) < 1
    by_tpe = build_method(warm_config(algorithm="tpe", trial=trial, space=config.space), record)
    wide = [t for t in record.older if t.params["model.d_model"] == 64]
    assert 0 < len(by_tpe.study.trials) == len(wide) < 24, "it knows but its own space"

    other, known = begun(
        warm_config("both", space={**SPACE, "optim.weight_decay": {"uniform": [0.0, 0.2]}})
    )
    assert {t.params["optim.weight_decay"] for t in record_of(known).older} == {0.1}
    assert build_method(other, record_of(known)).ask(0, {}).keys() == other.space.keys()


def test_numbers_outside_of_the_space_are_data_and_words_are_not() -> None:
    words = {"optim.lr": SPACE["optim.lr"], "optim.schedule": {"choice": ["cosine", "wsd"]}}
    folder, _ = new_sweep("words", sweep_config(space=words))
    for n, (rate, schedule) in enumerate([(1e-4, "cosine"), (9e-3, "wsd"), (2e-3, "cosine")]):
        params = {"optim.lr": rate, "optim.schedule": schedule}
        name = f"t{n:03d}"
        write_events(
            folder, started(name, params=params), evaluated(name, 80, 2.0), ended(name, "finished")
        )
    narrow = {"optim.lr": {"loguniform": [1e-3, 1e-2]}, "optim.schedule": {"choice": ["cosine"]}}
    config, known = begun(warm_config("words", space=narrow))
    record = record_of(known)
    assert [t.params["optim.lr"] for t in record.older] == [1e-4, 2e-3]
    rates = inputs_of(input_axes(config, record.older), [t.params for t in record.older])[:, 0]
    assert rates == pytest.approx([-1.0, math.log10(2)])
    tpe = build_method(warm_config(algorithm="tpe", space=narrow), record)
    assert [t.params["optim.lr"] for t in tpe.study.trials] == [2e-3]
    assert build_method(config, record).ask(0, {})["optim.lr"] >= 1e-3


def test_tpe_counts_older_trials_as_known_ones() -> None:
    """So it models from the first trial on, and knows lost ones as the worst."""
    ran("old", 12)
    write_events(find_sweep("old"), run_of("t012", {0: 5.0}, "diverged", lr=9e-3))
    write_events(find_sweep("old"), run_of("t013", {0: 5.0, 10: 1.0}, "failed", lr=9e-3))
    write_events(find_sweep("old"), run_of("t014", {0: 5.0, 10: 1.0}, "interrupted", lr=9e-3))
    config, known = begun(warm_config("old", algorithm="tpe"))
    method: Any = build_method(config, record_of(known))
    values = [trial.value for trial in method.study.trials]
    lasts = [
        t.evaluations[-1]["val_loss"] for t in SweepRecord.read(find_sweep("old")).trials.values()
    ]
    assert values[:12] == lasts[:12]
    assert len(values) == 13
    assert values[12] > 1e6
    cold: Any = build_method(warm_config(algorithm="tpe"), SweepRecord())
    assert method.ask(0, {}) != cold.ask(0, {})


@pytest.mark.parametrize("algorithm", LEARNING)
def test_the_table_of_sizes_as_a_goal_begins_with_older_trials_as_well(algorithm: str) -> None:
    ran("old", 24)
    search = {"algorithm": algorithm, "warm_start": ["old"], "goal": "table"}
    config, known = begun(sweep_config(search=search, num_samples=4))
    sweep = Sweep(config, known)
    for number in range(4):
        sweep.run(number)
    trials = record_of(sweep.events).trials.values()
    assert max(far(t.params) for t in trials) < 1.7
    assert {t.params["model.d_model"] for t in trials} == {32, 64} or algorithm == "gp"
    assert not any(t.is_answer for t in trials)


def test_a_start_point_that_was_tried_is_known_and_not_tried_again() -> None:
    point = {"optim.lr": 3e-3, "model.d_model": 32}
    events = ran("old", 4)
    tried = record_of(events).trials["t001"].params
    points = [point, tried, {"model.d_model": 64}]
    config, _ = begun(warm_config("old", start_points=points))
    assert config.start_points == [point]
    assert build_method(config, SweepRecord()).ask(0, point) == point


def test_a_sweep_is_known_by_its_name_however_it_is_called(project: Path) -> None:
    ran("old", 4)
    config, older = warm_started(warm_config(f"{project}/results/old/", "old"), DATA)
    assert config.search.warm_start == ["old"]
    assert len(older) == 4


def test_what_is_taken_over_of_a_long_sweep_is_bounded() -> None:
    folder, _ = new_sweep("long", sweep_config(num_samples=900))
    rng, told = np.random.default_rng(0), []
    for n in range(700):
        rate, last = float(10 ** rng.uniform(-4, -2)), 80 if n % 3 == 0 else 10
        params = {"optim.lr": rate, "model.d_model": 32}
        losses = {step: loss_at(params, step) for step in range(10, last + 10, 10)}
        told += run_of(f"t{n:03d}", losses, "finished" if last == 80 else "stopped", lr=rate)
    for n in range(700, 900):
        told += run_of(f"t{n:03d}", {0: 5.0}, "diverged", lr=9e-3)
    write_events(folder, told)
    config, known = begun(warm_config("long"))
    older = record_of(known).older
    assert sum(len(t.evaluations) for t in older) <= MOST_ROWS
    assert sum(t.outcome == "diverged" for t in older) == 100
    assert sum(t.outcome == "finished" for t in older) >= MOST_ROWS // 2
    assert build_method(config, record_of(known)).ask(0, {})


def settings(**model: Any) -> dict[str, Any]:
    return {**TRIAL, "model": {**TRIAL["model"], **model}}


def test_other_tokens_or_settings_are_refused_with_the_difference() -> None:
    ran("old", 4)
    with pytest.raises(ConfigError, match=r"search.warm_start old: its dataset data/none is da7a5"):
        warm_started(warm_config("old"), "another")
    with pytest.raises(ConfigError, match=r"\(model.n_layers 2 there, 3 here\): set or search"):
        warm_started(warm_config("old", trial=settings(n_layers=3)), DATA)
    train = {**TRIAL, "train": {**TRIAL["train"], "steps": 160}}
    with pytest.raises(ConfigError, match=r"train.steps 80 there, 160 here"):
        warm_started(warm_config("old", trial=train), DATA)
    noise = {"seed": 9, "precision": "bf16", "attention": "plain", "grad_accumulation": 2}
    same = {**TRIAL, "train": {**TRIAL["train"], **noise}}
    assert len(warm_started(warm_config("old", trial=same), DATA)[1]) == 4


def test_a_sweep_that_is_unknown_damaged_or_empty_is_refused_with_the_remedy() -> None:
    ran("old", 4)
    with pytest.raises(SweepError, match=r"sweep 'none': not in .*; there are: old"):
        warm_started(warm_config("old", "none"), DATA)
    new_sweep("empty")
    with pytest.raises(SweepError, match=r"search.warm_start empty: no trial of it has ended that"):
        warm_started(warm_config("empty"), DATA)
    path = find_sweep("old") / EVENTS_FILE
    path.write_bytes(path.read_bytes().replace(b"val_loss", b"val_lost", 1))
    with pytest.raises(SweepError, match="old --repair"):
        warm_started(warm_config("old"), DATA)


def test_what_the_search_has_no_use_for_is_refused() -> None:
    assert "random search learns from no trial; take tpe or gp" in refusal(
        search={"algorithm": "random", "warm_start": ["old"]}
    )
    assert "a sweep cannot start from itself" in refusal(search={"warm_start": ["old"]}, name="old")
    assert "a sweep stands twice" in refusal(search={"warm_start": ["old", "old"]})


def test_a_sweep_is_there_only_with_all_that_it_begins_with(project: Path) -> None:
    ran("old", 4)
    _, older = warm_started(warm_config("old"), DATA)
    folder, _ = start._create(warm_config("old", name="new"), DATA, older_events(older))
    times = [(folder / name).stat().st_mtime_ns for name in (EVENTS_FILE, "sweep.json")]
    assert times == sorted(times), "sweep.json is what makes a folder a sweep"
    lines = (folder / EVENTS_FILE).read_bytes().splitlines()
    assert [json.loads(line)["older"] for line in lines] == [f"t{n:03d}" for n in range(4)]
    damaged = lines[2].replace(b"e", b"\x04", 1)
    (folder / EVENTS_FILE).write_bytes(b"\n".join([*lines[:2], damaged, lines[3], b""]))
    with pytest.raises(SweepError, match="new --repair"):
        SweepRecord.read(folder)


@pytest.mark.parametrize(
    ("wrong", "value"),
    [("older", "x"), ("curve", [[1.5, 2.0]]), ("curve", [[10]]), ("outcome", "won"), ("sweep", 3)],
)
def test_a_damaged_older_trial_is_an_error(wrong: str, value: Any) -> None:
    told = older_events(
        [TrialRecord("t000", {"optim.lr": 1e-3}, 0.0, outcome="diverged", sweep="old")]
    )
    with pytest.raises(SweepError, match="event 1 of the sweep is damaged"):
        record_of([{**told[0], wrong: value}])
