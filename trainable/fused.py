"""The model's loss and gradients as plain tensor operations, scheduled by hand.

The same function of the same weights as `model.Transformer` with `next_token_loss`, held to it by a
test. It is faster on a CPU because nothing is done twice or out of place:

- weights are cast once a step, with the norms' gains and the softmaxes' log2(e) multiplied in, so
  that only matrices pay for them and never activations;
- the residual stream and all sums stay in fp32, the products run in `dtype`;
- attention and the head are written out, and their softmaxes take exp2 in place;
- the gradient of the logits replaces the logits, a chunk of rows at a time.

Shapes: N = B T tokens, D d_model, H heads, K head_dim, F ff_width, V vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainable.config import ModelConfig
from trainable.model import Rope

LOG2_E = math.log2(math.e)
LN_2 = math.log(2)
HEAD_CHUNK = 2**20
"""Logits at once: they stay in the cache, and no long list of tokens fills the memory."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Positions:
    """Rotary tables (2, 1, T, K) for queries and keys, with the scale of the scores in them."""

    cos: Tensor
    sin: Tensor
    cos_backward: Tensor
    sin_backward: Tensor
    mask: Tensor
    """(T, T): 0 at and below the diagonal, minus infinity above."""


def positions(rope: Rope, length: int, dtype: torch.dtype) -> Positions:
    """Return what attention needs to know of the positions 0 .. length-1."""
    cos, sin = (table[:length].double() for table in (rope.cos, rope.sin))
    head_dim = cos.shape[-1]

    def scaled(table: Tensor, query: float, key: float) -> Tensor:
        return torch.stack((table * query, table * key))[:, None].to(dtype)

    # Scores are powers of two; a score's gradient therefore carries ln 2, undone in the queries'.
    scale = head_dim**-0.5
    mask = torch.full((length, length), -math.inf, dtype=_wide(dtype), device=cos.device)
    return Positions(
        cos=scaled(cos, scale * LOG2_E, 1),
        sin=scaled(sin, scale * LOG2_E, 1),
        cos_backward=scaled(cos, scale, LN_2),
        sin_backward=scaled(-sin, scale, LN_2),
        mask=mask.triu(1),
    )


