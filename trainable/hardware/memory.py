"""Whether a trial fits into memory, told from its settings before anything is built."""

import contextlib
import os
from pathlib import Path

import torch

from trainable.common.errors import ConfigError
from trainable.config.trial import TrialConfig
from trainable.model.counts import held_bytes, parameter_count, training_bytes

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

GIB = 2**30


def available_bytes(device: torch.device, share: float = 1.0) -> int:
    """Return the bytes that a new trial could take on `device`, within a container's limit.

    Args:
        device: a GPU's free memory counts, else what the system says is available.
        share: of one GPU's memory, for trials that share it.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(free, int(share * total))
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):  # not Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for limit in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such limit here
            found.append(int(limit.read_text(encoding="ascii")))
    return min(found)


def least_bytes(trial: TrialConfig, vocab_size: int, *, copied: bool) -> int:
    """Return the bytes of memory that training takes at the least.

    That is once all gradients are there, at the end of a forward pass, or, where the same memory
    holds the copy that is saved, while the state is `copied`; whichever is most.
    """
    state = training_bytes(trial.model, vocab_size)
    gradients = 4 * parameter_count(trial.model, vocab_size)
    saving = 2 * state if copied else 0
    return max(state + gradients, state + held_bytes(trial, vocab_size), saving)


def require_memory(trial: TrialConfig, vocab_size: int, needed: int, available: int) -> None:
    """Refuse a trial that needs more bytes than are available.

    Raises:
        ConfigError: it names what takes the most, with its bytes.
    """
    if needed <= available:
        return
    model, train = trial.model, trial.train
    if held_bytes(trial, vocab_size) > training_bytes(model, vocab_size):
        rows = train.batch_size // train.grad_accumulation
        what = f"train.batch_size = {train.batch_size}, model.context_length = "
        what += f"{model.context_length}: {rows * model.context_length:,} tokens at once"
        remedy = "lower one of them, raise train.grad_accumulation, or take a smaller model"
    else:
        what = f"model.d_model = {model.d_model}, model.n_layers = {model.n_layers}, "
        what += f"model.d_ff = {model.ff_width}: {parameter_count(model, vocab_size):,} parameters"
        remedy = "take a narrower or shallower model"
    raise ConfigError(
        f"{what} take at least {needed / GIB:,.1f} GiB of memory to train, "
        f"{available / GIB:,.1f} GiB are available; {remedy}"
    )
