"""What is suggested: repeatable, valid, learnt from what ended, and the same after a resume."""

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from sweep_samples import SPACE, ended, evaluated, record_of, run_of, started, sweep_config

from sweep.cluster.packing import at_most
from sweep.config.sweep import SweepConfig
from sweep.record.events import Event
from sweep.record.results import SweepRecord
from sweep.search.tune_search import SweepSearch
from trainable.common.objective import OBJECTIVE_OF_A_LOST_TRIAL
from trainable.config.trial import TrialConfig

WIDE = {
    "optim.lr": {"loguniform": [1e-4, 1e-1]},
    "model.d_model": {"choice": [32, 64, 128]},
    "model.n_layers": {"int": [1, 6]},
    "optim.beta2": {"uniform": [0.9, 0.99]},
    "optim.schedule": {"choice": ["cosine", "wsd"]},
}
Suggestion = dict[str, Any]
MANY = 10_000
"""Trials at a time, where that is not what is tested."""


def loss_of(params: dict[str, Any]) -> float:
    """Return a smooth loss with its best at lr 1e-3 and d_model 128."""
    return 2 + math.log10(params["optim.lr"] / 1e-3) ** 2 + 16 / params.get("model.d_model", 64)


def new_search(config: SweepConfig, *events: Event | list[Event]) -> SweepSearch:
    return SweepSearch(config, record_of(*events), {}, at_most(MANY))


def suggest(search: SweepSearch, count: int) -> list[Suggestion]:
    """Take `count` suggestions one after another, each told its loss before the next."""
    taken = []
    for _ in range(count):
        trial_id = f"id-{random.random()}"  # Tune's ids are random, too
        suggestion = search.suggest(trial_id)
        taken.append(suggestion)
        result = {"val_loss": loss_of(suggestion["params"]), "step": 80, "outcome": None}
        search.on_trial_complete(trial_id, result)
    return taken


def params_of(suggestions: list[Suggestion]) -> list[dict[str, Any]]:
    return [s["params"] for s in suggestions]


def history(suggestions: list[Suggestion]) -> list[Event]:
    """Return what the record holds of suggestions that finished with their loss."""
    events: list[Event] = []
    for suggestion in suggestions:
        name, params = suggestion["name"], suggestion["params"]
        events.append(started(name, params=params))
        events += [evaluated(name, 0, 9.0), evaluated(name, 80, loss_of(params))]
        events.append(ended(name, "finished"))
    return events


@pytest.mark.fault
def test_a_suggestion_that_had_not_begun_is_made_again() -> None:
    """A driver is killed when t001 runs already, and t000 and t003 wait for their workers."""
    config = sweep_config(start_points=[{"optim.lr": 5e-3, "model.d_model": 64}])
    all_of_them = suggest(new_search(config), 5)
    record = [*history(all_of_them[2:3]), *run_of("t001", {0: 9.0}, None)]
    resumed = suggest(new_search(config, record), 4)
    assert [s["name"] for s in resumed] == ["t001", "t000", "t003", "t004"]
    assert resumed[1]["params"] == all_of_them[0]["params"]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_seed_decides_the_suggestions(algorithm: str) -> None:
    def drawn(seed: int) -> list[dict[str, Any]]:
        config = sweep_config(
            space=WIDE, seed=seed, search={"algorithm": algorithm}, num_samples=99
        )
        np.random.seed(random.randrange(2**32))  # nothing global may matter
        return params_of(suggest(new_search(config), 20))

    first = drawn(0)
    assert len({params["optim.lr"] for params in first}) == 20, "each suggestion is drawn anew"
    assert drawn(0) == first
    other = drawn(1)
    assert all(a["optim.lr"] != b["optim.lr"] for a, b in zip(first, other, strict=True))


def test_nothing_global_is_drawn_from() -> None:
    before = np.random.get_state()[1].copy(), random.getstate()
    search = new_search(sweep_config(space=WIDE))
    for number in range(15):
        search.suggest(str(number))
        search.on_trial_complete(str(number), {"val_loss": 1.0 + number})
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]


def test_tpe_learns_and_random_does_not() -> None:
    distances = {}
    for algorithm in ("tpe", "random"):
        config = sweep_config(space=WIDE, search={"algorithm": algorithm, "startup_trials": 10})
        taken = params_of(suggest(new_search(config), 40))
        distances[algorithm] = np.median(
            [abs(math.log10(p["optim.lr"] / 1e-3)) for p in taken[20:]]
        )
    assert distances["tpe"] < 0.5 * distances["random"]


