"""What an autoscaler is asked for: room for all the trials that each sweep may run at once.

A cluster has one request, which stands until another replaces it: it would outlive a sweep that was
killed, and of two sweeps only the last would count. So one actor on the head adds them up, and
takes back what a dead driver needed.
"""

import contextlib
import threading
import time
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


def bundles(config: SweepConfig, left: int) -> list[Bundle]:
    """Return what the trials that may run at once take, one bundle each, where `left` are left.

    Of trials that take unlike resources as many as the space has of each, and one at the least.
    """
    if not left:
        return []
    wanted = min(config.max_concurrent or left, left)
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

    def leave(self, job: str) -> None:
        """Take back what a driver needed, which needs nothing any more."""
        with self._lock:
            self._needed.pop(job, None)
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
        gone = dead.intersection(self._needed)
        for job in gone:
            del self._needed[job]
        if gone:
            self._ask_for_all()
            return
        verdict = self._verdicts.next() if self._verdicts else None
        if verdict is not None:
            with contextlib.suppress(StopIteration):  # the largest part is found
                self._ask_for(self._parts.send(verdict))


class RoomRequest(contextlib.AbstractContextManager["RoomRequest"]):
    """What a sweep asks of its cluster's autoscaler, if that has one; taken back at its end.

    Args:
        config: the sweep.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._job = ray.get_runtime_context().get_job_id()
        self._starter: threading.Thread | None = None
        self._actor: Any = None
        self._over = threading.Event()
        self._first = self._asked_for = 0
        self._trouble: str | None = None

    def need(self, left: int, at_once: int) -> list[str]:
        """Need room for the trials that are left, of which so many run at once by now.

        Once a part of the nodes is enough for them, nothing is asked for: where trials run the node
        stays, and one that waits is a demand by itself.

        Returns:
            What there is to tell, in lines.
        """
        if self._starter is None:
            self._first = self._asked_for = left
            # The actor takes seconds to start, and nobody needs to wait for it.
            self._starter = threading.Thread(target=self._start, daemon=True)
            self._starter.start()
        wanted = 0 if left < at_once else self._first
        if self._actor is not None and wanted != self._asked_for:
            self._asked_for = wanted
            self._actor.need.remote(self._job, bundles(self._config, wanted))
        told, self._trouble = self._trouble, None
        return [told] if told else []

    def _start(self) -> None:
        try:
            while self._actor is None and not self._over.is_set():
                self._ask(bundles(self._config, self._first))
        except Exception as error:  # Ray's kinds are private; the sweep goes on where it is
            self._trouble = f"an autoscaler could not be asked for nodes: {first_line(error)}"

    def _ask(self, needed: list[Bundle]) -> None:
        actor = on_node(
            head_node(),
            SharedRequest,
            name="lm-sweep-request",
            namespace="lm-sweep",
            lifetime="detached",
            get_if_exists=True,
        ).remote()
        with contextlib.suppress(ActorDiedError):  # it was just ending itself
            ray.get(actor.need.remote(self._job, needed))
            self._actor = actor

    def __exit__(self, *_: object) -> None:
        """Take it back. If that fails, the actor sees that the driver is gone."""
        self._over.set()
        if self._starter is not None:
            self._starter.join(PATIENCE_SECONDS)
        if self._actor is not None:
            self._actor.leave.remote(self._job)
