"""The plan of a sweep whose trials take unlike resources: each part of it by its own numbers."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig
from sweep_samples import SPACE, TRIAL, sweep_config

from sweep.cluster.place import ThisMachine, plan_on
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import Plan, make_plan
from sweep.plan.probe import (
    Forecast,
    Speed,
    expected_seconds,
    forecast,
    settled_by_largest,
    speeds_of_ends,
)
from sweep.plan.workload import Stint, Workload
from sweep.show.plan_document import plan_document
from sweep.show.plan_text import plan_lines
from trainable.data.batches import TokenDataset, open_dataset

NOTHING = Workload(())
LARGE = {"model.d_model >= 64": {"cpus": 2}}


@pytest.fixture
def dataset(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> TokenDataset:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr("sweep.cluster.placement._CGROUP_LIMIT", Path("/none"))
    return open_dataset(tiny_config().data, 16)


def planned(dataset: TokenDataset, **changes: Any) -> SweepConfig:
    trial = {**TRIAL, "data": {"dataset": str(dataset.folder)}}
    return sweep_config(**{"trial": trial, "num_samples": 12, **changes})


def at_any_time(plan: Plan) -> Plan:
    """Return what of a plan hangs neither on the moment's free memory nor on its parts."""
    return replace(plan, parts=(), available_bytes=0, workload=NOTHING, steps=0.0, share=0.0)


def steps_of(stint: Stint) -> float:
    return stint.full_steps * stint.share


def plan_here(config: SweepConfig, dataset: TokenDataset) -> Plan:
    return plan_on(ThisMachine(config), config, dataset)


def test_where_all_take_the_same_the_plan_is_as_ever(dataset: TokenDataset) -> None:
    config = planned(dataset)
    plan = plan_here(config, dataset)
    assert at_any_time(plan) == at_any_time(make_plan(config, dataset, 4))
    ends = Speed(0.1, 0.2, 1.0), Speed(0.3, 0.4, 0.5)
    expected = forecast(config, dataset, plan, lambda *_: ends)
    assert expected.seconds == pytest.approx(expected_seconds(config, plan, ends, 4))
    assert expected.probed == 0.5
    (told,) = plan_document(config, plan, 4, expected.seconds).resources
    assert (told.condition, told.cpus, told.gpus, told.concurrent, told.share) == (None, 1, 0, 4, 1)


def test_each_part_has_its_own_number_at_once_and_its_own_speed(dataset: TokenDataset) -> None:
    config = planned(dataset, resources=LARGE)
    plan = plan_here(config, dataset)
    even = make_plan(planned(dataset), dataset, 4)
    assert at_any_time(plan) == at_any_time(even), "sizes, ends, disk are those of the whole"
    assert [(p.part.condition, p.concurrent, p.weight) for p in plan.parts] == [
        ("model.d_model >= 64", 2, 0.5),
        (None, 4, 0.5),
    ]
    threads = []

    def there(work: Any, part: SweepConfig, *more: Any) -> Any:
        assert work is speeds_of_ends
        threads.append(part.trial_config({}).train.threads)
        step = part.cpus_per_trial
        return Speed(step, 0, 1.0), Speed(step, 0, 1.0)

    expected = forecast(config, dataset, plan, there)
    assert threads == [2, 1]
    large, small = (part.plan for part in plan.parts)
    assert plan.steps == pytest.approx((large.steps + small.steps) / 2)
    assert plan.share == pytest.approx((large.share + small.share) / 2)
    alone = [part.plan.workload.seconds(part.concurrent, steps_of) for part in plan.parts]
    assert expected.seconds == pytest.approx((2 * alone[0] + alone[1]) / 2)
    assert expected.paces == {large.largest.flops: 160, small.largest.flops: 80}
    assert forecast(config, dataset, plan, lambda *_: None) == Forecast(None)


def test_the_plan_says_what_each_size_gets(dataset: TokenDataset) -> None:
    config = planned(dataset, resources=LARGE)
    plan = plan_here(config, dataset)
    lines = plan_lines(config, plan, "the data", 4, 300.0)
    assert lines[0] == "trials    12, up to 4 at a time"
    assert lines[1].strip() == (
        "trials with model.d_model >= 64, about 50%: 2 CPU and 0 GPU each, 2 at a time alone"
    )
    assert (
        lines[2].strip() == "all other trials, about 50%: 1 CPU and 0 GPU each, 4 at a time alone"
    )
    assert "do not fit" not in "\n".join(lines)
    short = replace(plan.parts[0].plan, available_bytes=plan.memory_bytes)
    scarce = replace(plan, parts=(replace(plan.parts[0], plan=short), plan.parts[1]))
    text = "\n".join(plan_lines(config, scarce, "the data", 4, 300.0))
    assert "warning: 2 large ones at a time do not fit" in text
    document = plan_document(config, plan, 4, 300.0)
    assert [(p.condition, p.cpus, p.concurrent) for p in document.resources] == [
        ("model.d_model >= 64", 2, 2),
        (None, 1, 4),
    ]


def test_a_fixed_size_is_planned_by_what_it_gets(dataset: TokenDataset) -> None:
    trial = {**TRIAL, "model": {**TRIAL["model"], "d_model": 64}}
    trial["data"] = {"dataset": str(dataset.folder)}
    space = {"optim.lr": SPACE["optim.lr"]}
    config = planned(dataset, trial=trial, space=space, resources=LARGE)
    lines = plan_lines(config, plan_here(config, dataset), "the data", 2, 300.0)
    assert lines[0] == "trials    12, 2 at a time with 2 CPU and 0 GPU each"


@pytest.mark.parametrize(
    ("condition", "cpus"), [("model.d_model >= 64", 2), ("model.d_model < 64", 1)]
)
def test_the_part_of_the_largest_trial_decides_for_all(
    condition: str, cpus: int, dataset: TokenDataset
) -> None:
    config = planned(dataset, resources={condition: {"cpus": 2}})
    asked = []

    def there(work: Any, part: SweepConfig, *_: Any) -> SweepConfig:
        asked.append(part.cpus_per_trial)
        trial = part.trial.with_values({"train.precision": "bf16"})
        return part.model_copy(update={"trial": trial})

    chosen = settled_by_largest(config, dataset, there)
    assert asked == [cpus]
    assert chosen.trial.train.precision == "bf16"
    assert (chosen.space, chosen.resources) == (config.space, config.resources)
