"""Byte-level and BPE tokenizers, both as HF `tokenizers` files: one format, one decoder."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.decoders import DecodeStream

from trainable.common.errors import ConfigError, DataError
from trainable.data.corpus import END_OF_TEXT

BYTE_VOCAB_SIZE = 257
"""256 bytes and <|endoftext|>, the last id."""


def byte_tokenizer() -> Tokenizer:
    """Return the tokenizer whose ids 0..255 are the UTF-8 bytes and 256 is <|endoftext|>."""
    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def train_bpe(pieces: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al. 2016) with GPT-2's splitting into words.

    Raises:
        ConfigError: vocab_size has no room for the bytes and <|endoftext|>.
    """
    if vocab_size < BYTE_VOCAB_SIZE:
        raise ConfigError(
            f"--vocab-size {vocab_size}: BPE needs at least {BYTE_VOCAB_SIZE}, "
            "the 256 bytes and <|endoftext|>"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer=trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json (data only: it can hold no code).

    Raises:
        DataError: the file is missing or not a tokenizer.
    """
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; no text without a tokenizer") from error
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise DataError(f"{path}: not a tokenizer file ({error})") from error


def end_of_text_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of <|endoftext|>, or None if the vocabulary lacks it."""
    found: int | None = tokenizer.token_to_id(END_OF_TEXT)
    return found


def text_pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of token ids as they come, each character once all of its bytes are there."""
    stream = DecodeStream(skip_special_tokens=False)
    held: list[int] = []
    for token in ids:
        held.append(token)
        piece = stream.step(tokenizer, token)
        if piece is not None:
            held.clear()
            yield piece
    if held:  # the text ends within a character
        yield tokenizer.decode(held, skip_special_tokens=False)


class Encoder:
    """Turns documents into arrays of token ids, a piece at a time."""

    def __init__(self, tokenizer: Tokenizer, *, is_byte: bool) -> None:
        self._tokenizer = tokenizer
        self._is_byte = is_byte
        end = end_of_text_id(tokenizer)
        assert end is not None
        self.end_of_text = end
        self.dtype = np.dtype("<u2" if tokenizer.get_vocab_size() <= 1 << 16 else "<u4")

    def encode(self, pieces: Iterator[str]) -> Iterator[NDArray[np.uint16 | np.uint32]]:
        """Yield the ids of each piece, then of <|endoftext|>."""
        for piece in pieces:
            if self._is_byte:  # the ids are the bytes: no tokenizer needed to see that
                yield np.frombuffer(piece.encode("utf-8"), dtype=np.uint8).astype(self.dtype)
            else:
                yield np.array(
                    self._tokenizer.encode(piece, add_special_tokens=False).ids, dtype=self.dtype
                )
        yield np.array([self.end_of_text], dtype=self.dtype)


def _byte_characters() -> list[str]:
    """Return, for each byte, the character that stands for it (Radford et al. 2019, section 2.2).

    Printable Latin-1 characters stand for themselves, the other bytes, in order, for U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(hidden)) for byte in range(256)]
