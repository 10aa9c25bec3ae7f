"""The search space: which domains there are, and that no suggestion can be an invalid trial."""

import inspect
import re
import time
from typing import Any

import pytest
from conftest import MakeConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_samples import TRIAL, refusal, session, started, sweep_config, write_events

from sweep.analysis.words import short_name, show_value
from sweep.conduct.resume import resume_sweep
from sweep.config.space import JOINED, Domain, searchable_fields
from sweep.record.folder import SweepFile, create_sweep
from sweep.record.identity import new_identity
from trainable.common.errors import ConfigError, UserError
from trainable.config.trial import TrialConfig
from trainable.data.batches import open_dataset


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        ({"loguniform": [1e-4, 1e-2]}, [1e-4, 3e-3, 1e-2], [9e-5, 1.1e-2, "1e-3", True, None]),
        ({"uniform": [0, 0.5]}, [0, 0.0, 0.25, 0.5], [-1e-9, 0.6, "0.1", False]),
        ({"int": [2, 4]}, [2, 3, 4], [1, 5, 3.0, "3", True]),
        ({"choice": [64, 128]}, [64, 128], [96, 64.0, "64", None]),
        ({"choice": ["cosine", "wsd"]}, ["wsd"], ["linear", 1]),
        ({"choice": [True, False]}, [True, False], [1, 0, "True"]),
        ({"uniform": [0.1, 0.1]}, [0.1], [0.2]),
    ],
)
def test_a_domain_contains_what_can_be_drawn(
    domain: dict[str, Any], inside: list[Any], outside: list[Any]
) -> None:
    parsed = Domain.model_validate(domain)
    assert parsed.kind == next(iter(domain))
    assert all(parsed.contains(value) for value in inside)
    assert not any(parsed.contains(value) for value in outside)


def test_a_domain_has_exactly_one_kind() -> None:
    none = refusal(space={"optim.lr": {}})
    assert "space.optim.lr" in none
    assert "exactly one of loguniform, uniform, int, choice; this one has none" in none
    two = refusal(space={"optim.lr": {"uniform": [0.1, 0.2], "choice": [0.1]}})
    assert "this one has uniform, choice" in two


@pytest.mark.parametrize("kind", ["loguniform", "uniform", "int"])
def test_a_reversed_range_is_refused_with_the_right_one(kind: str) -> None:
    text = refusal(space={"train.batch_size": {kind: [8, 2]}})
    assert "reversed" in text
    assert "write [2" in text


@pytest.mark.parametrize("low", [0, 0.0, -1e-3])
def test_a_logarithm_needs_a_lower_end_above_zero(low: float) -> None:
    assert "above 0" in refusal(space={"optim.lr": {"loguniform": [low, 1e-2]}})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["loguniform", "uniform", "int", "choice"])
def test_no_domain_holds_nan_or_infinity(kind: str, value: float) -> None:
    assert "space.optim.lr" in refusal(space={"optim.lr": {kind: [1, value]}})


@pytest.mark.parametrize("kind", ["loguniform", "uniform", "int"])
def test_a_number_given_as_text_is_refused(kind: str) -> None:
    assert "'1'" in refusal(space={"optim.lr": {kind: ["1", 2]}})


def test_a_choice_of_text_is_refused_where_the_field_is_a_number() -> None:
    text = refusal(space={"optim.lr": {"choice": ["1e-4", "1e-3"]}})
    assert "optim.lr = '1e-4'" in text


@pytest.mark.parametrize("ends", [[], [1e-3], [1e-4, 1e-3, 1e-2]])
def test_a_range_has_two_ends(ends: list[float]) -> None:
    assert "space.optim.lr.uniform" in refusal(space={"optim.lr": {"uniform": ends}})


def test_ends_of_whole_numbers_are_whole() -> None:
    assert "model.n_layers" in refusal(space={"model.n_layers": {"int": [1, 2.5]}})
    assert "model.n_layers" in refusal(space={"model.n_layers": {"int": [True, 3]}})


def test_an_empty_choice_is_refused() -> None:
    assert "space.optim.lr.choice = []" in refusal(space={"optim.lr": {"choice": []}})


def test_a_choice_with_a_value_twice_is_refused() -> None:
    assert "twice" in refusal(space={"model.d_model": {"choice": [64, 32, 64]}})


def test_an_empty_space_is_refused() -> None:
    assert "space" in refusal(space={})


