"""A cluster that an autoscaler of Ray's grows and shrinks, each node in a network namespace."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster_nodes import Nodes, begin, cluster_nodes, kill_in
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

IDLE_SECONDS = 2

UNUSED = (
    *("cluster_synced_files", "initialization_commands", "setup_commands"),
    *(f"{role}_{name}_commands" for role in ("head", "worker") for name in ("setup", "start_ray")),
)
"""What Ray wants a config to have, for machines that it would install itself."""


@contextlib.contextmanager
def autoscaled_nodes(count: int, second: bool) -> Iterator[Nodes]:
    """Give a head, to which an autoscaler adds up to `count - 1` nodes, and takes them away.

    Args:
        count: how many nodes there are at the most.
        second: the autoscaler's second version, not its first.
    """
    with cluster_nodes(count, up=0) as nodes, tempfile.TemporaryDirectory() as folder:
        workers = {
            str(number): {
                "ip": nodes.ip(number),
                "namespace": nodes.namespace(number),
                "begun": nodes.beginning(number, **_named(str(number), "worker")),
            }
            for number in range(1, count)
        }
        sizes = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0}
        config = Path(folder) / "autoscaling.json"
        config.write_text(
            json.dumps(
                {
                    "cluster_name": "test",
                    "max_workers": count - 1,
                    "idle_timeout_minutes": IDLE_SECONDS / 60,
                    "provider": {
                        "type": "external",
                        "module": "autoscaled_nodes.Namespaces",
                        "disable_node_updaters": True,
                        "head_ip": nodes.ip(0),
                        "tags": {"workers": json.dumps(workers)},
                    },
                    **{key: {} for key in ("auth", "file_mounts")},
                    **{key: [] for key in UNUSED},
                    "head_node_type": "head",
                    "available_node_types": {
                        "head": {**sizes, "max_workers": 0},
                        "worker": {**sizes, "max_workers": count - 1},
                    },
                }
            )
        )
        nodes.start(
            *(0, "--autoscaling-config", str(config)),
            PYTHONPATH=str(Path(__file__).parent),
            AUTOSCALER_UPDATE_INTERVAL_S="1",
            RAY_enable_autoscaler_v2=str(int(second)),
            **_named("head", "head"),
        )
        nodes.wait_for(1)
        yield nodes


def _named(instance: str, kind: str) -> dict[str, str]:
    """Return what tells the second version which of its instances a node is."""
    return {"RAY_CLOUD_INSTANCE_ID": instance, "RAY_NODE_TYPE_NAME": kind}


class Namespaces(NodeProvider):
    """What an autoscaler has nodes made by, in the head's process: it starts Ray in namespaces."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._workers = json.loads(provider_config["tags"]["workers"])
        self._ips = {"head": provider_config["head_ip"]}
        self._ips |= {name: worker["ip"] for name, worker in self._workers.items()}
        self._tags = {"head": _tags(NODE_KIND_HEAD, "head")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [n for n, tags in self._tags.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._tags[node_id]

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._tags[node_id] |= tags

    def internal_ip(self, node_id: str) -> str:
        return self._ips[node_id]

    external_ip = internal_ip

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        free = [name for name in self._workers if name not in self._tags]
        for name in free[:count]:
            self._running[name] = begin(**self._workers[name]["begun"])
            self._tags[name] = tags | _tags(NODE_KIND_WORKER, name)

    def terminate_node(self, node_id: str) -> None:
        kill_in(self._workers[node_id]["namespace"])
        self._running.pop(node_id).wait()
        del self._tags[node_id]


def _tags(kind: str, name: str) -> dict[str, str]:
    role = "head" if kind == NODE_KIND_HEAD else "worker"
    return {
        TAG_RAY_NODE_KIND: kind,
        TAG_RAY_USER_NODE_TYPE: role,
        TAG_RAY_NODE_NAME: name,
        TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
    }
