"""The dataset sent in pieces to a cluster's nodes that have no copy of it, a few at a time."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from sweep.cluster.nodes import Node
from sweep.cluster.source import PIECE_BYTES, Source
from sweep.cluster.tasks import cause, on_node
from trainable.common.errors import DataError
from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset
from trainable.data.copy import files_of, receive_copy

AT_ONCE = 8
"""Nodes that are sent it at a time: more would share one cable, and fill Ray's object store."""

SILENT_SECONDS = 300.0
"""How long a node waits for a piece; for the first one the actor has to start."""


class Staging:
    """Gives nodes a copy of the dataset.

    Args:
        trial: what all trials share; it names the dataset.
        dataset: the dataset, as the driver sees it.
        tell: takes a line for people.
        verify: nodes look at every byte of a copy that they have.
    """

    def __init__(
        self,
        trial: TrialConfig,
        dataset: TokenDataset,
        tell: Callable[[str], None],
        *,
        verify: bool = False,
    ) -> None:
        self.digest = dataset.digest
        """The copies' name."""
        self._trial = trial
        self._folder = dataset.train.path.parent
        self._sizes = files_of(dataset)
        self._tell = tell
        self._verify = verify
        self._source: Any = None
        self._waiting: list[Node] = []
        self._under_way: dict[Any, tuple[Node, float]] = {}
        """Nodes that are sent it, and since when, by Ray's name for the answer."""

    @property
    def answers(self) -> list[Any]:
        """Ray's names for what is waited for."""
        return list(self._under_way)

    def begin(self, node: Node) -> None:
        """Send it to a node, once its turn has come."""
        if self._source is None:
            size = sum(self._sizes.values()) / 1e6
            self._tell(f"nodes without a copy of {self._name} are sent it: {size:,.1f} MB")
            here = ray.get_runtime_context().get_node_id()
            self._source = on_node(here, Source).remote(str(self._folder))
        self._waiting.append(node)
        self._go_on()

    def ended(self) -> list[tuple[Node, str | None]]:
        """Return the nodes that have it since the last call, or else why they have not."""
        answers = self.answers
        done, _ = ray.wait(answers, num_returns=len(answers), timeout=0) if answers else ([], [])
        ended: list[tuple[Node, str | None]] = []
        for answer in done:
            node, began = self._under_way.pop(answer)
            try:
                if ray.get(answer):
                    seconds = time.monotonic() - began
                    self._tell(f"node {node.ip} was sent {self._name} in {seconds:.1f} s")
                ended.append((node, None))
            except RayError as error:
                ended.append((node, f"it cannot have a copy of {self._name} ({cause(error)})"))
        self._go_on()
        if not self._under_way:
            self._source = None  # Ray ends an actor that nobody holds
        return ended

    @property
    def _name(self) -> str:
        return self._trial.data.dataset

    def _go_on(self) -> None:
        while self._waiting and len(self._under_way) < AT_ONCE:
            node = self._waiting.pop(0)
            task = on_node(node.id, receive)
            wanted = (self._source, self._trial, self.digest, self._sizes, self._verify)
            self._under_way[task.remote(*wanted)] = node, time.monotonic()


def receive(
    source: Any, trial: TrialConfig, digest: str, sizes: Mapping[str, int], verify: bool
) -> bool:
    """See to it that the node that this is run on has a copy; see receive_copy."""

    def pieces(name: str) -> Iterator[bytes]:
        """Yield a file's bytes; the next piece is on its way while one is written."""
        coming = None
        for start in range(0, sizes[name], PIECE_BYTES):
            piece, coming = coming, source.piece.remote(name, start)
            if piece is not None:
                yield _arrived(piece)
        if coming is not None:
            yield _arrived(coming)

    return receive_copy(trial, digest, sizes, pieces, verify=verify)


def _arrived(piece: Any) -> bytes:
    try:
        content: bytes = ray.get(piece, timeout=SILENT_SECONDS)
    except GetTimeoutError as error:
        raise DataError(f"nothing came from the driver in {SILENT_SECONDS:g} s") from error
    except RayError as error:
        raise DataError(cause(error)) from error
    return content
