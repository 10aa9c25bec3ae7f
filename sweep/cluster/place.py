"""Where a sweep's trials run: on this machine, or on a cluster that is joined."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sweep.cluster import ray_patches
from sweep.cluster.address import named_address
from sweep.cluster.local_ray import ray_starting
from sweep.cluster.placement import Room, local_machine, needed, require_fits
from sweep.config.parts import parts_of
from sweep.config.resources import Fits, Share
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import Plan, PlannedPart, make_plan, whole_plan
from sweep.plan.probe import settled_by_largest
from trainable.data.batches import TokenDataset

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from sweep.cluster.forgiving import Witness
    from sweep.cluster.joined import Cluster

T = TypeVar("T")


class Place(Protocol):
    """What a session needs to know of where its trials run."""

    @property
    def concurrent(self) -> int:
        """How many trials run at once, at the most, as far as is known."""

    @property
    def fits(self) -> Fits:
        """What says whether one more trial may begin, as far as is known."""

    @property
    def workers_here(self) -> int:
        """How many of them this process itself has to start."""

    @property
    def lost_text(self) -> str:
        """What to say when Ray is gone."""

    copy: str | None
    """Digest of the dataset's copy that trials train on; None: the dataset at its own path."""

    tell: Callable[[str], None]
    """Takes a line for people, while the trials run."""

    def at_once(self, share: Share) -> int:
        """Return how many trials run at once that all take the same."""

    def admit(self, dataset: TokenDataset, storage: str, *, verify: bool = False) -> None:
        """Refuse a place whose trials could not be compared, or not saved in `storage`.

        With `verify` every byte of its nodes' token files is read.
        """

    def there(
        self, work: Callable[..., T], config: SweepConfig, dataset: TokenDataset, *more: Any
    ) -> T:
        """Return `work(config, dataset, *more)`, done where trials of `config` run."""

    def settled(self, config: SweepConfig, dataset: TokenDataset) -> SweepConfig:
        """Return `config` with what is left at auto chosen, alike for all trials."""

    def starting(
        self, last_words: Callable[[], int]
    ) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Begin to start Ray, and give what waits for it; see ray_starting."""

    def conducted(self, witness: "Witness") -> contextlib.AbstractContextManager[None]:
        """Have Tune conduct trials with a controller of ours, meanwhile."""

    def callbacks(self, allow: Callable[[Fits], None], left: Callable[[], int]) -> list[Any]:
        """Return Tune's callbacks that tell `allow` anew what fits.

        `left` says how many trials have not ended yet.
        """

    def node_of(self, trial: "Trial") -> str | None:
        """Return the address of the node that a trial's worker is on; None: this machine."""


class ThisMachine:
    """A Ray of our own, on this machine.

    Raises:
        ConfigError: one trial alone asks for more than there is.
    """

    lost_text = "Ray died (killed, or out of memory?)"
    copy: str | None = None

    def __init__(self, config: SweepConfig) -> None:
        self._machine = local_machine(config)
        require_fits(config, self._machine)
        self._config = config
        self._room = Room(config)
        self.concurrent = self.workers_here = self._room.most([self._machine])
        self.fits = self._room.fits([self._machine])
        self.tell: Callable[[str], None] = lambda _: None

    def at_once(self, share: Share) -> int:
        """Return how many trials run at once that all take the same."""
        return self._room.most_of(share, [self._machine])

    def admit(self, dataset: TokenDataset, storage: str, *, verify: bool = False) -> None:
        """Do nothing: this machine is like itself."""
        if self._config.stage_data:
            self.tell("stage_data: all trials run on this machine, where the dataset is")

    def there(
        self, work: Callable[..., T], config: SweepConfig, dataset: TokenDataset, *more: Any
    ) -> T:
        """Do it here."""
        return work(config, dataset, *more)

    def settled(self, config: SweepConfig, dataset: TokenDataset) -> SweepConfig:
        """Choose by a probe of this machine."""
        return settled_by_largest(config, dataset, self.there)

    def starting(
        self, last_words: Callable[[], int]
    ) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Start a Ray for as many trials as run at once."""
        takes = needed(self._config, self._machine, self.concurrent)
        return ray_starting(takes, self.concurrent, last_words)

    def conducted(self, witness: "Witness") -> contextlib.AbstractContextManager[None]:
        """Mend what Tune has no setting for."""
        return ray_patches.forgiving_controller(witness, patient=self._room.is_uneven)

    def callbacks(self, allow: Callable[[Fits], None], left: Callable[[], int]) -> list[Any]:
        """Return none: the machine stays as it is."""
        return []

    def node_of(self, trial: "Trial") -> str | None:
        """Return None: there is one node."""
        return None


def plan_on(place: Place, config: SweepConfig, dataset: TokenDataset) -> Plan:
    """Return the plan of a sweep, each part of it made where its trials run.

    Raises:
        ConfigError: a trial cannot fit into memory, or its device is not there.
    """
    parts = [
        PlannedPart(
            part,
            place.at_once(part.share),
            place.there(make_plan, part.config, dataset, place.concurrent),
        )
        for part in parts_of(config)
    ]
    return whole_plan(config, dataset.vocab_size, parts)


@contextlib.contextmanager
def open_place(config: SweepConfig, ray_address: str | None) -> Iterator["ThisMachine | Cluster"]:
    """Give the place that `--ray-address` or RAY_ADDRESS names: without them, this machine.

    Raises:
        ConfigError, SweepError: it does not hold one trial, or cannot be joined.
    """
    address = named_address(ray_address)
    if address is None:
        yield ThisMachine(config)
        return
    from sweep.cluster.joined import joined_cluster  # with Ray, which takes a while to import

    with joined_cluster(config, address) as cluster:
        yield cluster
