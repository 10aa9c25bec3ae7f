"""What a sweep is asked from elsewhere: results/NAME/control.json, a file that its session reads.

So whoever sees the folder can ask: another terminal, container or machine. An order names the
session that it is for: one that comes late, or stays behind, ends no later session.
"""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from trainable.common.files import write_atomic
from trainable.config.sealed import Sealed

CONTROL_FILE = "control.json"

LOOK_EVERY_SECONDS = 0.5

Want = Literal["stop", "pause"]
"""Both end a session as a signal does; a pause is to be gone on with, and shown as such."""


class Order(Sealed):
    """control.json."""

    seal: ClassVar[str] = "blake3"

    want: Want
    session: int
    """Number of the session that it is for."""
    blake3: str = ""
    """BLAKE3 of the fields above."""


def give_order(folder: Path, want: Want, session: int) -> None:
    """Ask a session of a sweep to end.

    Raises:
        OSError: the folder cannot be written.
    """
    order = Order(want=want, session=session).sealed()
    write_atomic(folder / CONTROL_FILE, order.text().encode())


def read_order(folder: Path) -> Order | None:
    """Return what a sweep is asked; None if nothing that is whole."""
    path = folder / CONTROL_FILE
    try:
        return Order.unsealed(path.read_bytes(), CONTROL_FILE) if path.is_file() else None
    except (OSError, ValueError):
        return None


class OrderWatch:
    """Looks for orders to a session while it is a context; none is left behind, or taken over.

    Args:
        folder: the sweep's, whose lock must be held.
        session: the session's number.
        obey: called once, from a thread.
    """

    def __init__(self, folder: Path, session: int, obey: Callable[[Want], None]) -> None:
        self._folder = folder
        self._session = session
        self._obey = obey
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="orders", daemon=True)

    def __enter__(self) -> "OrderWatch":
        self._forget()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._forget()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_SECONDS):
            order = read_order(self._folder)
            if order is not None and order.session == self._session:
                self._obey(order.want)
                return

    def _forget(self) -> None:
        with contextlib.suppress(OSError):  # the number tells it from later ones, too
            (self._folder / CONTROL_FILE).unlink(missing_ok=True)
