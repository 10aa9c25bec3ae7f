"""How far a sweep is delivered to MLflow, and to which runs: mlflow.json beside the record."""

from pathlib import Path
from typing import ClassVar

from blake3 import blake3

from sweep.common.errors import SweepError
from sweep.common.redact import redact
from sweep.record.events import EVENTS_FILE
from sweep.tracking.store import address_shown, address_stored, tracking_uri
from trainable.common.files import write_atomic
from trainable.config.sealed import Sealed

STATE_FILE = "mlflow.json"

_TAIL_BYTES = 256
"""More than the end of a line that holds its checksum, which no two lines share."""


class Delivery(Sealed):
    """What is known of a sweep's runs in a store."""

    seal: ClassVar[str] = "blake3"

    tracking_uri: str
    """The store's address, as address_stored has it."""
    experiment_id: str
    parent: str
    """The sweep's own run."""
    runs: dict[str, str]
    """Each trial's run, by the trial's name."""
    offset: int
    """Bytes of the sweep's record that are delivered."""
    tail: str
    """BLAKE3 of the last of them."""
    blake3: str = ""
    """BLAKE3 of the fields above."""


def read_delivery(folder: Path) -> Delivery | None:
    """Return what a sweep folder says; None if nothing sound: tags then find the runs again."""
    try:
        return Delivery.unsealed((folder / STATE_FILE).read_bytes(), STATE_FILE)
    except (OSError, ValueError):
        return None


def save_delivery(
    folder: Path, experiment_id: str, parent: str, runs: dict[str, str], offset: int
) -> None:
    """Note how far the store has the record.

    Raises:
        OSError: the folder cannot be written.
    """
    state = Delivery(
        tracking_uri=address_stored(tracking_uri()),
        experiment_id=experiment_id,
        parent=parent,
        runs=runs,
        offset=offset,
        tail=_tail(folder, offset),
    )
    _write(folder, state)


def deliver_all_again(folder: Path) -> None:
    """Have the whole record delivered with the next event: its bytes move. Nothing is doubled.

    Raises:
        OSError: the folder cannot be written.
    """
    state = read_delivery(folder)
    if state is not None:
        _write(folder, state.model_copy(update={"offset": 0, "tail": _tail(folder, 0)}))


def fits_record(state: Delivery, folder: Path) -> bool:
    """Say whether what was delivered still is how the record begins: its end may be lost."""
    return _tail(folder, state.offset) == state.tail


def require_same_store(folder: Path) -> None:
    """Refuse another store than the sweep began in, without asking any.

    Raises:
        SweepError: MLFLOW_TRACKING_URI, or the default, is another one.
    """
    state, uri = read_delivery(folder), tracking_uri()
    if state and state.tracking_uri != address_stored(uri):
        raise SweepError(
            f"MLFLOW_TRACKING_URI {redact(uri)!r}: sweep {folder.name} began in "
            f"{address_shown(state.tracking_uri)!r}; set that address again"
        )


def _tail(folder: Path, offset: int) -> str:
    """Return the digest of the record's last bytes before `offset`, fewer if it has not so many."""
    path = folder / EVENTS_FILE
    if not offset or not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, offset - _TAIL_BYTES))
        return blake3(file.read(min(offset, _TAIL_BYTES))).hexdigest()


def _write(folder: Path, state: Delivery) -> None:
    write_atomic(folder / STATE_FILE, state.sealed().text().encode())
