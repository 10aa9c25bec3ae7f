"""Precision, attention form and compilation, chosen by a short probe where they are left at auto.

What is chosen is then fixed: it is stored with the trial or the sweep, and kept by a resume.
"""

import importlib.util
import itertools
import os
import shutil
from dataclasses import dataclass
from typing import TypeVar

import torch

from trainable.config.trial import TrainConfig, TrialConfig
from trainable.data.batches import TokenDataset
from trainable.hardware.allocator import keep_freed_memory, return_freed_memory
from trainable.hardware.device import (
    OUT_OF_MEMORY,
    probe_clock,
    require_out_of_memory,
    resolve_device,
)
from trainable.model.transformer import Transformer
from trainable.passes.forms import build_passes
from trainable.training.portion import Portion

Config = TypeVar("Config", bound=TrialConfig)

CHOSEN = ("precision", "attention", "compile")
"""The fields of TrainConfig that may be left at auto."""

PROBE_TOKENS = 1_024

PROBE_FLOPS = {"cpu": 5e9, "cuda": 1e12}
"""A probed pass is made smaller than this, so that the choice comes at once for any size."""

PROBE_ROUNDS = 3

PROBE_SECONDS = 1.5
"""Of the probe's own clock: no further round begins after so long. A loaded machine cuts none."""

HOPELESS_TOKENS = 128

HOPELESS = 4.0
"""Choices so many times slower than the fastest on so few tokens are not tried further: where bf16
is emulated, it takes ten times as long."""

BEHIND = 1.5
"""Choices so many times slower than the fastest in two rounds are not timed further."""

CLEARLY = 1.1
"""How much faster another choice must be than the plainer one: a probe's noise must not decide."""

PRODUCTS_BYTES = 2 * 2**30
"""Attention as products keeps every layer's softmax; a form that keeps more is not used."""

SHARE_BYTES = {"sdpa": 0, "products": 2, "plain": 6}
"""What each form keeps of one softmax value in bf16: the plain one its fp32 value, too."""

COMPILE_REPAID = {"cpu": 1_800.0, "cuda": 300.0}
"""Planned seconds of a trial from which on compiling is repaid: it takes about a minute, and saves
some 8 % of a step on a CPU, where the fused passes leave little, and more on a GPU."""


@dataclass(frozen=True)
class _Choice:
    precision: str
    attention: str


def resolve(config: Config, dataset: TokenDataset) -> Config:
    """Return `config` with every auto of CHOSEN replaced; without one it returns at once.

    The probe runs forward and backward passes of one block at the trial's width, for about a
    second at most. Ties go to fp32, to products by hand on a CPU, and to torch's kernels elsewhere.

    Raises:
        ConfigError: the device is not there.
    """
    train = config.train
    if is_chosen(train):
        return config
    device = resolve_device(train)
    choices = _candidates(config, device)
    seconds = _probed(config, dataset, choices, device)
    best = choices[0]
    for choice in choices[1:]:
        if seconds[choice] * CLEARLY < seconds[best]:
            best = choice
    planned = seconds[best] * train.steps
    compiled = planned >= COMPILE_REPAID.get(device.type, float("inf")) and _can_compile(device)
    chosen = {"precision": best.precision, "attention": best.attention}
    if train.compile == "auto":
        chosen["compile"] = "always" if compiled else "never"
    return config.model_copy(update={"train": train.model_copy(update=chosen)})


def is_chosen(train: TrainConfig) -> bool:
    """Say whether nothing is left at auto."""
    return all(getattr(train, name) != "auto" for name in CHOSEN)


def as_chosen(config: Config, before: TrainConfig) -> Config:
    """Return `config` with what is left at auto as it was chosen before, for a resume."""
    train = config.train
    chosen = {name: getattr(before, name) for name in CHOSEN if getattr(train, name) == "auto"}
    return config.model_copy(update={"train": train.model_copy(update=chosen)})


