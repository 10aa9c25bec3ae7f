"""MLflow beside the training, never in its way: a thread delivers the events as the store allows.

It reads the sweep's own record, so a report costs the driver nothing but a wake-up. A store that
fails is tried again, ever more patiently; what it has not got when the sweep ends stays recorded,
and `status.py NAME --sync` delivers it.
"""

import threading
import time
from collections.abc import Callable

from sweep.common.errors import SweepError
from sweep.common.redact import redact
from sweep.record.lines import Event
from sweep.tracking.runs import MlflowRuns
from sweep.tracking.store import is_server, tracking_uri
from trainable.common.errors import first_line

CONNECT_SECONDS = 60.0
"""How long a slow database may hold up the first trial: if it refuses, then before any training."""

CONNECT_SERVER_SECONDS = 0.5
"""The same for a server, which had all the time that Ray took to start, and may answer later."""

LAST_DELIVERY_SECONDS = 60.0
"""How long the end of a sweep waits for MLflow."""

LAST_TRY_SECONDS = 15.0
"""The same for a store that is away: one more request, which ends sooner than that."""

FIRST_PAUSE_SECONDS = 0.5

LONGEST_PAUSE_SECONDS = 30.0

BATCH_SECONDS = 0.5
"""Events are gathered for so long before they are delivered together."""


class Tracker:
    """Delivers events to MLflow in a thread of its own.

    Args:
        runs: where to deliver to; only the thread uses it once it is started.
    """

    def __init__(self, runs: MlflowRuns) -> None:
        self.trouble: str | None = None
        """What the store last failed with; None while all is well."""
        self._runs = runs
        self._wake = threading.Event()
        self._connected = threading.Event()
        self._closing = threading.Event()
        self._refusal: SweepError | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin to connect and deliver."""
        self._thread.start()

    def notice(self, event: Event) -> None:
        """Hear that an event was recorded."""
        self._wake.set()

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until the store is open; say whether it is, False for a server that is away.

        Args:
            timeout: seconds to wait at most; None: as long as this kind of store deserves.

        Raises:
            SweepError: the store refuses to be used at all.
        """
        if timeout is None:
            timeout = CONNECT_SERVER_SECONDS if is_server(tracking_uri()) else CONNECT_SECONDS
        deadline = time.monotonic() + timeout
        while not self._connected.wait(0.05):
            # A trouble that comes with the connection is a refusal, which is raised below.
            away = self.trouble is not None or time.monotonic() > deadline
            if away and not self._connected.is_set():
                return False
        if self._refusal is not None:
            raise self._refusal
        return True

    def close(self, timeout: float | None = None) -> bool:
        """Deliver what is left, within `timeout` seconds; say whether all is delivered."""
        if timeout is None:
            away = self.trouble is not None or not self._connected.is_set()
            timeout = LAST_TRY_SECONDS if away else LAST_DELIVERY_SECONDS
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self.trouble is None

    def _work(self) -> None:
        if not self._patiently(self._connect):
            return
        with self._runs.watched():
            self._deliver()

    def _deliver(self) -> None:
        while True:
            last = self._closing.is_set()
            if not self._patiently(self._runs.deliver_new):
                return
            if last:
                self._patiently(self._runs.finish)
                return
            self._wake.wait()
            self._closing.wait(BATCH_SECONDS)
            self._wake.clear()

    def _connect(self) -> None:
        try:
            self._runs.connect()
        except SweepError as error:
            self._refusal = error
        self._connected.set()

    def _patiently(self, action: Callable[[], object]) -> bool:
        """Do `action` until it succeeds; False once closing has begun and it still fails."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                action()
            except Exception as error:  # any failure of the store: training must not notice
                self.trouble = redact(f"{type(error).__name__}: {first_line(error)}")
                if self._closing.is_set():
                    return False
            else:
                self.trouble = None if self._refusal is None else str(self._refusal)
                return self._refusal is None
            self._closing.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
