"""Tune on a cluster: trials go to the admitted nodes only, and a node that joins is not starved.

When a trial waits for the worker that is starting for it, and another worker is free, Tune gives it
that one and throws the starting one away. With short trials a new node stays empty for minutes.
"""

import copy
from collections.abc import Callable
from typing import Any

from ray.air.execution import PlacementGroupResourceManager
from ray.air.execution.resources.request import ResourceRequest
from ray.tune.experiment import Trial
from ray.util.placement_group import placement_group

from sweep.cluster.forgiving import ForgivingController

NODE_ID = "ray.io/node-id"
"""The label that Ray gives every node."""


class AdmittedResources(PlacementGroupResourceManager):  # type: ignore[misc]  # Ray is untyped
    """Tune's own, that asks for room on the admitted nodes."""

    nodes: Callable[[], list[str]]
    """Returns their ids; set behind the constructor, which Tune calls again to let go of all."""

    _aimed_at: frozenset[str] = frozenset()

    def request_resources(self, resource_request: ResourceRequest) -> None:
        """Ask for a placement group on one of the nodes that are admitted by now."""
        self._aim()
        aimed = copy.copy(resource_request)  # Tune takes equal ones for one
        bundles = resource_request.bundles
        selector = {NODE_ID: f"in({','.join(sorted(self._aimed_at)) or 'none'})"}
        aimed.to_placement_group = lambda: placement_group(
            bundles, resource_request.strategy, bundle_label_selector=[selector] * len(bundles)
        )
        super().request_resources(aimed)

    def update_state(self) -> None:
        """See what is there of what was asked for."""
        self._aim()
        super().update_state()

    def _aim(self) -> None:
        """Aim what is still waited for at nodes that have joined, too."""
        if self._aimed_at.issuperset(self.nodes()):
            return
        self._aimed_at = frozenset(self.nodes())
        for request, waiting in list(self._request_to_staged_pgs.items()):
            count = len(waiting)
            for _ in range(count):
                self.cancel_resource_request(request)
            for _ in range(count):
                self.request_resources(request)


class SpreadingController(ForgivingController):
    """Lets a trial wait for its own worker, once there is room and that is starting."""

    def _maybe_reuse_cached_actor(self, trial: Trial) -> bool:
        own: Any = self._trial_to_actor.get(trial)
        if trial.status == Trial.PENDING and own and self._actor_manager.is_actor_started(own):
            return trial in self._resetting_trials
        return bool(super()._maybe_reuse_cached_actor(trial))


def spreading_controller(
    nodes: Callable[[], list[str]],
) -> Callable[..., SpreadingController]:
    """Return what makes a controller whose trials run on `nodes()`, given Tune's own settings."""

    def resources() -> AdmittedResources:
        made = AdmittedResources()
        made.nodes = nodes
        return made

    return lambda **settings: SpreadingController(resource_manager_factory=resources, **settings)