def _candidates(config: TrialConfig, device: torch.device) -> list[_Choice]:
    """Return what may be chosen, the plainest first."""
    train, model = config.train, config.model
    precisions = [train.precision] if train.precision != "auto" else ["fp32"]
    if train.precision == "auto" and (
        device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    ):
        precisions.append("bf16")
    forms: list[str]
    if train.attention != "auto":
        forms = [train.attention]
    elif device.type == "mps":
        forms = ["sdpa"]
    else:
        rows = train.batch_size // train.grad_accumulation
        values = model.n_layers * rows * model.n_heads * model.context_length**2
        cpu = device.type == "cpu"
        order = ["products", "plain", "sdpa"] if cpu else ["sdpa", "plain", "products"]
        forms = [form for form in order if values * SHARE_BYTES[form] <= PRODUCTS_BYTES]
    return [_Choice(p, f) for p, f in itertools.product(precisions, forms)]


def _probed(
    config: TrialConfig, dataset: TokenDataset, choices: list[_Choice], device: torch.device
) -> dict[_Choice, float]:
    """Return the seconds of a training step with each choice: the least of a few rounds.

    Where even a block does not fit into memory all are alike: the trial itself will tell.
    """
    if len(choices) == 1 and config.train.compile != "auto":
        return {choices[0]: 0.0}
    try:
        seconds = _measured(config, dataset, choices, device)
    except OUT_OF_MEMORY as error:
        require_out_of_memory(error)
        seconds = dict.fromkeys(choices, 0.0)
    return_freed_memory()
    return seconds


def _measured(
    config: TrialConfig, dataset: TokenDataset, choices: list[_Choice], device: torch.device
) -> dict[_Choice, float]:
    torch.set_num_threads(config.train.threads)
    keep_freed_memory()
    rows = max(1, min(config.train.batch_size, PROBE_TOKENS // config.model.context_length))
    block = config.model.model_copy(update={"n_layers": 1})
    limit = PROBE_FLOPS.get(device.type, PROBE_FLOPS["cpu"])
    probe = Portion(block, dataset.vocab_size, rows).within(limit)
    rows, length = probe.rows, probe.model.context_length
    x, y = probe.batch(device)
    model = Transformer(probe.model, probe.vocab_size, config.train.seed).to(device)
    passes = {
        choice: build_passes(
            model,
            config.train.model_copy(
                update={
                    "precision": choice.precision,
                    "attention": choice.attention,
                    "compile": "never",
                }
            ),
            device,
        )
        for choice in choices
    }

    clock = probe_clock(device, config.train.threads)

    def seconds(choice: _Choice, size: int) -> float:
        """Return the seconds a row, from a pass over `size` rows."""
        started = clock()
        passes[choice].backward(x[:size], y[:size], 1.0).item()  # waits for the device
        return (clock() - started) / size

    began = clock()
    few = min(rows, max(1, HOPELESS_TOKENS // length))
    taken = {choice: seconds(choice, few) for choice in choices}
    limit = HOPELESS * min(taken.values())
    # Seconds at the first time may be for what is done but once.
    hopeful = [c for c in choices if taken[c] <= limit or seconds(c, few) <= limit]
    for number in range(1 + PROBE_ROUNDS):
        if clock() - began > PROBE_SECONDS:
            break
        for choice in hopeful:
            found = seconds(choice, rows)
            taken[choice] = min(taken[choice], found) if number else found
        if number:
            limit = BEHIND * min(taken[choice] for choice in hopeful)
            hopeful = [choice for choice in hopeful if taken[choice] <= limit]
    whole = config.train.grad_accumulation * Portion.of(config, dataset.vocab_size).flops
    return {choice: least * whole * rows / probe.flops for choice, least in taken.items()}


def _can_compile(device: torch.device) -> bool:
    """Say whether torch.compile finds what it needs: a C++ compiler, and Triton on a GPU."""
    compiler = os.environ.get("CXX") or "g++"
    if not (shutil.which(compiler) or shutil.which("clang++")):
        return False
    return device.type == "cpu" or importlib.util.find_spec("triton") is not None
