"""The first signal ends a sweep gracefully, the second one at once."""

import os
import signal
import socket
import threading
from types import FrameType

from sweep.control.orders import Want

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 - no error
    """A signal came before the first trial."""


class Interruption:
    """Notes the first SIGINT, SIGTERM or SIGHUP, and ends the process at the second.

    Used as a context: `signal` is then the number of the signal that came, or None. A SIGHUP that
    is ignored stays so: the sweep was started with nohup, to outlive its terminal. Nothing is
    raised where a signal happens to arrive: other threads start Ray and MLflow meanwhile, and an
    import broken off half way would leave them waiting for its lock for ever.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.wanted: Want | None = None
        """What was asked for, where it was no real signal."""

    def ask(self, want: Want) -> None:
        """Have the session end as by SIGTERM: somebody asks for it from elsewhere."""
        if self.signal is None:
            self.wanted, self.signal = want, signal.SIGTERM

    def __enter__(self) -> "Interruption":
        self._old = {number: signal.getsignal(number) for number in _SIGNALS}
        if self._old[signal.SIGHUP] is signal.SIG_IGN:
            del self._old[signal.SIGHUP]
        # Python runs handlers between two of its own instructions, and Ray may be deep in C++
        # for seconds: a thread hears of signals at once.
        hears, tells = socket.socketpair()
        tells.setblocking(False)
        signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
        self._sockets = (hears, tells)
        threading.Thread(target=self._listen, args=(hears,), name="signals", daemon=True).start()
        for number in self._old:
            signal.signal(number, _on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        for end in self._sockets:
            end.close()

    def require_none(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.signal is not None:
            raise Interrupted

    def _listen(self, hears: socket.socket) -> None:
        while True:
            try:
                told = hears.recv(1)
            except OSError:
                return
            if not told:
                return
            if told[0] not in _SIGNALS:
                continue
            if self.signal is not None:
                os._exit(128 + told[0])
            self.signal = told[0]


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Do nothing: the listening thread was told."""