def test_an_unknown_kind_or_field_names_the_nearest() -> None:
    kind = refusal(space={"optim.lr": {"loguniforn": [1e-4, 1e-2]}})
    assert "did you mean 'loguniform'?" in kind
    field = refusal(space={"model.dmodel": {"choice": [32, 64]}})
    assert "space.model.dmodel" in field
    assert "did you mean 'model.d_model'?" in field
    assert "optim.lr" in refusal(space={"zzz": {"uniform": [1e-4, 1e-2]}})


def test_a_section_is_no_field() -> None:
    assert "no such field" in refusal(space={"optim": {"choice": [1, 2]}})


@pytest.mark.parametrize(
    ("field", "domain", "said"),
    [
        ("optim.lr", {"uniform": [1e-4, 1e4]}, "10000"),
        ("optim.beta1", {"uniform": [0.5, 1.0]}, "1.0"),
        ("model.n_layers", {"int": [0, 3]}, "0"),
        ("model.d_model", {"int": [32, 64]}, "33"),
        ("model.d_model", {"choice": [32, 40, 64]}, "40"),
        ("model.d_model", {"uniform": [32, 64]}, "32.0"),
        ("train.batch_size", {"int": [1, 10**7]}, "10000000"),
        ("optim.schedule", {"choice": ["cosine", "linear"]}, "linear"),
    ],
)
def test_a_value_that_the_trial_refuses_is_named(
    field: str, domain: dict[str, Any], said: str
) -> None:
    text = refusal(space={field: domain})
    assert f"space.{field}" in text
    assert said in text


def test_a_combination_that_the_trial_refuses_is_named() -> None:
    space = {"model.d_model": {"choice": [32, 48]}, "model.head_dim": {"choice": [16, 32]}}
    text = refusal(space=space)
    assert "model.d_model = 48" in text
    assert "model.head_dim = 32" in text


def test_values_that_only_fit_each_other_are_accepted() -> None:
    # 36 is no multiple of the base trial's head_dim 16, but of both that are searched.
    space = {
        "model.d_model": {"choice": [36, 72]},
        "model.n_layers": {"int": [1, 3]},
        "model.head_dim": {"choice": [12, 18]},
    }
    assert sweep_config(space=space).trial_config({"model.d_model": 36, "model.head_dim": 18})


def test_a_bad_combination_is_found_in_a_large_space() -> None:
    space = {
        "model.d_model": {"choice": [32, 48]},
        "model.n_layers": {"int": [1, 64]},
        "model.d_ff": {"int": [64, 127]},
        "train.batch_size": {"int": [1, 64]},
        "model.head_dim": {"choice": [16, 32]},
    }
    assert "d_model" in refusal(space=space)


def test_an_invalid_suggestion_is_found_in_a_space_of_any_size() -> None:
    """One of a billion combinations, behind others in the order in which they are written."""
    space = {
        "model.n_layers": {"int": [1, 1_000]},
        "model.d_ff": {"int": [64, 100_000]},
        "model.rope_theta": {"choice": [1e4, 1e5, 1e6]},
        "model.head_dim": {"choice": [16, 32]},
        "model.d_model": {"choice": [64, 32, 48]},
    }
    assert "model.d_model = 48, model.head_dim = 32 is refused" in refusal(space=space)
    space["model.d_model"] = {"choice": [64, 32]}
    began = time.thread_time()
    assert sweep_config(space=space)
    assert time.thread_time() - began < 1


def test_more_combinations_of_joined_fields_than_can_be_tried_are_refused() -> None:
    batches = [960 * n for n in range(1, 1_001)]
    space = {
        "train.batch_size": {"choice": batches},
        "train.grad_accumulation": {"choice": [n for n in range(1, 97) if 960 % n == 0]},
    }
    text = refusal(space=space)
    assert "train.batch_size x train.grad_accumulation have 21,000 combinations" in text
    assert "give fewer choices" in text


def test_phases_that_do_not_fit_are_found_beside_other_fields() -> None:
    space: dict[str, Any] = {
        "optim.beta1": {"uniform": [0.8, 0.9]},
        "optim.warmup_fraction": {"uniform": [0.0, 0.5]},
        "optim.decay_fraction": {"uniform": [0.1, 0.6]},
        "optim.schedule": {"choice": ["cosine", "wsd"]},
    }
    text = refusal(space=space)
    assert "optim.schedule = 'wsd', optim.warmup_fraction = 0.5, optim.decay_fraction = 0.6" in text
    space["optim.schedule"] = {"choice": ["cosine"]}
    assert sweep_config(space=space)


