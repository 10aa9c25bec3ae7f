"""The training loop: a generator that trains to the next evaluation and yields it.

It does not print, log, or know who listens; it keeps no state that a checkpoint lacks.
"""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainable.checkpoint.contract import training_state
from trainable.checkpoint.folder import (
    Manifest,
    Snapshot,
    copied,
    load_trial_checkpoint,
    read_manifest,
)
from trainable.common.errors import CheckpointError, DivergedError
from trainable.config.trial import TrialConfig
from trainable.data.batches import (
    TokenDataset,
    batch_rng,
    get_batch,
    open_dataset,
    validation_starts,
    windows,
)
from trainable.hardware.allocator import keep_freed_memory
from trainable.hardware.device import resolve_device, resolve_precision
from trainable.model.counts import flops_per_token
from trainable.model.transformer import Transformer
from trainable.passes.forms import build_passes
from trainable.training.evaluation import Evaluation
from trainable.training.optim import (
    build_optimizer,
    learning_rate,
    set_learning_rate,
    use_settings,
)

EVAL_BATCH_TOKENS = 8_192
"""Tokens evaluated at once; fixed, so that a loss never depends on the training batch."""

CHECK_EVERY_ON_GPU = 16
"""Steps between looks at the losses on a GPU: each look waits for the device."""


class StoppedError(Exception):
    """The loop was told to end."""