def test_random_suggestions_do_not_depend_on_losses() -> None:
    config = sweep_config(space=WIDE, search={"algorithm": "random"}, num_samples=99)
    told, untold = new_search(config), new_search(config)
    assert params_of(suggest(told, 15)) == [
        untold.suggest(str(number))["params"] for number in range(15)
    ]


def test_suggestions_are_valid_and_inside_their_domains() -> None:
    config = sweep_config(space=WIDE, cpus_per_trial=2, num_samples=99)
    taken = suggest(new_search(config), 40)
    for number, suggestion in enumerate(taken):
        assert set(suggestion) == {
            "name",
            "answer",
            "params",
            "trial",
            "store",
            "place",
            "resume_from",
            "takes",
            "copy",
        }
        assert suggestion["name"] == f"t{number:03d}"
        assert list(suggestion["params"]) == list(WIDE)
        for name, value in suggestion["params"].items():
            assert config.space[name].contains(value), (name, value)
        trial = TrialConfig.model_validate(suggestion["trial"])
        assert trial == config.trial_config(suggestion["params"])
        assert trial.train.threads == 2
        assert suggestion["resume_from"] == []
    for name in ("model.d_model", "optim.schedule"):
        assert {s["params"][name] for s in taken} == set(config.space[name].choice or [])
    assert {s["params"]["model.n_layers"] for s in taken} >= {1, 6}, "both ends are drawn"


@pytest.mark.parametrize("gpus", [0, 0.25, 1, 2])
def test_a_trial_takes_what_the_config_says(gpus: float) -> None:
    search = new_search(sweep_config(gpus_per_trial=gpus, cpus_per_trial=2))
    assert search.suggest("a")["takes"] == {"CPU": 2, "GPU": gpus}


def test_start_points_come_first_and_the_rest_is_drawn() -> None:
    points = [
        {"optim.lr": 3e-3, "model.d_model": 64},
        {"model.d_model": 32},
        {},
        {"optim.lr": 1e-2},
    ]
    config = sweep_config(start_points=points)
    first, second, third, fourth, fifth = params_of(suggest(new_search(config), 5))
    assert first == points[0]
    assert second["model.d_model"] == 32
    assert config.space["optim.lr"].contains(second["optim.lr"])
    assert third != first
    assert fourth["optim.lr"] == 1e-2
    assert fifth["optim.lr"] not in (1e-2, 3e-3)


def test_start_points_are_not_repeated_by_a_resume() -> None:
    config = sweep_config(start_points=[{"optim.lr": 3e-3}, {"optim.lr": 5e-3}, {"optim.lr": 7e-3}])
    taken = suggest(new_search(config), 1)
    rest = suggest(new_search(config, history(taken)), 3)
    assert [s["name"] for s in rest] == ["t001", "t002", "t003"]
    assert [s["params"]["optim.lr"] for s in rest[:2]] == [5e-3, 7e-3]
    assert rest[2]["params"]["optim.lr"] not in (3e-3, 5e-3, 7e-3)


@pytest.mark.parametrize("done", [1, 5, 12, 30])
def test_a_resume_suggests_what_the_undisturbed_search_would(done: int) -> None:
    config = sweep_config(space=WIDE)
    undisturbed = new_search(config)
    taken = suggest(undisturbed, done)
    resumed = new_search(config, history(taken))
    assert suggest(resumed, 5) == suggest(undisturbed, 5)


@pytest.mark.parametrize("done", [6, 14, 31])
def test_a_resume_with_unfinished_trials_suggests_what_the_undisturbed_search_would(
    done: int,
) -> None:
    """Two of the trials were interrupted; gone on with, they end as they would have."""
    config = sweep_config(space=WIDE)
    undisturbed = new_search(config)
    taken = suggest(undisturbed, done)
    interrupted = {taken[1]["name"], taken[done - 2]["name"]}
    events = []
    for told in history(taken):
        if told["trial"] in interrupted and told["event"] == "outcome":
            events.append({**told, "outcome": "interrupted"})
        elif told["trial"] not in interrupted or told.get("metrics", {}).get("step") != 80:
            events.append(told)
    resumed = new_search(config, events)
    again = suggest(resumed, 2)
    assert [s["name"] for s in again] == sorted(interrupted)
    assert params_of(suggest(resumed, 4)) == params_of(suggest(undisturbed, 4))


