"""The numbers of the search: what is suggested for a seed and a history, as once recorded."""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import RunPython
from optuna.samplers import TPESampler
from sweep_samples import record_of, run_of, started, sweep_config

from sweep.cluster.packing import at_most
from sweep.search.optuna_search import distribution
from sweep.search.tune_search import SweepSearch

RECORDED = Path(__file__).parent / "suggestions.json"
"""By algorithm, the suggestions that `played` led to before the search had an interface."""

SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-1]},
    "model.d_model": {"choice": [32, 64, 128]},
    "model.n_layers": {"int": [1, 6]},
    "optim.beta2": {"uniform": [0.9, 0.99]},
    "optim.schedule": {"choice": ["cosine", "wsd"]},
}


def loss_of(params: dict[str, Any]) -> float:
    """Return a loss with its best at a rate of 2e-3."""
    return 2 + abs(params["optim.lr"] - 2e-3) * 40 + 16 / params["model.d_model"]


def played(algorithm: str) -> list[dict[str, Any]]:
    """Play a search of two sessions; return all that it suggested.

    The first begins with start points, whole and in part, runs four trials at a time, and has
    trials that end well, are lost, and fail; the second takes up such trials and two unfinished.
    """
    points = [{"optim.lr": 3e-3, "model.d_model": 64}, {"model.n_layers": 2}]
    config = sweep_config(
        space=SPACE,
        seed=11,
        num_samples=60,
        start_points=points,
        search={"algorithm": algorithm, "startup_trials": 6},
    )
    suggested = []
    search = SweepSearch(config, record_of(), {}, at_most(4))
    running: list[tuple[str, dict[str, Any]]] = []
    for number in range(30):
        suggestion = search.suggest(f"id{number}")
        suggested.append({"name": suggestion["name"], **suggestion["params"]})
        running.append((f"id{number}", suggestion["params"]))
        if len(running) == 4:
            tune_id, params = running.pop(number % 3)
            if number % 7 == 5:
                search.on_trial_complete(tune_id, {"val_loss": 1e9})
            elif number % 7 == 6:
                search.on_trial_complete(tune_id, error=True)
            else:
                search.on_trial_complete(tune_id, {"val_loss": loss_of(params)})
    outcomes = ("finished", "stopped", "diverged", "out_of_memory", "failed")
    past = []
    for number, first in enumerate(suggested[:22]):
        params = {name: first[name] for name in SPACE}
        if number in (7, 15):
            past += [started(first["name"], params=params)]
        else:
            outcome = outcomes[number % 11] if number % 11 < 5 else "finished"
            losses = {0: 6.0, 10: loss_of(params)}
            past += run_of(first["name"], losses, outcome)
            past[-len(losses) - 2]["params"] = params
    search = SweepSearch(config, record_of(past), {}, at_most(4))
    for number in range(20):
        suggestion = search.suggest(f"again{number}")
        suggested.append({"name": suggestion["name"], **suggestion["params"]})
        if number >= 3:
            result = {"val_loss": loss_of(suggestion["params"])}
            search.on_trial_complete(f"again{number}", result)
    return suggested


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_suggestions_are_those_recorded(algorithm: str) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[algorithm]
    now = played(algorithm)
    assert len(now) == len(recorded) == 50
    for suggestion, expected in zip(now, recorded, strict=True):
        assert list(suggestion) == list(expected)
        for name, value in expected.items():
            # The last bits of logarithms differ between processors.
            near = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert suggestion[name] == near, (suggestion["name"], name)


@pytest.mark.parametrize("startup", [3, 12])
def test_losses_matter_once_the_random_trials_have_ended(startup: int) -> None:
    config = sweep_config(space=SPACE, search={"startup_trials": startup}, num_samples=30)

    def suggested(sign: int) -> list[float]:
        search = SweepSearch(config, record_of(), {}, at_most(1))
        rates = []
        for number in range(startup + 6):
            params = search.suggest(str(number))["params"]
            rates.append(params["optim.lr"])
            search.on_trial_complete(str(number), {"val_loss": 9 + sign * loss_of(params)})
        return rates

    low, high = suggested(1), suggested(-1)
    assert low[:startup] == high[:startup]
    assert low[startup + 1 :] != high[startup + 1 :]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trials_side_by_side_do_not_crowd_at_the_best_place(seed: int) -> None:
    """What runs counts as bad until its loss is known (constant liar)."""
    space = {"optim.beta1": {"uniform": [0.0, 0.9]}, "optim.warmup_fraction": {"uniform": [0, 1]}}
    config = sweep_config(space=space, seed=seed, search={"startup_trials": 8})
    search = SweepSearch(config, record_of(), {}, at_most(12))

    def place(number: int) -> complex:
        params = search.suggest(str(number))["params"]
        return complex(params["optim.beta1"] / 0.9, params["optim.warmup_fraction"])

    for number in range(16):
        loss = abs(place(number) - complex(0.5, 0.5)) ** 2
        search.on_trial_complete(str(number), {"val_loss": loss})
    running = [place(number) for number in range(16, 28)]
    nearest = [min(abs(a - b) for b in running if b is not a) for a in running]
    assert statistics.median(nearest) > 0.1


def test_tpe_is_optunas_with_the_options_that_are_promised() -> None:
    config = sweep_config(space=SPACE, seed=5, search={"startup_trials": 4})
    search = SweepSearch(config, record_of(), {}, at_most(1))
    domains = {name: distribution(domain) for name, domain in config.space.items()}
    study = optuna.create_study()
    for number in range(16):
        params = search.suggest(str(number))["params"]
        seed = int(np.random.SeedSequence([5, number]).generate_state(1)[0])
        study.sampler = TPESampler(
            n_startup_trials=4,
            n_ei_candidates=24,
            multivariate=True,
            constant_liar=True,
            seed=seed,
        )
        trial = study.ask(domains)
        assert trial.params == params
        search.on_trial_complete(str(number), {"val_loss": loss_of(params)})
        study.tell(trial, loss_of(params))


def test_the_rule_and_the_interface_load_no_library(run_python: RunPython) -> None:
    code = (
        "import sys, sweep.search.rungs, sweep.search.ask_tell\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"torch", "ray", "optuna"}
