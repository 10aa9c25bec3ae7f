"""A Docker daemon of the tests' own, with base images made of Debian's packages and a wheelhouse.

Needs root, Docker, debootstrap and iproute2, and reaches no image registry. The daemon, its
bridges and its rules lie in a network namespace that ends with it.
"""

import contextlib
import functools
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from live_sweeps import ROOT, wait_for

TOOLS = ("dockerd", "docker", "debootstrap", "ip", "nsenter", "unshare")
BRIDGE, PORT = "172.17.0.1", 8000
"""Where builds find the wheels; the bridge lies in the daemon's own network."""
POSTGRES_START = r"""#!/bin/sh
# What compose.yaml needs of the official image's start.
set -eu
if ! [ -s "$PGDATA/PG_VERSION" ]; then
	initdb --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \
		--auth-local trust --auth-host scram-sha-256 >/dev/null
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
	[ "$POSTGRES_DB" = postgres ] ||
		echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single postgres >/dev/null
fi
exec postgres -c listen_addresses='*'
"""
USER_999 = "groupmod -g 999 postgres; usermod -u 999 postgres"
POSTGRES_FOLDERS = "install -d -m 700 -o postgres -g postgres /var/lib/postgresql/data"
UNUSED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man")


class Docker:
    """A running daemon, and commands for it as a person types them.

    Args:
        folder: all that the daemon and its clients keep.
        network: name of the namespace that the daemon and commands are in.
    """

    def __init__(self, folder: Path, network: str) -> None:
        self.folder = folder
        self._within = ("nsenter", f"--net=/run/netns/{network}")
        self.pip: dict[str, str] = {}
        """pip's settings for a build, once wheels are served."""

    def within(self, *command: str) -> list[str]:
        """Return a command as one in the daemon's network."""
        return [*self._within, *command]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of commands: a stranger's, with pip's settings where they are laid."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder / "client"),
            **self.pip,
        }

    def run(self, command: str, seconds: float = 120, **env: str) -> str:
        """Run a shell command in the copy of the project; return what it wrote to stdout."""
        running = self.start(command, **env)
        try:
            output, errors = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            raise
        assert running.returncode == 0, f"{command}\n{output[-3000:]}\n{errors[-3000:]}"
        return output

    def start(self, command: str, **env: str) -> subprocess.Popen[str]:
        """Start a shell command in the copy of the project."""
        return subprocess.Popen(
            self.within("sh", "-c", command),
            cwd=self.project,
            env=self.environment | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @functools.cached_property
    def project(self) -> Path:
        """A copy of the project as git would clone it: secrets are made there."""
        project = self.folder / "project"
        shutil.rmtree(project, ignore_errors=True)
        listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, names.stdout.split("\0")):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
        return project

    def volume(self, name: str) -> Path:
        """Return the folder of a volume, as root of this machine sees it."""
        return self.folder / "data" / "volumes" / name / "_data"

    def lay(self) -> None:
        """Make the base images, as docker/ names them, and Compose, whichever are not kept."""
        (python,) = set(re.findall(r"^FROM (\S+)", self._read("Dockerfile"), re.MULTILINE))
        if not self._has_image(python):
            suite = python.rpartition("-")[2]
            with self._debian(suite, "python3", "python3-pip") as root:
                (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
                self._import(root, python, 'CMD ["python3"]')
        postgres = yaml.safe_load(self._read("compose.yaml"))["services"]["postgres"]["image"]
        compose = ["docker", "compose", "version"]
        asked = subprocess.run(compose, env=self.environment, capture_output=True)
        has_compose = asked.returncode == 0
        if not (has_compose and self._has_image(postgres)):
            version, suite = re.split("[:-]", postgres)[1:]
            with self._debian(suite, f"postgresql-{version}") as root:
                if not has_compose:
                    self._take_compose(root)
                self._import_postgres(root, postgres, version)

    def _import_postgres(self, root: Path, name: str, version: str) -> None:
        for command in (USER_999, POSTGRES_FOLDERS):
            subprocess.run(["chroot", root, "sh", "-ec", command], check=True)
        start = root / "usr/local/bin/start"
        start.write_text(POSTGRES_START)
        start.chmod(0o755)
        path = f"ENV PATH=/usr/lib/postgresql/{version}/bin:/usr/local/bin:/usr/bin:/bin"
        place = "ENV PGDATA=/var/lib/postgresql/data"
        self._import(root, name, path, place, 'ENTRYPOINT ["start"]')

    def serve_wheels(self) -> subprocess.Popen[bytes]:
        """Download what requirements.lock pins, serve it to builds, and tell commands of it."""
        wheels, lock = self.folder / "wheels", (ROOT / "requirements.lock").read_text()
        if not (wheels / "lock").is_file() or (wheels / "lock").read_text() != lock:
            download = re.findall("^pip (download .*)$", self._read("README.md"), re.MULTILINE)[0]
            words = shlex.split(download.replace("--dest wheels", f"--dest {wheels}"))
            command = [sys.executable, "-m", "pip", *words, "--quiet"]
            subprocess.run(command, cwd=self.project, check=True)
            (wheels / "lock").write_text(lock)
        self.pip = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"http://{BRIDGE}:{PORT}",
            "PIP_TRUSTED_HOST": BRIDGE,
        }
        server = ("-m", "http.server", str(PORT), "--bind", BRIDGE, "--directory", str(wheels))
        return subprocess.Popen(
            self.within(sys.executable, *server),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _read(self, name: str) -> str:
        return (self.project / "docker" / name).read_text()

    def _has_image(self, name: str) -> bool:
        listed = self.run("docker images --format '{{.Repository}}:{{.Tag}}'")
        return name in listed.splitlines()

    @contextlib.contextmanager
    def _debian(self, suite: str, *packages: str) -> Iterator[Path]:
        """Give the root folder of a small Debian with these packages, which then goes."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            root = Path(folder) / "root"
            wanted = f"--include={','.join(packages)}"
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", wanted, suite, root],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            yield root

    def _import(self, root: Path, name: str, *changes: str) -> None:
        for folder in UNUSED:
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).mkdir()
        flags = " ".join(f"--change '{change}'" for change in changes)
        self.run(f"tar -C {root} -c . | docker import {flags} - {name}", 600)

    def _take_compose(self, root: Path) -> None:
        """Take Compose and BuildKit's client out of Debian's packages, as the client's plugins."""
        plugins = self.folder / "client" / "cli-plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        taken = (
            "cd /tmp; apt-get -q update; apt-get -q download docker-compose docker-buildx;"
            "for package in *.deb; do dpkg-deb -x $package compose; rm $package; done"
        )
        subprocess.run(["chroot", root, "sh", "-ec", taken], check=True)
        for plugin in (root / "tmp/compose").rglob("cli-plugins/docker-*"):
            shutil.copy2(plugin, plugins / plugin.name)
        shutil.rmtree(root / "tmp/compose")