def test_fields_that_a_rule_of_the_trial_joins_are_tried_together() -> None:
    """Read from the rules themselves: a new one must be told to the space's check."""
    for section, field in TrialConfig.model_fields.items():
        kind = field.annotation
        assert kind is not None
        if section == "data":
            continue  # cannot be searched
        for name in kind.__pydantic_decorators__.model_validators:
            source = inspect.getsource(getattr(kind, name))
            read = set(re.findall(r"self\.(\w+)", source))
            read = {"eval_every" if name == "eval_interval" else name for name in read}
            fields = {f"{section}.{name}" for name in read & set(kind.model_fields)}
            assert any(fields <= set(group) for group in JOINED), (name, fields)
    assert not TrialConfig.__pydantic_decorators__.model_validators, "none joins two sections"


def test_parameters_that_the_trial_refuses_are_told_in_a_line() -> None:
    config = sweep_config()
    with pytest.raises(ConfigError, match=r"model.d_model = 40 is refused: .* take 32") as caught:
        config.trial_config({"model.d_model": 40})
    assert "\n" not in str(caught.value)


def test_a_record_with_parameters_that_the_trial_refuses_is_not_gone_on_with(
    tiny_config: MakeConfig,
) -> None:
    dataset = open_dataset(tiny_config().data, 16)
    trial = {**TRIAL, "data": {"dataset": str(dataset.folder)}}
    config = sweep_config(name="changed", trial=trial)
    sweep = SweepFile(identity=new_identity(time.time(), dataset.digest), config=config)
    folder = create_sweep("changed", sweep)
    write_events(folder, session(), started("t000", d_model=40))
    with pytest.raises(UserError, match=r"model.d_model = 40 is refused"):
        resume_sweep(folder, sweep, config)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    widths=st.lists(st.sampled_from([8, 12, 16, 24, 32, 48]), min_size=1, unique=True),
    heads=st.lists(st.sampled_from([2, 4, 6, 8, 12, 16]), min_size=1, unique=True),
)
def test_a_space_is_accepted_just_when_all_its_trials_are_valid(
    widths: list[int], heads: list[int]
) -> None:
    space = {"model.d_model": {"choice": widths}, "model.head_dim": {"choice": heads}}
    if all(width % head == 0 for width in widths for head in heads):
        sweep_config(space=space)
    else:
        assert "multiple of head_dim" in refusal(space=space)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("train.steps", [40, 80]),
        ("train.eval_every", [10, 20]),
        ("train.eval_tokens", [128, 256]),
        ("model.context_length", [16, 32]),
        ("data.dataset", ["data/one", "data/two"]),
        ("train.threads", [1, 2]),
    ],
)
def test_what_would_make_losses_incomparable_cannot_be_searched(
    field: str, values: list[Any]
) -> None:
    assert field in refusal(space={field: {"choice": values}})


@pytest.mark.parametrize(
    "point",
    [{"optim.lr": 1.0}, {"optim.lr": "1e-3"}, {"model.d_model": 48}, {"model.d_model": 32.0}],
)
def test_a_start_point_outside_its_domain_is_refused(point: dict[str, Any]) -> None:
    text = refusal(start_points=[{"optim.lr": 1e-3}, point])
    (field,) = point
    assert f"start_points[1].{field}" in text
    assert "outside its domain" in text


def test_a_start_point_names_searched_fields_only() -> None:
    text = refusal(start_points=[{"optim.beta1": 0.9}])
    assert "start_points[0].optim.beta1" in text
    assert "optim.lr" in text


def test_a_start_point_may_leave_fields_out() -> None:
    points: list[dict[str, Any]] = [{}, {"optim.lr": 1e-4}, {"model.d_model": 64}]
    assert sweep_config(start_points=points).start_points == points


def test_every_field_of_a_trial_has_a_dotted_name() -> None:
    names = list(searchable_fields(TrialConfig()))
    assert {"optim.lr", "model.d_model", "train.batch_size", "optim.schedule"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0031622776, "0.003162"), (1.2e-5, "1.2e-05"), (128, "128"), ("wsd", "wsd"), (True, "True")],
)
def test_values_are_shown_as_people_write_them(value: Any, text: str) -> None:
    assert show_value(value) == text
    assert short_name("optim.lr") == "lr"
