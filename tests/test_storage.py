"""Checkpoints where --storage says: in a folder that all nodes see, or on an S3 server."""

import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from live_sweeps import FIXED, UNTRACKED, free_port, make_project, run
from object_store import BUCKET, KEY, SECRET, environment, object_server, wait_until_up
from sweep_samples import record_of, refusal, session, started, sweep_config

from sweep.record.folder import read_sweep
from sweep.record.results import SweepRecord
from sweep.record.retention import collect, kept
from trainable.checkpoint.folder import read_manifest, read_verified
from trainable.common.errors import DamagedCheckpointError, StorageError
from trainable.storage.address import open_store
from trainable.storage.folder import FolderStore
from trainable.storage.s3 import S3Store
from trainable.storage.store import Store
from trainable.tune_trainable import LanguageModelTrial

NAME = "session-1/t000/a-1/checkpoint_000010"


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("gs://bucket/x", "gs:// is no scheme known here; give a folder .*or s3://BUCKET/PREFIX"),
        ("s3://", "no address of a bucket"),
        ("s3://bucket/../other", "no address of a bucket"),
        ("s3://bucket/a b", "no address of a bucket"),
        ("s3://bucket/a?secret=hush", "no address of a bucket"),
        ("s3://me:hush@bucket/a", "keys do not belong into an address"),
        ("", "empty or no path"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_without_repeating_it(
    storage: str, told: str
) -> None:
    message = refusal(storage=storage)
    assert re.search(told, message)
    assert "hush" not in message


@pytest.mark.parametrize("storage", ["/mnt/shared", "shared", "s3://bucket", "s3://my.b-1/a/b_c.d"])
def test_folders_and_addresses_of_s3_are_taken(storage: str) -> None:
    assert sweep_config(storage=storage).storage == storage


def test_a_storage_that_is_not_mounted_is_refused_and_never_made(tmp_path: Path) -> None:
    away = FolderStore(tmp_path / "not mounted" / "sweep")
    with pytest.raises(StorageError, match=r"no such folder; make it, or mount its disk"):
        away.require_usable()
    with pytest.raises(FileNotFoundError), away.writing(NAME, last="manifest.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "sweep")

    def save() -> None:
        with store.writing(NAME, last="manifest.json") as folder:
            (folder / "state-1.pt").write_bytes(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        save()
    assert store.names() == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the environment of an S3-compatible server."""
    folder = tmp_path_factory.mktemp("s3")
    with object_server(folder) as process, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        wait_until_up(process)
        yield environment(folder)


@pytest.fixture
def s3(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let this process, and those that it starts, reach the server."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return server


def put(store: Store, name: str = NAME) -> None:
    with store.writing(name, last="manifest.json") as folder:
        (folder / "manifest.json").write_text("{}", encoding="utf-8")
        (folder / "state-1.pt").write_bytes(b"x" * 2**20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_sweep_keeps_its_checkpoints_in_its_storage(
    kind: str, tmp_path: Path, s3: dict[str, str]
) -> None:
    """Best, resume, pruning, --register and a moved project go on as with its own folder."""
    home = tmp_path / "project"
    config = make_project(home)
    (tmp_path / "shared").mkdir()
    place = str(tmp_path / "shared") if kind == "folder" else f"{BUCKET}/moved"
    flags = ("--name", "far", "--num-samples", "3", "--keep-checkpoints", "1")
    done = run(home, "sweep/run.py", "--config", str(config), *flags, *FIXED, "--storage", place)
    assert done.returncode == 0, done.stderr + done.stdout
    told = done.stdout + done.stderr
    moved = tmp_path / "moved"
    home.rename(moved)
    folder = moved / "results" / "far"
    assert not list(folder.glob("**/checkpoint_*"))
    store = open_store(_own(place, folder))
    orphan = "session-1/t000/a-0ff/checkpoint_000020"
    put(store, orphan)
    more = ("--resume", "far", "--num-samples", "4")
    done = run(moved, "sweep/run.py", *more)
    assert done.returncode == 0, done.stderr + done.stdout
    record = SweepRecord.read(folder)
    ended = [t for t in record.ranked if t.outcome in ("finished", "stopped")]
    assert len(ended) == 4
    assert store.names() == [c.path for c in kept(ended[0], True)], "the best alone is kept"
    done = run(moved, "sweep/best.py", "far", "--register", "far-model")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "the same to the last bit" in done.stdout
    assert f"checkpoint {store.address(store.names()[0])}, verified" in done.stdout
    assert "registered as far-model version 1" in done.stdout
    told += done.stdout + done.stderr
    assert SECRET not in told
    assert KEY not in told
    for path in moved.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert KEY.encode() not in content, path


def _own(place: str, folder: Path) -> str:
    return f"{place}/{folder.name}-{read_sweep(folder).identity.sweep_id[:12]}"


@pytest.mark.slow
@pytest.mark.fault
def test_a_wrong_key_is_refused_in_one_line_before_anything_begins(
    tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_project(tmp_path)
    flags = ("--config", str(config), "--storage", f"{BUCKET}/x", *FIXED, *UNTRACKED)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    begun = time.monotonic()
    with pytest.raises(StorageError):
        S3Store(f"{BUCKET}/x").require_usable()
    assert time.monotonic() - begun < 5
    done = run(tmp_path, "sweep/run.py", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: storage {BUCKET}/x: SIGNATURE_DOES_NOT_MATCH")
    assert done.stderr.count("\n") == 1
    assert "another-secret" not in done.stderr
    assert not (tmp_path / "results").exists()


KILLED = """
import os, signal, sys
from trainable.storage.s3 import S3Store

class Killed(S3Store):
    def _upload(self, path, key):
        super()._upload(path, key)
        os.kill(os.getpid(), signal.SIGKILL)

with Killed(sys.argv[1]).writing(sys.argv[2], last="manifest.json") as folder:
    (folder / "manifest.json").write_text("{}")
    (folder / "state-1.pt").write_bytes(os.urandom(int(sys.argv[3])))
"""


@pytest.mark.slow
@pytest.mark.fault
def test_an_upload_killed_in_the_middle_leaves_nothing_that_counts(s3: dict[str, str]) -> None:
    store = S3Store(f"{BUCKET}/killed")
    for size in (1_000, 30_000_000):
        words = (sys.executable, "-c", KILLED, f"{BUCKET}/killed", NAME, str(size))
        assert subprocess.run(words, timeout=120).returncode == -signal.SIGKILL
        assert [key.rpartition("/")[2] for key in store._keys(NAME)] == ["state-1.pt"]
        refused = pytest.raises(DamagedCheckpointError, match=r"s3://.*no readable manifest")
        with refused, store.reading(NAME) as folder:
            read_manifest(folder)
        record = record_of(session(), started("t000"))
        assert collect(store, record, 5) == 1
        assert store._keys("") == []


@pytest.mark.slow
@pytest.mark.fault
def test_a_flipped_bit_in_an_object_is_found_and_the_one_before_is_used(
    tiny_config, s3: dict[str, str]
) -> None:
    place = f"{BUCKET}/flipped"
    config = {
        **{"name": "t000", "params": {}, "trial": tiny_config().model_dump(), "resume_from": []},
        **{"store": place, "place": "session-1/t000", "takes": {"CPU": 1.0, "GPU": 0.0}},
    }
    trial = LanguageModelTrial(dict(config))
    told = []
    while not trial.train()["done"]:
        told.append(trial.save())
    trial.stop()
    store = S3Store(place)
    newest = told[-1].checkpoint.path
    with store.reading(newest) as folder:
        read_verified(folder)
    (key,) = [key for key in store._keys(newest) if key.endswith(".pt")]
    content = bytearray(store._files.open_input_stream(key).read())
    content[len(content) // 2] ^= 1
    with store._files.open_output_stream(key) as stream:
        stream.write(bytes(content))
    worker = LanguageModelTrial(dict(config))
    worker.restore(told[-1])
    result = worker.train()
    assert result["step"] == 15
    assert f"damaged checkpoint: checkpoint {place}/{newest}: state-" in result["notice"]
    worker.stop()


@pytest.mark.slow
@pytest.mark.fault
def test_a_server_that_is_away_for_a_while_is_waited_for_and_then_told(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    begun = time.monotonic()
    with pytest.raises(StorageError, match=r"storage s3://.*NETWORK_CONNECTION.*server up\?"):
        put(S3Store(f"{BUCKET}/away", patience=2))
    assert time.monotonic() - begun < 10
    real = int(s3["AWS_ENDPOINT_URL"].rpartition(":")[2])
    begun = time.monotonic()
    with _back_after(2.0, port, real):
        store = S3Store(f"{BUCKET}/away", patience=30)
        put(store)
        assert time.monotonic() - begun > 2
        assert store.names() == [NAME]


@contextmanager
def _back_after(seconds: float, port: int, to: int) -> Iterator[None]:
    """Pass on to another port what comes to a port of this machine, from then on."""

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", to)) as server:
                answers = threading.Thread(target=pump, args=(server, self.request))
                answers.start()
                pump(self.request, server)
                answers.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(2**16):
                target.sendall(content)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    forwarder = socketserver.ThreadingTCPServer(
        ("127.0.0.1", port), Forward, bind_and_activate=False
    )
    # A client that keeps its connection open is not waited for.
    forwarder.daemon_threads = True
    forwarder.allow_reuse_address = True

    def serve() -> None:
        time.sleep(seconds)
        forwarder.server_bind()
        forwarder.server_activate()
        forwarder.serve_forever()

    with forwarder:
        threading.Thread(target=serve, daemon=True).start()
        yield
        forwarder.shutdown()
