"""How far a sweep is delivered to MLflow, and to which runs: mlflow.json beside the record."""

import json
from pathlib import Path
from typing import Any, TypedDict

from sweep.common.redact import redact
from sweep.tracking.store import tracking_uri
from trainable.common.files import write_atomic

STATE_FILE = "mlflow.json"


class Delivery(TypedDict):
    """What is known of a sweep's runs in a store."""

    tracking_uri: str
    """The store's address, redacted."""
    experiment_id: str
    parent: str
    """The sweep's own run."""
    runs: dict[str, str]
    """Each trial's run, by the trial's name."""
    offset: int
    """Bytes of the sweep's record that are delivered."""


def read_delivery(folder: Path) -> Delivery | None:
    """Return what a sweep folder says; None if nothing sound: tags then find the runs again."""
    try:
        state: Any = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        kinds = {"tracking_uri": str, "experiment_id": str, "parent": str, "runs": dict}
        sound = all(isinstance(state[name], kind) for name, kind in kinds.items())
        sound = sound and isinstance(state["offset"], int)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if sound else None


def save_delivery(
    folder: Path, experiment_id: str, parent: str, runs: dict[str, str], offset: int
) -> None:
    """Note how far the store has the record.

    Raises:
        OSError: the folder cannot be written.
    """
    state = Delivery(
        tracking_uri=redact(tracking_uri()),
        experiment_id=experiment_id,
        parent=parent,
        runs=runs,
        offset=offset,
    )
    write_atomic(folder / STATE_FILE, json.dumps(state).encode())


def deliver_all_again(folder: Path) -> None:
    """Have the whole record delivered with the next event: its bytes move. Nothing is doubled.

    Raises:
        OSError: the folder cannot be written.
    """
    state = read_delivery(folder)
    if state is not None:
        write_atomic(folder / STATE_FILE, json.dumps({**state, "offset": 0}).encode())
