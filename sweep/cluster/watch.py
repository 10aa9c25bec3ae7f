"""Notices that Ray itself died: Tune would wait for it for ever, or die with it, deep in C++."""

import os
import threading
from collections.abc import Callable

LOOK_EVERY_SECONDS = 1.0

VITAL = ("gcs_server", "raylet")
"""Ray goes on without its other processes; an agent that it needs takes the raylet with it."""


def own_ray_is_dead() -> Callable[[], bool]:
    """Return what tells whether the Ray that this process started has died.

    The operating system knows: Ray's own list of nodes comes from the server.
    """
    import ray._private.worker as ray_worker

    node = ray_worker._global_node
    return lambda: any(name in VITAL for name, _ in node.dead_processes())


class RayWatch:
    """Ends this process once a process that Ray cannot do without has died.

    Used as a context around all that Ray does. With its server dead a call of Ray hangs for a
    minute and then aborts the process without a word. The main thread may be in such a call, where
    no signal and no exception reaches it, so the end is made here.

    Args:
        is_dead: says whether Ray has died; asked every second.
        last_words: records and tells what there is to tell, without Ray; returns the exit status.
    """

    def __init__(self, is_dead: Callable[[], bool], last_words: Callable[[], int]) -> None:
        self._is_dead = is_dead
        self._last_words = last_words
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ray-watch", daemon=True)

    def __enter__(self) -> "RayWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()  # for ever, if Ray is dead: the thread ends the process

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_SECONDS):
            if self._is_dead():
                status = 1
                try:
                    status = self._last_words()
                finally:
                    os._exit(status)
