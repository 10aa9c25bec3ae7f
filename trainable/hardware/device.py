"""Where a trial runs and in which precision."""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from trainable.common.errors import ConfigError
from trainable.config.trial import TrainConfig

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError, RuntimeError)
"""What torch raises when memory is short; on a CPU a bare RuntimeError, among others."""


def require_out_of_memory(error: BaseException) -> None:
    """Raise `error` again unless it tells of too little memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return
    if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
        raise error


def resolve_device(config: TrainConfig) -> torch.device:
    """Return the device that `config` names; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: the device is not there.
    """
    if config.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(config.device)
    there: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True,
        "cuda": lambda: (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }
    if not there[device.type]():
        raise ConfigError(
            f"train.device = {config.device!r}: this machine has no such device; "
            f"it has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return torch.device("cpu") if device.type == "cpu" else device  # cpu:0 is the same


def resolve_precision(config: TrainConfig, device: torch.device) -> str:
    """Return "bf16" or "fp32"; "auto" is bf16 on a CUDA device that computes in it."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def probe_clock(device: torch.device, threads: int) -> Callable[[], float]:
    """Return the clock, in seconds, by which work on `device` is measured.

    One thread's own time does not count what else the machine does; more need the time of day.
    """
    alone = device.type == "cpu" and threads == 1
    return time.thread_time if alone else time.perf_counter


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the forward pass runs."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
