"""How much of a request Ray's autoscaler can meet, found by asking.

Its second version gives nothing at all for a request that it cannot meet whole, say because more
trials may run at once than its largest cluster has room for.
"""

from collections.abc import Generator

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

Bundle = dict[str, float]
"""What a trial takes, by Ray's names."""


def parts_to_ask_for(wanted: list[Bundle]) -> Generator[list[Bundle], bool, None]:
    """Yield what to ask for next, given whether what was asked for last can be met.

    First everything, then, where that is too much, as many of each kind as can be met beside those
    of the kinds before it. What is yielded last is to stand.
    """
    if (yield wanted):
        return
    given: list[Bundle] = []
    kinds: list[Bundle] = []
    for bundle in wanted:
        if bundle not in kinds:
            kinds.append(bundle)
    for kind in kinds:
        fewest, too_many = 0, wanted.count(kind) + (len(kinds) > 1)
        while too_many - fewest > 1:
            half = (fewest + too_many) // 2
            if (yield [*given, *[kind] * half]):
                fewest = half
            else:
                too_many = half
        given += [kind] * fewest
    yield given


class Verdicts:
    """What the autoscaler says of the request that stands."""

    def __init__(self) -> None:
        self._client = GcsClient(address=ray.get_runtime_context().gcs_address)
        self._asked_at: int | None = None

    def expect(self) -> None:
        """Expect what will be said of a request that was just made."""
        self._asked_at = self._status().cluster_resource_state.cluster_resource_state_version

    def next(self) -> bool | None:
        """Return whether the request can be met, once; None: not known yet, or told before."""
        if self._asked_at is None:
            return None
        said = self._status().autoscaling_state
        if said.last_seen_cluster_resource_state_version <= self._asked_at:
            return None
        self._asked_at = None
        return not said.infeasible_cluster_resource_constraints

    def _status(self) -> GetClusterStatusReply:
        return GetClusterStatusReply.FromString(self._client.get_cluster_status(timeout_s=10))
