"""One Transformer block, forward and backward, as plain tensor operations in place.

The residual stream and its gradient are fp32 (fp64 for products in fp64); products, and what the
backward pass needs of the forward pass, are in the products' own type.

Shapes: N = B T tokens, D d_model, G = B x heads, K head_dim, F ff_width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainable.config.trial import ModelConfig
from trainable.passes.attention import Positions, attend, attend_backward, turn


class Block(NamedTuple):
    """A block's matrices in the type of the products, gains of the norms before them folded in."""

    qkv: Tensor
    out: Tensor
    w13: Tensor
    w2: Tensor


class Normed(NamedTuple):
    """A normalized input (N, D), and one over its rows' root mean square (N, 1)."""

    x: Tensor
    scale: Tensor


class Attended(NamedTuple):
    """What attention's backward pass needs; G = B H."""

    normed: Normed
    qkv: Tensor  # (3, G, T, K), turned
    shares: list[Tensor]  # the softmax, by blocks of rows
    merged: Tensor  # (N, D)


class Forwarded(NamedTuple):
    """What the feed-forward layer's backward pass needs."""

    normed: Normed
    inner: Tensor  # (N, 2 F): gate and value
    gated: Tensor  # (N, F): SiLU of the gate
    product: Tensor  # (N, F)


class Kept(NamedTuple):
    """What the backward pass needs."""

    attended: Attended
    forwarded: Forwarded


def forward(x: Tensor, block: Block, config: ModelConfig, at: Positions, batch: int) -> Kept:
    """Add a block's attention and feed-forward layer to x (N, D) in place."""
    attended = _attention(x, block, config, at, batch)
    return Kept(attended, _feed_forward(x, block, config))


def backward(
    dx: Tensor, block: Block, kept: Kept, config: ModelConfig, at: Positions, batch: int
) -> Block:
    """Turn dx (N, D) from the gradient of the output into that of the input; return the block's."""
    d_w13, d_w2 = _feed_forward_backward(dx, block, kept.forwarded)
    d_qkv, d_out = _attention_backward(dx, block, kept.attended, config, at, batch)
    return Block(d_qkv, d_out, d_w13, d_w2)


def norm(x: Tensor, eps: float, dtype: torch.dtype) -> Normed:
    """Divide the rows of x (N, D) by their root mean square."""
    mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = mean.add_(eps).rsqrt_()
    return Normed((x * scale).to(dtype), scale)


def norm_backward(dx: Tensor, d_normed: Tensor, normed: Normed) -> None:
    """Add the gradient of a norm's input to dx (N, D), given that of its output."""
    along = (d_normed * normed.x).sum(-1, keepdim=True).div_(-dx.shape[-1])
    dx.add_(torch.addcmul(d_normed, normed.x, along).mul_(normed.scale))


def _attention(x: Tensor, block: Block, config: ModelConfig, at: Positions, batch: int) -> Attended:
    """Add causal self-attention to x (N, D) in place."""
    heads, head_dim = config.n_heads, config.head_dim
    length = len(x) // batch
    normed = norm(x, config.norm_eps, block.qkv.dtype)
    split = (normed.x @ block.qkv.t()).view(batch, length, 3, heads, head_dim)
    qkv = split.permute(2, 0, 3, 1, 4).contiguous().view(3, batch * heads, length, head_dim)
    turn(qkv[:2], at.cos, at.sin)
    mixed, shares = attend(qkv, at)
    merged = mixed.view(batch, heads, length, head_dim).transpose(1, 2).reshape(len(x), -1)
    x.add_(merged @ block.out.t())
    return Attended(normed, qkv, shares, merged)


def _attention_backward(
    dx: Tensor, block: Block, kept: Attended, config: ModelConfig, at: Positions, batch: int
) -> tuple[Tensor, Tensor]:
    """Add the gradient of the input to dx (N, D); return those of block.qkv and block.out."""
    heads, head_dim = config.n_heads, config.head_dim
    length = len(dx) // batch
    dy = dx.to(block.out.dtype)
    d_out = dy.t() @ kept.merged
    split = (dy @ block.out).view(batch, length, heads, head_dim).transpose(1, 2)
    d_mixed = split.reshape(batch * heads, length, head_dim)
    grad = attend_backward(d_mixed, kept.qkv, kept.shares, at)
    turn(grad[:2], at.cos_backward, at.sin_backward)
    d_split = grad.view(3, batch, heads, length, head_dim)
    d_qkv = d_split.permute(1, 3, 0, 2, 4).reshape(len(dx), -1)
    norm_backward(dx, d_qkv @ block.qkv, kept.normed)
    return d_qkv.t() @ kept.normed.x, d_out


def _feed_forward(x: Tensor, block: Block, config: ModelConfig) -> Forwarded:
    """Add the feed-forward layer to x (N, D) in place."""
    normed = norm(x, config.norm_eps, block.w13.dtype)
    inner = normed.x @ block.w13.t()
    gate, value = inner.chunk(2, dim=-1)
    gated = functional.silu(gate)
    product = gated * value
    x.add_(product @ block.w2.t())
    return Forwarded(normed, inner, gated, product)


def _feed_forward_backward(dx: Tensor, block: Block, kept: Forwarded) -> tuple[Tensor, Tensor]:
    """Add the gradient of the input to dx (N, D); return those of block.w13 and block.w2."""
    dy = dx.to(block.w2.dtype)
    d_w2 = dy.t() @ kept.product
    d_product = dy @ block.w2
    gate, value = kept.inner.chunk(2, dim=-1)
    d_inner = torch.empty_like(kept.inner)
    d_gate, d_value = d_inner.chunk(2, dim=-1)
    torch.mul(d_product, kept.gated, out=d_value)
    torch.ops.aten.silu_backward.grad_input(d_product.mul_(value), gate, grad_input=d_gate)
    norm_backward(dx, d_inner @ block.w13, kept.normed)
    return d_inner.t() @ kept.normed.x, d_w2
