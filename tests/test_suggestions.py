"""The numbers of the search: what is suggested for a seed and a history, as once recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import RunPython
from sweep_samples import record_of, run_of, started, sweep_config

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
    search = SweepSearch(config, record_of(), {}, 4)
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
    search = SweepSearch(config, record_of(past), {}, 4)
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


def test_the_rule_and_the_interface_load_no_library(run_python: RunPython) -> None:
    code = (
        "import sys, sweep.search.rungs, sweep.search.ask_tell\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"torch", "ray", "optuna"}