@contextlib.contextmanager
def own_docker() -> Iterator[Docker]:
    """Start a daemon with all that a build needs; DOCKER_TEST_FOLDER keeps it for the next time."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        pytest.skip(f"no {missing[0]}: `apt-get install docker.io debootstrap iproute2` brings it")
    if os.geteuid() or sys.version_info[:2] != (3, 11):
        pytest.skip("a Docker daemon takes root, and its wheelhouse Python 3.11 as in the image")
    with contextlib.ExitStack() as stack:
        kept = os.environ.get("DOCKER_TEST_FOLDER")
        folder = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="lm")))
        folder.mkdir(parents=True, exist_ok=True)
        network = stack.enter_context(_network())
        docker = Docker(folder, network)
        stack.enter_context(_daemon(docker))
        docker.lay()
        server = docker.serve_wheels()
        stack.callback(server.wait)
        stack.callback(server.kill)
        yield docker


@contextlib.contextmanager
def _network() -> Iterator[str]:
    name = f"lm{secrets.token_hex(4)}d"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextlib.contextmanager
def _daemon(docker: Docker) -> Iterator[None]:
    """Run dockerd with its mounts its own, which so end with it, containers and all."""
    folder = docker.folder
    (folder / "daemon.json").write_text("{}")
    (folder / "pid").unlink(missing_ok=True)
    places = {
        **{"config-file": folder / "daemon.json", "pidfile": folder / "pid"},
        **{"data-root": folder / "data", "exec-root": folder / "run"},
        **{"host": f"unix://{folder}/docker.sock", "bip": f"{BRIDGE}/16"},
    }
    flags = [f"--{name}={value}" for name, value in places.items()]
    apart = ("unshare", "--mount", "--propagation", "slave")
    log = folder / "dockerd.log"
    with log.open("wb") as told:
        daemon = subprocess.Popen(
            docker.within(*apart, "dockerd", *flags), stdout=told, stderr=told
        )
    try:

        def answers() -> bool:
            if daemon.poll() is not None:
                pytest.skip(f"no Docker daemon here: {log.read_text().strip().splitlines()[-1]}")
            command, env = ["docker", "version"], docker.environment
            return not subprocess.run(command, env=env, capture_output=True).returncode

        wait_for(answers)
        yield
    finally:
        if daemon.poll() is None:
            docker.run("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")
            daemon.terminate()
            daemon.wait(120)
