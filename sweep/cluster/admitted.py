"""The nodes of a joined cluster that trials run on: those that are like the driver."""

from typing import Any

import ray
from ray.exceptions import RayError

from sweep.cluster.admission import Facts, probe_node
from sweep.cluster.nodes import Node, free_by_node, living_nodes, more_of
from sweep.cluster.packing import Machine, trials_that_fit
from sweep.cluster.placement import Room
from sweep.cluster.staging import Staging
from sweep.cluster.tasks import cause, on_node
from sweep.config.parts import Part, parts_of
from sweep.config.resources import Fits, Share
from sweep.config.sweep import SweepConfig

PROBE_SECONDS = 300.0
"""How long nodes may take to be compared: each may have to read a dataset for the first time."""

TOLD_NODES = 8
"""Of so many nodes an error tells what they have."""


class AdmittedNodes:
    """Compares each node with the driver once, and counts how many trials run on those alike.

    Args:
        config: the sweep.
        driver: what nodes are compared with.
        storage: the folder that all of them must see.
        mark: name of a file that the driver wrote there.
        staging: gives nodes a copy of the dataset; None: they read it where it is.
        verify: nodes read every byte of their token files.
    """

    def __init__(
        self,
        config: SweepConfig,
        driver: Facts,
        storage: str,
        mark: str,
        staging: Staging | None = None,
        *,
        verify: bool = False,
    ) -> None:
        self.bf16: set[bool] = set()
        """What the admitted processors say of bf16: unlike ones say both."""
        self.room = Room(config)
        """How many trials machines hold."""
        self._parts = parts_of(config)
        self._driver = driver
        copy = staging.digest if staging else None
        self._asked_for = (config.trial, storage, mark, copy, verify)
        self._staging = staging
        self._staged: set[str] = set()
        """Nodes that a copy was sent to: they are asked once more, and not sent it again."""
        self._admitted: dict[str, Node] = {}
        self._most_free: dict[str, Machine] = {}
        """Of each admitted node, what is not others': free when it came, then in use by us."""
        self._probes: dict[Any, Node] = {}
        """Nodes that are being compared, by Ray's name for the answer."""
        self._asked: set[str] = set()

    @property
    def ids(self) -> list[str]:
        """Ray's names of the nodes that trials run on."""
        return list(self._admitted)

    @property
    def words(self) -> str:
        """What the admitted nodes have, for people."""
        told = [f"{n.ip}: {n.total.cpus} CPU, {n.total.gpus} GPU" for n in self._admitted.values()]
        return (
            "; ".join([*told[:TOLD_NODES], *(["..."] if len(told) > TOLD_NODES else [])]) or "none"
        )

    @property
    def concurrent(self) -> int:
        """How many trials run at once, at the most."""
        return self.room.most(self._most_free.values())

    @property
    def fits(self) -> Fits:
        """What says whether one more trial may begin."""
        return self.room.fits(self._most_free.values())

    def at_once(self, share: Share) -> int:
        """Return how many trials run at once that all take the same."""
        return self.room.most_of(share, self._most_free.values())

    def smallest(self, share: Share) -> Node | None:
        """Return the node with the least memory that has what a trial takes; None: none has."""
        holding = [n for n in self._admitted.values() if trials_that_fit(share, n.total)]
        return min(holding, key=lambda node: node.memory_bytes, default=None)

    @property
    def too_small_for(self) -> list[Part]:
        """The parts of the sweep of which no admitted node holds a trial."""
        return [part for part in self._parts if self.smallest(part.share) is None]

    def compare_all(self) -> list[str]:
        """Compare every node large enough for a trial; return what keeps which from training."""
        for node in living_nodes().values():
            self._begin(node)
        refused = []
        while answers := [*self._probes, *self._copies]:
            answered, _ = ray.wait(answers, timeout=PROBE_SECONDS)
            if not answered and not self._copies:
                break
            refused += self._decide()
        silent = [f"{n.ip}: no answer in {PROBE_SECONDS:g} s" for n in self._probes.values()]
        return refused + silent

    def look(self) -> list[str]:
        """See which nodes have gone and which have come, and what they have free.

        Returns:
            What there is to tell of it, in lines.
        """
        living, free = living_nodes(), free_by_node()
        news = []
        for gone in self._admitted.keys() - living.keys():
            del self._most_free[gone]
            news.append(f"node {self._admitted.pop(gone).ip} is gone")
        for node in living.values():
            if node.id in self._admitted:
                now = free.get(node.id, Machine(0, 0))
                self._most_free[node.id] = more_of(self._most_free[node.id], now)
            else:
                self._begin(node)
        return [*news, *(f"a node that joined trains no trials: {why}" for why in self._decide())]

    def _begin(self, node: Node) -> None:
        if node.id in self._asked or not self.room.holds_one(node.total):
            return
        self._asked.add(node.id)
        self._ask(node)

    def _ask(self, node: Node) -> None:
        task = on_node(node.id, probe_node)
        self._probes[task.remote(*self._asked_for)] = node

    @property
    def _copies(self) -> list[Any]:
        """Ray's names for the copies that are being sent."""
        return self._staging.answers if self._staging else []

    def _decide(self) -> list[str]:
        """Admit the nodes that have answered and are alike; return why others are not."""
        answers = list(self._probes)
        done, _ = ray.wait(answers, num_returns=len(answers), timeout=0) if answers else ([], [])
        free = free_by_node() if done else {}
        refusals = []
        for node, trouble in self._staging.ended() if self._staging else ():
            if trouble is None:
                self._ask(node)
            else:
                refusals.append(f"{node.ip}: {trouble}")
        for answer in done:
            node = self._probes.pop(answer)
            try:
                facts: Facts = ray.get(answer)
                differs = facts.differs_from(self._driver)
            except RayError as error:
                differs = [f"it cannot run this code ({cause(error)})"]
            else:
                lacks = differs and facts.lacks_only_data(self._driver)
                if lacks and self._staging and node.id not in self._staged:
                    self._staged.add(node.id)
                    self._staging.begin(node)
                    continue
            if differs:
                refusals.append(f"{node.ip}: {', '.join(differs)}")
                continue
            self.bf16.add(facts.bf16)
            self._most_free[node.id] = free.get(node.id, node.total)
            self._admitted[node.id] = node
        return refusals
