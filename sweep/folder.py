"""A sweep's folder, results/NAME/: its config, its identity, its lock."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from pydantic import Field

from sweep.config import NAME_PATTERN, NAME_RULE, SweepConfig
from sweep.errors import SweepError
from trainable.config import Section
from trainable.errors import ConfigError
from trainable.files import write_atomic
from trainable.paths import PACKAGE_PARENT, project_folder
from trainable.settings import validate

SWEEP_FILE = "sweep.json"
_VERSIONS_OF = ("torch", "numpy", "ray", "optuna", "mlflow")


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


class SweepFile(Section):
    """sweep.json: the resolved config and the identity."""

    identity: Identity
    """What the sweep is made of."""
    config: SweepConfig = Field()
    """Every setting, defaults and flags included."""


def results_folder() -> Path:
    """Return the folder that holds all sweeps."""
    return project_folder() / "results"


def sweep_names() -> list[str]:
    """Return the names of all sweeps, oldest first."""
    found = [p.parent for p in results_folder().glob(f"*/{SWEEP_FILE}")]
    return [p.name for p in sorted(found, key=lambda p: (p / SWEEP_FILE).stat().st_mtime)]


def next_name() -> str:
    """Return the first free name of the form sweep-001."""
    taken = {p.name for p in results_folder().glob("*")}
    return next(n for i in range(1, 10**9) if (n := f"sweep-{i:03d}") not in taken)


def find_sweep(name: str) -> Path:
    """Return the folder of a sweep.

    Raises:
        SweepError: no sweep has this name.
    """
    folder = results_folder() / _checked(name)
    if not (folder / SWEEP_FILE).is_file():
        known = ", ".join(sweep_names()[-5:]) or "none yet"
        raise SweepError(f"sweep {name!r}: not in {results_folder()}; there are: {known}")
    return folder


def create_sweep(name: str, sweep: SweepFile) -> Path:
    """Make the folder of a new sweep and write sweep.json.

    Raises:
        SweepError: the name is taken, or the folder cannot be made.
    """
    folder = results_folder() / _checked(name)
    try:
        results_folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SweepError(
            f"results folder {results_folder()}: {error.strerror}; "
            "set LM_SWEEP_HOME to a folder that you can write"
        ) from error
    try:
        folder.mkdir(mode=0o700)
        write_sweep(folder, sweep)
    except FileExistsError as error:
        raise SweepError(
            f"--name {name}: a sweep of this name exists; go on with `--resume {name}` "
            "or choose another name"
        ) from error
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SweepError(f"sweep folder {folder}: {error.strerror}") from error
    return folder


def write_sweep(folder: Path, sweep: SweepFile) -> None:
    """Write sweep.json, atomically."""
    text = sweep.model_dump_json(by_alias=True, indent=2)
    write_atomic(folder / SWEEP_FILE, text.encode())


def read_sweep(folder: Path) -> SweepFile:
    """Read sweep.json.

    Raises:
        SweepError: it is missing, damaged or of another version.
    """
    path = folder / SWEEP_FILE
    try:
        return validate(SweepFile, json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}") from error
    except (ConfigError, ValueError) as error:
        raise SweepError(f"{path}: damaged or of another version ({error})") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the sweep for this process.

    Raises:
        SweepError: another process runs it.
    """
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SweepError(
                f"sweep {folder.name}: another process is running it; wait for it, or stop it "
                "with Ctrl-C and resume"
            ) from error
        yield


def require_private(folder: Path) -> None:
    """Refuse to go on with a sweep that somebody else could have changed.

    A resume trusts this folder's JSON for what to run and its verified checkpoints; it loads no
    pickle.

    Raises:
        SweepError: it, or anything in it, belongs to another user or can be written by others.
    """
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SweepError(
                f"--resume {folder.name}: {path} belongs to user {status.st_uid} with mode "
                f"{status.st_mode & 0o777:o}; it must be yours alone to write: "
                f"chown it, or `chmod -R go-w {folder}`"
            )


def is_running(folder: Path) -> bool:
    """Say whether a process holds the sweep."""
    try:
        with locked(folder):
            return False
    except SweepError:
        return True


def new_identity(created: float, dataset_digest: str) -> Identity:
    """Return the identity of a sweep that starts now."""
    return Identity(
        sweep_id=uuid.uuid4().hex,
        created=created,
        dataset_digest=dataset_digest,
        code_digest=code_digest(),
        git_commit=_git_commit(),
        versions={name: metadata.version(name) for name in _VERSIONS_OF},
    )


def code_digest() -> str:
    """Return a fingerprint of the code that decides a trial's numbers."""
    digest = hashlib.sha256()
    for path in sorted((PACKAGE_PARENT / "trainable").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git_commit() -> str | None:
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


def _checked(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise SweepError(f"sweep name {name!r:.80}: must be {NAME_RULE}")
    return name
