"""Files written so that a crash leaves the old content or the new, never a mixture; digests."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from blake3 import blake3


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: the folder is missing, full or not writable; the old file stays.
    """
    with temporary_beside(path) as (file, temporary):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
    fsync_folder(path.parent)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a temporary file in the folder of `path`, to be renamed; if it is not, it is removed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path, *, sync: bool = False) -> str:
    """Return the BLAKE3 of a file; with `sync`, once its content is on the disk.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, blake3).hexdigest()  # type: ignore[arg-type]


def fsync_tree(folder: Path, top: Path) -> None:
    """Make the files in `folder` durable, and all names from `top` down to them."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for place in (folder, *folder.parents):
        fsync_folder(place)
        if place == top:
            break
