"""Batches of tokens: the CS336 get_batch contract, and the fixed validation windows."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainable.data.batches import batch_rng, get_batch, validation_starts, windows


def test_batch_shapes_types_and_shift_by_one() -> None:
    tokens = np.random.default_rng(0).integers(0, 1000, size=500).astype(np.uint16)
    x, y = get_batch(tokens, batch_size=7, context_length=11, device="cpu")
    assert x.shape == y.shape == (7, 11)
    assert x.dtype == y.dtype == torch.int64
    assert x.device == y.device == torch.device("cpu")
    text = tokens.tolist()
    for row_x, row_y in zip(x.tolist(), y.tolist(), strict=True):
        start = next(i for i in range(len(text)) if text[i : i + 12] == [*row_x, row_y[-1]])
        assert row_y == text[start + 1 : start + 12]


def test_starts_are_uniform_over_all_positions() -> None:
    length, context, batch, draws = 100, 7, 32, 1000
    tokens = np.arange(length, dtype=np.uint16)  # each token is its own position
    counts = np.zeros(length, dtype=np.int64)
    for _ in range(draws):
        x, y = get_batch(tokens, batch, context, "cpu")
        assert torch.equal(y, x + 1)
        np.add.at(counts, x[:, 0].numpy(), 1)
    positions = length - context
    assert counts[0] > 0
    assert counts[positions - 1] > 0
    assert counts[positions:].sum() == 0
    expected = draws * batch / positions
    sigma = (expected * (1 - 1 / positions)) ** 0.5
    assert np.abs(counts[:positions] - expected).max() < 6 * sigma
    chi_square = ((counts[:positions] - expected) ** 2 / expected).sum()
    freedom = positions - 1
    assert abs(chi_square - freedom) < 6 * (2 * freedom) ** 0.5


def test_starts_of_successive_steps_are_uniform() -> None:
    tokens = np.arange(50, dtype=np.uint16)
    starts = np.concatenate(
        [get_batch(tokens, 8, 10, "cpu", rng=batch_rng(3, step))[0][:, 0] for step in range(4000)]
    )
    counts = np.bincount(starts, minlength=40)
    expected = 8 * 4000 / 40
    assert len(counts) == 40
    assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_one_window_fits_exactly() -> None:
    x, y = get_batch(np.arange(5, dtype=np.uint16), 3, 4, "cpu")
    assert x.tolist() == [[0, 1, 2, 3]] * 3
    assert y.tolist() == [[1, 2, 3, 4]] * 3


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.int32])
def test_memory_mapped_and_plain_arrays_give_the_same_batch(
    tmp_path: Path, dtype: type[Any]
) -> None:
    tokens = np.random.default_rng(1).integers(0, 60_000, size=300).astype(dtype)
    np.save(tmp_path / "t.npy", tokens)
    tokens.tofile(tmp_path / "t.bin")
    sources = [
        tokens,
        np.load(tmp_path / "t.npy", mmap_mode="r"),
        np.memmap(tmp_path / "t.bin", dtype=dtype, mode="r"),
    ]
    batches = [get_batch(s, 5, 9, "cpu", rng=np.random.default_rng(2)) for s in sources]
    for x, y in batches:
        assert torch.equal(x, batches[0][0])
        assert torch.equal(y, batches[0][1])
        assert x.dtype == torch.int64
    assert int(batches[0][0].max()) > 2**15  # no id is taken for a negative number
    assert int(batches[0][0].min()) >= 0


def test_a_batch_can_be_changed_without_changing_the_data() -> None:
    tokens = np.arange(30, dtype=np.int64)
    x, y = get_batch(tokens, 4, 5, "cpu")
    before = y.clone()
    x.zero_()
    assert torch.equal(y, before)
    assert tokens.tolist() == list(range(30))


def test_impossible_device_raises_torch_error() -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        get_batch(np.arange(50, dtype=np.uint16), 2, 4, "cuda:99")


@pytest.mark.parametrize("shape", [(), (0,), (8,), (20, 20)])
def test_unfit_array_is_a_value_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="context_length"):
        get_batch(np.zeros(shape, dtype=np.uint16), 2, 8, "cpu")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "complex64", "object", "S2"])
def test_an_array_of_anything_but_integers_is_a_value_error(dtype: str) -> None:
    with pytest.raises(ValueError, match=rf"(?i){np.dtype(dtype)}.*integers.*astype"):
        get_batch(np.zeros(50, dtype=dtype), 2, 8, "cpu")


def test_batch_is_a_pure_function_of_seed_and_step() -> None:
    tokens = np.arange(10_000, dtype=np.uint16)

    def batch(seed: int, step: int) -> torch.Tensor:
        return get_batch(tokens, 8, 16, "cpu", rng=batch_rng(seed, step))[0]

    first = batch(1, 5)
    np.random.default_rng().integers(0, 9, size=100)
    batch(2, 7)
    assert torch.equal(batch(1, 5), first)
    grid = {
        tuple(batch(seed, step)[:, 0].tolist())
        for seed in (0, 1, 2, 2**16, 2**32, 2**63 - 1)
        for step in (*range(50), 2**32, 10**12)
    }
    assert len(grid) == 6 * 52


def test_no_two_steps_share_random_numbers() -> None:
    seen = np.concatenate([batch_rng(0, step).integers(0, 2**62, size=64) for step in range(200)])
    assert len(np.unique(seen)) == len(seen)


@given(
    n_tokens=st.integers(2, 5_000),
    context=st.integers(1, 300),
    eval_tokens=st.integers(1, 10_000),
)
def test_validation_windows_are_disjoint_inside_and_use_the_budget(
    n_tokens: int, context: int, eval_tokens: int
) -> None:
    if n_tokens < context + 1:
        n_tokens = context + 1
    starts = validation_starts(n_tokens, context, eval_tokens)
    assert starts[0] >= 0
    assert starts[-1] + context + 1 <= n_tokens
    assert (np.diff(starts) >= context).all()
    that_fit = (n_tokens - 1) // context
    assert len(starts) == max(1, min(that_fit, eval_tokens // context))
    assert starts[0] == 0
    steps = np.diff([*starts, that_fit * context]) // context  # up to the end of the file
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("n_tokens", [64 * 127 + 1, 100_000, 10**12])
def test_validation_windows_are_fixed_and_spread_over_the_file(n_tokens: int) -> None:
    starts = validation_starts(n_tokens, 64, 4096)
    assert np.array_equal(starts, validation_starts(n_tokens, 64, 4096))
    assert len(starts) == 64
    for place in np.linspace(0, n_tokens - 65, 33):  # a window is near every place
        assert np.abs(starts - place).min() <= n_tokens / 64 + 64


def test_windows_are_the_tokens_at_their_starts() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    x, y = windows(tokens, np.array([3, 0, 90]), 5, "cpu")
    assert x.tolist() == [[3, 4, 5, 6, 7], [0, 1, 2, 3, 4], [90, 91, 92, 93, 94]]
    assert torch.equal(y, x + 1)


@pytest.mark.parametrize("start", [95, 96, 10**12])
def test_a_window_beyond_the_file_is_never_cut_short(start: int) -> None:
    with pytest.raises(IndexError):
        windows(np.arange(100, dtype=np.uint16), np.array([0, start]), 5, "cpu")


def test_batches_are_contiguous_and_share_no_memory() -> None:
    x, y = get_batch(np.arange(100, dtype=np.uint16), 4, 5, "cpu")
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr()


def anonymous_bytes() -> int:
    """Return the memory of this process that no file backs."""
    (line,) = re.findall(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(line) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_flat_while_drawing_from_a_file_of_100_gb(tmp_path: Path) -> None:
    file = tmp_path / "huge.bin"
    with file.open("wb") as sparse:
        sparse.truncate(100 * 10**9)
    tokens = np.memmap(file, dtype=np.uint16, mode="r")

    def draw(steps: range) -> None:
        for step in steps:
            x, _ = get_batch(tokens, 16, 64, "cpu", rng=batch_rng(0, step))
            assert int(x.max()) == 0

    draw(range(20))
    before = anonymous_bytes()
    draw(range(20, 420))
    assert anonymous_bytes() - before < 4 * 2**20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batch_on_a_gpu_holds_the_same_tokens() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    on_gpu = get_batch(tokens, 4, 8, "cuda", rng=batch_rng(0, 1))
    on_cpu = get_batch(tokens, 4, 8, "cpu", rng=batch_rng(0, 1))
    assert all(g.is_cuda and torch.equal(g.cpu(), c) for g, c in zip(on_gpu, on_cpu, strict=True))
