"""What a sweep is made of: data, code, commit and library versions, by fingerprints."""

import hashlib
import os
import subprocess
import uuid
from importlib import metadata

from trainable.common.paths import PACKAGE_PARENT
from trainable.config.section import Section

_VERSIONS_OF = ("torch", "numpy", "ray", "optuna", "mlflow")


COMMIT_FILE = ".git-commit"
"""Beside the packages where they were sent to another machine: their checkout's commit."""


class Identity(Section):
    """What a sweep is made of: recorded when it starts, compared when it is resumed."""

    sweep_id: str
    """Unique among all sweeps anywhere."""
    created: float
    """Unix time, seconds."""
    dataset_digest: str
    """Fingerprint of the tokens."""
    code_digest: str
    """Fingerprint of the trainable package's source."""
    git_commit: str | None
    """Commit of the checkout, with "+" where files differ from it; None outside a checkout."""
    versions: dict[str, str]
    """Versions of the libraries that decide numbers."""


def new_identity(created: float, dataset_digest: str) -> Identity:
    """Return the identity of a sweep that starts now."""
    return Identity(
        sweep_id=uuid.uuid4().hex,
        created=created,
        dataset_digest=dataset_digest,
        code_digest=code_digest(),
        git_commit=git_commit(),
        versions=library_versions(),
    )


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide numbers, as they are here."""
    return {name: metadata.version(name) for name in _VERSIONS_OF}


def code_digest() -> str:
    """Return a fingerprint of the code that decides a trial's numbers."""
    digest = hashlib.sha256()
    code = PACKAGE_PARENT / "trainable"
    for path in sorted(code.rglob("*.py")):
        name = path.relative_to(code).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def git_commit() -> str | None:
    """Return the commit of the checkout, with "+" where files differ; None outside of one."""
    sent = PACKAGE_PARENT / COMMIT_FILE
    if sent.is_file():
        return sent.read_text()
    if not (PACKAGE_PARENT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", os.fspath(PACKAGE_PARENT), *words]
    done = subprocess.run(  # noqa: S603 - fixed words, no shell
        command, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
