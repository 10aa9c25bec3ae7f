"""The nodes of a cluster, as Ray tells of them, and what they have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.cluster.packing import Machine


@dataclass(frozen=True)
class Node:
    """A node that lives."""

    id: str
    ip: str
    total: Machine
    memory_bytes: int


def living_nodes() -> dict[str, Node]:
    """Return the nodes that live, by id. Ray must have been joined."""
    import ray

    found = {}
    for told in ray.nodes():
        if told["Alive"]:
            has = told["Resources"]
            memory = int(has.get("memory", 0))
            node = Node(told["NodeID"], told["NodeManagerAddress"], as_machine(has), memory)
            found[node.id] = node
    return found


def head_node() -> str:
    """Return the id of the cluster's head. Ray must have been joined."""
    import ray

    living = [told for told in ray.nodes() if told["Alive"]]
    return next(str(n["NodeID"]) for n in living if "node:__internal_head__" in n["Resources"])


def free_by_node() -> dict[str, Machine]:
    """Return what nobody uses just now, by a node's id."""
    from ray._private.state import available_resources_per_node

    return {node: as_machine(free) for node, free in available_resources_per_node().items()}


def as_machine(resources: Mapping[str, Any]) -> Machine:
    """Return Ray's resources as whole cores and GPUs."""
    return Machine(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


def more_of(a: Machine, b: Machine) -> Machine:
    """Return the larger of both, resource by resource."""
    return Machine(max(a.cpus, b.cpus), max(a.gpus, b.gpus))
