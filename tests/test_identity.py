"""What a sweep is made of is told apart by its fingerprints."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeConfig
from sweep_samples import new_sweep, run_of, session, sweep_config, write_events

from sweep.conduct.resume import resume_sweep
from sweep.record import identity
from sweep.record.folder import SweepFile
from trainable.common.paths import PACKAGE_PARENT
from trainable.data.batches import open_dataset


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the package whose code decides a trial's numbers."""
    shutil.copytree(PACKAGE_PARENT / "trainable", tmp_path / "trainable")
    monkeypatch.setattr(identity, "PACKAGE_PARENT", tmp_path)
    return tmp_path / "trainable"


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"e", b"E", 1))


def renamed(path: Path) -> None:
    path.rename(path.with_name("other.py"))


def moved(path: Path) -> None:
    path.rename(path.parents[1] / path.name)


@pytest.mark.parametrize("edit", [changed, renamed, moved, Path.unlink])
@pytest.mark.parametrize("name", ["passes/fused.py", "training/optim.py", "tune_trainable.py"])
def test_the_codes_digest_tells_of_every_change_in_every_folder(
    code: Path, name: str, edit: Callable[[Path], object]
) -> None:
    before = identity.code_digest()
    assert identity.code_digest() == before
    edit(code / name)
    assert identity.code_digest() != before


def test_the_codes_digest_knows_only_the_code(code: Path) -> None:
    before = identity.code_digest()
    assert before == identity.code_digest()
    (code / "passes" / "__pycache__").mkdir(exist_ok=True)
    (code / "passes" / "__pycache__" / "fused.pyc").write_bytes(b"compiled")
    (code / "notes.txt").write_text("no code")
    assert identity.code_digest() == before


def test_a_resume_under_other_libraries_says_so(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = tiny_config().model_dump()
    config = sweep_config(num_samples=1, trial=trial, asha={"enabled": False})
    digest = open_dataset(config.trial.data, 16).digest
    now = identity.new_identity(1_700_000_000.0, digest)
    folder, _ = new_sweep("older", config)
    write_events(folder, session(num_samples=1), *run_of("t000", {0: 5.0}, "finished"))

    def resumed(**versions: str) -> list[str]:
        other = now.model_copy(update={"versions": now.versions | versions})
        stored = SweepFile(identity=other, config=config)
        assert resume_sweep(folder, stored, config, dry_run=True) == 0
        return [line for line in capsys.readouterr().out.splitlines() if "warning" in line]

    assert resumed() == []
    told = resumed(torch="2.0", ray="1.0", numpy="1.25")
    for name, before in (("torch", "2.0"), ("numpy", "1.25"), ("ray", "1.0")):
        warning = f"warning: {name} {now.versions[name]}, the sweep began with {before}: "
        assert warning + "low-order bits may differ" in told
    assert len(told) == 3
