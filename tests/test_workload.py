"""What a sweep is expected to train: by a simulation of its own search, beside real curves."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sweep_samples import sweep_config

from benchmarks.search.simulator import START
from benchmarks.search.simulator import sweep_config as default_sweep
from benchmarks.search.table import Table, load
from sweep.config.sweep import SweepConfig
from sweep.plan.sizes import trial_flops
from sweep.plan.valley import Valley
from sweep.plan.workload import LARGEST, Stint, Workload, expected_workload
from trainable.model.counts import parameter_count

VOCAB = 257


def searched(config: SweepConfig, **search: Any) -> SweepConfig:
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


def seconds(table: Table, config: SweepConfig, workers: int) -> float:
    """Return the forecast for a table, by the true seconds of a step of each of its sizes."""
    flops = {
        trial_flops(config.trial_config(_params(table, size)), VOCAB): size for size in table.sizes
    }

    def of(stint: Stint) -> float:
        return START + stint.share * stint.full_steps * table.seconds_per_step(flops[stint.flops])

    return expected_workload(config, VOCAB, workers).seconds(workers, of)


def _params(table: Table, size: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(table.fields, (*size, 3e-3), strict=True))


@pytest.mark.parametrize(
    ("name", "algorithm", "workers", "trials", "measured"),
    [
        ("python-stdlib", "tpe", 2, 16, 55.3),
        ("python-stdlib", "tpe", 2, 32, 105.2),
        ("python-stdlib", "tpe", 2, 100, 396.3),
        ("python-stdlib", "tpe", 8, 32, 35.4),
        ("kjv", "tpe", 2, 32, 202.0),
        ("kjv", "gp", 2, 16, 100.5),
        ("kjv", "gp", 2, 32, 211.4),
        ("kjv", "gp", 2, 100, 604.0),
        ("kjv", "gp", 8, 32, 91.0),
        ("python-stdlib", "gp", 2, 32, 118.8),
        ("python-stdlib", "gp", 8, 100, 110.3),
    ],
)
def test_the_forecast_is_near_what_sweeps_on_real_curves_take(
    name: str, algorithm: str, workers: int, trials: int, measured: float
) -> None:
    """Means of 40 to 100 sweeps; one sweep is off them by 5 to 25 %."""
    table = load(name)
    forecasts = [
        seconds(table, default_sweep(table, trials, seed, algorithm), workers) for seed in (1, 2)
    ]
    assert np.mean(forecasts) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("trials", "search", "measured"),
    [
        (16, {"goal": "table"}, 0.49),
        (32, {"goal": "table"}, 0.68),
        (8, {"warm_start": ["old"]}, 0.56),
        (16, {"warm_start": ["old"]}, 0.47),
        (32, {"warm_start": ["old"]}, 0.45),
        (32, {}, 0.44),
    ],
)
def test_the_share_of_steps_is_near_what_search_by_gp_takes_on_real_curves(
    trials: int, search: dict[str, Any], measured: float
) -> None:
    config = searched(default_sweep(load("python-stdlib"), trials, 3, "gp"), **search)
    assert expected_workload(config, VOCAB, 2).share == pytest.approx(measured, rel=0.2)


def test_what_stops_less_takes_a_larger_share() -> None:
    shares = [
        expected_workload(
            sweep_config(num_samples=32, asha={"reduction_factor": n}), VOCAB, 2
        ).share
        for n in (4, 3, 2)
    ]
    assert all(less < more for less, more in pairwise([0, *shares, 1]))
    longer = sweep_config(num_samples=32, asha={"grace_period": 20, "reduction_factor": 2})
    assert expected_workload(longer, VOCAB, 2).share > shares[-1]
    for whole in (sweep_config(asha={"enabled": False}), sweep_config(num_samples=1)):
        assert expected_workload(whole, VOCAB, 2).share == 1.0


def test_it_is_a_function_of_the_sweep_and_tells_of_each_of_its_trials() -> None:
    config = sweep_config(num_samples=24)
    found = expected_workload(config, VOCAB, 2)
    assert found == expected_workload(config, VOCAB, 2)
    assert found != expected_workload(config.model_copy(update={"seed": 1}), VOCAB, 2)
    sizes = {trial_flops(config.trial_config({"model.d_model": d}), VOCAB) for d in (32, 64)}
    for stints in found.sweeps:
        assert len(stints) == 24
        assert {stint.flops for stint in stints} == sizes
        assert all(stint.full_steps == 80 and 10 / 80 <= stint.share <= 1 for stint in stints)
        assert stints[-1].share == 1, "the answer is trained to its end"
    steps = [sum(80 * stint.share for stint in stints) for stints in found.sweeps]
    assert found.steps == pytest.approx(np.mean(steps))
    assert found.share == pytest.approx(np.mean(steps) / (24 * 80))


def test_a_long_sweep_goes_on_as_its_simulated_part_ended() -> None:
    many = 10_000
    stints = expected_workload(sweep_config(num_samples=many), VOCAB, 200).sweeps[0]
    assert len(stints) == many
    assert stints[-1].share == 1
    assert set(stints[LARGEST:-1]) <= set(stints[LARGEST // 2 : LARGEST])
    first = sum(stint.share for stint in stints[: LARGEST // 2])
    later = sum(stint.share for stint in stints[LARGEST:-1]) * (LARGEST // 2)
    assert 0.3 < later / (many - LARGEST) / first < 3


def test_a_free_worker_takes_the_next_trial() -> None:
    stints = tuple(Stint(100, n, 1.0) for n in (4, 1, 1, 2, 5))
    load = Workload((stints,))
    assert load.seconds(1, lambda stint: stint.flops) == 13
    assert load.seconds(2, lambda stint: stint.flops) == 9, "4 and 1, 1, 2, then 5 after 4"
    assert load.seconds(9, lambda stint: stint.flops) == 5
    two = Workload((stints, stints[:1]))
    assert two.seconds(1, lambda stint: stint.flops) == (13 + 4) / 2


def test_in_the_valley_larger_models_end_lower_and_want_lower_rates() -> None:
    table = load("python-stdlib")
    valley = Valley(default_sweep(table, 8, 0), VOCAB)
    rates = [float(rate) for rate in np.geomspace(1e-4, 3e-2, 41)]

    def ends(width: int, depth: int) -> list[float]:
        at = {"model.d_model": width, "model.n_layers": depth}
        courses = [valley.course({**at, "optim.lr": rate}, 7) for rate in rates]
        assert all(course.losses[0][0] == 0 for course in courses)
        assert all(course.losses[-1][0] == 400 for course in courses)
        return [course.losses[-1][1] for course in courses]

    narrow, wide = ends(64, 4), ends(192, 4)
    assert min(narrow) - min(wide) == pytest.approx(0.2, abs=0.05)
    ratio = rates[int(np.argmin(narrow))] / rates[int(np.argmin(wide))]
    assert ratio == pytest.approx(3, rel=0.15)
    for at in (narrow, wide):
        best = int(np.argmin(at))
        assert at[best - 10] - at[best] == pytest.approx(0.25, abs=0.12)


def test_at_equal_flops_no_size_is_better_beforehand() -> None:
    space = {"model.d_model": {"choice": [32, 64]}}
    plain = sweep_config(space=space)
    config = searched(plain, compare="flops", flops=1e9, vocab_size=VOCAB)
    valley = Valley(config, VOCAB)
    small, large = (valley.course({"model.d_model": d}, 3) for d in (32, 64))
    assert [loss for _, loss in small.losses] == pytest.approx([loss for _, loss in large.losses])
    assert small.losses[-1][0] > large.losses[-1][0]
    by_steps = [Valley(plain, VOCAB).course({"model.d_model": d}, 3) for d in (32, 64)]
    counts = [
        parameter_count(plain.trial_config({"model.d_model": d}).model, VOCAB) for d in (32, 64)
    ]
    gain = by_steps[0].losses[-1][1] - by_steps[1].losses[-1][1]
    assert gain == pytest.approx(0.1 * np.log(counts[1] / counts[0]))


def test_other_fields_cost_at_both_ends_and_words_nothing() -> None:
    space = {
        "optim.weight_decay": {"loguniform": [0.01, 1.0]},
        "optim.schedule": {"choice": ["cosine", "wsd"]},
    }
    valley = Valley(sweep_config(space=space), VOCAB)

    def end(decay: float, schedule: str) -> float:
        params = {"optim.weight_decay": decay, "optim.schedule": schedule}
        return valley.course(params, 3).losses[-1][1]

    assert end(0.01, "cosine") - end(0.1, "cosine") == pytest.approx(0.05)
    assert end(1.0, "cosine") - end(0.1, "cosine") == pytest.approx(0.05)
    assert end(0.1, "cosine") == end(0.1, "wsd")
