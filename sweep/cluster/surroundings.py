"""What Ray needs of the process that starts it: without it, it ends in pages of a dump."""

import os
import resource
import sys
from pathlib import Path

from sweep.common.errors import SweepError

ADDRESS_BYTES = 4 * 2**30
"""Address space that a driver or worker reserves, most of it never touched: 3.2 GiB when small."""

OWN_THREADS = 120
"""Threads of the driver, Ray's server, raylet and agents."""

WORKER_THREADS = 30
"""Threads of a trial's worker."""


def require_surroundings(concurrent: int) -> None:
    """Refuse to start Ray for so many trials at a time where it would not come up.

    Raises:
        SweepError: a limit is too low, or Python takes away what Ray reads.
    """
    if sys.flags.optimize > 1:
        raise SweepError(
            f"PYTHONOPTIMIZE={sys.flags.optimize} (python -OO): it removes docstrings, which Ray "
            "reads when it is imported; unset it, or take 1"
        )
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < ADDRESS_BYTES:
        raise SweepError(
            f"ulimit -v {space // 1024}: {space / 2**30:.1f} GiB of address space, each process of "
            f"Ray's reserves up to {ADDRESS_BYTES / 2**30:.0f} GiB; raise it, or lift it with "
            "`ulimit -v unlimited`"
        )
    threads, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    needed = OWN_THREADS + WORKER_THREADS * concurrent
    # It does not hold for root.
    if os.geteuid() and threads != resource.RLIM_INFINITY and threads < _threads_of_user() + needed:
        raise SweepError(
            f"ulimit -u {threads}: this user runs {_threads_of_user()} threads already, a sweep "
            f"with {concurrent} trials at a time starts some {needed}; raise it, or lower "
            "--max-concurrent"
        )


def _threads_of_user() -> int:
    """Return how many threads this user has, as far as they can be seen."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.geteuid():
                count += len(list((process / "task").iterdir()))
        except OSError:
            continue  # it has ended
    return count
