"""Why a trial failed, in one telling line; and whether it was for want of disk space."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.common.errors import SweepError
from sweep.common.redact import redact

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(reason: str) -> bool:
    """Say whether an error is the operating system's for a full disk or quota."""
    return any(os.strerror(number) in reason for number in _FULL)


def told(reason: str) -> str:
    """Return a reason as it is recorded: without colours and secrets, and not too long."""
    return redact(_COLOURS.sub("", reason))[:500]


def failure_reason(trial: "Trial") -> str:
    """Return the telling line of what Tune wrote of a worker that died, or could not save."""
    try:
        # Written here just now; Tune's own copy in the storage folder follows later.
        text = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return "no reason given"
    last = text.rpartition("Failure # ")[2]
    lines = [line.strip() for line in last.splitlines()[1:] if line.strip()]
    if not lines:
        return "no reason given"
    # A worker that was killed says so first; an exception's own words come last.
    killed = "died" in lines[0] and "error raised" not in lines[0]
    return told(lines[0] if killed else lines[-1])


FULL_BYTES = 2**20
"""A disk with less room than this counts as full."""


def disk_full_error(folder: Path, disk: Path | None = None) -> SweepError:
    """Return what to say when there is no room for a sweep's files.

    Args:
        folder: the sweep's.
        disk: where its checkpoints lie, if that may be another one.
    """
    free, place = min((shutil.disk_usage(place).free, place) for place in (folder, disk or folder))
    return SweepError(
        f"sweep {folder.name}: the disk is full ({free / 2**20:,.0f} MiB free in {place}); what "
        "was saved is whole: make room and go on with "
        f"`python sweep/run.py --resume {folder.name}`"
    )


def unwritable_error(folder: Path, error: OSError) -> SweepError:
    """Return what to say when a sweep's record cannot be written."""
    if error.errno in _FULL:
        return disk_full_error(folder)
    return SweepError(
        f"sweep {folder.name}: its record cannot be written ({error.strerror}); what was saved is "
        f"whole: mend {folder} and go on with `python sweep/run.py --resume {folder.name}`"
    )


@contextlib.contextmanager
def room_for(folder: Path) -> Iterator[None]:
    """Tell a full disk in one line, where a sweep's files are written.

    Raises:
        SweepError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise disk_full_error(folder) from error
