"""The model's loss and gradients as plain tensor operations, scheduled by hand.

The same function of the same weights as `model.Transformer` with `next_token_loss`, held to it by a
test. It is faster on a CPU because nothing is done twice or out of place:

- weights are cast once a step, with the norms' gains and the softmaxes' log2(e) multiplied in, so
  that only matrices pay for them and never activations;
- the residual stream and all sums stay in fp32, the products run in `dtype`;
- attention and the head are written out, and their softmaxes take exp2 in place;
- the gradient of the logits replaces the logits, a chunk of rows at a time.

Shapes: N = B T tokens, D d_model, V vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from trainable.config.trial import ModelConfig
from trainable.passes import fused_block
from trainable.passes.attention import LN_2, LOG2_E, Positions, wide
from trainable.passes.fused_block import Block, norm, norm_backward

HEAD_CHUNK = 2**20
"""Logits at once: they stay in the cache, and no long list of tokens fills the memory."""

Weights = dict[str, Tensor]


class _Head(NamedTuple):
    """What the head's part of a step gives."""

    loss: Tensor
    dx: Tensor
    d_matrix: Tensor
    d_gain: Tensor


def loss_only(
    weights: Weights, config: ModelConfig, at: Positions, tokens: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean cross-entropy in nats; tokens and targets are ids (B, T)."""
    x = weights["embedding.weight"][tokens.flatten()].to(wide(at.dtype))
    for layer in range(config.n_layers):
        fused_block.forward(x, _cast(weights, layer, at.dtype), config, at, len(tokens))
    normed, _ = norm(x, config.norm_eps, at.dtype)
    gain = weights["norm.weight"] * LOG2_E
    head = _folded(weights[_head_name(config)], gain, at.dtype)
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
    *,
    compiled: bool = False,
) -> tuple[Tensor, Weights]:
    """Return the mean cross-entropy in nats and the gradients of `share` times it, by name.

    Args:
        weights: the model's named parameters, fp32.
        config: the model's.
        at: from `positions`, for this T; its type is that of the products.
        tokens: ids (B, T).
        targets: ids (B, T).
        share: of the loss in the gradients: 1 / grad_accumulation.
        compiled: run the block and the head through torch.compile.
    """
    stages = _compiled_stages() if compiled else _STAGES
    batch = len(tokens)
    x = weights["embedding.weight"][tokens.flatten()].to(wide(at.dtype))  # (N, D)
    blocks = [_cast(weights, layer, at.dtype) for layer in range(config.n_layers)]
    kept = [stages.forward(x, block, config, at, batch) for block in blocks]
    matrix, gain = _head_name(config), "norm.weight"
    loss, dx, d_matrix, d_gain = stages.head(
        x, weights[matrix], weights[gain], config.norm_eps, targets.flatten(), share, at.dtype
    )
    grads = {matrix: d_matrix, gain: d_gain}
    for layer in reversed(range(config.n_layers)):
        d_block = stages.backward(dx, blocks[layer], kept.pop(), config, at, batch)
        name = f"blocks.{layer}."
        grads[name + "attention.out.weight"] = d_block.out.to(dx.dtype)
        grads[name + "feed_forward.w2.weight"] = d_block.w2.to(dx.dtype)
        for d_folded, matrix, gain in (
            (d_block.qkv, name + "attention.qkv.weight", name + "norm1.weight"),
            (d_block.w13, name + "feed_forward.w13.weight", name + "norm2.weight"),
        ):
            grads[matrix], grads[gain] = _unfolded(
                d_folded.to(dx.dtype), weights[matrix], weights[gain]
            )
    d_embedding = grads.get("embedding.weight")  # there already if it is the head, too
    if d_embedding is None:
        d_embedding = grads["embedding.weight"] = torch.zeros_like(weights["embedding.weight"])
    d_embedding.index_add_(0, tokens.flatten(), dx)
    return loss, grads


def _folded(matrix: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
    return (matrix * gain).to(dtype)


def _unfolded(d_folded: Tensor, matrix: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a matrix and of the gain that was multiplied into its columns."""
    d_gain = (d_folded * matrix).sum(0)
    return d_folded * gain, d_gain


def _cast(weights: Weights, layer: int, dtype: torch.dtype) -> Block:
    """Return a block's matrices in the products' type, with the gains before them folded in."""
    name = f"blocks.{layer}."
    return Block(
        _folded(weights[name + "attention.qkv.weight"], weights[name + "norm1.weight"], dtype),
        weights[name + "attention.out.weight"].to(dtype),
        _folded(weights[name + "feed_forward.w13.weight"], weights[name + "norm2.weight"], dtype),
        weights[name + "feed_forward.w2.weight"].to(dtype),
    )


def _head(
    x: Tensor,
    matrix: Tensor,
    gain: Tensor,
    eps: float,
    targets: Tensor,
    share: float,
    dtype: torch.dtype,
) -> _Head:
    """Return the loss and the gradients of x (N, D), of the head (V, D) and of the last gain."""
    gain = gain * LOG2_E
    head = _folded(matrix, gain, dtype)
    normed = norm(x, eps, dtype)
    d_folded = torch.zeros_like(matrix)
    losses, d_normed = [], []
    unit = share * LN_2 / len(x)
    for rows, wanted in _head_chunks(normed.x, targets, len(head)):
        loss, powers, total = _row_losses(rows @ head.t(), wanted)
        losses.append(loss)
        powers.mul_(unit / total)
        powers.scatter_add_(1, wanted[:, None], powers.new_full((len(rows), 1), -unit))
        d_logits = powers.to(dtype)
        d_normed.append(d_logits @ head)
        d_folded.add_(d_logits.t() @ rows)
    dx = torch.zeros_like(x)
    norm_backward(dx, torch.cat(d_normed), normed)
    d_matrix, d_gain = _unfolded(d_folded, matrix, gain)
    return _Head(torch.cat(losses).mean(), dx, d_matrix, d_gain.mul_(LOG2_E))


class _Stages(NamedTuple):
    """What torch.compile may take: one block serves all layers, so depth costs no compilation."""

    forward: Callable[..., fused_block.Kept]
    backward: Callable[..., Block]
    head: Callable[..., _Head]


_STAGES = _Stages(fused_block.forward, fused_block.backward, _head)


@cache
def _compiled_stages() -> _Stages:
    return _Stages(
        forward=torch.compile(fused_block.forward, dynamic=False),
        backward=torch.compile(fused_block.backward, dynamic=False),
        head=torch.compile(_head, dynamic=False),
    )


def _head_name(config: ModelConfig) -> str:
    return "embedding.weight" if config.tie_embeddings else "head.weight"


def _head_chunks(x: Tensor, targets: Tensor, vocab: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, HEAD_CHUNK // vocab)
    return zip(torch.split(x, rows), torch.split(targets, rows), strict=True)


def _row_losses(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's loss, its powers of two, and their sum (rows, 1)."""
    powers = logits.to(wide(logits.dtype))
    powers.sub_(powers.amax(-1, keepdim=True))
    chosen = powers.gather(1, wanted[:, None])
    total = powers.exp2_().sum(-1, keepdim=True)
    return (total.log2() - chosen).mul_(LN_2).squeeze(1), powers, total
