"""A checkpoint is on the disk before anybody is told of it: the system calls tell."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeConfig
from live_sweeps import ALONE, FIXED, UNTRACKED, events, make_project, run

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture
def strace(tmp_path: Path) -> tuple[str, ...]:
    """Return what a command begins with to have its waits for the disk written to trace.txt."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace, which tells what is synced, is not installed")
    calls = ("--seccomp-bpf", "-f", "-y", "-ttt", "-e", "trace=fsync,fdatasync,rename")
    before = (program, *calls, "-o", str(tmp_path / "trace.txt"))
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let strace look")
    return before


def synced(trace: Path) -> dict[Path, float]:
    """Return when files and folders were on the disk first, Unix seconds."""
    found: dict[Path, float] = {}
    for line in trace.read_text(encoding="utf-8").splitlines():
        call = re.match(r"\d+ +([\d.]+) f(?:data)?sync\(\d+<(.*?)>", line)
        if call:
            found.setdefault(Path(call[2]), float(call[1]))
    return found


def test_a_checkpoint_is_on_the_disk_before_it_is_told(
    tmp_path: Path, strace: tuple[str, ...]
) -> None:
    config = make_project(tmp_path)
    flags = ("--num-samples", "1", "--name", "safe", *ALONE, *UNTRACKED, *FIXED)
    done = run(tmp_path, "sweep/run.py", "--config", str(config), *flags, before=strace)
    assert done.returncode == 0, done.stderr
    when = synced(tmp_path / "trace.txt")
    folder = tmp_path / "results" / "safe"
    told = [event for event in events(folder) if event["event"] == "checkpoint"]
    assert len(told) == 4
    for event in told:
        checkpoint = folder / event["path"]
        files = {path: at for path, at in when.items() if path.parent == checkpoint}
        assert {path.suffix for path in files} == {".pt", ".json"}
        names = [checkpoint, *checkpoint.parents[:4]]
        assert names[-1] == folder
        for path in (*files, *names):
            assert when[path] <= event["time"], path
    # The copies that Tune made them from are gone at once: waiting for them would be in vain.
    saved = [path for path in when if "state" in path.name or path.name[:11] == "checkpoint_"]
    assert [path for path in saved if not path.is_relative_to(folder)] == []


SAVE = """
import sys
from pathlib import Path
from trainable.config.trial import TrialConfig
from trainable.training.trainer import Trainer

Trainer(TrialConfig.model_validate_json(sys.argv[2])).save(Path(sys.argv[1]))
"""


def test_a_trial_by_hand_waits_for_its_checkpoint(
    tiny_config: MakeConfig, tmp_path: Path, strace: tuple[str, ...]
) -> None:
    words = (sys.executable, "-c", SAVE, str(tmp_path / "saved"), tiny_config().model_dump_json())
    subprocess.run([*strace, *words], check=True, timeout=120)
    when = synced(tmp_path / "trace.txt")
    names = {path.name.split(".")[1] for path in when if path.parent == tmp_path / "saved"}
    assert names == {"state", "manifest"}
    assert tmp_path / "saved" in when


def test_a_new_store_has_its_name_on_the_disk(tmp_path: Path, strace: tuple[str, ...]) -> None:
    code = "import sys; from pathlib import Path; from sweep.tracking.new_store import make_store;"
    words = (sys.executable, "-c", f"{code} make_store(Path(sys.argv[1]))", str(tmp_path / "s.db"))
    subprocess.run([*strace, *words], check=True, timeout=120)
    calls = (tmp_path / "trace.txt").read_text(encoding="utf-8").splitlines()
    (named,) = [n for n, call in enumerate(calls) if "rename(" in call and '/s.db")' in call]
    assert any(f"<{tmp_path}>" in call for call in calls[named:] if "sync(" in call)


def test_a_dataset_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, strace: tuple[str, ...]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "data"
    text.write_text("a text of some length<|endoftext|>" * 200)
    words = ("trainable/prepare.py", "--input", str(text), "--out", str(out))
    done = run(tmp_path, *words, before=strace)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in out.iterdir()}
    assert {"tokenizer.json", "meta.json"} < written
    assert written <= {path.name for path in synced(tmp_path / "trace.txt")}
