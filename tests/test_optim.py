"""The learning-rate schedule at its corners, and what AdamW decays."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from trainable.config.trial import ModelConfig, OptimConfig
from trainable.model.transformer import Transformer
from trainable.training.optim import build_optimizer, learning_rate, set_learning_rate

SMALL = ModelConfig(d_model=32, n_layers=2, head_dim=16, context_length=16)


def optim(**values: Any) -> OptimConfig:
    return OptimConfig(**{"lr": 2.0, "min_lr_fraction": 0.1, **values})


def test_cosine_corners() -> None:
    config = optim(schedule="cosine", warmup_fraction=0.1)
    assert learning_rate(1, config, 100) == pytest.approx(0.2)
    assert learning_rate(5, config, 100) == pytest.approx(1.0)
    assert learning_rate(10, config, 100) == pytest.approx(2.0)
    assert learning_rate(55, config, 100) == pytest.approx((2.0 + 0.2) / 2)
    third = 0.2 + 0.5 * (1 + math.cos(math.pi / 3)) * 1.8
    assert learning_rate(40, config, 100) == pytest.approx(third)
    assert learning_rate(100, config, 100) == pytest.approx(0.2)


def test_cosine_without_warm_up_starts_near_its_peak() -> None:
    config = optim(warmup_fraction=0.0)
    expected = 0.2 + 0.5 * (1 + math.cos(math.pi / 100)) * 1.8
    assert learning_rate(1, config, 100) == pytest.approx(expected)
    assert learning_rate(100, config, 100) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_warm_up_over_all_steps_rises_up_to_the_last(schedule: str) -> None:
    config = optim(schedule=schedule, warmup_fraction=1.0, decay_fraction=0.0)
    rates = [learning_rate(step, config, 50) for step in range(1, 50)]
    assert rates == pytest.approx([2.0 * step / 50 for step in range(1, 50)])
    assert 0 < learning_rate(50, config, 50) <= 2.0


def test_wsd_corners() -> None:
    config = optim(schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2)
    assert learning_rate(1, config, 100) == pytest.approx(0.2)
    assert learning_rate(9, config, 100) == pytest.approx(1.8)
    assert {learning_rate(step, config, 100) for step in range(10, 81)} == {2.0}
    assert learning_rate(81, config, 100) == pytest.approx(0.2 + 1.8 * 19 / 20)
    assert learning_rate(90, config, 100) == pytest.approx(1.1)
    assert learning_rate(99, config, 100) == pytest.approx(0.2 + 1.8 / 20)
    assert learning_rate(100, config, 100) == pytest.approx(0.2)


def test_wsd_without_warm_up_and_decay_over_all_steps_is_linear() -> None:
    config = optim(schedule="wsd", warmup_fraction=0.0, decay_fraction=1.0)
    rates = [learning_rate(step, config, 10) for step in range(1, 11)]
    assert rates == pytest.approx([0.2 + 0.18 * (10 - step) for step in range(1, 11)])


def test_wsd_without_a_decay_keeps_its_rate_to_the_last_step() -> None:
    config = optim(schedule="wsd", warmup_fraction=0.1, decay_fraction=0.0)
    assert {learning_rate(step, config, 100) for step in range(10, 101)} == {2.0}


def test_wsd_stable_phase_does_not_depend_on_the_length_of_training() -> None:
    for total in (100, 1000):
        config = optim(schedule="wsd", warmup_fraction=0.1, decay_fraction=0.1)
        assert learning_rate(total // 2, config, total) == 2.0


def test_one_step_is_the_last_step() -> None:
    for schedule in ("cosine", "wsd"):
        config = optim(schedule=schedule, warmup_fraction=0.0)
        assert learning_rate(1, config, 1) == pytest.approx(0.2)


configs = st.builds(
    lambda schedule, warmup, decay, least, lr: OptimConfig(
        schedule=schedule,
        warmup_fraction=warmup,
        decay_fraction=min(decay, 1 - warmup),
        min_lr_fraction=least,
        lr=lr,
    ),
    st.sampled_from(["cosine", "wsd"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1).map(lambda share: 0.0 if share < 1e-3 else share),
    st.floats(1e-6, 10),
)


@given(config=configs, total=st.integers(1, 10**7), data=st.data())
def test_rate_is_a_pure_function_between_zero_and_the_peak(
    config: OptimConfig, total: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, total))
    rate = learning_rate(step, config, total)
    assert rate == learning_rate(step, config, total)
    assert 0 <= rate <= config.lr * (1 + 1e-12)
    warmup = config.warmup_fraction * total
    if step >= warmup:
        assert rate >= config.lr * config.min_lr_fraction * (1 - 1e-12)


@given(config=configs, total=st.integers(1, 10**7), data=st.data())
def test_no_update_but_a_last_one_has_rate_zero(
    config: OptimConfig, total: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, total) | st.just(total))
    assume(step < total or config.min_lr_fraction > 0)
    assert learning_rate(step, config, total) > 0


@given(config=configs, total=st.integers(2, 500))
def test_rate_rises_then_never_rises_again(config: OptimConfig, total: int) -> None:
    rates = [learning_rate(step, config, total) for step in range(1, total + 1)]
    warmup = config.warmup_fraction * total
    for step, (before, after) in enumerate(itertools.pairwise(rates), start=1):
        if step + 1 < warmup:
            assert after > before
        elif step >= warmup:
            assert after <= before * (1 + 1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_matrices_decay_and_gains_do_not(tied: bool) -> None:
    model = Transformer(SMALL.model_copy(update={"tie_embeddings": tied}), 50)
    optimizer = build_optimizer(model, optim(weight_decay=0.3))
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())  # each exactly once
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in name else 0.3), name


def test_optimizer_uses_every_setting() -> None:
    config = optim(beta1=0.8, beta2=0.97, eps=1e-6)
    optimizer = build_optimizer(Transformer(SMALL, 50), config)
    for group in optimizer.param_groups:
        assert group["lr"] == 2.0
        assert group["betas"] == (0.8, 0.97)
        assert group["eps"] == 1e-6


def test_one_update_is_the_adamw_formula() -> None:
    config = optim(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.5)
    module = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(module, config)
    moments: dict[str, list[torch.Tensor]] = {
        name: [torch.zeros_like(p, dtype=torch.float64) for _ in range(2)]
        for name, p in module.named_parameters()
    }
    expected = {name: p.detach().double() for name, p in module.named_parameters()}
    for step in (1, 2, 3):
        rate = 0.01 * step
        set_learning_rate(optimizer, rate)
        for name, p in module.named_parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
            gradient = p.grad.double()
            mean, square = moments[name]
            mean.mul_(0.8).add_(0.2 * gradient)
            square.mul_(0.9).add_(0.1 * gradient**2)
            decay = 0.5 if p.ndim == 2 else 0.0
            update = mean / (1 - 0.8**step) / ((square / (1 - 0.9**step)).sqrt() + 1e-6)
            expected[name] = expected[name] * (1 - rate * decay) - rate * update
        optimizer.step()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_set_rate_reaches_every_group() -> None:
    optimizer = build_optimizer(Transformer(SMALL, 50), optim())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_updates_are_those_of_torch_s_own_adamw() -> None:
    config = optim(lr=1e-2, weight_decay=0.3)
    ours, theirs = Transformer(SMALL, 50), Transformer(SMALL, 50)
    optimizer = build_optimizer(ours, config)
    groups = [{**group, "params": []} for group in optimizer.param_groups]
    for parameter in theirs.parameters():
        groups[parameter.ndim < 2]["params"].append(parameter)
    reference = torch.optim.AdamW(groups)
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=draws)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
        optimizer.zero_grad(set_to_none=True)
    assert all(parameter.grad is None for parameter in ours.parameters())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    again = build_optimizer(Transformer(SMALL, 50), config)
    again.load_state_dict(optimizer.state_dict())
    for saved, loaded in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert all(torch.equal(saved[key], loaded[key]) for key in saved)
