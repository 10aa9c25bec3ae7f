"""What a sweep is made of is told apart by its fingerprints."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.record import identity
from trainable.common.paths import PACKAGE_PARENT


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
