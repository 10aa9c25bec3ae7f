"""The Transformer language model of CS336 assignment 1, section 3.

Shapes: B batch, T sequence, D d_model, H heads, K head_dim, F ff_width, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainable.config.trial import ModelConfig
from trainable.model.parametrization import fan_in_ratio

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal attention of turned queries, keys and values, each (B, H, T, K)."""


class Linear(nn.Linear):
    """A matrix without a bias, whose weights Transformer draws: once, and from its own seed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing. (Building on torch's meta device would, too, but imports its compiler.)"""


class Embedding(nn.Embedding):
    """A table of rows by token id; its weights, too, Transformer draws."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


class RMSNorm(nn.Module):
    """Root-mean-square normalization with a gain (Zhang and Sennrich 2019), computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (..., width)."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Rope(nn.Module):
    """Rotary positions (Su et al. 2021): channel pair i turns by position / theta^(2 i / K).

    Channels i and i + K/2 form a pair, as in the Llama checkpoints. The paper pairs neighbours,
    which is the same model up to a fixed order of each head's channels.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, context_length: int, theta: float) -> None:
        super().__init__()
        rates = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.arange(context_length, dtype=torch.float64)[:, None] * rates  # (T, K/2)
        both = torch.cat((angles, angles), dim=-1)  # (T, K)
        signs = torch.cat((-torch.ones_like(rates), torch.ones_like(rates)))
        self.register_buffer("cos", both.cos().float(), persistent=False)
        self.register_buffer("sin", (both.sin() * signs).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn x (B, H, T, K) by the positions 0 .. T-1."""
        length = x.shape[-2]
        half = x.shape[-1] // 2
        swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
        turned = x * self.cos[:length] + swapped * self.sin[:length]
        return turned.to(x.dtype)


def by_kernels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values by torch's own attention kernels."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values by two matrix products: faster than torch's kernels in bf16 on a CPU.

    Every score is computed, and the shares are kept for the backward pass.
    """
    length, width = q.shape[-2:]
    mask = torch.full((length, length), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = (q * width**-0.5) @ k.transpose(-2, -1)  # (B, H, T, T)
    shares = (scores + mask).softmax(-1)
    return torch.matmul(shares, v)


class Attention(nn.Module):
    """Causal multi-head self-attention without biases; query, key and value in one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.qkv = Linear(config.d_model, 3 * config.d_model)
        self.out = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, rope: Rope, mix: Mix) -> Tensor:
        """Mix x (B, T, D) over the positions up to each one's own."""
        batch, length, width = x.shape
        q, k, v = (
            self.qkv(x)
            .view(batch, length, 3, width // self.head_dim, self.head_dim)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )  # each (B, H, T, K)
        mixed = mix(rope(q), rope(k), v)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return merged


class SwiGLU(nn.Module):
    """Gated feed-forward layer W2 (SiLU(W1 x) * W3 x) (Shazeer 2020); W1 and W3 in one product."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w13 = Linear(width, 2 * inner)
        self.w2 = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (..., D)."""
        gate, value = self.w13(x).chunk(2, dim=-1)
        out: Tensor = self.w2(functional.silu(gate) * value)
        return out


class Block(nn.Module):
    """Pre-norm Transformer block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.norm2 = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = SwiGLU(config.d_model, config.ff_width)

    def forward(self, x: Tensor, rope: Rope, mix: Mix) -> Tensor:
        """Transform x (B, T, D)."""
        x = x + self.attention(self.norm1(x), rope, mix)
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Decoder-only language model.

    Args:
        config: the size.
        vocab_size: number of token ids.
        seed: of the initial weights, which do not depend on the device or on torch's global state.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = Linear(config.d_model, vocab_size)
        self.rope = Rope(config.head_dim, config.context_length, config.rope_theta)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self._initialize(torch.Generator().manual_seed(seed))

    def forward(self, tokens: Tensor, mix: Mix = by_kernels) -> Tensor:
        """Return the next-token logits (B, T, V) of token ids (B, T), T <= context_length."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.rope, mix)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def rate_scale(self, name: str) -> float:
        """Return what the learning rate of a parameter is multiplied with (parametrization.py)."""
        layer = name.split(".")[-2]
        return 1.0 if layer.startswith("norm") else 1 / fan_in_ratio(self.config, layer)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        """Draw truncated normals: variance 2 / (fan_in + fan_out), embedding 1 (section 3.4.1).

        With muP the head is as at the base width, over the ratio of the widths.
        """
        config = self.config
        fused = {"qkv": 3, "w13": 2}  # matrices that share one product keep their own fans
        for name, parameter in self.named_parameters():
            layer = name.split(".")[-2]
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            elif layer == "embedding":
                # A tied embedding is the head, too: unit-variance logits need narrow rows.
                std = config.d_model**-0.5 if config.tie_embeddings else 1.0
                _truncated_normal(parameter, std, generator)
            else:
                fan_out, fan_in = parameter.shape
                ratio = fan_in_ratio(config, layer) if layer == "head" else 1.0
                std = math.sqrt(2 / (fan_in / ratio + fan_out // fused.get(layer, 1))) / ratio
                _truncated_normal(parameter, std, generator)


def _truncated_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats per token, in fp32.

    Args:
        logits: (B, T, V).
        targets: token ids (B, T).
    """
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
