"""Which device and precision a trial gets, what counts as too little memory, and what is kept."""

import sys
import time

import pytest
import torch
from conftest import RunPython

from trainable.common.errors import ConfigError
from trainable.config.trial import TrainConfig
from trainable.hardware.device import (
    autocast,
    probe_clock,
    require_out_of_memory,
    resolve_device,
    resolve_precision,
)


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, bf16: bool = True) -> None:
    """Let torch find these devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "name", "expected"),
    [
        (1, False, "auto", "cuda"),
        (1, True, "auto", "cuda"),
        (0, True, "auto", "mps"),
        (0, False, "auto", "cpu"),
        (2, True, "cpu", "cpu"),
        (2, False, "cuda:1", "cuda:1"),
        (1, False, "cuda", "cuda"),
        (0, True, "mps", "mps"),
    ],
)
def test_the_device_is_the_best_there_or_the_one_named(
    monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, name: str, expected: str
) -> None:
    machine(monkeypatch, gpus, mps)
    assert resolve_device(TrainConfig(device=name)) == torch.device(expected)


@pytest.mark.parametrize(("gpus", "name"), [(2, "cuda:2"), (0, "cuda"), (0, "cuda:0"), (1, "mps")])
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: int, name: str
) -> None:
    machine(monkeypatch, gpus, mps=False)
    with pytest.raises(ConfigError, match=f"'{name}'.* {gpus} CUDA devices"):
        resolve_device(TrainConfig(device=name))


@pytest.mark.parametrize(
    ("precision", "device", "bf16", "expected"),
    [
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp32"),
        ("auto", "cpu", True, "fp32"),
        ("fp32", "cuda", True, "fp32"),
        ("bf16", "cpu", False, "bf16"),
    ],
)
def test_without_a_probe_bf16_is_for_gpus_that_compute_in_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, bf16: bool, expected: str
) -> None:
    machine(monkeypatch, 1, mps=False, bf16=bf16)
    config = TrainConfig.model_validate({"precision": precision})
    assert resolve_precision(config, torch.device(device)) == expected


def test_products_run_in_the_precision_and_nothing_else_does() -> None:
    x = torch.ones(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with autocast(precision, torch.device("cpu")):
            assert (x @ x).dtype == dtype
            assert (x + x).dtype == torch.float32


def test_one_thread_is_timed_by_its_own_time() -> None:
    cpu = torch.device("cpu")
    assert probe_clock(cpu, 1) is time.thread_time
    assert probe_clock(cpu, 2) is time.perf_counter
    assert probe_clock(torch.device("cuda"), 1) is time.perf_counter


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes"),
    ],
    ids=repr,
)
def test_too_little_memory_is_known_by_its_errors(error: Exception) -> None:
    require_out_of_memory(error)


def test_another_error_is_raised_again() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as caught:
        require_out_of_memory(error)
    assert caught.value is error


FREED = """
import resource, sys, torch
from trainable.hardware.allocator import keep_freed_memory, return_freed_memory

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(size, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

torch.set_num_threads(1)
keep_freed_memory()
small = 2**26
for _ in range(8):
    faults(small)  # at first pages do come from the system, until freed blocks lie side by side
print(faults(small))
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's thresholds")
def test_freed_memory_is_kept_for_the_next_step_until_it_is_given_back(
    run_python: RunPython,
) -> None:
    done = run_python("-c", FREED)
    assert done.returncode == 0, done.stderr
    faults, given_back = map(int, done.stdout.split())
    assert faults < 2 * 16_384, "five times 64 MiB are five times 16,384 pages"
    assert given_back > 2**25
