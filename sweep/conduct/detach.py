"""A sweep's driver away from the terminal: a process of its own, which outlives who started it."""

import contextlib
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from sweep.common.errors import SweepError
from sweep.show.commands import next_commands, shown_path

Begun = Callable[[Path, int], None]
"""Called with a sweep's folder and the number of its session, once that session has begun."""

Shown = Callable[[Path, int], None]
"""Called with the log and the process of a driver, by who started it, once it has begun."""

RELAY_EVERY_SECONDS = 0.1


def run_detached(run: Callable[[Begun], int], show: Shown) -> int:
    """Have a process of its own do `run`; return once its session has begun, or it has ended.

    What it prints until then is printed here, too. All that it prints, from the first line to the
    last, is in driver-N.log in the sweep's folder, which is made when session N begins: a start
    that is refused touches no log. No thread may have been started yet, for the process is forked.
    Ctrl-C is handed on to it until then, and its end is waited for.

    Returns:
        In the process of its own, what `run` does. Here, 0 once the session has begun, else the
        exit status of that process.
    """
    hears, tells = os.pipe()
    # Files, and no pipes: they hold what is printed when nobody is there any more to read it.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # One that comes just now waits until it is known whom to hand it on to.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        pid = os.fork()
        if pid == 0:
            os.close(hears)
            _leave_terminal(out, errors)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return run(lambda folder, session: _begin(folder, session, out, errors, tells))
        os.close(tells)
        start = _Start(pid, out)
        with os.fdopen(hears, "rb") as channel, start.interrupts_handed_on(mask):
            told = start.awaited(channel)
            if told and not start.interrupted:
                show(Path(os.fsdecode(told)), pid)
                return 0
            status = start.ended()
        if told:  # just before it heard of the interrupt: what it says of its end is in its log
            print(f"interrupted: it had just begun; see {shown_path(Path(os.fsdecode(told)))}")
        sys.stderr.write(content(errors, 0).decode(errors="replace"))
        return status


def _leave_terminal(out: IO[bytes], errors: IO[bytes]) -> None:
    """Become a session without a terminal: what ends there sends no signal here."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, out.fileno(), errors.fileno())):
        os.dup2(descriptor, number)
    os.close(nothing)


def _begin(folder: Path, session: int, out: IO[bytes], errors: IO[bytes], tells: int) -> None:
    """Go on printing to the session's log, behind what was printed so far; tell who waits.

    Raises:
        SweepError: the log cannot be made.
    """
    path = folder / f"driver-{session}.log"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        with path.open("wb") as log:
            log.write(content(out, 0) + content(errors, 0))
            log.flush()
            for number in (1, 2):
                os.dup2(log.fileno(), number)
    except OSError as error:
        raise SweepError(f"--detach: {path}: {error.strerror}") from error
    os.write(tells, os.fsencode(path))
    os.close(tells)


class _Start:
    """The wait for a process: what it prints is printed here, and Ctrl-C is handed on to it.

    Args:
        pid: the process.
        out: what it prints to.
    """

    def __init__(self, pid: int, out: IO[bytes]) -> None:
        self.interrupted = False
        """Whether an interrupt was handed on."""
        self._pid = pid
        self._out = out
        self._shown = 0

    @contextlib.contextmanager
    def interrupts_handed_on(self, mask: Iterable[int]) -> Iterator[None]:
        """Hand interrupts on to the process meanwhile; `mask` are the signals blocked from now on.

        Nothing is raised where one happens to arrive: the process would go on with nobody to wait.
        """

        def hand_on(number: int, _: FrameType | None) -> None:
            self.interrupted = True
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self._pid, number)

        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:  # as of what runs in a script's background
            signal.signal(signal.SIGINT, hand_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def awaited(self, channel: IO[bytes]) -> bytes:
        """Return what comes from the channel; nothing if the process ends without a word."""
        while not select.select([channel], [], [], RELAY_EVERY_SECONDS)[0]:
            self._show()
        self._show()
        return channel.read()

    def ended(self) -> int:
        """Return the exit status of the process, once it has ended."""
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._show()
        return status if status >= 0 else 128 - status

    def _show(self) -> None:
        new = content(self._out, self._shown)
        self._shown += len(new)
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()


def show_begun(log: Path, process: str, num_samples: int) -> None:
    """Say that a sweep runs on its own, and what to type next."""
    name = log.parent.name
    commands = next_commands(name, num_samples)
    print(f"\n{name} runs on its own, as {process}; it prints to {shown_path(log)}")
    for key in ("follow", "stop"):
        print(f"  {commands[key]}")


def content(file: IO[bytes], start: int) -> bytes:
    """Return what is in a file behind a place; where it is written next stays as it is."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size - start, start)
