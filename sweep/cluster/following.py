"""Which trials may begin follows the nodes of a cluster."""

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sweep.config.resources import Fits


class Following(tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Tells the searcher which trials may begin, as nodes come and go.

    Args:
        room: returns what says it for the nodes of the moment.
        allow: takes that.
    """

    def __init__(self, room: Callable[[], Fits], allow: Callable[[Fits], None]) -> None:
        self._room = room
        self._allow = allow

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing: Tune writes its callbacks down for a restore that is never made."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Look at the nodes before each step of Tune's."""
        self._allow(self._room())
