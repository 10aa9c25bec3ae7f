"""Notices that Ray itself died: Tune would wait for it for ever."""

import signal
import time
from typing import Any

import ray
from ray import tune

LOOK_EVERY_SECONDS = 3.0


class NodeWatch(tune.Callback):  # type: ignore[misc]
    """Ends the session gracefully once no Ray node is alive."""

    def __init__(self) -> None:
        self.died = False
        self._next_look = 0.0

    def on_step_begin(self, **_: Any) -> None:
        """Look, every few seconds."""
        now = time.monotonic()
        if self.died or now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_SECONDS
        if not any(node["Alive"] for node in ray.nodes()):
            self.died = True
            signal.raise_signal(signal.SIGUSR1)  # Tune's own signal for a graceful end
