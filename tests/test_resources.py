"""Resources that depend on a trial's size: which trial takes what, what fits, what is refused."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_samples import record_of, refusal, run_of, sweep_config

from sweep.cluster.autoscaling import bundles
from sweep.cluster.forgiving import ForgivingController
from sweep.cluster.packing import Machine, Packing, trials_that_fit
from sweep.cluster.placement import Room, needed, require_fits
from sweep.config.parts import parts_of
from sweep.config.resources import Condition, Share
from sweep.config.space import Domain
from sweep.config.sweep import SweepConfig
from sweep.search.tune_search import SweepSearch
from trainable.common.errors import ConfigError

SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "model.d_model": {"choice": [16, 32, 64, 128]},
    "model.n_layers": {"int": [1, 4]},
}
TWO_SIZES = {"model.d_model >= 128": {"cpus": 4}, "model.d_model >= 64": {"cpus": 2, "gpus": 0.5}}


def uneven(resources: dict[str, Any] | None = None, **changes: Any) -> SweepConfig:
    return sweep_config(space=SPACE, resources=resources or TWO_SIZES, **changes)


def takes(config: SweepConfig, **model: int) -> Share:
    return config.share_of(config.trial_config({f"model.{n}": v for n, v in model.items()}))


def test_the_first_condition_that_holds_counts_and_others_fall_back() -> None:
    config = uneven(cpus_per_trial=1, gpus_per_trial=0.25)
    assert takes(config, d_model=128) == Share(4, 0.25)
    assert takes(config, d_model=64) == Share(2, 0.5)
    assert takes(config, d_model=32) == Share(1, 0.25)
    assert config.trial_config({"model.d_model": 128}).train.threads == 4
    assert config.trial_config({"model.d_model": 32}).train.threads == 1
    assert sweep_config().trial_config({"model.d_model": 64}).train.threads == 1


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"model.d_modell >= 64": {"cpus": 2}}, "did you mean 'model.d_model'?"),
        ({"size.d_model >= 64": {"cpus": 2}}, "the trial has no such field"),
        ({"d_model >= 64": {"cpus": 2}}, "must be a field, one of >=, >, <= and <, and a number"),
        ({"model.d_model == 64": {"cpus": 2}}, "must be a field, one of"),
        ({"model.d_model >= wide": {"cpus": 2}}, "must be a field, one of"),
        ({"model.d_model >= inf": {"cpus": 2}}, "must be a field, one of"),
        ({"model.d_model >= nan": {"cpus": 2}}, "must be a field, one of"),
        ({"16 <= model.d_model < 64": {"cpus": 2}}, "must be a field, one of"),
        ({"model.d_model": {"cpus": 2}}, "must be a field, one of"),
        ({"train.precision >= 1": {"cpus": 2}}, "train.precision is 'auto', and only numbers"),
        ({"model.d_ff >= 64": {"cpus": 2}}, "model.d_ff is None, and only numbers are compared"),
        ({"model.tie_embeddings >= 1": {"cpus": 2}}, "is False, and only numbers"),
        ({"model.d_model >= 256": {"cpus": 2}}, "no trial meets it, model.d_model is searched in"),
        ({"model.n_layers > 4": {"cpus": 2}}, "no trial meets it"),
        ({"optim.lr < 1e-4": {"cpus": 2}}, "no trial meets it"),
        (
            {"model.d_model >= 64": {"cpus": 2}, "model.d_model >= 128": {"cpus": 4}},
            "'model.d_model >= 128': no trial is left for it, those before take all that meet it",
        ),
        (
            {"model.d_model >= 16": {"cpus": 2}, "model.n_layers >= 2": {"cpus": 4}},
            "'model.n_layers >= 2': no trial is left for it",
        ),
        ({"model.d_model >= 64": {"cpus": -1}}, "greater than or equal to 0.1"),
        ({"model.d_model >= 64": {"gpus": -1}}, "greater than or equal to 0"),
        ({"model.d_model >= 64": {"cpus": 0}}, "greater than or equal to 0.1"),
        ({"model.d_model >= 64": {"cpus": 1.5}}, "cpus 1.5: above 1 it must be whole; take 2"),
        ({"model.d_model >= 64": {"gpus": 2.5}}, "gpus 2.5: above 1 it must be whole; take 2"),
        ({"model.d_model >= 64": {}}, "says neither cpus nor gpus: name one of them"),
        ({"model.d_model >= 64": {"cpu": 2}}, "did you mean 'cpus'?"),
        ({"model.d_model >= 64": 2}, "resources.model.d_model >= 64 = 2"),
        ({f"model.n_layers > {n / 10}": {"cpus": 2} for n in range(9)}, "at most 8 items"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(resources: dict[str, Any], told: str) -> None:
    said = refusal(space=SPACE, resources=resources)
    assert told in said
    assert "resources" in said
    assert "\n" not in said


def test_a_condition_on_a_field_that_is_fixed_holds_for_all_or_for_none() -> None:
    """A flag may have fixed the field, so it is not refused."""
    for width, cpus in ((32, 1), (64, 2), (256, 4)):
        trial = {"model": {"d_model": width, "head_dim": 16}, "data": {"dataset": "data/none"}}
        config = sweep_config(
            space={"optim.lr": SPACE["optim.lr"]}, resources=TWO_SIZES, trial=trial, asha={}
        )
        (part,) = parts_of(config)
        assert part.share.cpus == cpus
        assert part.weight == 1
        assert takes(config) == part.share


DOMAINS = st.one_of(
    st.lists(st.integers(1, 12), min_size=1, max_size=5, unique=True).map(
        lambda values: {"choice": values}
    ),
    st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda ends: {"int": sorted(ends)}),
)


@given(
    domains=st.tuples(DOMAINS, DOMAINS),
    conditions=st.lists(
        st.tuples(
            st.sampled_from(["model.n_layers", "train.batch_size"]),
            st.sampled_from([">=", ">", "<=", "<"]),
            st.one_of(st.integers(0, 13), st.floats(0, 13)),
        ),
        min_size=1,
        max_size=4,
        unique=True,
    ),
)
def test_the_parts_split_the_space_as_the_conditions_do(
    domains: tuple[Any, Any], conditions: list[tuple[str, str, float]]
) -> None:
    space = dict(zip(("model.n_layers", "train.batch_size"), domains, strict=True))
    resources = {
        f"{field} {sign} {number}": {"cpus": n + 2}
        for n, (field, sign, number) in enumerate(conditions)
    }
    counted: dict[float, int] = {}
    for layers, batch in product(*(_values(domain) for domain in domains)):
        at = {"model.n_layers": layers, "train.batch_size": batch}
        held = [n + 2 for n, (f, s, v) in enumerate(conditions) if Condition(f, s, v).holds(at[f])]
        cpus = float(min(held, default=1))
        counted[cpus] = counted.get(cpus, 0) + 1
    try:
        config = sweep_config(space=space, resources=resources)
    except ConfigError:
        assert len(counted) < len(conditions) + 1
        return
    assert set(counted) >= {float(n + 2) for n in range(len(conditions))}
    parts = {part.share.cpus: part for part in parts_of(config)}
    total = sum(counted.values())
    assert {cpus: part.weight for cpus, part in parts.items()} == pytest.approx(
        {cpus: number / total for cpus, number in counted.items()}
    )
    for cpus, part in parts.items():
        inside = product(*(_values(part.config.space[name].model_dump()) for name in space))
        for values in inside:
            trial = config.trial.with_values(dict(zip(space, values, strict=True)))
            assert config.share_of(trial).cpus == cpus


def _values(domain: Any) -> list[int]:
    ends = domain.get("int") or domain.get("integers")
    return list(range(ends[0], ends[1] + 1)) if ends else list(domain["choice"])


@pytest.mark.parametrize(
    ("domain", "text", "left"),
    [
        ({"loguniform": [1e-4, 1e-2]}, "optim.lr >= 1e-3", [1e-3, 1e-2]),
        ({"loguniform": [1e-4, 1e-2]}, "optim.lr < 1e-3", [1e-4, 1e-3]),
        ({"uniform": [0, 1]}, "optim.beta1 > 0.5", [0.5, 1]),
        ({"int": [1, 9]}, "model.n_layers > 3.5", [4, 9]),
        ({"int": [1, 9]}, "model.n_layers <= 3.5", [1, 3]),
        ({"int": [1, 9]}, "model.n_layers < 3", [1, 2]),
    ],
)
def test_a_range_is_cut_where_the_condition_begins(
    domain: dict[str, Any], text: str, left: list[float]
) -> None:
    narrowed = Condition.read(text).narrowed(Domain.model_validate(domain))
    assert narrowed is not None
    assert narrowed.values == left


@pytest.mark.parametrize(
    ("machines", "running", "next_one", "fits"),
    [
        ([Machine(4, 0)], [(2, 0), (1, 0)], (1, 0), True),
        ([Machine(4, 0)], [(2, 0), (1, 0)], (2, 0), False),
        ([Machine(2, 0), Machine(2, 0)], [(1, 0)], (2, 0), True),
        ([Machine(2, 0), Machine(2, 0)], [(1, 0), (1, 0), (1, 0)], (2, 0), False),  # not the sum
        ([Machine(3, 0), Machine(1, 0)], [(1, 0)], (3, 0), True),
        ([Machine(8, 1)], [(1, 0.5)], (1, 1), False),
        ([Machine(8, 2)], [(1, 0.6), (1, 0.6)], (1, 0.4), True),
        ([Machine(8, 2)], [(1, 0.6), (1, 0.6)], (1, 0.5), False),  # a fraction spans no two
        ([Machine(8, 3)], [(1, 2)], (1, 1), True),
        ([Machine(8, 3)], [(1, 2)], (1, 2), False),
        ([Machine(2, 1), Machine(4, 0)], [(2, 0), (2, 0)], (1, 1), True),  # CPUs go elsewhere
        ([Machine(1, 0)], [(0.1, 0)] * 9, (0.1, 0), True),
        ([Machine(1, 0)], [(0.1, 0)] * 10, (0.1, 0), False),
        ([Machine(1, 0)], [], (4, 0), True),  # nothing runs: it waits in Ray's queue
        ([], [(1, 0)], (1, 0), False),
    ],
)
def test_a_trial_begins_where_it_fits_on_one_node_whole(
    machines: list[Machine],
    running: list[tuple[float, float]],
    next_one: tuple[float, float],
    fits: bool,
) -> None:
    shares = [Share(*each) for each in running]
    assert Packing(tuple(machines))(shares, Share(*next_one)) == fits


@given(
    machines=st.lists(st.builds(Machine, st.integers(0, 9), st.integers(0, 4)), max_size=4),
    share=st.builds(
        Share,
        st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 3.0]),
        st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.4, 0.5, 1.0, 2.0]),
    ),
)
def test_equal_trials_are_packed_as_they_are_counted(machines: list[Machine], share: Share) -> None:
    count = sum(trials_that_fit(share, machine) for machine in machines)
    pack = Packing(tuple(machines))
    assert pack([share] * (count - 1), share) or count == 0
    assert not pack([share] * max(1, count), share)


def test_how_many_run_at_once_is_asked_only_where_all_take_the_same() -> None:
    room, even = Room(uneven(max_concurrent=3)), Room(sweep_config())
    machines = [Machine(4, 0), Machine(2, 1)]
    assert (even.most(machines), even.is_uneven) == (6, False)
    assert (room.most(machines), room.is_uneven) == (3, True)
    assert Room(uneven()).most(machines) == 6
    two = Room(uneven({"model.d_model >= 64": {"cpus": 4, "gpus": 0}}, gpus_per_trial=1))
    assert (two.most(machines), two.is_uneven) == (2, True), "one of each kind"
    assert room.most_of(Share(4, 0), machines) == 1
    running = [Share(1, 0)] * 3
    assert not room.fits(machines)(running, Share(1, 0)), "max_concurrent holds"
    assert Room(uneven()).fits(machines)(running, Share(1, 0))


def test_ray_is_given_what_the_largest_trials_take() -> None:
    config = uneven({"model.d_model >= 64": {"cpus": 2}})
    assert needed(config, Machine(64, 0), 4) == Machine(8, 0)
    assert needed(config, Machine(3, 0), 3) == Machine(3, 0)


def test_a_size_that_fits_nowhere_is_refused_by_name() -> None:
    config = uneven(gpus_per_trial=0)
    require_fits(config, Machine(4, 1))
    with pytest.raises(ConfigError, match=r"resources 'model.d_model >= 128': cpus 4: there are 2"):
        require_fits(config, Machine(2, 1))
    with pytest.raises(ConfigError, match=r"'model.d_model >= 64': gpus 0.5: there are 0 GPUs"):
        require_fits(config, Machine(4, 0))


def new_search(config: SweepConfig, cpus: int, *events: Any, **more: Any) -> SweepSearch:
    fits = Room(config).fits([Machine(cpus, 0)])
    return SweepSearch(config, record_of(*events), {}, fits, **more)


BIG_AMONG_SMALL = [
    {"optim.lr": 1e-3, "model.d_model": width, "model.n_layers": 1}
    for width in (16, 16, 128, 16, 16)
]


def test_a_large_trial_waits_for_its_room_and_the_others_behind_it() -> None:
    resources = {"model.d_model >= 128": {"cpus": 2}}
    config = uneven(resources, start_points=BIG_AMONG_SMALL, num_samples=5)
    search = new_search(config, 2)
    assert [search.suggest("a")["name"], search.suggest("b")["name"]] == ["t000", "t001"]
    assert search.suggest("c") is None
    search.on_trial_complete("a", {"val_loss": 3.0})
    assert search.suggest("c") is None, "one CPU is free, and t002 takes two"
    assert search.suggest("c") is None
    search.on_trial_complete("b", {"val_loss": 3.0})
    begun = search.suggest("d")
    assert begun["name"] == "t002"
    assert begun["takes"] == {"CPU": 2, "GPU": 0}
    assert begun["trial"]["train"]["threads"] == 2
    assert search.suggest("e") is None
    search.on_trial_complete("d", {"val_loss": 3.0})
    assert [search.suggest(i)["name"] for i in "fg"] == ["t003", "t004"]


def test_a_suggestion_that_waits_was_made_once_and_stays() -> None:
    """It is made when some trial could begin, and is not made again when it may."""
    config = uneven({"model.d_model >= 32": {"cpus": 2}}, num_samples=40)
    search, asked = new_search(config, 2), []
    ask = search.method.ask
    search.method.ask = lambda number, fixed: asked.append(number) or ask(number, fixed)
    running: list[str] = []
    order = []
    for number in range(200):
        suggestion = search.suggest(str(number))
        if suggestion:
            running.append(str(number))
            order.append(suggestion["name"])
        elif running:
            search.on_trial_complete(running.pop(0), {"val_loss": 3.0, "step": 80, "outcome": None})
    assert asked == list(range(len(order) + (search._waiting is not None)))
    assert order == [f"t{n:03d}" for n in range(len(order))]
    assert len(order) > 30


def test_nothing_is_suggested_while_no_trial_at_all_fits() -> None:
    config = uneven({"model.d_model >= 16": {"cpus": 2}}, num_samples=9)
    search = new_search(config, 3)
    assert search.suggest("a") is not None
    assert search.suggest("b") is None
    assert search._waiting is None, "each suggestion knows all the results there are"


def test_a_trial_that_is_gone_on_with_takes_what_it_took() -> None:
    config = uneven({"model.d_model >= 128": {"cpus": 2}}, num_samples=3)
    past = run_of("t001", {0: 5.0, 30: 4.0}, "interrupted", d_model=128)
    past[0]["params"]["model.n_layers"] = 2
    begun = new_search(config, 2, past).suggest("a")
    assert begun["name"] == "t001"
    assert begun["takes"]["CPU"] == 2


def test_the_time_that_is_left_is_asked_for_when_a_trial_may_begin() -> None:
    resources = {"model.d_model >= 128": {"cpus": 2}}
    config = uneven(resources, start_points=BIG_AMONG_SMALL, num_samples=5)
    asked: list[int] = []
    search = new_search(config, 2, allows=lambda t, _: asked.append(t.model.d_model) or True)
    for name in "abc":
        search.suggest(name)
    assert asked == [16, 16]


@pytest.mark.parametrize(
    ("patient", "waiting", "asked"), [(True, 1, 0), (True, 0, 1), (False, 1, 1), (False, 0, 1)]
)
def test_nothing_is_suggested_while_a_trial_waits_in_rays_queue(
    patient: bool, waiting: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller ones would take what comes free; where all take the same it does not matter."""
    times: list[None] = []
    tunes_own = ForgivingController.__mro__[1]
    monkeypatch.setattr(tunes_own, "_maybe_update_trial_queue", lambda _: times.append(None))
    controller = object.__new__(ForgivingController)
    controller.patient = patient
    controller._actor_manager = SimpleNamespace(num_pending_actors=waiting)
    controller._maybe_update_trial_queue()
    assert len(times) == asked
    del controller._actor_manager


def test_an_autoscaler_is_asked_for_bundles_of_each_size() -> None:
    config = uneven(num_samples=8)
    assert bundles(config, 8) == [{"CPU": 4}] * 2 + [{"CPU": 2, "GPU": 0.5}] * 2 + [{"CPU": 1}] * 4
    one_each = [{"CPU": 4}, {"CPU": 2, "GPU": 0.5}, {"CPU": 1}]
    assert bundles(uneven(max_concurrent=1), 8) == one_each
    assert bundles(config, 1) == one_each, "which of them is left is not known"
    assert bundles(config, 0) == []
    even = sweep_config(num_samples=9, gpus_per_trial=0.5)
    assert bundles(even, 3) == [{"CPU": 1, "GPU": 0.5}] * 3
    assert len(bundles(sweep_config(num_samples=9, max_concurrent=4), 9)) == 4
