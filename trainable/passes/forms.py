"""The three forms of a pass: torch's modules, these with plain products, and the fused schedule.

A new architecture needs the modules alone: autograd gives their gradients, and plain products half
of the fused schedule's gain.
"""

from typing import Protocol

import torch
from torch import Tensor

from trainable.config.trial import TrainConfig
from trainable.hardware.device import autocast, resolve_precision
from trainable.model.transformer import (
    Mix,
    Transformer,
    by_kernels,
    by_products,
    next_token_loss,
)
from trainable.passes import fused
from trainable.passes.attention import Positions, positions


class Passes(Protocol):
    """What a training step needs of a model."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of targets y (B, T) after tokens x (B, T), without gradients."""

    def backward(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Add the gradients of `share` times the mean loss to `.grad`; return the mean loss."""


class ModulePasses:
    """Autograd through the modules, with attention as `mix` computes it."""

    def __init__(self, model: Transformer, precision: str, compiled: bool, mix: Mix) -> None:
        self._forward = torch.compile(model) if compiled else model
        self._precision = precision
        self.mix = mix

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss."""
        with autocast(self._precision, x.device):
            logits = self._forward(x, self.mix)
        return next_token_loss(logits, y)

    def backward(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Add the gradients, return the mean loss."""
        loss = self.loss(x, y)
        (loss * share).backward()  # type: ignore[no-untyped-call]  # torch's stubs
        return loss.detach()


class FusedPasses:
    """The schedule of fused.py, with attention written out as products."""

    def __init__(self, model: Transformer, precision: str, compiled: bool) -> None:
        self._model = model
        self._parameters = dict(model.named_parameters())
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._positions: dict[int, Positions] = {}
        self._compiled = compiled

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss."""
        return fused.loss_only(self._weights(), self._model.config, self._at(x), x, y)

    @torch.no_grad()
    def backward(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Add the gradients, return the mean loss."""
        config = self._model.config
        loss, grads = fused.loss_and_gradients(
            self._weights(), config, self._at(x), x, y, share, compiled=self._compiled
        )
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                parameter.grad = grads[name]
            else:
                parameter.grad.add_(grads[name])
        return loss

    def _weights(self) -> fused.Weights:
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def _at(self, x: Tensor) -> Positions:
        length = x.shape[1]
        if length not in self._positions:
            self._positions[length] = positions(self._model.rope, length, self._dtype)
        return self._positions[length]


def build_passes(model: Transformer, config: TrainConfig, device: torch.device) -> Passes:
    """Return the form that the settings name.

    A setting left at auto is decided here without a probe; training/choice.py measures.
    """
    precision = resolve_precision(config, device)
    compiled = config.compile == "always"
    if config.attention == "products" or (config.attention == "auto" and device.type == "cpu"):
        return FusedPasses(model, precision, compiled)
    mix = by_products if config.attention == "plain" else by_kernels
    return ModulePasses(model, precision, compiled, mix)
