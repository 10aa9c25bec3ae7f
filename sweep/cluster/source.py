"""What sends a dataset's files to a cluster's nodes: a process that imports little else."""

from pathlib import Path

from trainable.common.errors import DataError

PIECE_BYTES = 4 * 2**20
"""Of a file, in one message; a node has two at a time."""


class Source:
    """Reads the files of a dataset, as an actor on the driver's node.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def piece(self, name: str, start: int) -> bytes:
        """Return the bytes of a file from `start` on, as many as a message holds."""
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                return file.read(PIECE_BYTES)
        except OSError as error:
            raise DataError(f"{self._folder / name}: {error.strerror} on the driver") from error
