"""Token files on disk: what may be mapped, and the whole-file check that is made once."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from trainable.common.errors import DataError
from trainable.common.files import write_atomic
from trainable.common.paths import cache_folder
from trainable.config.sealed import Sealed

CHUNK_BYTES = 1 << 22

_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


@dataclass(frozen=True)
class TokenFile:
    """A checked file of token ids."""

    path: Path
    tokens: NDArray[Any]
    """1-D uint16 or uint32, memory-mapped, read-only."""
    blake3: str
    """Digest of the token bytes, header excluded."""
    size: int
    """Bytes of the file when it was checked."""

    def require_unshrunk(self) -> None:
        """Refuse a file that was cut while mapped: reading on would end the process (SIGBUS).

        Raises:
            DataError: the file is gone from its place or smaller than it was.
        """
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror} while training on it") from error
        if size < self.size:
            raise DataError(
                f"{self.path}: shrunk from {self.size} to {size} bytes while training on it; "
                "prepare it again and resume"
            )


def open_npy(path: Path, vocab_size: int, digest: str, *, verify: bool = False) -> TokenFile:
    """Map a .npy file of token ids: 1-D, uint16 or uint32, little-endian, nothing else.

    Args:
        path: the file.
        vocab_size: number of token ids.
        digest: BLAKE3 that the token bytes must have.
        verify: read every byte even if the file was checked before.

    Raises:
        DataError: the file is anything else, holds an id outside the vocabulary, or was changed.
    """
    size = _regular_size(path)
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"format version {version} is not (1, 0)")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except Exception as error:  # numpy raises five unlike kinds for damaged headers
            raise DataError(
                f"{path}: not a .npy token file ({error}); prepare it with trainable/prepare.py, "
                "or set data.raw_dtype for headerless .bin files"
            ) from error
        offset = file.tell()
    dtype = np.dtype(dtype)
    if dtype not in _DTYPES.values() or len(shape) != 1:
        raise DataError(
            f"{path}: a {len(shape)}-D array of {dtype}; token files are 1-D, little-endian "
            "uint16 or uint32: convert it with numpy.save"
        )
    if size != offset + shape[0] * dtype.itemsize:
        raise DataError(
            f"{path}: {size} bytes, but its header promises "
            f"{offset + shape[0] * dtype.itemsize}: it is truncated or damaged; prepare it again"
        )
    mapped = _map(path, dtype, offset, shape[0], vocab_size, digest, verify)
    if mapped.blake3 != digest:
        raise DataError(
            f"{path}: does not have the digest that meta.json vouches for: it is damaged or was "
            "changed; prepare the dataset again"
        )
    return mapped


def open_raw(
    path: Path, dtype: Literal["uint16", "uint32"], vocab_size: int, *, verify: bool = False
) -> TokenFile:
    """Map a headerless file of little-endian token ids (nanoGPT's train.bin).

    Args:
        path: the file.
        dtype: type of the ids.
        vocab_size: number of token ids.
        verify: read every byte even if the file was checked before, and compare.

    Raises:
        DataError: the file is missing, empty, of odd length, a .npy file, holds an id outside the
            vocabulary, or was changed behind its size and time.
    """
    size = _regular_size(path)
    kind = _DTYPES[dtype]
    if size % kind.itemsize:
        raise DataError(
            f"{path}: {size} bytes is not a multiple of {kind.itemsize}, the size of a {dtype}; "
            "is data.raw_dtype right?"
        )
    with path.open("rb") as file:
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            raise DataError(
                f"{path}: is a .npy file under another name; remove data.raw_dtype and "
                "name it train.npy or val.npy"
            )
    return _map(path, kind, 0, size // kind.itemsize, vocab_size, None, verify)


def _regular_size(path: Path) -> int:
    try:
        # Opened without blocking: a FIFO would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a regular file; token files are memory-mapped")
    if status.st_size == 0:
        raise DataError(f"{path}: empty file; it must hold token ids")
    return status.st_size


class _Checked(Sealed):
    """What is remembered of a file that was read as a whole."""

    seal: ClassVar[str] = "record_blake3"

    dtype: str
    size: int
    mtime_ns: int
    blake3: str
    largest_id: int
    record_blake3: str = ""


def _map(
    path: Path,
    dtype: np.dtype[Any],
    offset: int,
    count: int,
    vocab_size: int,
    digest: str | None,
    verify: bool,
) -> TokenFile:
    if count == 0:
        raise DataError(f"{path}: holds no tokens; prepare it from more text")
    # As a plain array: numpy's memmap subclass makes every slice several times dearer.
    tokens = np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)))
    known = _remembered(path, tokens.dtype.name)
    checked = known
    if known is None or verify or digest not in (None, known.blake3):
        checked = _check(path, tokens)
        if digest is None and known is not None and checked.blake3 != known.blake3:
            raise DataError(
                f"{path}: its bytes changed, though its size and time of modification did not: it "
                "is damaged; bring the old one back (if the change was meant: touch the file)"
            )
        _remember(path, checked)
    assert checked is not None
    if checked.largest_id >= vocab_size:
        raise DataError(
            f"{path}: holds the id {checked.largest_id}, outside the vocabulary of {vocab_size} "
            "ids; the file belongs to another tokenizer, or its type is not "
            f"{dtype.name}"
        )
    return TokenFile(path, tokens, checked.blake3, checked.size)


def _check(path: Path, tokens: NDArray[Any]) -> _Checked:
    digest = blake3()
    largest = 0
    before = path.stat()
    step = CHUNK_BYTES // tokens.dtype.itemsize
    for start in range(0, len(tokens), step):
        chunk = tokens[start : start + step]
        digest.update(chunk.view(np.uint8).data)
        largest = max(largest, int(chunk.max()))
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{path}: changed while it was read; wait for its writer to finish")
    return _Checked(
        dtype=tokens.dtype.name,
        size=before.st_size,
        mtime_ns=before.st_mtime_ns,
        blake3=digest.hexdigest(),
        largest_id=largest,
    )


def _remember(path: Path, checked: _Checked) -> None:
    try:
        _record_file(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(_record_file(path), checked.sealed().text().encode())
    except OSError:
        pass  # a cache that cannot be written only means checking again next time


def _remembered(path: Path, dtype: str) -> _Checked | None:
    """Return the check of a file, if it was one of these bytes as far as size and time tell."""
    status = path.stat()
    try:
        known = _Checked.unsealed(_record_file(path).read_bytes(), str(path))
    except (OSError, ValueError):
        return None  # never checked, or the record is damaged
    same = (known.dtype, known.size, known.mtime_ns) == (dtype, status.st_size, status.st_mtime_ns)
    return known if same else None


def _record_file(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return cache_folder() / "checked" / f"{name}.json"
