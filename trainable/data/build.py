"""Text to a token dataset: a folder with train.npy, val.npy, tokenizer.json and meta.json.

It is complete or absent.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from blake3 import blake3

from trainable.common.errors import ConfigError, DataError
from trainable.common.files import file_digest, fsync_folder
from trainable.common.paths import in_project
from trainable.config.trial import DataConfig
from trainable.data.corpus import Corpus, StandardLibrary
from trainable.data.meta import TOKENIZER_FILE, DatasetMeta

VAL_EVERY = 10
"""One document in so many is held out for validation."""


def prepare(
    corpus: Corpus,
    out: Path,
    tokenizer: Literal["byte", "bpe"] = "byte",
    vocab_size: int | None = None,
) -> DatasetMeta:
    """Write the dataset of `corpus` to the folder `out`, which must not exist.

    Each document ends with <|endoftext|>; every tenth, from the second on, is held out for
    validation as a whole. Text is streamed: memory does not grow with the corpus.

    Raises:
        ConfigError: vocab_size does not fit the tokenizer, or `out` exists.
        DataError: the text cannot be read, or there are fewer than two documents.
    """
    from trainable.data.tokenizer import BYTE_VOCAB_SIZE, Encoder, byte_tokenizer, train_bpe

    if (tokenizer == "bpe") != (vocab_size is not None):
        raise ConfigError(
            f"--tokenizer {tokenizer} with --vocab-size {vocab_size}: bpe needs a vocabulary "
            f"size, byte always has {BYTE_VOCAB_SIZE}"
        )
    if os.fsencode(out).decode(errors="replace") != str(out):
        raise ConfigError(f"--out {str(out)!a}: is not UTF-8 text; choose another name")
    if out.exists():
        raise ConfigError(f"--out {out}: exists already; choose another folder or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.preparing-"))
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    try:
        if vocab_size is None:
            model = byte_tokenizer()
        else:
            model = train_bpe(_training_pieces(corpus), vocab_size)
        (building / TOKENIZER_FILE).write_bytes(model.to_str(pretty=True).encode())
        encoder = Encoder(model, is_byte=tokenizer == "byte")
        meta = _encode(corpus, encoder, building, tokenizer, model.get_vocab_size())
        meta.write(building)
        building.chmod(0o755)
        fsync_folder(building)
        building.rename(out)
        fsync_folder(out.parent)
    except OSError as error:
        raise DataError(f"--out {out}: {error.strerror}; nothing was kept of it") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return meta


def default_is_missing(config: DataConfig) -> bool:
    """Say whether `config` names the embedded corpus, and nobody has made it yet."""
    folder = in_project(config.dataset)
    is_default = folder == in_project(DataConfig().dataset) and config.raw_dtype is None
    return is_default and not folder.exists()


def ensure_default(config: DataConfig) -> DatasetMeta | None:
    """Make the embedded corpus if `config` names it and it is missing; return what was made."""
    if not default_is_missing(config):
        return None
    try:
        return prepare(StandardLibrary(), in_project(config.dataset))
    except (ConfigError, DataError):
        if default_is_missing(config):
            raise
        return None  # another command, begun at the same time, was faster


def _is_validation(number: int) -> bool:
    """Say whether document `number` (from 0) is held out: from two documents on, one is."""
    return number % VAL_EVERY == 1


def _training_pieces(corpus: Corpus) -> Iterator[str]:
    for number, pieces in enumerate(corpus.documents()):
        for piece in pieces:
            if not _is_validation(number):
                yield piece


@dataclass
class _Split:
    writer: "_NpyWriter"
    documents: int = 0
    text_bytes: int = 0


def _encode(
    corpus: Corpus, encoder: Any, folder: Path, tokenizer: Literal["byte", "bpe"], vocab_size: int
) -> DatasetMeta:
    digest = hashlib.sha256()

    def counted(pieces: Iterator[str], split: _Split) -> Iterator[str]:
        for piece in pieces:
            raw = piece.encode("utf-8")
            digest.update(raw)
            split.text_bytes += len(raw)
            yield piece
        digest.update(b"\0")

    with (
        _NpyWriter(folder / "train.npy", encoder.dtype) as train_file,
        _NpyWriter(folder / "val.npy", encoder.dtype) as val_file,
    ):
        train, val = _Split(train_file), _Split(val_file)
        for number, pieces in enumerate(corpus.documents()):
            split = val if _is_validation(number) else train
            split.documents += 1
            for ids in encoder.encode(counted(pieces, split)):
                split.writer.append(ids)
    if val.documents == 0:
        raise DataError(
            f"{corpus.description}: {train.documents} document(s); at least two are needed, one to "
            "train on and one to validate: give more files, or separate documents by <|endoftext|>"
        )
    return DatasetMeta(
        source=corpus.description,
        source_sha256=digest.hexdigest(),
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        dtype="uint16" if encoder.dtype.itemsize == 2 else "uint32",
        train_documents=train.documents,
        val_documents=val.documents,
        train_tokens=train.writer.count,
        val_tokens=val.writer.count,
        train_bytes=train.text_bytes,
        val_bytes=val.text_bytes,
        train_blake3=train.writer.hexdigest(),
        val_blake3=val.writer.hexdigest(),
        tokenizer_blake3=file_digest(folder / TOKENIZER_FILE, sync=True),
    ).sealed()


class _NpyWriter:
    """Appends ids to a .npy file whose header is filled in at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.count = 0
        self._digest = blake3()
        self._dtype = dtype
        self._file = path.open("wb")
        self._write_header()

    def append(self, ids: np.ndarray[Any, Any]) -> None:
        content = ids.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self.count += len(ids)

    def hexdigest(self) -> str:
        """Return the digest of the ids, without the header."""
        return self._digest.hexdigest()

    def __enter__(self) -> "_NpyWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is not None:
                return
            end = self._file.tell()
            self._file.seek(0)
            self._write_header()
            # numpy pads the header for any length, so it must end where it ended before.
            assert self._file.tell() == end - self.count * self._dtype.itemsize
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)