def test_a_resume_suggests_the_same_while_trials_still_run() -> None:
    config = sweep_config(space=WIDE)
    undisturbed = new_search(config)
    taken = suggest(undisturbed, 12)
    running = undisturbed.suggest("running")
    resumed = new_search(config, history(taken), started("t012", params=running["params"]))
    assert resumed.suggest("x")["name"] == "t012"
    assert resumed.suggest("y") == undisturbed.suggest("y")


def test_unfinished_trials_come_first_with_their_own_name_params_and_checkpoints() -> None:
    config = sweep_config()
    record = record_of(
        run_of("t000", {0: 5.0, 80: 2.0}, "finished", lr=1e-3),
        run_of("t001", {0: 5.0, 10: 3.0}, "interrupted", lr=2e-3, d_model=64),
        run_of("t002", {0: 5.0}, "diverged", lr=9e-3),
        run_of("t003", {}, None, lr=4e-3),
    )
    search = SweepSearch(config, record, {"t001": ["/b", "/a"]}, at_most(MANY))
    one, two, new = (search.suggest(name) for name in "abc")
    assert (one["name"], two["name"], new["name"]) == ("t001", "t003", "t004")
    assert one["params"] == {"optim.lr": 2e-3, "model.d_model": 64}
    assert one["trial"]["model"]["d_model"] == 64
    assert one["resume_from"] == ["/b", "/a"]
    assert two["params"] == {"optim.lr": 4e-3, "model.d_model": 32}
    assert two["resume_from"] == new["resume_from"] == []


def test_no_trial_is_suggested_before_its_turn() -> None:
    search = SweepSearch(sweep_config(), record_of(), {}, at_most(2))
    assert [search.suggest(name) is None for name in "abc"] == [False, False, True]
    search.on_trial_complete("a", {"val_loss": 3.0})
    assert [search.suggest(name) is None for name in "cd"] == [False, True]
    search.on_trial_complete("b", error=True)
    assert search.suggest("d") is not None


def test_no_name_is_given_twice() -> None:
    config = sweep_config()
    events: list[Event] = []
    names: Counter[str] = Counter()
    for session in range(4):
        search = new_search(config, events)
        unfinished = [t.name for t in record_of(events).unfinished]
        fresh = [search.suggest(str(n)) for n in range(len(unfinished) + 5)][len(unfinished) :]
        for place, suggestion in enumerate(fresh):
            names[suggestion["name"]] += 1
            outcome = ("finished", "diverged", "failed", "interrupted", None)[place]
            name = suggestion["name"]
            events += [started(name, params=suggestion["params"]), evaluated(name, 0, 5.0)]
            events += [ended(name, outcome)] if outcome else []
        assert session or not unfinished
    assert set(names.values()) == {1}
    assert sorted(names) == [f"t{n:03d}" for n in range(20)]


def test_numbers_beyond_999_stay_in_order() -> None:
    before = [run_of(f"t{n:03d}", {0: 5.0}, "finished") for n in range(1_000)]
    assert new_search(sweep_config(), *before).suggest("a")["name"] == "t1000"
    before.append(run_of("t1000", {0: 5.0}, "finished"))
    assert new_search(sweep_config(), *before).suggest("a")["name"] == "t1001"


def lost_at_high_rates(outcome: str, *, resume: bool) -> int:
    """Search up to a cliff: the higher the rate the better, but above 1e-3 all trials are lost.

    Returns how many of trials 20 to 39 were lost.
    """
    config = sweep_config(space={"optim.lr": {"loguniform": [1e-5, 1e-1]}}, num_samples=40)
    search = new_search(config)
    events: list[Event] = []
    lost = []
    for number in range(40):
        if resume and number == 20:
            search = new_search(config, events)
        suggestion = search.suggest(str(number))
        name, params = suggestion["name"], suggestion["params"]
        lost.append(params["optim.lr"] > 1e-3)
        loss = 3 - math.log10(params["optim.lr"])
        events += [started(name, params=params), evaluated(name, 0, 3.0)]
        if not lost[-1]:
            search.on_trial_complete(str(number), {"val_loss": loss})
            events += [evaluated(name, 80, loss), ended(name, "finished")]
        elif outcome == "failed":
            search.on_trial_complete(str(number), error=True)
            events.append(ended(name, outcome, reason="why"))
        else:
            search.on_trial_complete(str(number), {"val_loss": OBJECTIVE_OF_A_LOST_TRIAL})
            events.append(ended(name, outcome, reason="why"))
    return sum(lost[20:])


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory"])
def test_lost_trials_steer_away(outcome: str, *, resume: bool) -> None:
    untaught = lost_at_high_rates("failed", resume=resume)
    assert lost_at_high_rates(outcome, resume=resume) < 0.6 * untaught


