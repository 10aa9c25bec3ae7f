"""Several Ray nodes on one machine: each in a network namespace of its own, joined by a switch.

Needs root and iproute2; `cluster_nodes` skips elsewhere. Nothing outside of the namespaces is
touched, and all that runs in them is ended with them.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_sweeps import wait_for

PORT = 6399
HEALTH = {
    **{f"RAY_health_check_{name}_ms": "1000" for name in ("initial_delay", "period", "timeout")},
    "RAY_health_check_failure_threshold": "3",
}
"""What is recommended for a head: a cut link is seen after some five seconds."""

ASK = """
import socket, sys
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
host, port = sys.argv[1].split(":")
for _ in sys.stdin:
    try:
        socket.create_connection((host, int(port)), 1).close()  # Ray itself would wait for long
        nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5).values()
        print(sum(node.state == GcsNodeInfo.ALIVE for node in nodes), flush=True)
    except Exception:
        print(0, flush=True)
"""


class Nodes:
    """The nodes of one cluster, by number; 0 is the head. Drivers run on it, too.

    Args:
        folder: for logs and the home folders of nodes.
        count: how many namespaces there are; a node is started by `start`.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._names = [f"lm{secrets.token_hex(4)}{n}" for n in range(count)]
        self._switch = f"lm{secrets.token_hex(4)}s"
        self._scratch: list[str] = []
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        self._asker: subprocess.Popen[str] | None = None
        self.token = folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)

    @property
    def address(self) -> str:
        """Address of the cluster's head."""
        return f"{self.ip(0)}:{PORT}"

    @property
    def driver(self) -> dict[str, str]:
        """Environment of a driver: how it proves itself to the cluster."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    @property
    def environment(self) -> dict[str, str]:
        """Environment of any process that talks to the cluster."""
        return os.environ | self.driver

    def ip(self, number: int) -> str:
        """Return the address of a node."""
        return f"10.77.0.{number + 1}"

    def cache(self, number: int) -> Path:
        """Return the folder of our cache on a node."""
        return self._folder / f"home{number}" / "lm-sweep"

    def namespace(self, number: int) -> str:
        """Return the name of a node's network namespace."""
        return self._names[number]

    def within(self, number: int) -> tuple[str, ...]:
        """Return what a command begins with to run on a node."""
        return ("ip", "netns", "exec", self.namespace(number))

    def lay(self) -> None:
        """Make the namespaces, and join them by a switch."""
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for number, name in enumerate(self._names):
            end, port = f"v{number}", f"p{number}"
            _ip("netns", "add", name)
            peer = ("peer", "name", port, "netns", self._switch)
            _ip("link", "add", end, "netns", name, "type", "veth", *peer)
            _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"{self.ip(number)}/24", "dev", end)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", end, "up")

    def start(
        self, number: int, *flags: str, before: str = "true", cpus: int = 1, **env: str
    ) -> None:
        """Start Ray on a node, which then joins, with more flags of `ray start`.

        `before` is a shell command that it begins with, where mounts are the node's alone. What is
        left of the node from before is ended.
        """
        if number in self._started:
            self.kill(number)
            self._started[number].wait(10)
        begun = self.beginning(number, *flags, before=before, cpus=cpus, **env)
        self._started[number] = begin(**begun)

    def beginning(
        self, number: int, *flags: str, before: str = "true", cpus: int = 1, **env: str
    ) -> dict:
        """Return what `begin` takes to start a node: its command, environment and log."""
        home = self._folder / f"home{number}"
        home.mkdir(exist_ok=True)
        scratch = tempfile.mkdtemp(prefix="lm")  # short, for the names of Ray's sockets
        self._scratch.append(scratch)
        head = ("--head", "--port", str(PORT), "--include-dashboard", "false")
        role = head if number == 0 else ("--address", self.address)
        settings = {
            **{"num-cpus": cpus, "node-ip-address": self.ip(number), "temp-dir": f"{scratch}/r"},
            "object-store-memory": 80_000_000,
        }
        given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--block"]
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LM_SWEEP_HOME")}
        places = {"HOME": str(home), "TMPDIR": scratch, "XDG_CACHE_HOME": str(home)}
        within = [*self.within(number), "sh", "-c", f'{before} && exec "$@"', "sh"]
        return {
            "command": [*within, *ray, "--disable-usage-stats", *given, *flags],
            "environment": kept | places | self.driver | HEALTH | env,
            "log": str(self._folder / f"node{number}.log"),
        }

    def wait_for(self, count: int, seconds: float = 240) -> None:
        """Wait until so many nodes have joined."""

        def there() -> bool:
            ended = {node.poll() for node in self._started.values()}
            assert ended <= {None, -signal.SIGKILL}, self.log()
            return self.alive() == count

        wait_for(there, seconds)

    def log(self) -> str:
        """Return what `ray start` said on all nodes."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("node*.log")))

    def alive(self) -> int:
        """Return how many nodes the head takes for alive; 0 where it does not answer."""
        if self._asker is None:
            self._asker = subprocess.Popen(  # importing Ray takes longer than most answers
                [*self.within(0), sys.executable, "-c", ASK, self.address],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
        assert self._asker.stdin
        assert self._asker.stdout
        self._asker.stdin.write("\n")
        return int(self._asker.stdout.readline())

    def kill(self, number: int, *but: int) -> None:
        """Kill every process on a node, but those given."""
        kill_in(self.namespace(number), *but)

    def pids(self, number: int) -> list[int]:
        """Return the processes on a node."""
        return _pids_in(self.namespace(number))

    def cut(self, number: int) -> None:
        """Cut a node's link."""
        self._set_link(number, "down")

    def heal(self, number: int) -> None:
        """Heal a node's link."""
        self._set_link(number, "up")

    def _set_link(self, number: int, state: str) -> None:
        _ip("-n", self._switch, "link", "set", f"p{number}", state)

    def close(self) -> None:
        """End all that runs on the nodes, and remove them."""
        if self._asker is not None:
            with self._asker as asker:
                asker.kill()
        for number, name in enumerate(self._names):
            with contextlib.suppress(subprocess.CalledProcessError):
                deadline = time.monotonic() + 20
                while self.pids(number) and time.monotonic() < deadline:
                    self.kill(number)
                    time.sleep(0.1)
                _ip("netns", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self._switch)
        for node in self._started.values():
            node.wait(10)
        for scratch in self._scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def kill_in(namespace: str, *but: int) -> None:
    """Kill every process in a network namespace, but those given."""
    for pid in _pids_in(namespace):
        if pid not in but:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pids_in(namespace: str) -> list[int]:
    return [int(word) for word in _ip("netns", "pids", namespace).split()]


def begin(command: list[str], environment: dict[str, str], log: str) -> subprocess.Popen[bytes]:
    """Start a node as `Nodes.beginning` says."""
    with open(log, "ab") as told:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )


@contextlib.contextmanager
def cluster_nodes(count: int, up: int | None = None) -> Iterator[Nodes]:
    """Give so many nodes, of which the first `up` have joined: all, unless told otherwise."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces take root and iproute2")
    up = count if up is None else up
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        nodes = Nodes(Path(folder), count)
        try:
            try:
                nodes.lay()
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            for number in range(up):
                nodes.start(number)
                if number in (0, up - 1):
                    nodes.wait_for(number + 1)  # others can join once there is a head
            yield nodes
        finally:
            nodes.close()


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout
