"""Work of ours on a certain node of a cluster, beside the trials: it takes none of their CPUs."""

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.common.errors import first_line


def on_node(node: str, work: Any, *, gpus: float = 0, **more: Any) -> Any:
    """Return what runs a function, or makes an actor of a class, once, on the node of that id.

    `more` are options of Ray's, e.g. an actor's name.
    """
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    once = {"max_restarts": 0} if isinstance(work, type) else {"max_retries": 0}
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": there}
    return ray.remote(work).options(**options, **once, **more)


def origin(error: RayError) -> BaseException:
    """Return what was raised where the work was done; for Ray's own errors the error itself."""
    why: BaseException = error.cause if isinstance(error, RayTaskError) else error
    return why


def cause(error: RayError) -> str:
    """Return why work on a node failed, in a line."""
    return first_line(origin(error))
