"""Ray's processes end with their sweep, even when its driver was killed.

Ray's server and raylet end with the driver, but workers notice it only later, and two agents live
on for a minute. A process beside the driver, which outlives it, ends them: all that are in the
sessions in which this sweep's Ray was started, and none but those. A session is what a process
cannot lose: names and environments are overwritten, and parents die first.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainable.common.paths import PACKAGE_PARENT

PATIENCE_SECONDS = 10.0
"""How long processes are looked for that others, now killed, were just starting."""


@contextlib.contextmanager
def survivors_ended(scratch: str) -> Iterator[Callable[[int], None]]:
    """See to it that Ray's processes end, and `scratch` is removed, with this process, or here.

    Gives a function to call with the number of each session that Ray's processes are in.
    """
    code = "import sys; from sweep.cluster.survivors import watch; watch(sys.argv[1])"
    # A session of its own: a signal to the driver's process group is not for it. The pipe's end is
    # this process's alone: the system closes it however the process ends.
    watcher = subprocess.Popen(  # noqa: S603 - fixed words, no shell
        [sys.executable, "-S", "-c", code, scratch],
        env=os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pipe = watcher.stdin
    assert pipe is not None

    def tell(session: int) -> None:
        os.write(pipe.fileno(), b"%d\n" % session)

    try:
        yield tell
    finally:
        pipe.close()
        watcher.wait()


def watch(scratch: str) -> None:
    """Read sessions to the end of standard input; end what is in them, and remove `scratch`."""
    sessions = {int(line) for line in sys.stdin.buffer}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and (found := _members(sessions)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(scratch, ignore_errors=True)


def _members(sessions: set[int]) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # Behind the name, which may hold anything: state, parent, process group, session.
            state, _, _, session = path.read_text("utf-8", "replace").rpartition(")")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                found.append(int(path.parent.name))
    return found
