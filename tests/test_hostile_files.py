"""Foreign files and foreign eyes: nothing runs, nothing is readable, nothing listens."""

import json
import os
import pickle
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from live_sweeps import ALONE, ENDLESS, descendants, make_project, run, start_and_wait

from sweep.common.redact import redact
from sweep.engine.failures import failure_reason


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A project whose sweep "mine" ended early: it can be resumed."""
    home = tmp_path_factory.mktemp("project")
    config = make_project(home)
    flags = ("--name", "mine", "--num-samples", "2", "--tracking.no-enabled")
    assert run(home, "sweep/run.py", "--config", str(config), *flags).returncode == 0
    return home


@pytest.mark.slow
def test_no_pickle_of_a_sweep_folder_is_ever_loaded(interrupted):
    folder = interrupted / "results" / "mine"
    harmed = interrupted / "harmed"
    content = pickle.dumps(Harmful(harmed))
    replaced = [
        p for p in folder.rglob("*") if p.suffix in (".pkl", ".json") and "session" in str(p)
    ]
    for path in [*replaced, folder / "tuner.pkl", folder / "x.pkl"]:
        if path.name != "manifest.json":
            path.write_bytes(content)
            path.chmod(0o600)
    for arguments in (
        ("sweep/status.py",),
        ("sweep/status.py", "mine"),
        ("sweep/best.py", "mine"),
        ("sweep/run.py", "--resume", "mine", "--num-samples", "3"),
    ):
        done = run(interrupted, *arguments)
        assert done.returncode == 0, done.stderr
        assert not harmed.exists()


@pytest.mark.slow
def test_a_folder_that_others_can_write_is_not_resumed(interrupted):
    folder = interrupted / "results" / "mine"
    arguments = ("sweep/run.py", "--resume", "mine", "--num-samples", "9")
    (deep, *_) = folder.glob("session-1/*/a-*/checkpoint_*/manifest.json")
    for path in (folder, folder / "sweep.json", folder / "events.jsonl", deep, deep.parent):
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWOTH)
        done = run(interrupted, *arguments)
        assert done.returncode == 2
        assert "yours alone" in done.stderr
        path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(folder / "events.jsonl", 12345, -1)
        assert "belongs to user 12345" in run(interrupted, *arguments).stderr
        os.chown(folder / "events.jsonl", 0, -1)


@pytest.mark.slow
def test_a_sweep_is_private_and_listens_on_loopback_only(tmp_path, place, start):
    folder = tmp_path / "results" / "private"

    def at_home(home, *arguments):
        return start(home, *arguments, HOME=str(home))

    sweep = start_and_wait(at_home, tmp_path, "private", *ENDLESS, *ALONE, step=500)
    sockets = set()
    for pid in [sweep.pid, *descendants(sweep.pid)]:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(re.sub(r"\D", "", os.readlink(link)))
            except OSError:
                continue
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                listening.append(fields[1].rpartition(":")[0])
    assert listening
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert set(listening) <= loopback
    for path in [folder, *folder.rglob("*"), tmp_path / "mlflow.db"]:
        assert path.stat().st_mode & 0o077 == 0 or path.is_symlink(), path
    (token,) = place.glob("*/token")
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / ".ray").exists()


@pytest.mark.slow
def test_secrets_of_the_store_s_address_are_not_recorded(tmp_path):
    config = make_project(tmp_path)
    env = os.environ | {
        "LM_SWEEP_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": "http://ann:hunter2@127.0.0.1:9/",
        "MY_API_TOKEN": "hunter3",
    }
    command = [sys.executable, "sweep/run.py", "--config", str(config), "--name", "secret"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "MLflow" in done.stdout
    told = done.stdout + done.stderr
    for path in (tmp_path / "results").rglob("*"):
        if path.is_file():
            told += path.read_bytes().decode(errors="replace")
    assert "hunter" not in told


def test_a_reason_with_a_secret_is_recorded_without_it(tmp_path):
    error = tmp_path / "error.txt"
    error.write_text("Failure # 1\nTraceback\nOSError: https://ann:hunter2@host token=hunter3\n")
    trial = SimpleNamespace(error_file=str(error))
    assert failure_reason(trial) == "OSError: https://***@host token=***"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://ann:pw@host:5432/db failed", "postgresql://***@host:5432/db failed"),
        ("http://token@host/x", "http://***@host/x"),
        ("api_key=abc123, step=5", "api_key=***, step=5"),
        ('{"password": "p w"}', '{"password": ***'),
        ("AWS_SECRET_ACCESS_KEY: AKIA/xyz+1", "AWS_SECRET_ACCESS_KEY: ***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("loss=2.5 at step 3, lr=1e-3", "loss=2.5 at step 3, lr=1e-3"),
        ("512 tokens a step, tokens=512", "512 tokens a step, tokens=512"),
    ],
)
def test_redaction(text, clean):
    assert redact(text).startswith(clean)
    assert json.dumps(redact(text))
