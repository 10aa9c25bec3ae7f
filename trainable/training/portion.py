"""A part of a trial's step, small enough to be measured at once: what is slow is told from it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainable.config.trial import ModelConfig, TrialConfig
from trainable.model.counts import flops_per_token

LEAST_CONTEXT = 128

LEAST_VOCABULARY = 256


@dataclass(frozen=True)
class Portion:
    """A model and the rows of a batch; whole, or made smaller for a probe."""

    model: ModelConfig
    vocab_size: int
    rows: int

    @classmethod
    def of(cls, trial: TrialConfig, vocab_size: int) -> "Portion":
        """Return what one pass of `trial` is: its model, and a step's rows or its part of them."""
        train = trial.train
        return cls(trial.model, vocab_size, train.batch_size // train.grad_accumulation)

    @property
    def flops(self) -> int:
        """FLOPs of a forward and a backward pass."""
        tokens = self.rows * self.model.context_length
        return tokens * flops_per_token(self.model, self.vocab_size)

    def within(self, flops: float) -> "Portion":
        """Return the largest portion, by halves, that takes no more than `flops`.

        Layers go first: they are all alike. With fewer rows each weight's own work, as its cast,
        counts for more; how fast a machine computes depends on the width most, which goes last.
        """
        portion = self
        while portion.flops > flops:
            smaller = next(portion._halves(), None)
            if smaller is None:
                break
            portion = smaller
        return portion

    def batch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return tokens and targets (rows, context_length): which ones takes no other time."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.rows, self.model.context_length + 1)
        tokens = torch.randint(self.vocab_size, shape, generator=generator).to(device)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def _halves(self) -> Iterator["Portion"]:
        """Yield this portion with one number halved, the one that matters least first."""
        model = self.model
        if model.n_layers > 1:
            yield self._with("n_layers", model.n_layers // 2)
        if self.rows > 1:
            yield replace(self, rows=self.rows // 2)
        if model.context_length > LEAST_CONTEXT:
            yield self._with("context_length", max(LEAST_CONTEXT, model.context_length // 2))
        if self.vocab_size > LEAST_VOCABULARY:
            yield replace(self, vocab_size=max(LEAST_VOCABULARY, self.vocab_size // 2))
        if model.d_ff and model.d_ff > model.d_model:
            yield self._with("d_ff", max(model.d_model, model.d_ff // 2))
        if model.n_heads > 1:
            yield self._with("d_model", model.n_heads // 2 * model.head_dim)

    def _with(self, field: str, value: int) -> "Portion":
        return replace(self, model=self.model.model_copy(update={field: value}))
