"""Causal attention written out as matrix products, forward and backward.

Rows of the score matrix are taken a block at a time, over the columns up to the block's last row:
little above the diagonal is computed, and what is there is masked in the block's own square only.
Scores are powers of two: log2(e) and the scale 1 / sqrt(K) are in the rotary tables.

Shapes: G = batch x heads, T sequence, K head_dim.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.model.transformer import Rope

LOG2_E = math.log2(math.e)

LN_2 = math.log(2)

LEAST_ROWS = 64

MOST_BLOCKS = 8


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class Positions:
    """What attention needs to know of the positions 0 .. T-1; tables are (2, 1, T, K)."""

    cos: Tensor
    """For queries and keys; the queries' carries the scale of the scores."""
    sin: Tensor
    cos_backward: Tensor
    """For the gradients of queries and keys: a score's gradient carries ln 2 from its power."""
    sin_backward: Tensor
    mask: Tensor
    """A block's square: 0 at and below the diagonal, minus infinity above."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrix products."""
        return self.cos.dtype


def positions(rope: Rope, length: int, dtype: torch.dtype) -> Positions:
    """Return the tables and the mask for `length` positions, in and for products of `dtype`."""
    cos, sin = (table[:length].double() for table in (rope.cos, rope.sin))
    scale = cos.shape[-1] ** -0.5

    def scaled(table: Tensor, query: float, key: float) -> Tensor:
        return torch.stack((table * query, table * key))[:, None].to(dtype)

    rows = min(length, max(LEAST_ROWS, math.ceil(length / MOST_BLOCKS)))
    mask = torch.full((rows, rows), -math.inf, dtype=wide(dtype), device=cos.device)
    return Positions(
        cos=scaled(cos, scale * LOG2_E, 1),
        sin=scaled(sin, scale * LOG2_E, 1),
        cos_backward=scaled(cos, scale, LN_2),
        sin_backward=scaled(-sin, scale, LN_2),
        mask=mask.triu(1),
    )


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn queries and keys x (2, G, T, K) in place (see model.Rope)."""
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    x.mul_(cos).addcmul_(swapped, sin)


def attend(qkv: Tensor, at: Positions) -> tuple[Tensor, list[Tensor]]:
    """Return the mixed values (G, T, K) of turned qkv (3, G, T, K), and the softmax by blocks."""
    q, k, v = qkv
    mixed = torch.empty_like(v)
    blocks = []
    for first, end in _blocks(at, v.shape[1]):
        scores = torch.bmm(q[:, first:end], k[:, :end].transpose(1, 2)).to(at.mask.dtype)
        scores[:, :, first:].add_(at.mask[: end - first, : end - first])
        scores.sub_(scores.amax(-1, keepdim=True)).exp2_()
        shares = scores.div_(scores.sum(-1, keepdim=True)).to(qkv.dtype)
        mixed[:, first:end] = torch.bmm(shares, v[:, :end])
        blocks.append(shares)
    return mixed, blocks


def attend_backward(d_mixed: Tensor, qkv: Tensor, blocks: list[Tensor], at: Positions) -> Tensor:
    """Return the gradient of qkv (3, G, T, K), before the turn is undone, given that of mixed."""
    q, k, v = qkv
    grad = torch.empty_like(qkv)
    dq, dk, dv = grad
    length = v.shape[1]
    # From the last block, which sees every position: it sets what the others add to.
    for (first, end), shares in zip(
        reversed(list(_blocks(at, length))), reversed(blocks), strict=True
    ):
        d_rows = d_mixed[:, first:end]
        d_shares = torch.bmm(d_rows, v[:, :end].transpose(1, 2))
        d_scores = torch._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        dq[:, first:end] = torch.bmm(d_scores, k[:, :end])
        own_dk = torch.bmm(d_scores.transpose(1, 2), q[:, first:end])
        own_dv = torch.bmm(shares.transpose(1, 2), d_rows)
        if end == length:
            dk.copy_(own_dk)
            dv.copy_(own_dv)
        else:
            dk[:, :end].add_(own_dk)
            dv[:, :end].add_(own_dv)
    return grad


def _blocks(at: Positions, length: int) -> list[tuple[int, int]]:
    rows = len(at.mask)
    return [(first, min(first + rows, length)) for first in range(0, length, rows)]
