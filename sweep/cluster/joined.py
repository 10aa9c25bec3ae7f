"""A Ray cluster that was joined: its nodes are compared with the driver before they train."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
from ray._private.state import actors
from ray.exceptions import RayError
from ray.tune.experiment import Trial

from sweep.cluster import ray_patches
from sweep.cluster.address import Head, require_cluster
from sweep.cluster.admission import marked, own_facts
from sweep.cluster.admitted import PROBE_SECONDS, AdmittedNodes
from sweep.cluster.autoscaling import RoomRequest
from sweep.cluster.following import Following
from sweep.cluster.forgiving import Witness
from sweep.cluster.head_watch import cluster_is_lost
from sweep.cluster.joining import in_cluster
from sweep.cluster.quiet import ENVIRONMENT
from sweep.cluster.spreading import spreading_controller
from sweep.cluster.staging import Staging
from sweep.cluster.tasks import on_node, origin
from sweep.cluster.waiting import Waiting
from sweep.cluster.watch import RayWatch
from sweep.common.errors import SweepError
from sweep.config.resources import Fits, Share
from sweep.config.sweep import SweepConfig
from sweep.plan.probe import settled_by_largest
from trainable.common.errors import UserError, first_line
from trainable.common.paths import PACKAGE_PARENT, project_folder
from trainable.data.batches import TokenDataset
from trainable.data.copy import open_here
from trainable.storage.s3 import WHERE

T = TypeVar("T")

LOOK_EVERY_SECONDS = 1.0
"""How often the cluster is asked for its nodes, at most."""


@contextlib.contextmanager
def joined_cluster(config: SweepConfig, address: str) -> Iterator["Cluster"]:
    """Join the cluster at an address, and leave it at the end.

    Raises:
        SweepError: it cannot be joined.
    """
    head = require_cluster(address)
    # Trials may wait for workers; how many are suggested at all is bounded by the nodes' room.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(10**9)
    with in_cluster(head, address, _runtime_env()), contextlib.ExitStack() as to_the_end:
        yield Cluster(config, head, to_the_end)


def _runtime_env() -> dict[str, Any]:
    """Return what goes along to each node: our code, and the variables that it reads."""
    # Not the keys of S3: Ray writes these variables to its logs. They are in each node's own.
    sent = ("OMP_NUM_THREADS", "TORCHINDUCTOR_CACHE_DIR", *WHERE)
    return {
        "py_modules": [str(PACKAGE_PARENT / name) for name in ("trainable", "sweep")],
        "env_vars": {
            "LM_SWEEP_HOME": str(project_folder()),
            "RAY_CHDIR_TO_TRIAL_DIR": ENVIRONMENT["RAY_CHDIR_TO_TRIAL_DIR"],
            **{name: os.environ[name] for name in sent if name in os.environ},
        },
        # A worker has its raylet's umask: what it writes is as private as what the driver writes.
        "worker_process_setup_hook": "sweep.cluster.worker.begin",
    }


class Cluster:
    """A cluster that was joined: the Place of a sweep over its nodes.

    Args:
        config: the sweep.
        head: where it was joined.
        to_the_end: what is left behind is taken away when this is closed.
    """

    workers_here = 0
    """Trials that run on this machine are the cluster's own business."""

    def __init__(self, config: SweepConfig, head: Head, to_the_end: contextlib.ExitStack) -> None:
        self.tell: Callable[[str], None] = lambda _: None
        self.lost_text = f"the Ray cluster at {head.address} does not answer any more"
        self.copy: str | None = None
        self._config = config
        self._head = head
        self._to_the_end = to_the_end
        self._nodes: AdmittedNodes | None = None
        self._looked = 0.0
        self._where: dict[str, str] = {}
        self._waiting = Waiting()
        self._request: RoomRequest | None = None

    @property
    def nodes(self) -> AdmittedNodes:
        """The nodes that trials run on, once `admit` has compared them."""
        assert self._nodes is not None
        return self._nodes

    @property
    def concurrent(self) -> int:
        """How many trials run at once, at the most, as far as is known."""
        return self.nodes.concurrent

    @property
    def fits(self) -> Fits:
        """What says whether one more trial may begin, as far as is known."""
        return self.nodes.fits

    def at_once(self, share: Share) -> int:
        """Return how many trials run at once that all take the same."""
        return self.nodes.at_once(share)

    def admit(self, dataset: TokenDataset, storage: str, *, verify: bool = False) -> None:
        """Compare every node with the driver, and give it a copy of the dataset where one is due.

        Args:
            dataset: what trials train on.
            storage: the folder below which checkpoints go.
            verify: nodes read every byte of their token files.

        Raises:
            SweepError: nodes differ, or none is large enough for a trial.
        """
        mark = self._to_the_end.enter_context(marked(storage))
        driver = own_facts(dataset.digest)
        staging = None
        if self._config.stage_data:
            trial, self.copy = self._config.trial, dataset.digest
            staging = Staging(trial, dataset, lambda line: self.tell(line), verify=verify)
        self._nodes = AdmittedNodes(self._config, driver, storage, mark, staging, verify=verify)
        refused = self._nodes.compare_all()
        if refused:
            raise SweepError(
                f"--ray-address {self._head.address}: trials could not be compared: "
                f"{'; '.join(refused)}; make these nodes like the driver, or take them away"
            )
        for part in self._nodes.too_small_for:
            raise SweepError(
                f"--ray-address {self._head.address}: no node has the {part.share.words} that "
                f"{part.words} take each ({self._nodes.words}); lower "
                f"{'resources' if part.condition else 'cpus_per_trial or gpus_per_trial'}, "
                "or let such a node join first"
            )

    def there(
        self, work: Callable[..., T], config: SweepConfig, dataset: TokenDataset, *more: Any
    ) -> T:
        """Return `work(config, dataset, *more)`, done on the smallest node for such trials.

        Raises:
            UserError: as `work` does.
        """
        trial, copy, node = config.trial, self.copy, self.nodes.smallest(config.share)
        assert node is not None  # `admit` saw to it

        def on_its_data() -> T:
            return work(config, open_here(trial, copy), *more)

        task = on_node(node.id, on_its_data, gpus=min(1.0, config.gpus_per_trial))
        try:
            result: T = ray.get(task.remote(), timeout=PROBE_SECONDS)
        except RayError as error:
            why = origin(error)
            if isinstance(why, UserError):
                raise why from error
            raise SweepError(
                f"--ray-address {self._head.address}: node {node.ip} cannot tell what a trial "
                f"costs: {first_line(why)}"
            ) from error
        return result

    def settled(self, config: SweepConfig, dataset: TokenDataset) -> SweepConfig:
        """Choose by a probe of the smallest node; fp32, where not all nodes have bf16."""
        if len(self.nodes.bf16) > 1 and config.trial.train.precision == "auto":
            self.tell("some nodes' processors have bf16 and some have not: all compute in fp32")
            trial = config.trial.with_values({"train.precision": "fp32"})
            config = config.model_copy(update={"trial": trial})
        return settled_by_largest(config, dataset, self.there)

    @contextlib.contextmanager
    def starting(self, last_words: Callable[[], int]) -> Iterator[Callable[[], None]]:
        """Watch the head meanwhile, and take back at the end what an autoscaler was asked for.

        Gives what waits for the start, which has been made.
        """
        lost = RayWatch(cluster_is_lost(self._head), last_words)
        with lost, RoomRequest(self._config) as self._request:
            yield lambda: None

    def _fits_now(self, left: Callable[[], int]) -> Fits:
        """Return what says whether one more trial may begin; the cluster is asked once a second."""
        if time.monotonic() - self._looked > LOOK_EVERY_SECONDS:
            news = self.nodes.look()
            news += self._waiting.news(self.nodes.too_small_for, self.nodes.words)
            news += self._request.need(left(), self.concurrent) if self._request else []
            for line in news:
                self.tell(line)
            self._looked = time.monotonic()
        return self.nodes.fits

    def conducted(self, witness: Witness) -> contextlib.AbstractContextManager[None]:
        """Have a Tune that runs meanwhile place trials on admitted nodes only."""
        make = spreading_controller(lambda: self.nodes.ids)
        uneven = self.nodes.room.is_uneven
        return ray_patches.forgiving_controller(witness, make, patient=uneven)

    def callbacks(self, allow: Callable[[Fits], None], left: Callable[[], int]) -> list[Any]:
        """Return what tells `allow` which trials may begin, as nodes come and go."""
        return [Following(lambda: self._fits_now(left), allow)]

    def node_of(self, trial: Trial) -> str | None:
        """Return the address of the node that a trial's worker is on."""
        actor = trial.temporary_state.ray_actor
        if actor is None:
            return None
        name = actor._actor_id.hex()
        if name not in self._where:
            self._where[name] = actors(name)["Address"]["IPAddress"]
        return self._where[name]
