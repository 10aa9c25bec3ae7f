"""Files written and read while a second thread takes their digest.

The digest is BLAKE3, at least twice as fast as SHA-256. Neither it nor the disk waits for Python:
they run side by side. Large reads go to memory of large pages, where the system offers them: most
of the time of filling fresh memory is spent on its 4-KiB pages.
"""

import io
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


CHUNK_BYTES = 4 << 20


class DigestingWriter(io.RawIOBase):
    """What torch.save writes to: a file, and the digest and size of what went through.

    A context: at its end the second thread is gone. An error of the file is kept until the digest
    is asked for: raised inside torch, it would end as one of torch's own.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        self._file = file
        self._second = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._digest = blake3()
        self._gathered = memoryview(bytearray(CHUNK_BYTES))
        self._filled = 0
        self._error: OSError | None = None

    def __exit__(self, *_: object) -> None:
        self._second.shutdown()

    def writable(self) -> bool:
        """Say that it can be written."""
        return True

    def write(self, content: "ReadableBuffer") -> int:
        """Write all of `content`, which is the caller's again afterwards."""
        view = memoryview(content)
        direct = len(view) > CHUNK_BYTES // 2
        if direct or self._filled + len(view) > CHUNK_BYTES:
            self._pass_on_gathered()
        if direct:
            self._pass_on(view)
        else:  # a state is hundreds of small pieces: together they cost one hand-over
            self._gathered[self._filled : self._filled + len(view)] = view
            self._filled += len(view)
        self.size += len(view)
        return len(view)

    def hexdigest(self) -> str:
        """Return the digest of all that was written.

        Raises:
            OSError: it could not be written.
        """
        self._pass_on_gathered()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def start_sync(self) -> "Future[None]":
        """Begin to wait for the disk, in the second thread."""
        self._file.flush()
        return self._second.submit(os.fsync, self._file.fileno())

    def _pass_on_gathered(self) -> None:
        self._pass_on(self._gathered[: self._filled])
        self._filled = 0

    def _pass_on(self, view: memoryview) -> None:
        hashed = self._second.submit(self._digest.update, view)
        try:
            if self._error is None:
                self._file.write(view)
        except OSError as error:
            self._error = error
        hashed.result()


def read_digested(file: IO[bytes], size: int) -> tuple[memoryview, str]:
    """Read `size` bytes; return them and the digest of those very bytes.

    A file that is shorter leaves zeros at the end, which the digest then tells.
    """
    # Private: shared anonymous memory has no large pages.
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    content = memoryview(memory)[:size]
    digest = blake3()
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as second:
        hashed: Future[blake3] | None = None
        for start in range(0, size, CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            _fill(file, chunk)
            if hashed is not None:
                hashed.result()
            hashed = second.submit(digest.update, chunk)
        if hashed is not None:
            hashed.result()
    return content, digest.hexdigest()


def _fill(file: IO[bytes], chunk: memoryview) -> None:
    while chunk and (count := file.readinto(chunk)):  # type: ignore[attr-defined]  # IO lacks it
        chunk = chunk[count:]


class MemoryFile(io.RawIOBase):
    """Bytes in memory as a binary file, not copied as io.BytesIO would."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._place = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be moved in."""
        return True

    def tell(self) -> int:
        """Return the place, in bytes."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._content)}[whence]
        if start + offset < 0:
            raise ValueError(f"negative place {start + offset}")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` from the place on; return how many bytes there were."""
        target = memoryview(buffer).cast("B")
        part = self._content[self._place : self._place + len(target)]
        target[: len(part)] = part
        self._place += len(part)
        return len(part)
