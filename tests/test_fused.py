"""The fused passes against autograd through the modules: the same loss, the same gradients."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from trainable.config.trial import ModelConfig, TrainConfig
from trainable.model.transformer import Transformer, by_kernels, by_products
from trainable.passes import attention as products
from trainable.passes import fused
from trainable.passes.attention import positions
from trainable.passes.forms import FusedPasses, ModulePasses, build_passes

VOCAB = 50
SMALL: dict[str, Any] = {
    "d_model": 48,
    "n_layers": 3,
    "head_dim": 16,
    "context_length": 32,
    "norm_eps": 1e-3,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "one head": {"head_dim": 48},
    "narrow heads": {"head_dim": 2, "n_layers": 1},
    "odd width": {"d_ff": 37},
    "one layer": {"n_layers": 1},
}


def model_of(values: dict[str, Any]) -> Transformer:
    """Return a model whose gains are not all one."""
    model = Transformer(ModelConfig(**{**SMALL, **values}), VOCAB, seed=3)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
    return model


def batch_of(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, VOCAB, (2, batch, length), generator=draws)
    return x, y


def autograd(
    model: Transformer, x: torch.Tensor, y: torch.Tensor, share: float
) -> tuple[float, dict[str, torch.Tensor]]:
    loss = functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    grads = torch.autograd.grad(loss * share, list(model.parameters()))
    return loss.item(), dict(zip((n for n, _ in model.named_parameters()), grads, strict=True))


def by_hand(
    model: Transformer, x: torch.Tensor, y: torch.Tensor, share: float, dtype: torch.dtype
) -> tuple[float, float, dict[str, torch.Tensor]]:
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    at = positions(model.rope, x.shape[1], dtype)
    loss, grads = fused.loss_and_gradients(weights, model.config, at, x, y, share)
    return loss.item(), fused.loss_only(weights, model.config, at, x, y).item(), grads


def distance(grads: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the largest relative error of any parameter's gradient."""
    assert grads.keys() == expected.keys()
    return max(float((grads[n] - e).norm() / e.norm()) for n, e in expected.items())


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(("batch", "length", "share"), [(3, 32, 1.0), (2, 17, 0.25), (1, 1, 1.0)])
def test_loss_and_every_gradient_are_autograds(
    values: dict[str, Any], batch: int, length: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "HEAD_CHUNK", 20 * VOCAB)  # several chunks, the last one ragged
    monkeypatch.setattr(products, "LEAST_ROWS", 7)  # several blocks, the last one ragged
    model = model_of(values).double()
    x, y = batch_of(batch, length)
    expected_loss, expected = autograd(model, x, y, share)
    loss, forward_only, grads = by_hand(model, x, y, share, torch.float64)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert forward_only == pytest.approx(expected_loss, rel=1e-12)
    if length == 1:  # one position attends to itself: queries and keys have no gradient
        for all_of in (grads, expected):
            for name in [n for n in all_of if "qkv" in n]:
                assert all_of[name][: 2 * model.config.d_model].abs().max() < 1e-12
                all_of[name] = all_of[name][2 * model.config.d_model :]
    assert distance(grads, expected) < 1e-10


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=str
)
@pytest.mark.parametrize("tied", [False, True])
def test_lower_precisions_come_as_near_as_they_can(
    dtype: torch.dtype, tolerance: float, tied: bool
) -> None:
    model = model_of({"tie_embeddings": tied})
    x, y = batch_of(4, 32)
    expected_loss, expected = autograd(model.double(), x, y, 1.0)
    loss, _, grads = by_hand(model.float(), x, y, 1.0, dtype)
    assert loss == pytest.approx(expected_loss, rel=tolerance / 5)
    assert distance(grads, {n: e.float() for n, e in expected.items()}) < tolerance
    assert {g.dtype for g in grads.values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["sdpa", "plain", "products"])
def test_losses_are_summed_in_fp32_whatever_the_products_are_in(kind: str) -> None:
    config = TrainConfig.model_validate({"attention": kind, "precision": "bf16"})
    model = model_of({})
    passes = build_passes(model, config, torch.device("cpu"))
    x, y = batch_of(2, 32)
    assert passes.loss(x, y).dtype == passes.backward(x, y, 1.0).dtype == torch.float32
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("products_in", "scores_in"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_softmaxes_are_computed_in_fp32_or_more(
    products_in: torch.dtype, scores_in: torch.dtype
) -> None:
    at = positions(model_of({}).rope, 32, products_in)
    assert (at.dtype, at.mask.dtype) == (products_in, scores_in)


def test_many_chunks_add_up_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "HEAD_CHUNK", VOCAB)  # a row at a time
    model = model_of({})
    x, y = batch_of(8, 32)
    _, expected = autograd(model, x, y, 1.0)
    _, _, grads = by_hand(model, x, y, 1.0, torch.bfloat16)
    assert distance({"": grads["head.weight"]}, {"": expected["head.weight"]}) < 0.01