def loss_only(
    weights: Weights, config: ModelConfig, at: Positions, tokens: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean cross-entropy in nats; tokens and targets are ids (B, T)."""
    dtype = at.cos.dtype
    x = weights["embedding.weight"][tokens.flatten()].to(_wide(dtype))
    for layer in range(config.n_layers):
        block = _cast_block(weights, layer, dtype)
        _attention(x, block, config, at, len(tokens))
        _feed_forward(x, block, config)
    normed, _ = _norm(x, config.norm_eps, dtype)
    head = _folded(_head_matrix(weights, config), weights["norm.weight"] * LOG2_E, dtype)
    losses = [
        _row_losses(rows @ head.t(), wanted)[0]
        for rows, wanted in _head_chunks(normed, targets.flatten(), len(head))
    ]
    return torch.cat(losses).mean()


def loss_and_gradients(
    weights: Weights,
    config: ModelConfig,
    at: Positions,
    tokens: Tensor,
    targets: Tensor,
    share: float = 1.0,
) -> tuple[Tensor, Weights]:
    """Return the mean cross-entropy in nats and the gradients of `share` times it, by name.

    Args:
        weights: the model's named parameters, fp32.
        config: the model's.
        at: from `positions`, for this T; its type is that of the products.
        tokens: ids (B, T).
        targets: ids (B, T).
        share: of the loss in the gradients: 1 / grad_accumulation.
    """
    dtype = at.cos.dtype
    batch = len(tokens)
    x = weights["embedding.weight"][tokens.flatten()].to(_wide(dtype))  # (N, D)
    blocks = [_cast_block(weights, layer, dtype) for layer in range(config.n_layers)]
    kept = [
        (_attention(x, block, config, at, batch), _feed_forward(x, block, config))
        for block in blocks
    ]
    grads: Weights = {}
    loss, dx = _head(x, weights, config, targets.flatten(), share, grads, dtype)
    for layer in reversed(range(config.n_layers)):
        mixed, forwarded = kept.pop()
        name = f"blocks.{layer}."
        d_w13, d_w2 = _feed_forward_backward(dx, blocks[layer], forwarded)
        grads[name + "feed_forward.w2.weight"] = d_w2.to(x.dtype)
        _unfold(d_w13, name + "feed_forward.w13.weight", name + "norm2.weight", weights, grads)
        d_qkv, d_out = _attention_backward(dx, blocks[layer], mixed, config, at, batch)
        grads[name + "attention.out.weight"] = d_out.to(x.dtype)
        _unfold(d_qkv, name + "attention.qkv.weight", name + "norm1.weight", weights, grads)
    d_embedding = torch.zeros_like(weights["embedding.weight"])
    d_embedding.index_add_(0, tokens.flatten(), dx)
    if config.tie_embeddings:
        d_embedding += grads.pop("head.weight")
    grads["embedding.weight"] = d_embedding
    return loss, grads


class _Block(NamedTuple):
    """A block's matrices in the type of the products, gains of the norms before them folded in."""

    qkv: Tensor
    out: Tensor
    w13: Tensor
    w2: Tensor


class _Normed(NamedTuple):
    """A normalized input (N, D), and one over its rows' root mean square (N, 1)."""

    x: Tensor
    scale: Tensor


class _Mixed(NamedTuple):
    """What attention's backward pass needs; G = B H."""

    normed: _Normed
    qkv: Tensor  # (3, G, T, K), turned
    shares: Tensor  # (G, T, T): the softmax
    merged: Tensor  # (N, D)


class _Forwarded(NamedTuple):
    """What the feed-forward layer's backward pass needs."""

    normed: _Normed
    inner: Tensor  # (N, 2 F): gate and value
    gated: Tensor  # (N, F): SiLU of the gate
    product: Tensor  # (N, F)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _folded(matrix: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
    return (matrix * gain).to(dtype)


def _unfold(d_folded: Tensor, matrix: str, gain: str, weights: Weights, grads: Weights) -> None:
    """Store the gradients of a matrix and of the gain that was multiplied into its columns."""
    grad = d_folded.to(weights[matrix].dtype)
    grads[gain] = (grad * weights[matrix]).sum(0)
    grads[matrix] = grad * weights[gain]


def _cast_block(weights: Weights, layer: int, dtype: torch.dtype) -> _Block:
    name = f"blocks.{layer}."
    return _Block(
        _folded(weights[name + "attention.qkv.weight"], weights[name + "norm1.weight"], dtype),
        weights[name + "attention.out.weight"].to(dtype),
        _folded(weights[name + "feed_forward.w13.weight"], weights[name + "norm2.weight"], dtype),
        weights[name + "feed_forward.w2.weight"].to(dtype),
    )


def _norm(x: Tensor, eps: float, dtype: torch.dtype) -> _Normed:
    """Divide the rows of x (N, D) by their root mean square."""
    mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = mean.add_(eps).rsqrt_()
    return _Normed((x * scale).to(dtype), scale)


def _norm_backward(dx: Tensor, d_normed: Tensor, normed: _Normed) -> None:
    """Add the gradient of a norm's input to dx (N, D), given that of its output."""
    along = (d_normed * normed.x).sum(-1, keepdim=True).div_(-dx.shape[-1])
    dx.add_(torch.addcmul(d_normed, normed.x, along).mul_(normed.scale))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn queries and keys x (2, G, T, K) in place (see model.Rope)."""
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    x.mul_(cos).addcmul_(swapped, sin)


def _attention(x: Tensor, block: _Block, config: ModelConfig, at: Positions, batch: int) -> _Mixed:
    """Add causal self-attention to x (N, D) in place."""
    heads, head_dim = config.n_heads, config.head_dim
    length = len(x) // batch
    normed = _norm(x, config.norm_eps, block.qkv.dtype)
    split = (normed.x @ block.qkv.t()).view(batch, length, 3, heads, head_dim)
    qkv = split.permute(2, 0, 3, 1, 4).contiguous().view(3, batch * heads, length, head_dim)
    _turn(qkv[:2], at.cos, at.sin)
    scores = torch.bmm(qkv[0], qkv[1].transpose(1, 2)).to(at.mask.dtype).add_(at.mask)
    scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
    shares = scores.div_(scores.sum(-1, keepdim=True)).to(qkv.dtype)
    mixed = torch.bmm(shares, qkv[2]).view(batch, heads, length, head_dim)
    merged = mixed.transpose(1, 2).reshape(len(x), -1)
    x.add_(merged @ block.out.t())
    return _Mixed(normed, qkv, shares, merged)


def _attention_backward(
    dx: Tensor, block: _Block, kept: _Mixed, config: ModelConfig, at: Positions, batch: int
) -> tuple[Tensor, Tensor]:
    """Add the gradient of the input to dx (N, D); return those of block.qkv and block.out."""
    heads, head_dim = config.n_heads, config.head_dim
    length = len(dx) // batch
    dy = dx.to(block.out.dtype)
    d_out = dy.t() @ kept.merged
    split = (dy @ block.out).view(batch, length, heads, head_dim).transpose(1, 2)
    d_mixed = split.reshape(batch * heads, length, head_dim)
    q, k, v = kept.qkv
    d_shares = torch.bmm(d_mixed, v.transpose(1, 2))
    d_scores = torch._softmax_backward_data(d_shares, kept.shares, -1, kept.shares.dtype)
    d_qk = torch.stack((torch.bmm(d_scores, k), torch.bmm(d_scores.transpose(1, 2), q)))
    _turn(d_qk, at.cos_backward, at.sin_backward)
    d_v = torch.bmm(kept.shares.transpose(1, 2), d_mixed)
    d_split = torch.cat((d_qk, d_v[None])).view(3, batch, heads, length, head_dim)
    d_qkv = d_split.permute(1, 3, 0, 2, 4).reshape(len(dx), -1)
    _norm_backward(dx, d_qkv @ block.qkv, kept.normed)
    return d_qkv.t() @ kept.normed.x, d_out


def _feed_forward(x: Tensor, block: _Block, config: ModelConfig) -> _Forwarded:
    """Add the feed-forward layer to x (N, D) in place."""
    normed = _norm(x, config.norm_eps, block.w13.dtype)
    inner = normed.x @ block.w13.t()
    gate, value = inner.chunk(2, dim=-1)
    gated = functional.silu(gate)
    product = gated * value
    x.add_(product @ block.w2.t())
    return _Forwarded(normed, inner, gated, product)


def _feed_forward_backward(dx: Tensor, block: _Block, kept: _Forwarded) -> tuple[Tensor, Tensor]:
    """Add the gradient of the input to dx (N, D); return those of block.w13 and block.w2."""
    dy = dx.to(block.w2.dtype)
    d_w2 = dy.t() @ kept.product
    d_product = dy @ block.w2
    gate, value = kept.inner.chunk(2, dim=-1)
    d_inner = torch.empty_like(kept.inner)
    d_gate, d_value = d_inner.chunk(2, dim=-1)
    torch.mul(d_product, kept.gated, out=d_value)
    torch.ops.aten.silu_backward.grad_input(d_product.mul_(value), gate, grad_input=d_gate)
    _norm_backward(dx, d_inner @ block.w13, kept.normed)
    return d_inner.t() @ kept.normed.x, d_w2


def _head(
    x: Tensor,
    weights: Weights,
    config: ModelConfig,
    targets: Tensor,
    share: float,
    grads: Weights,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient of x (N, D); store those of the head and the last norm."""
    matrix = _head_matrix(weights, config)
    gain = weights["norm.weight"] * LOG2_E
    head = _folded(matrix, gain, dtype)
    normed = _norm(x, config.norm_eps, dtype)
    d_head = torch.zeros_like(matrix)
    losses, d_normed = [], []
    unit = share * LN_2 / len(x)
    for rows, wanted in _head_chunks(normed.x, targets, len(head)):
        loss, powers, total = _row_losses(rows @ head.t(), wanted)
        losses.append(loss)
        powers.mul_(unit / total)
        powers.scatter_add_(1, wanted[:, None], powers.new_full((len(rows), 1), -unit))
        d_logits = powers.to(dtype)
        d_normed.append(d_logits @ head)
        d_head.add_(d_logits.t() @ rows)
    dx = torch.zeros_like(x)
    _norm_backward(dx, torch.cat(d_normed), normed)
    grads["norm.weight"] = (d_head * matrix).sum(0).mul_(LOG2_E)
    grads["head.weight"] = d_head.mul_(gain)
    return torch.cat(losses).mean(), dx


def _head_matrix(weights: Weights, config: ModelConfig) -> Tensor:
    return weights["embedding.weight" if config.tie_embeddings else "head.weight"]


def _head_chunks(x: Tensor, targets: Tensor, vocab: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, HEAD_CHUNK // vocab)
    return zip(torch.split(x, rows), torch.split(targets, rows), strict=True)


def _row_losses(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's loss, its powers of two, and their sum (rows, 1)."""
    wide = logits.to(_wide(logits.dtype))
    wide.sub_(wide.amax(-1, keepdim=True))
    chosen = wide.gather(1, wanted[:, None])
    powers = wide.exp2_()
    total = powers.sum(-1, keepdim=True)
    return (total.log2() - chosen).mul_(LN_2).squeeze(1), powers, total
