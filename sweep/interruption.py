"""The first signal ends a sweep gracefully, the second one at once."""

import os
import signal
import socket
import threading
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Turns the first SIGINT or SIGTERM into a graceful end, and the second into an immediate one.

    Used as a context: `signal` is then the number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "Interruption":
        self._old = {number: signal.getsignal(number) for number in _SIGNALS}
        # Python runs handlers between two of its own instructions, and Ray may be deep in C++
        # for seconds: a thread hears of signals at once.
        hears, tells = socket.socketpair()
        tells.setblocking(False)
        signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
        self._sockets = (hears, tells)
        threading.Thread(target=self._listen, args=(hears,), name="signals", daemon=True).start()
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        for end in self._sockets:
            end.close()

    def _listen(self, hears: socket.socket) -> None:
        count = 0
        while True:
            try:
                told = hears.recv(1)
            except OSError:
                return
            if not told:
                return
            count += told[0] in _SIGNALS
            if count == 2:
                os._exit(128 + told[0])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return  # the second ends the process: see _listen
        self.signal = number
        # Tune's own signal for "finish what is running and return"; without a running Tune its
        # handler is not there, and the default would end the process without a word.
        if signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, signal.SIG_IGN, None):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGUSR1)
