"""What an autoscaler is asked for: room for all the trials that each sweep may run at once.

A cluster has one request, which stands until another replaces it: it would outlive a sweep that was
killed, and of two sweeps only the last would count. So one actor on the head adds them up, and
takes back what a dead driver needed.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray._private.state import jobs
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import ActorDiedError, RpcError

from sweep.cluster.feasible import Bundle, Verdicts, parts_to_ask_for
from sweep.cluster.nodes import head_node
from sweep.cluster.tasks import on_node
from sweep.config.parts import parts_of
from sweep.config.sweep import SweepConfig
from trainable.common.errors import first_line

LOOK_EVERY_SECONDS = 2.0
"""How often the actor looks whether drivers live, and what the autoscaler says."""

PATIENCE_SECONDS = 5.0
"""How long a sweep's end waits for an actor that is still starting."""


def bundles(config: SweepConfig) -> list[Bundle]:
    """Return what the trials that may run at once take, one bundle each.

    Of trials that take unlike resources as many as the space has of each, and one at the least.
    """
    wanted = config.max_concurrent or config.num_samples
    asked = []
    for part in parts_of(config):
        takes = {"CPU": part.share.cpus, "GPU": part.share.gpus}
        bundle = {name: amount for name, amount in takes.items() if amount}
        asked += [bundle] * max(1, round(wanted * part.weight))
    return asked


class SharedRequest:
    """The actor: it asks for what all sweeps need together, each as long as its driver lives.

    It ends itself when nobody needs anything any more.
    """

    def __init__(self) -> None:
        self._needed: dict[str, list[Bundle]] = {}
        self._lock = threading.Lock()
        self._verdicts = Verdicts() if is_autoscaler_v2(fetch_from_server=True) else None
        self._ask_for_all()
        self._me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._watch, daemon=True).start()

    def need(self, job: str, needed: list[Bundle]) -> None:
        """Take what a driver needs, in place of what it needed before."""
        with self._lock:
            self._needed[job] = needed
            self._ask_for_all()

    def _ask_for_all(self) -> None:
        self._parts = parts_to_ask_for([b for needed in self._needed.values() for b in needed])
        self._ask_for(next(self._parts))

    def _ask_for(self, bundles: list[Bundle]) -> None:
        request_resources(bundles=bundles)
        if self._verdicts:
            self._verdicts.expect()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_SECONDS)
            with contextlib.suppress(RpcError), self._lock:  # else the head is busy, or restarts
                self._look()
                if not self._needed:
                    ray.kill(self._me)
                    return

    def _look(self) -> None:
        """Take back what dead drivers needed; ask for less, or for more again, by the verdict."""
        dead = {job["JobID"] for job in jobs() if job["IsDead"]}
        gone = [job for job, needed in self._needed.items() if job in dead or not needed]
        for job in gone:
            del self._needed[job]
        if gone:
            self._ask_for_all()
            return
        verdict = self._verdicts.next() if self._verdicts else None
        if verdict is not None:
            with contextlib.suppress(StopIteration):  # the largest part is found
                self._ask_for(self._parts.send(verdict))


class _Asking(threading.Thread):
    """Has the actor ask: it takes seconds to start, and nobody needs to wait for it.

    Args:
        needed: what is asked for.
        tell: is told if that cannot be done.
    """

    def __init__(self, needed: list[Bundle], tell: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._job = ray.get_runtime_context().get_job_id()
        self._needed = needed
        self._tell = tell
        self._actor: Any = None
        self._over = threading.Event()

    def run(self) -> None:
        try:
            while self._actor is None and not self._over.is_set():
                self._ask()
        except Exception as error:  # Ray's kinds are private; the sweep goes on where it is
            if not self._over.is_set():
                self._tell(f"an autoscaler could not be asked for nodes: {first_line(error)}")

    def _ask(self) -> None:
        actor = on_node(
            head_node(),
            SharedRequest,
            name="lm-sweep-request",
            namespace="lm-sweep",
            lifetime="detached",
            get_if_exists=True,
        ).remote()
        with contextlib.suppress(ActorDiedError):  # it was just ending itself
            ray.get(actor.need.remote(self._job, self._needed))
            self._actor = actor

    def take_back(self) -> None:
        """Take back what was asked for. If that fails, the actor sees that the driver is gone."""
        self._over.set()
        self.join(PATIENCE_SECONDS)
        if self._actor is not None:
            self._actor.need.remote(self._job, [])


@contextlib.contextmanager
def room_requested(config: SweepConfig, tell: Callable[[str], None]) -> Iterator[None]:
    """Ask the autoscaler of a cluster, if it has one, for what the sweep needs meanwhile.

    Args:
        config: the sweep.
        tell: is told if that cannot be done, from another thread.
    """
    asking = _Asking(bundles(config), tell)
    asking.start()
    try:
        yield
    finally:
        asking.take_back()