@pytest.mark.parametrize(("vocab", "rows"), [(2**18, 4), (2**30, 1), (3 * 2**17, 2)])
def test_logits_are_made_a_chunk_at_a_time(vocab: int, rows: int) -> None:
    """At most 2^20 of them, so that no long list of tokens fills the memory."""
    chunks = list(fused._head_chunks(torch.zeros(10, 8), torch.zeros(10), vocab))
    sizes = [len(x) for x, _ in chunks]
    assert sizes[0] == rows
    assert sum(sizes) == 10


def test_large_scores_and_logits_do_not_overflow() -> None:
    model = model_of({})
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.mul_(60)
        model.head.weight.mul_(300)
    x, y = batch_of(2, 32)
    expected, _ = autograd(model.double(), x, y, 1.0)
    loss, _, grads = by_hand(model.float(), x, y, 1.0, torch.float32)
    assert loss == pytest.approx(expected, rel=1e-3)
    assert expected > 100
    assert all(bool(grad.isfinite().all()) for grad in grads.values())


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_parts_add_up(tied: bool) -> None:
    model = model_of({"tie_embeddings": tied})
    passes = FusedPasses(model, "fp32", compiled=False)
    x, y = batch_of(4, 32)
    whole = passes.backward(x, y, 1.0)
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    parts = [passes.backward(x[i : i + 2], y[i : i + 2], 0.5) for i in (0, 2)]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-6)
    assert distance({n: p.grad for n, p in model.named_parameters()}, expected) < 1e-5


def test_evaluating_touches_no_gradient() -> None:
    model = model_of({})
    x, y = batch_of(2, 32)
    fused_loss = FusedPasses(model, "fp32", compiled=False).loss(x, y)
    with torch.no_grad():
        expected = ModulePasses(model, "fp32", compiled=False, mix=by_kernels).loss(x, y)
    assert fused_loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not fused_loss.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_losses_carry_no_graph_that_would_fill_the_memory() -> None:
    model = model_of({})
    x, y = batch_of(2, 32)
    for passes in (
        FusedPasses(model, "fp32", compiled=False),
        ModulePasses(model, "fp32", compiled=False, mix=by_kernels),
    ):
        assert not passes.backward(x, y, 1.0).requires_grad


def test_each_length_has_its_own_positions() -> None:
    model = model_of({})
    passes = FusedPasses(model, "fp32", compiled=False)
    for length in (32, 17, 1, 32):
        x, y = batch_of(2, length)
        expected = functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
        assert passes.loss(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_compiling_the_modules_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or model)
    model = model_of({})
    for compiled, expected in (("never", []), ("always", [model])):
        config = TrainConfig.model_validate({"attention": "sdpa", "compile": compiled})
        build_passes(model, config, torch.device("cpu"))
        assert asked == expected


def test_without_a_probe_the_device_names_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    model = model_of({})
    assert isinstance(build_passes(model, TrainConfig(), torch.device("cpu")), FusedPasses)
    on_a_gpu = build_passes(model, TrainConfig(), torch.device("cuda"))
    assert isinstance(on_a_gpu, ModulePasses)
    assert on_a_gpu.mix is by_kernels


def test_settings_name_the_form() -> None:
    model = model_of({})
    cpu = torch.device("cpu")
    assert isinstance(build_passes(model, TrainConfig(attention="products"), cpu), FusedPasses)
    for attention, mix in (("sdpa", by_kernels), ("plain", by_products)):
        passes = build_passes(model, TrainConfig(attention=attention), cpu)
        assert isinstance(passes, ModulePasses)
        assert passes.mix is mix


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize(("length", "share"), [(32, 1.0), (17, 0.25)])
def test_plain_products_in_the_modules_give_the_same_gradients(
    precision: str, tolerance: float, length: int, share: float
) -> None:
    model = model_of({})
    x, y = batch_of(4, length)
    expected_loss, expected = autograd(model, x, y, share)
    passes = ModulePasses(model, precision, compiled=False, mix=by_products)
    assert passes.backward(x, y, share).item() == pytest.approx(expected_loss, rel=tolerance / 5)
    assert distance({n: p.grad for n, p in model.named_parameters()}, expected) < tolerance
