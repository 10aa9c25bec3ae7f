"""A real S3-compatible server on loopback, for the tests."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from live_sweeps import free_port

from trainable.common.errors import StorageError
from trainable.storage.s3 import S3Store

BUCKET = "s3://sweeps"
KEY, SECRET = "a-key-of-the-tests", "a-secret-of-the-tests"


@contextlib.contextmanager
def object_server(
    folder: Path, ip: str = "127.0.0.1", before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run SeaweedFS with its files in a folder; what `environment` returns leads to it.

    `before` is what the command begins with.
    """
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    rights = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "tests", "credentials": credentials, "actions": rights}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}), encoding="utf-8")
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
    kinds = [f"-{name}.port={port}" for name, port in ports.items()]
    kinds += [f"-{name}.port.grpc={free_port()}" for name in ports]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *before,
                *(Path(sys.executable).parent / "weed", "server", f"-dir={folder}", *kinds),
                *(f"-ip={ip}", f"-ip.bind={ip}", "-filer", "-s3"),
                *(f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *("-master.volumeSizeLimitMB=64", "-volume.max=50"),
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    (folder / "address").write_text(f"{ip}:{ports['s3']}", encoding="utf-8")
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def environment(folder: Path) -> dict[str, str]:
    """Return what a process needs to reach the server of a folder."""
    address = (folder / "address").read_text(encoding="utf-8")
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://{address}",
    }


def wait_until_up(server: subprocess.Popen[bytes], seconds: float = 90.0) -> None:
    """Wait until the server, which the environment leads to, takes and gives objects."""
    deadline = time.monotonic() + seconds
    while True:
        assert server.poll() is None
        try:
            S3Store(f"{BUCKET}/up").require_usable()
            return
        except StorageError:
            assert time.monotonic() < deadline, "the server does not come up"
