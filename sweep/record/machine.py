"""What a session ran on, in words."""

import os
import platform
from pathlib import Path


def machine_text() -> str:
    """Return processor, cores, memory and system, e.g. "Xeon, 2 cores, 7.8 GiB, Linux x86_64"."""
    parts = [_processor(), f"{os.cpu_count()} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        parts.append(f"{total / 2**30:.1f} GiB")
    return ", ".join([*filter(None, parts), f"{platform.system()} {platform.machine()}"])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
