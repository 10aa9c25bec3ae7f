"""The address of a Ray cluster: found, and tried before anything else is."""

import contextlib
import os
import platform
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sweep.common.errors import SweepError
from trainable.common.errors import first_line

CONNECT_SECONDS = 3.0
"""How long the head may take to accept a connection."""

ANSWER_SECONDS = 6.0
"""How long it may take to answer."""


@dataclass(frozen=True)
class Head:
    """A cluster that this machine is a node of, and may join."""

    host: str
    port: int
    here: str
    """This machine's address, as the cluster knows it."""
    raylet_port: int
    """Port of this machine's own raylet."""

    @property
    def address(self) -> str:
        """HOST:PORT, as Ray takes it."""
        return f"{self.host}:{self.port}"


def named_address(flag: str | None) -> str | None:
    """Return the address that `--ray-address` or RAY_ADDRESS gives; None: a Ray of our own."""
    address = flag or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def require_cluster(address: str) -> Head:
    """Return the cluster at HOST:PORT, or at "auto" the one that runs on this machine.

    Ray itself would wait for most of a minute, and then say little.

    Raises:
        SweepError: nobody answers, or it is no Ray of this version, or the token is another, or
            this machine is no node of it.
    """
    host, port = _split(_running() if address == "auto" else address)
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
        host = socket.gethostbyname(host)
        here = _address_towards(host, port)
    except OSError as error:
        raise SweepError(
            f"--ray-address {address}: nobody answers there ({error.strerror or error}); start a "
            "head with `ray start --head`, or name the one that runs"
        ) from error
    metadata, nodes = _asked(host, port)
    _require_same_versions(address, metadata)
    for node in nodes:
        if node.node_manager_address == here:
            return Head(host, port, here, node.node_manager_port)
    raise SweepError(
        f"--ray-address {address}: this machine ({here}) is no node of the cluster; join it with "
        f"`ray start --address {host}:{port}`, with --num-cpus 0 if it is to run no trials"
    )


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise SweepError(f"--ray-address {address!r:.80}: must be HOST:PORT, auto or local")
    return host.strip("[]"), int(port)


def _running() -> str:
    """Return the address of the one cluster that answers on this machine.

    Ray's own search takes any whose processes it sees: those of another sweep, too, or, in
    containers and network namespaces, one that is out of reach.
    """
    from ray._private import services

    started: str | None = services.find_bootstrap_address(None)  # by the last `ray start`
    if started is not None and _answers(started):
        return started
    seen: set[str] = services.find_gcs_addresses()
    answering = sorted(filter(_answers, seen))
    if len(answering) != 1:
        raise SweepError(
            f"--ray-address auto: {', '.join(answering) or 'no Ray'} runs on this machine; "
            + ("name one of them by HOST:PORT" if answering else "start one with `ray start`")
        )
    return answering[0]


def _answers(address: str) -> bool:
    try:
        socket.create_connection(_split(address), CONNECT_SECONDS / 3).close()
    except OSError:
        return False
    return True


def _address_towards(host: str, port: int) -> str:
    """Return the address under which this machine reaches another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])


def _asked(host: str, port: int) -> tuple[dict[str, Any], list[Any]]:
    """Ask the head for its versions, and for the nodes that live."""
    from ray.exceptions import AuthenticationError

    address = f"{host}:{port}"
    answer: Future[tuple[dict[str, Any], list[Any]]] = Future()
    # In a thread that is left behind: Ray waits for most of a minute where no Ray listens.
    threading.Thread(target=_ask, args=(address, answer), daemon=True).start()
    try:
        with _no_standard_error():
            return answer.result(ANSWER_SECONDS)
    except AuthenticationError as error:
        why = first_line(error).partition(". ")[0]
        raise SweepError(
            f"--ray-address {address}: the cluster does not take this token ({why}); set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that its nodes have"
        ) from error
    except Exception as error:  # Ray's kinds are private; whatever it was, nothing has begun
        raise SweepError(
            f"--ray-address {address}: what listens there does not answer as a Ray head does in "
            f"{ANSWER_SECONDS:g} s ({first_line(error)}); name the head's address"
        ) from error


@contextlib.contextmanager
def _no_standard_error() -> Iterator[None]:
    """Let nobody write to standard error: Ray's C++ does, and what fails is told in a line."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _ask(address: str, answer: "Future[tuple[dict[str, Any], list[Any]]]") -> None:
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private.authentication import authentication_token_setup as setup
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    try:
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        setup.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
        client = GcsClient(address=address)
        nodes = client.get_all_node_info(timeout=ANSWER_SECONDS).values()
        living = [node for node in nodes if node.state == GcsNodeInfo.ALIVE]
        answer.set_result((get_cluster_metadata(client), living))
    except Exception as error:  # it is told where it is waited for
        answer.set_exception(error)


def _require_same_versions(address: str, metadata: dict[str, Any]) -> None:
    import ray

    for name, there, own in (
        ("Ray", metadata["ray_version"], ray.__version__),
        ("Python", metadata["python_version"], platform.python_version()),
    ):
        if there != own:
            raise SweepError(
                f"--ray-address {address}: the cluster runs {name} {there}, this is {name} {own}; "
                "they must be the same: use the environment that its nodes have"
            )
