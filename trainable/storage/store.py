"""What a place for checkpoints can do, and how the checkpoints in it are called.

A checkpoint is a small folder of files, named `session-N/TRIAL/ATTEMPT/checkpoint_STEP`. An attempt
is one worker's turn at a trial. It writes into its own folder only, so that a worker taken for dead
cannot touch what its successor has written, whenever it wakes up.
"""

import re
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

_NAME = re.compile(r"session-\d+/t\d+/a-[0-9a-f]+/checkpoint_(\d+)", re.ASCII)


class Store(Protocol):
    """A place for checkpoints. Names are relative to it."""

    def writing(self, name: str, last: str) -> AbstractContextManager[Path]:
        """Give an empty local folder; what is in it at the end is stored for good, or nothing is.

        Args:
            name: the checkpoint.
            last: the file in it that makes a checkpoint of the others: it is stored after them.

        Raises:
            OSError, StorageError: it cannot be stored.
        """

    def reading(self, name: str) -> AbstractContextManager[Path]:
        """Give a local folder with a checkpoint's files, to be verified by whoever reads them.

        Raises:
            DamagedCheckpointError: there is none.
            StorageError: the place cannot be reached.
        """

    def exists(self, name: str) -> bool:
        """Say whether anything is there under this name."""

    def names(self, below: str = "") -> list[str]:
        """Return all names of checkpoints, whole or not, in one of the folders above them."""

    def delete(self, name: str) -> None:
        """Begin to remove a checkpoint; what is not there, or cannot be removed, is no matter."""

    def settle(self) -> None:
        """Wait until what delete began has come to its end."""

    def disk(self) -> Path | None:
        """Return a folder on the disk that fills up with checkpoints; None: it is none of ours."""

    def require_usable(self) -> None:
        """Write, read and remove something small.

        Raises:
            StorageError: that cannot be done.
        """

    def address(self, name: str) -> str:
        """Return where a checkpoint lies; of "", what open_store takes for this store."""


def new_attempt(place: str) -> str:
    """Return the folder of a new attempt at the trial whose folder is `place`."""
    return f"{place}/a-{uuid.uuid4().hex[:12]}"


def checkpoint_name(attempt: str, step: int) -> str:
    """Return the name of the checkpoint that an attempt writes at a step."""
    return f"{attempt}/checkpoint_{step:06d}"


def is_name(name: str) -> bool:
    """Say whether a name is one that checkpoint_name makes."""
    return _NAME.fullmatch(name) is not None


def older_of_trial(store: Store, name: str) -> list[str]:
    """Return a trial's checkpoints before `name` in that session, by any attempt, newest first.

    Not those of a later step: nobody was told of them, so that they may be unfinished.
    """
    trial = name.rsplit("/", 2)[0]
    steps = {other: _step(other) for other in store.names(trial)}
    return sorted(
        (other for other, step in steps.items() if step < _step(name)),
        key=lambda other: steps[other],
        reverse=True,
    )


def _step(name: str) -> int:
    found = _NAME.fullmatch(name)
    assert found is not None
    return int(found[1])