class Trainer:
    """One trial: a model, its optimizer, its data and its position.

    Args:
        config: the trial.
        dataset: opened already, or None to open what the config names.
        overfit_one_batch: train on the batch of step 1 for ever, a check of model and optimizer.

    Raises:
        DataError, ConfigError: the dataset or the device cannot be used.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: TokenDataset | None = None,
        *,
        overfit_one_batch: bool = False,
    ) -> None:
        torch.set_num_threads(config.train.threads)
        keep_freed_memory()
        self.config = config
        self.dataset = dataset or open_dataset(config.data, config.model.context_length)
        self.device = resolve_device(config.train)
        self.precision = resolve_precision(config.train, self.device)
        self.model = Transformer(config.model, self.dataset.vocab_size, config.train.seed)
        self.model.to(self.device)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.iteration = 0
        self.seconds = 0.0
        self.val_loss: float | None = None
        self._passes = build_passes(self.model, config.train, self.device)
        self._overfit_one_batch = overfit_one_batch
        self._stopping = threading.Event()

    def run(self) -> Iterator[Evaluation]:
        """Train to the end, yielding at step 0, every eval_interval steps and at the last step.

        After a resume the evaluation at the checkpoint, reported before, is not repeated.

        Raises:
            DivergedError: a loss is not finite.
            StoppedError: stop() was called.
        """
        config = self.config.train
        if self.val_loss is None:
            yield self.evaluation()
        while self.iteration < config.steps:
            target = min(
                config.steps, (self.iteration // config.eval_interval + 1) * config.eval_interval
            )
            tokens = (target - self.iteration) * self.config.tokens_per_step
            started = time.perf_counter()
            train_loss, grad_norm = self._train_to(target)
            elapsed = time.perf_counter() - started
            self.seconds += elapsed
            yield self._evaluation(train_loss, grad_norm, tokens / elapsed)

    def evaluation(self) -> Evaluation:
        """Evaluate where the trial is, after a resume; of the training before nothing is known."""
        return self._evaluation(train_loss=None, grad_norm=None, speed=None)

    def train_step(self, step: int) -> tuple[Tensor, Tensor]:
        """Make update number `step` (from 1); return its loss and gradient norm, on the device."""
        config = self.config
        set_learning_rate(self.optimizer, learning_rate(step, config.optim, config.train.steps))
        loss = self.add_gradients(step)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def add_gradients(self, step: int) -> Tensor:
        """Add the gradients of the batch of update number `step`; return its mean loss."""
        x, y = self._batch(step)
        parts = self.config.train.grad_accumulation
        losses = [
            self._passes.backward(part_x, part_y, 1 / parts)
            for part_x, part_y in zip(x.chunk(parts), y.chunk(parts), strict=True)
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the mean validation loss in nats per token, over the fixed windows.

        The same machine, torch and thread count give the same bits.

        Raises:
            DataError: a token file was cut since it was opened.
        """
        for file in (self.dataset.train, self.dataset.val):
            file.require_unshrunk()
        length = self.config.model.context_length
        tokens = self.dataset.val.tokens
        starts = validation_starts(len(tokens), length, self.config.train.eval_tokens)
        rows = max(1, EVAL_BATCH_TOKENS // length)
        total = torch.zeros((), dtype=torch.float64)
        for first in range(0, len(starts), rows):
            x, y = windows(tokens, starts[first : first + rows], length, self.device)
            loss = self._passes.loss(x, y)
            total += loss.cpu().double() * len(x)  # waits for the device
        return float(total / len(starts))

    def stop(self) -> None:
        """Make the loop raise StoppedError before its next step; from any thread, for good."""
        self._stopping.set()

    def save(self, folder: Path) -> Manifest:
        """Write the trial's checkpoint folder (see checkpoint/folder.py)."""
        return self._state().save(folder)

    def snapshot(self) -> Snapshot:
        """Return a copy of the trial's state in memory, which may be saved while it trains on."""
        state = self._state()
        return Snapshot(copied(state.state), state.facts)

    def load(self, folder: Path) -> Manifest:
        """Go on from a checkpoint folder; the next steps give the bits of the undisturbed run.

        The settings stay the trial's own, those of the optimizer, too.

        Raises:
            CheckpointError: it is damaged, of another architecture, or of other data.
        """
        manifest = read_manifest(folder)
        saved, own = manifest.config.model, self.config.model
        # Any context length fits: positions are computed, not learnt.
        alike = saved.model_copy(update={"context_length": own.context_length, "d_ff": own.d_ff})
        if alike != own or saved.ff_width != own.ff_width:
            raise CheckpointError(
                f"checkpoint {folder}: of another architecture: {saved}, the "
                f"trial has {own}; build the model from the checkpoint's own config"
            )
        if manifest.dataset_digest != self.dataset.digest:
            raise CheckpointError(
                f"checkpoint {folder}: trained on dataset {manifest.dataset_digest}, but "
                f"{self.dataset.folder} is {self.dataset.digest}; use the dataset it was made with"
            )
        load_trial_checkpoint(folder, self.model, self.optimizer)
        use_settings(self.optimizer, self.config.optim)
        self.iteration = manifest.iteration
        self.seconds = manifest.seconds
        self.val_loss = manifest.val_loss
        return manifest

    def _state(self) -> Snapshot:
        """Return the trial's state, in tensors that the next step changes."""
        facts = {
            "iteration": self.iteration,
            "config": self.config,
            "vocab_size": self.dataset.vocab_size,
            "dataset_digest": self.dataset.digest,
            "val_loss": self.val_loss,
            "seconds": self.seconds,
        }
        return Snapshot(training_state(self.model, self.optimizer, self.iteration), facts)

    def _train_to(self, target: int) -> tuple[float, float]:
        """Train up to step `target`; return the mean loss and the last gradient norm."""
        losses: list[Tensor] = []
        means: list[float] = []
        norm = torch.zeros(())
        check_every = 1 if self.device.type == "cpu" else CHECK_EVERY_ON_GPU
        while self.iteration < target:
            if self._stopping.is_set():
                raise StoppedError
            self.iteration += 1
            loss, norm = self.train_step(self.iteration)
            losses.append(loss)
            if len(losses) == check_every or self.iteration == target:
                values = torch.stack(losses).tolist()  # waits for the device
                self._require_finite(values)
                means += values
                losses = []
        return float(np.mean(means)), float(norm)  # waits for the device

    def _require_finite(self, losses: list[float]) -> None:
        for steps_ago, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss) and all(map(math.isfinite, losses[: -steps_ago - 1])):
                step = self.iteration - steps_ago
                rate = learning_rate(step, self.config.optim, self.config.train.steps)
                raise DivergedError(step, rate, loss)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        seen = 1 if self._overfit_one_batch else step
        return get_batch(
            self.dataset.train.tokens,
            self.config.train.batch_size,
            self.config.model.context_length,
            self.device,
            rng=batch_rng(self.config.train.seed, seen),
        )

    def _evaluation(
        self, train_loss: float | None, grad_norm: float | None, speed: float | None
    ) -> Evaluation:
        config = self.config
        step = self.iteration
        tokens = step * config.tokens_per_step
        rate = learning_rate(step, config.optim, config.train.steps)
        self.val_loss = self.evaluate()
        if not math.isfinite(self.val_loss):
            raise DivergedError(step, rate, self.val_loss)
        per_token = self.dataset.bytes_per_val_token
        return Evaluation(
            step=step,
            tokens=tokens,
            flops=tokens * flops_per_token(config.model, self.dataset.vocab_size),
            seconds=self.seconds,
            train_loss=train_loss,
            val_loss=self.val_loss,
            val_bpb=self.val_loss / math.log(2) / per_token if per_token else None,
            grad_norm=grad_norm,
            lr=rate,
            tokens_per_second=speed,
        )