def test_the_study_knows_each_trial_by_its_outcome() -> None:
    params = {"optim.lr": 1e-3, "model.d_model": 32}
    search = new_search(
        sweep_config(),
        run_of("t000", {0: 5.0, 10: 2.0, 80: 2.5}, "finished"),
        run_of("t001", {0: 5.0, 10: 4.0}, "stopped"),
        run_of("t002", {0: 5.0, 10: 1.0}, "diverged"),
        run_of("t003", {0: 5.0}, "out_of_memory"),
        run_of("t004", {0: 5.0, 10: 1.5}, "failed"),
    )
    assert [(t.state, t.value, t.params) for t in search.method.study.trials] == [
        (TrialState.COMPLETE, 2.5, params),  # the last loss, as Tune tells it, not the best
        (TrialState.COMPLETE, 4.0, params),
        (TrialState.COMPLETE, OBJECTIVE_OF_A_LOST_TRIAL, params),
        (TrialState.COMPLETE, OBJECTIVE_OF_A_LOST_TRIAL, params),
        (TrialState.FAIL, None, params),
    ]


def test_a_trial_that_failed_after_evaluations_counts_with_no_loss() -> None:
    search = new_search(sweep_config())
    search.suggest("a")
    search.on_trial_complete("a", {"val_loss": 1.0}, error=True)
    assert [(t.state, t.value) for t in search.method.study.trials] == [(TrialState.FAIL, None)]


def test_nothing_is_left_running_once_all_are_told() -> None:
    search = new_search(
        sweep_config(),
        run_of("t000", {0: 5.0}, "finished"),
        run_of("t001", {0: 5.0}, "interrupted"),
        run_of("t002", {}, None),
        run_of("t003", {}, "failed"),
    )
    for number in range(7):
        search.suggest(str(number))
        search.on_trial_result(str(number), {"val_loss": 5.0, "training_iteration": 1})
    search.on_trial_complete("0", {"val_loss": 3.0})
    search.on_trial_complete("1", {"val_loss": OBJECTIVE_OF_A_LOST_TRIAL})
    search.on_trial_complete("2", error=True)
    for number in range(3, 7):
        search.on_trial_complete(str(number), {"val_loss": 4.0})
    states = Counter(t.state for t in search.method.study.trials)
    assert states == {TrialState.COMPLETE: 7, TrialState.FAIL: 2}
    assert search.method.study.best_value == 3.0


def test_two_sweeps_share_nothing() -> None:
    config = sweep_config()
    first = new_search(config)
    suggest(first, 3)
    assert len(new_search(config).method.study.trials) == 0
    assert SPACE.keys() == new_search(config).suggest("a")["params"].keys()
    assert SweepRecord().trials == {}


def test_the_method_hears_of_the_last_step_before_it_is_told_of_the_end() -> None:
    """Tune asks no scheduler about a trial that says it is done."""
    heard = []
    search = new_search(sweep_config())

    class Listening:
        def report(self, *told: Any) -> bool:
            heard.append(("report", *told))
            return True

        def tell(self, *told: Any) -> None:
            heard.append(("tell", *told))

    for trial in "abc":
        search.suggest(trial)
    search.method = Listening()
    search.on_trial_complete("b", {"step": 80, "val_loss": 2.5, "outcome": None})
    lost = {"step": 30, "val_loss": OBJECTIVE_OF_A_LOST_TRIAL, "outcome": "diverged"}
    search.on_trial_complete("a", lost)
    search.on_trial_complete("c", {"step": 20, "val_loss": 1.0, "outcome": None}, error=True)
    assert heard == [
        ("report", 1, 80, 2.5),
        ("tell", 1, 2.5),
        ("tell", 0, OBJECTIVE_OF_A_LOST_TRIAL),
        ("tell", 2, None),
    ]
