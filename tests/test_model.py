"""The Transformer against formulas written out here in float64, and its counts."""

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainable.config.trial import ModelConfig
from trainable.model.counts import flops_per_token, parameter_count, training_bytes
from trainable.model.transformer import (
    Attention,
    Mix,
    RMSNorm,
    Rope,
    SwiGLU,
    Transformer,
    by_kernels,
    by_products,
    next_token_loss,
)

BASE = ModelConfig(d_model=512, n_layers=4, head_dim=32, d_ff=1344, context_length=256)
SMALL = ModelConfig(d_model=32, n_layers=2, head_dim=16, context_length=16)
VOCAB = 50
BOTH_WAYS = pytest.mark.parametrize("mix", [by_kernels, by_products])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=rng(seed))


def drawn(layer: torch.nn.Module) -> torch.nn.Module:
    """Return a layer in float64 with weights, which it does not draw by itself."""
    with torch.no_grad():
        for weight in layer.double().parameters():
            weight.copy_(normal(*weight.shape, seed=len(weight)) / weight.shape[-1] ** 0.5)
    return layer


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + eps) * gain


def rotated(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotate x (..., T, K): channels i and i + K/2 are one complex number."""
    length, width = x.shape[-2:]
    half = width // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    position = torch.arange(length, dtype=torch.float64)[:, None]
    rate = torch.tensor([theta ** (-2 * i / width) for i in range(half)], dtype=torch.float64)
    turned = pairs * torch.exp(1j * position * rate)
    return torch.cat((turned.real, turned.imag), dim=-1)


def attention(x: torch.Tensor, qkv: torch.Tensor, out: torch.Tensor, c: ModelConfig) -> Any:
    batch, length, width = x.shape
    q, k, v = (x @ w.T for w in qkv.chunk(3))
    mixed = torch.zeros_like(x)
    for head in range(width // c.head_dim):
        own = slice(head * c.head_dim, (head + 1) * c.head_dim)
        q_head, k_head = rotated(q[..., own], c.rope_theta), rotated(k[..., own], c.rope_theta)
        for b in range(batch):
            for t in range(length):
                scores = (k_head[b, : t + 1] @ q_head[b, t]) / math.sqrt(c.head_dim)
                weights = scores.exp() / scores.exp().sum()
                mixed[b, t, own] = weights @ v[b, : t + 1, own]
    return mixed @ out.T


def swiglu(x: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    w1, w3 = w13.chunk(2)
    gate = x @ w1.T
    return (gate / (1 + torch.exp(-gate)) * (x @ w3.T)) @ w2.T


def logits_of(weights: dict[str, torch.Tensor], ids: torch.Tensor, c: ModelConfig) -> torch.Tensor:
    w = {name: value.double() for name, value in weights.items()}
    x = w["embedding.weight"][ids]
    for layer in range(c.n_layers):
        at = f"blocks.{layer}."
        normed = rms_norm(x, w[at + "norm1.weight"], c.norm_eps)
        x = x + attention(normed, w[at + "attention.qkv.weight"], w[at + "attention.out.weight"], c)
        normed = rms_norm(x, w[at + "norm2.weight"], c.norm_eps)
        x = x + swiglu(normed, w[at + "feed_forward.w13.weight"], w[at + "feed_forward.w2.weight"])
    return rms_norm(x, w["norm.weight"], c.norm_eps) @ w["head.weight"].T


def test_base_model_has_the_parameters_of_cs336() -> None:
    assert parameter_count(BASE, 10_000, embedding=False) == 17_576_448
    assert parameter_count(BASE, 10_000) == 22_696_448
    assert training_bytes(BASE, 10_000) == 12 * 22_696_448


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("d_ff", [None, 40])
def test_counted_parameters_are_the_modules_own(tied: bool, d_ff: int | None) -> None:
    config = SMALL.model_copy(update={"tie_embeddings": tied, "d_ff": d_ff})
    model = Transformer(config, VOCAB)
    own = sum(p.numel() for p in model.parameters())
    assert parameter_count(config, VOCAB) == own
    without = own if tied else own - model.embedding.weight.numel()
    assert parameter_count(config, VOCAB, embedding=False) == without


def test_base_model_module_has_the_parameters_of_cs336() -> None:
    model = Transformer(BASE, 10_000)
    assert sum(p.numel() for p in model.parameters()) == 22_696_448
    assert sum(p.numel() for p in model.parameters() if p is not model.embedding.weight) == (
        17_576_448
    )


@pytest.mark.parametrize(
    ("d_model", "width"), [(512, 1344), (128, 320), (64, 192), (768, 2048), (16, 64)]
)
def test_feed_forward_width_is_8_thirds_rounded_to_64(d_model: int, width: int) -> None:
    assert ModelConfig(d_model=d_model, head_dim=16).ff_width == width


def test_base_model_has_the_flops_of_cs336() -> None:
    assert flops_per_token(BASE, 10_000) == 111_722_496


@pytest.mark.parametrize("tied", [False, True])
def test_counted_flops_are_those_of_a_training_step(tied: bool) -> None:
    config = SMALL.model_copy(update={"tie_embeddings": tied})
    model = Transformer(config, VOCAB)
    ids = tokens(3, 16)
    # torch's attention kernels recompute or are not counted.
    with FlopCounterMode(display=False) as counter:
        next_token_loss(model(ids, by_products), ids).backward()
    assert counter.get_total_flops() == 3 * 16 * flops_per_token(config, VOCAB)


def test_rms_norm_is_its_formula() -> None:
    norm = RMSNorm(24, 1e-5)
    gain = normal(24, seed=1)
    norm.weight.data = gain.float()
    for scale in (1e-3, 1, 1e3):
        x = normal(4, 5, 24) * scale
        torch.testing.assert_close(
            norm(x.float()).double(), rms_norm(x, gain, 1e-5), rtol=1e-5, atol=1e-6
        )


def test_rms_norm_of_half_precision_is_computed_in_fp32() -> None:
    norm = RMSNorm(512, 1e-5)
    x = (normal(8, 512) * 1e3).bfloat16()
    exact = rms_norm(x.double(), torch.ones(512, dtype=torch.float64), 1e-5)
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).double(), exact, rtol=2**-8, atol=0)  # rounded once


@pytest.mark.parametrize("theta", [10_000.0, 500.0])
def test_rope_turns_complex_numbers(theta: float) -> None:
    x = normal(2, 3, 64, 8)
    rope = Rope(8, 64, theta)
    torch.testing.assert_close(rope(x.float()).double(), rotated(x, theta), rtol=1e-5, atol=1e-5)


def test_rope_angles_are_exact_at_far_positions() -> None:
    rope = Rope(8, 50_000, 10_000.0)
    x = torch.zeros(1, 1, 50_000, 8)
    x[..., 0] = 1.0  # the fastest pair: radians are positions
    turned = rope(x)
    position = torch.arange(50_000, dtype=torch.float64)
    torch.testing.assert_close(turned[0, 0, :, 0].double(), position.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(turned[0, 0, :, 4].double(), position.sin(), rtol=0, atol=1e-6)


def test_rope_scores_depend_on_the_distance_alone() -> None:
    rope = Rope(16, 40, 10_000.0)
    q, k = (normal(1, 1, 1, 16, seed=s).float().expand(1, 1, 40, 16) for s in (0, 1))
    scores = (rope(q) @ rope(k).transpose(-1, -2))[0, 0]
    for distance in (-30, -1, 0, 1, 7, 39):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-4)
    assert (scores.diagonal(1)[0] - scores.diagonal(0)[0]).abs() > 1e-2
    torch.testing.assert_close(rope(q).norm(dim=-1), q.norm(dim=-1))


def test_swiglu_is_its_formula() -> None:
    layer = drawn(SwiGLU(12, 20))
    x = normal(3, 4, 12)
    expected = swiglu(x, layer.w13.weight, layer.w2.weight)
    torch.testing.assert_close(layer(x), expected)


@BOTH_WAYS
def test_attention_is_its_formula(mix: Mix) -> None:
    layer = drawn(Attention(SMALL))
    x = normal(2, 16, 32)
    rope = Rope(16, 16, SMALL.rope_theta).double()
    expected = attention(x, layer.qkv.weight, layer.out.weight, SMALL)
    torch.testing.assert_close(layer(x, rope, mix), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_model_is_its_formula(tied: bool) -> None:
    config = SMALL.model_copy(update={"tie_embeddings": tied, "norm_eps": 1e-3})
    model = Transformer(config, VOCAB, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
                parameter.copy_(1 + 0.3 * normal(*parameter.shape, seed=len(name)))
    ids = tokens(2, 11)
    expected = logits_of(model.state_dict(), ids, config)
    torch.testing.assert_close(model(ids).double(), expected, rtol=1e-4, atol=1e-5)


@BOTH_WAYS
def test_a_later_token_changes_no_earlier_logits(mix: Mix) -> None:
    model = Transformer(SMALL, VOCAB)
    ids = tokens(2, 16)
    before = model(ids, mix)
    for changed in (15, 9, 1):
        other = ids.clone()
        other[:, changed] = (other[:, changed] + 1) % VOCAB
        after = model(other, mix)
        torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=1e-6)
        assert (after[:, changed:] - before[:, changed:]).abs().amax(dim=(0, 2)).min() > 1e-4


def test_every_earlier_token_is_seen() -> None:
    model = Transformer(SMALL, VOCAB)
    ids = tokens(1, 16)
    before = model(ids)[0, -1]
    for changed in range(15):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % VOCAB
        assert (model(other)[0, -1] - before).abs().max() > 1e-5


def test_shorter_sequences_give_the_same_logits() -> None:
    model = Transformer(SMALL, VOCAB)
    ids = tokens(2, 16)
    for length in (1, 5):
        torch.testing.assert_close(model(ids[:, :length]), model(ids)[:, :length])


def test_loss_is_the_mean_cross_entropy_in_nats() -> None:
    logits, targets = normal(3, 4, VOCAB), tokens(3, 4)
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    expected = (logits.exp().sum(-1).log() - chosen).mean()
    assert next_token_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    assert next_token_loss(torch.zeros(1, 2, 7), tokens(1, 2) % 7).item() == pytest.approx(
        math.log(7)
    )
    assert next_token_loss(logits.bfloat16(), targets).dtype == torch.float32


def test_initial_weights_are_truncated_normals_of_the_handout() -> None:
    model = Transformer(ModelConfig(d_model=192, n_layers=1, head_dim=32, d_ff=512), 1000)
    width, inner, vocab = 192, 512, 1000
    block = model.blocks[0]
    expected = [(model.embedding.weight, 1.0), (model.head.weight, (2 / (width + vocab)) ** 0.5)]
    # Query, key, value and gate are matrices of their own, though they share a product.
    expected += [(w, (2 / (2 * width)) ** 0.5) for w in block.attention.qkv.weight.chunk(3)]
    expected += [(block.attention.out.weight, (2 / (2 * width)) ** 0.5)]
    expected += [(w, (2 / (width + inner)) ** 0.5) for w in block.feed_forward.w13.weight.chunk(2)]
    expected += [(block.feed_forward.w2.weight, (2 / (width + inner)) ** 0.5)]
    cut = 0.98658  # standard deviation of a standard normal truncated at 3
    for weight, std in expected:
        n = weight.numel()
        assert weight.std().item() == pytest.approx(cut * std, rel=5 / (2 * n) ** 0.5)
        assert abs(weight.mean().item()) < 5 * std / n**0.5
        assert weight.abs().max() <= 3 * std * (1 + 1e-6)
        assert weight.abs().max() > 2.8 * std
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert bool((parameter == 1).all()), name


def test_tied_logits_start_with_unit_variance() -> None:
    config = ModelConfig(d_model=128, n_layers=1, head_dim=32, tie_embeddings=True)
    model = Transformer(config, 500)
    hidden = model.norm(normal(200, 128).float())
    assert model.head(hidden).std().item() == pytest.approx(1, rel=0.1)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = Transformer(SMALL, VOCAB, seed=7).state_dict()
    torch.manual_seed(1)
    torch.rand(3)
    second = Transformer(SMALL, VOCAB, seed=7).state_dict()
    other = Transformer(SMALL, VOCAB, seed=8).state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        if value.ndim == 2:
            assert not torch.equal(value, other[name]), name


def test_building_a_model_leaves_global_randomness_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Transformer(SMALL, VOCAB)
    assert torch.equal(torch.get_rng_state(), before)


def test_tied_weights_are_one_tensor() -> None:
    tied = Transformer(SMALL.model_copy(update={"tie_embeddings": True}), VOCAB)
    assert tied.head.weight is tied.embedding.weight
    assert len(list(tied.parameters())) == len(list(Transformer(SMALL, VOCAB).parameters())) - 1
    tied.load_state_dict(tied.state_dict())
    tied.to(torch.float64)
    assert tied.head.weight.data_ptr() == tied.embedding.weight.data_ptr()
    untied = Transformer(SMALL, VOCAB)
    assert untied.head.weight.data_ptr() != untied.embedding.weight.data_ptr()


def test_only_weights_are_saved() -> None:
    """The tables of the rotary positions follow from the config, for any context length."""
    model = Transformer(SMALL, VOCAB)
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def test_no_layer_has_a_bias() -> None:
    model = Transformer(SMALL, VOCAB)
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
