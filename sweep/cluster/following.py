"""How many trials run at once follows the nodes of a cluster."""

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial


class Following(tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Tells the searcher how many trials may run, as nodes come and go.

    Args:
        room: returns how many trials the nodes of the moment hold.
        allow: takes that number.
    """

    def __init__(self, room: Callable[[], int], allow: Callable[[int], None]) -> None:
        self._room = room
        self._allow = allow

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing: Tune writes its callbacks down for a restore that is never made."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Look at the nodes before each step of Tune's."""
        self._allow(self._room())
