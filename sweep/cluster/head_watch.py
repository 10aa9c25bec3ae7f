"""Notices that a joined cluster is lost: its head, or this machine's own raylet."""

import socket
import time
from collections.abc import Callable

from sweep.cluster.address import Head

PATIENCE_SECONDS = 18.0
"""How long a head may not answer: it may be restarting, or its machine very busy."""

CONNECT_SECONDS = 2.0


def cluster_is_lost(head: Head) -> Callable[[], bool]:
    """Return what tells, asked again and again, whether a joined cluster is lost.

    Ray would tell after a minute, by aborting the process.
    """
    answered = time.monotonic()

    def is_lost() -> bool:
        nonlocal answered
        try:
            _connect(head.here, head.raylet_port)
            _connect(head.host, head.port)
        except OSError:
            return time.monotonic() - answered > PATIENCE_SECONDS
        answered = time.monotonic()
        return False

    return is_lost


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), CONNECT_SECONDS).close()
