"""Token files, memory-mapped and checked once, and the batches drawn from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trainable.common.errors import DataError
from trainable.common.paths import in_project
from trainable.config.trial import DataConfig
from trainable.data.meta import TOKENIZER_FILE, DatasetMeta, tokenizer_digest
from trainable.data.tokenfile import TokenFile, open_npy, open_raw

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class TokenDataset:
    """A training and a validation file of token ids over one vocabulary."""

    folder: Path
    train: TokenFile
    val: TokenFile
    vocab_size: int
    bytes_per_val_token: float | None
    """Mean bytes of text per validation token; None where the text is not known (raw files)."""
    tokenizer_blake3: str | None
    """Digest of the tokenizer; None where there is none."""

    @property
    def digest(self) -> str:
        """Fingerprint of the tokens and of all that gives them their meaning: 16 hex digits."""
        parts = (self.train.blake3, self.val.blake3, self.tokenizer_blake3)
        facts = (self.vocab_size, self.bytes_per_val_token)
        return blake3(repr((*parts, *facts)).encode()).hexdigest()[:16]

    @property
    def tokenizer_file(self) -> Path:
        """Where the dataset's tokenizer is, if it has one."""
        return self.folder / TOKENIZER_FILE


def open_dataset(config: DataConfig, context_length: int, *, verify: bool = False) -> TokenDataset:
    """Open, check and memory-map the dataset of `config`.

    Both files are read as a whole, in chunks, the first time: every id is checked against the
    vocabulary, and the digest against that of meta.json. The result is remembered as long as a
    file's size and modification time stay the same; with `verify` they are read in any case.

    Raises:
        DataError: a file is missing, malformed, damaged, has an id outside the vocabulary, or is
            shorter than context_length + 1 tokens.
    """
    folder = in_project(config.dataset)
    if not folder.is_dir():
        raise DataError(
            f"data.dataset {folder}: no such folder; make it with "
            f"`python trainable/prepare.py --input FILES --out {folder}`"
        )
    bytes_per_token = None
    if config.raw_dtype is not None and config.raw_vocab_size is not None:
        vocab_size = config.raw_vocab_size
        train = open_raw(folder / "train.bin", config.raw_dtype, vocab_size, verify=verify)
        val = open_raw(folder / "val.bin", config.raw_dtype, vocab_size, verify=verify)
        tokenizer = tokenizer_digest(folder)
    else:
        meta = DatasetMeta.read(folder)
        meta.require_tokenizer(folder)
        vocab_size, tokenizer = meta.vocab_size, meta.tokenizer_blake3
        train = open_npy(folder / "train.npy", vocab_size, meta.train_blake3, verify=verify)
        val = open_npy(folder / "val.npy", vocab_size, meta.val_blake3, verify=verify)
        bytes_per_token = meta.val_bytes / meta.val_tokens
    for file in (train, val):
        if len(file.tokens) < context_length + 1:
            raise DataError(
                f"{file.path}: {len(file.tokens)} tokens are fewer than context_length + 1 = "
                f"{context_length + 1}; use more text or a shorter model.context_length"
            )
    return TokenDataset(folder, train, val, vocab_size, bytes_per_token, tokenizer)


def batch_rng(seed: int, step: int) -> np.random.Generator:
    """Return the generator of step `step`: a counter-based one, so no state needs saving.

    Philox is keyed by the seed; the step fills a high word of its counter, so that no two steps
    share random numbers (Salmon et al. 2011).
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, 0]))


def get_batch(
    dataset: NDArray[Any],
    batch_size: int,
    context_length: int,
    device: str | torch.device,
    *,
    rng: np.random.Generator | None = None,
) -> Batch:
    """Draw random windows of tokens and their next tokens (CS336 assignment 1, section 5).

    Args:
        dataset: 1-D integer array of token ids, memory-mapped or not.
        batch_size: number of windows.
        context_length: tokens in a window.
        device: where the tensors go, e.g. "cpu", "cuda:0".
        rng: source of the starts; unset: fresh randomness from the operating system.

    Returns:
        x, y: int64 tensors (batch_size, context_length); y is x shifted by one token. Starts are
        uniform over all len(dataset) - context_length positions.

    Raises:
        ValueError: the array is not of integers, not 1-D or shorter than context_length + 1.
        RuntimeError or AssertionError: torch's own, for a device that is not there.
    """
    if dataset.dtype.kind not in "iu":
        raise ValueError(
            f"dataset of {dataset.dtype}: token ids are integers; convert it, e.g. with "
            "astype(numpy.uint16)"
        )
    n_starts = dataset.size - context_length
    if dataset.ndim != 1 or n_starts < 1:
        raise ValueError(
            f"dataset of shape {dataset.shape}: a window needs a 1-D array of at least "
            f"context_length + 1 = {context_length + 1} tokens"
        )
    rng = rng or np.random.default_rng()
    starts = rng.integers(0, n_starts, size=batch_size)
    return windows(dataset, starts, context_length, device)


def windows(
    dataset: NDArray[Any],
    starts: NDArray[np.int64],
    context_length: int,
    device: str | torch.device,
) -> Batch:
    """Return the windows at `starts` and their next tokens, each int64 (len(starts), context).

    All windows are gathered in one call, in the file's own type, which is a quarter of int64's
    bytes; x and y are then widened from it and share no memory.

    Raises:
        IndexError: a window would end beyond the file.
    """
    gathered = sliding_window_view(dataset, context_length + 1)[starts]
    if torch.device(device).type == "cuda":
        # Pinned memory lets the copy run beside the GPU's work.
        whole = torch.from_numpy(gathered.astype(np.int64)).pin_memory()
        whole = whole.to(device, non_blocking=True)
        return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()
    x = torch.from_numpy(gathered[:, :-1].astype(np.int64))
    y = torch.from_numpy(gathered[:, 1:].astype(np.int64))
    return x.to(device), y.to(device)


def validation_starts(n_tokens: int, context_length: int, eval_tokens: int) -> NDArray[np.int64]:
    """Return the starts of the fixed validation windows: disjoint, spread evenly over the file.

    There are eval_tokens / context_length of them, or as many as fit. They depend on nothing else,
    so every trial and every model size is measured on the same tokens.
    """
    fit = (n_tokens - 1) // context_length
    count = max(1, min(fit, eval_tokens // context_length))
    return (np.arange(count, dtype=np.int64) * fit // count) * context_length
