"""A sweep's folder, results/NAME/: found, made, and its sweep.json."""

import contextlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sweep.common.errors import SweepError
from sweep.config.sweep import NAME_PATTERN, NAME_RULE, SweepConfig
from sweep.record.events import EVENTS_FILE
from sweep.record.identity import Identity
from sweep.record.lines import Event, to_line
from trainable.common.errors import first_line
from trainable.common.files import fsync_folder, write_atomic
from trainable.common.paths import project_folder
from trainable.config.sealed import Sealed

SWEEP_FILE = "sweep.json"

REPORT_FILE = "report.html"

PICTURES_FOLDER = "pictures"
"""The report's main pictures as files, for elsewhere."""


class SweepFile(Sealed):
    """sweep.json: the resolved config and the identity."""

    seal: ClassVar[str] = "blake3"

    identity: Identity
    """What the sweep is made of."""
    config: SweepConfig = Field()
    """Every setting, defaults and flags included."""
    blake3: str = ""
    """BLAKE3 of the fields above."""


def results_folder() -> Path:
    """Return the folder that holds all sweeps."""
    return project_folder() / "results"


def sweep_names() -> list[str]:
    """Return the names of all sweeps, oldest first."""
    found = []
    for path in results_folder().glob(f"*/{SWEEP_FILE}"):
        with contextlib.suppress(FileNotFoundError):  # a refused sweep is removed
            found.append((path.stat().st_mtime, path.parent.name))
    return [name for _, name in sorted(found)]


def next_name() -> str:
    """Return the first free name of the form sweep-001."""
    taken = {p.name for p in results_folder().glob("*")}
    return next(n for i in range(1, 10**9) if (n := f"sweep-{i:03d}") not in taken)


def find_sweep(name: str) -> Path:
    """Return the folder of a sweep, given its name or a path to that folder.

    Raises:
        SweepError: there is no such sweep.
    """
    folder = results_folder() / _checked(_name_in(name))
    if not (folder / SWEEP_FILE).is_file():
        known = ", ".join(sweep_names()[-5:]) or "none yet"
        raise SweepError(f"sweep {name!r}: not in {results_folder()}; there are: {known}")
    return folder


class NameTakenError(SweepError):
    """A sweep of this name exists."""


def create_sweep(name: str, sweep: SweepFile, events: Sequence[Event] = ()) -> Path:
    """Make the folder of a new sweep and write sweep.json.

    Its record begins with `events`: they are there before sweep.json, without which it is no sweep.

    Raises:
        NameTakenError: a sweep of this name exists.
        SweepError: the folder cannot be made.
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
        if events:
            write_atomic(folder / EVENTS_FILE, b"".join(map(to_line, events)))
        write_sweep(folder, sweep)
        for place in (results_folder(), project_folder()):  # the power may go at any time
            fsync_folder(place)
    except FileExistsError as error:
        raise NameTakenError(
            f"--name {name}: a sweep of this name exists; go on with `--resume {name}` "
            "or choose another name"
        ) from error
    except BaseException as error:  # Ctrl-C, too
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise SweepError(f"sweep folder {folder}: {error.strerror}") from error
        raise
    return folder


def write_sweep(folder: Path, sweep: SweepFile) -> None:
    """Write sweep.json, atomically."""
    write_atomic(folder / SWEEP_FILE, sweep.sealed().text().encode())


def read_sweep(folder: Path) -> SweepFile:
    """Read sweep.json.

    Raises:
        SweepError: it is missing, or a byte of it is not as this version wrote it.
    """
    path = folder / SWEEP_FILE
    try:
        return SweepFile.unsealed(path.read_bytes(), SWEEP_FILE)
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SweepError(
            f"{path}: damaged or of another version ({first_line(error)}); restore a backup, "
            "or use the version that wrote it"
        ) from error


def _name_in(path: str) -> str:
    """Return the name in a path into the results, as a shell completes it; any other as it is."""
    parent, slash, name = path.rstrip("/").rpartition("/")
    places = [(place / parent).resolve() for place in (Path.cwd(), project_folder())]
    return name if not slash or results_folder().resolve() in places else path


def _checked(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise SweepError(f"sweep name {name!r:.80}: must be {NAME_RULE}")
    return name
