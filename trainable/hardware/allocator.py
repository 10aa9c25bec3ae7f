"""Keep freed memory for the next step instead of giving it back to the system."""

import ctypes
import platform

M_TRIM_THRESHOLD = -1

M_MMAP_THRESHOLD = -3

LARGEST = 2**31 - 1

LARGEST_OLD = 32 * 2**20
"""The largest mapping threshold that older glibc versions accept."""


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks; other C libraries are left alone.

    glibc maps each large tensor afresh and unmaps it when it is freed: every training step then
    takes tens of thousands of page faults for pages that it had a moment ago, 10-25 % of its time
    on a CPU. With these two thresholds a process keeps its peak, which the next step needs again.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    if not libc.mallopt(M_MMAP_THRESHOLD, LARGEST):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_OLD)
    libc.mallopt(M_TRIM_THRESHOLD, LARGEST)


def return_freed_memory() -> None:
    """Give freed memory back to the system after all, once: after a probe, before other work."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
