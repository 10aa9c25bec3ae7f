"""Temporary folders of Ray: where they fit, and those that a killed driver left."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from sweep.common.errors import SweepError

SCRATCH_BYTES = 16 * 2**20
"""For Ray's logs and sockets."""

SHORT_PLACE = Path("/tmp")  # noqa: S108 - the folder made in it has a new name and is private
"""For temporary folders where TMPDIR's name is too long for Ray's sockets."""

_SCRATCH = "lm-sweep-"

_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Longest path of a socket, in bytes."""

_LONGEST_NAME = (
    "lm-sweep-4194304-abcdefgh/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
"""What Ray's sockets are called below our folder, at their longest."""


def scratch_place() -> Path:
    """Return where temporary folders go: TMPDIR, or /tmp if the names of sockets would not fit."""
    place = Path(tempfile.gettempdir())
    fits = len(os.fsencode(place / _LONGEST_NAME)) <= _SOCKET_BYTES
    return place if fits else SHORT_PLACE


def new_scratch() -> str:
    """Make a temporary folder for this process's Ray.

    Raises:
        SweepError: there is no room.
    """
    place = scratch_place()
    free = shutil.disk_usage(place).free
    if free < SCRATCH_BYTES:  # Ray would wait half a minute for itself
        raise SweepError(
            f"TMPDIR: {free / 2**20:,.1f} MiB free in {place}, Ray's own files need "
            f"{SCRATCH_BYTES / 2**20:,.0f} MiB; make room, or set TMPDIR to another disk"
        )
    return tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=place)


def remove_stale_scratch() -> None:
    """Remove the temporary folders of our own sweeps whose driver was killed."""
    for folder in scratch_place().glob(f"{_SCRATCH}*"):
        owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if owner.isdigit() and folder.lstat().st_uid == os.geteuid() and not _lives(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
