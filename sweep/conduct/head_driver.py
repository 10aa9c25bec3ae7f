"""On a cluster's head: the actor that starts a sweep's driver there, and the process it starts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from sweep.cluster.admission import trouble_with
from sweep.common.errors import SweepError
from sweep.conduct.detach import content, run_detached
from sweep.conduct.ordered import Order, run_ordered
from trainable.common.command import run_command
from trainable.common.errors import first_line
from trainable.common.paths import project_folder

LINGER_SECONDS = 60.0
"""How long the outcome of a start is kept for who asked for it."""

_CODE = "import sys; from sweep.conduct.head_driver import main; main(int(sys.argv[1]))"


@dataclass(frozen=True)
class News:
    """What there is to tell of a start."""

    printed: bytes
    """What the driver printed since."""
    log: str | None = None
    """Its log, once its session has begun."""
    pid: int = 0
    status: int | None = None
    """The exit status, if it ended before that."""
    errors: bytes = b""
    """What it then said on standard error."""


class HeadDriver:
    """The actor. It lives as long as the driver: so long Ray keeps the code that was sent along.

    The driver is no child of its: Ray kills those of a worker that ends. It ends by itself where
    the head is lost, as any driver does that has joined a cluster.

    Args:
        order: what to run.
        environment: variables for it.
        shared: the project's folder, as who asks sees it.
        mark: name of a file that was left in it.
    """

    def __init__(self, order: Order, environment: dict[str, str], shared: str, mark: str) -> None:
        hears, tells = os.pipe()
        self._out, self._errors = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - open while it runs
        # The process inherits it: an interrupt waits until `main` can say what it does.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._starter = subprocess.Popen(  # noqa: S603 - fixed words, no shell
            # -P: by the code that was sent along, and not by what lies in the working folder.
            [sys.executable, "-P", "-c", _CODE, str(tells)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._errors,
            pass_fds=[tells],
            start_new_session=True,
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(tells)
        stdin = self._starter.stdin
        assert stdin is not None
        with stdin:
            stdin.write(json.dumps([order, shared, mark]).encode())
        self._begun: tuple[str, int] | None = None
        self._heard, self._told = threading.Event(), threading.Event()
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._stay, args=(hears, me), daemon=True).start()

    def news(self, since: int) -> News:
        """Return what there is to tell, behind so many bytes of what was printed."""
        if not self._heard.is_set():
            return News(content(self._out, since))
        self._told.set()
        if self._begun:
            return News(content(self._out, since), *self._begun)
        status = self._starter.wait()
        errors = content(self._errors, 0)
        return News(content(self._out, since), status=status, errors=errors)

    def interrupt(self) -> None:
        """Hand a Ctrl-C on, to the driver itself if it has just begun."""
        if self._begun:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(self._begun[1], signal.SIGINT)
        else:
            self._starter.send_signal(signal.SIGINT)

    def _stay(self, hears: int, me: Any) -> None:
        """Wait until the driver has begun, and until it has ended; then end the actor."""
        with os.fdopen(hears) as channel:  # the driver holds the other end as long as it lives
            line = channel.readline()
            if line:
                log, pid = json.loads(line)
                self._begun = (log, pid)
            self._heard.set()
            channel.read()
        self._told.wait(LINGER_SECONDS)
        time.sleep(1)  # for the last answer to arrive
        ray.kill(me)


def main(tells: int) -> None:
    """Run the sweep that standard input orders, in a process of its own; exit once it has begun.

    `tells` is then told its log and its process, as a line of JSON.
    """
    order, shared, mark = json.load(sys.stdin)

    def show(log: Path, pid: int) -> None:
        os.write(tells, json.dumps([str(log), pid]).encode() + b"\n")

    def start(_: list[str]) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray's own may ignore it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        trouble = trouble_with(shared, mark, "this machine's")
        if trouble:
            raise SweepError(
                f"--detach head: on the head, {trouble}; the project's folder must be the same on "
                "both: share it, and set LM_SWEEP_HOME to it"
            )
        os.chdir(project_folder())
        try:
            return run_detached(lambda begun: run_ordered(order, begun), show)
        except ImportError as error:
            raise SweepError(
                f"--detach head: the head's Python cannot run a driver ({first_line(error)}); give "
                "it the packages that this machine has"
            ) from error

    run_command(start)
