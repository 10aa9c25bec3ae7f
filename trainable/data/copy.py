"""A dataset's copy in the user's cache, named by its digest: what a cluster's node trains on."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from trainable.common.errors import DataError
from trainable.common.files import fsync_folder
from trainable.common.paths import cache_folder
from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset, open_dataset
from trainable.data.meta import META_FILE, TOKENIZER_FILE


def copies_folder() -> Path:
    """Return the folder that holds the copies of this user on this machine."""
    return cache_folder() / "datasets"


def open_here(trial: TrialConfig, copy: str | None, *, verify: bool = False) -> TokenDataset:
    """Open a trial's dataset, or the copy with the digest `copy`; see open_dataset.

    Raises:
        DataError: it is not on this machine, or a copy is not what its name says.
    """
    data, length = trial.data, trial.model.context_length
    if copy is None:
        return open_dataset(data, length, verify=verify)
    folder = copies_folder() / copy
    if not folder.is_dir():
        raise DataError(f"{folder}: no copy of the dataset is here; run.py --stage-data sends it")
    moved = data.model_copy(update={"dataset": str(folder)})
    dataset = open_dataset(moved, length, verify=verify)
    if dataset.digest != copy:
        raise DataError(f"{folder}: is {dataset.digest}, and not what its name says")
    return dataset


def files_of(dataset: TokenDataset) -> dict[str, int]:
    """Return the sizes, in bytes, of the files that a copy of a dataset is made of, by name."""
    folder = dataset.train.path.parent
    more = [folder / name for name in (META_FILE, TOKENIZER_FILE)]
    files = [dataset.train.path, dataset.val.path, *(path for path in more if path.exists())]
    return {path.name: path.stat().st_size for path in files}


def receive_copy(
    trial: TrialConfig,
    digest: str,
    sizes: Mapping[str, int],
    pieces: Callable[[str], Iterator[bytes]],
    *,
    verify: bool = False,
) -> bool:
    """See to it that this machine has a whole copy; who else does so meanwhile is waited for.

    Args:
        trial: names the dataset's kind.
        digest: the dataset's.
        sizes: bytes of its files, by name.
        pieces: yields the bytes of a file, given its name.
        verify: look at every byte of a copy that is there.

    Returns:
        Whether it was received; False: it was there already, and whole.

    Raises:
        DataError: it has no room, cannot be written, or arrived damaged; nothing is left of it.
    """
    copy = copies_folder() / digest
    try:
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(copy):
            with contextlib.suppress(DataError):
                open_here(trial, digest, verify=verify)
                return False
            for left in copy.parent.glob(f".{digest}.*.tmp"):  # its writer was killed
                shutil.rmtree(left)
            _require_free(copy.parent, sum(sizes.values()))
            _write(copy, sizes, pieces)
            try:
                open_here(trial, digest)  # reads all of it, for it was never checked here
            except DataError:
                shutil.rmtree(copy)
                raise
    except OSError as error:
        raise DataError(f"{copy.parent}: {error.strerror}; set XDG_CACHE_HOME there") from error
    return True


def _write(copy: Path, sizes: Mapping[str, int], pieces: Callable[[str], Iterator[bytes]]) -> None:
    """Write the files to another name and rename them, in the place of what was there."""
    new, old = (_temporary(copy) for _ in range(2))
    try:
        for name in sizes:
            with (new / name).open("xb") as file:
                for piece in pieces(name):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        fsync_folder(new)
        if copy.exists():
            copy.rename(old)  # a folder that is empty may be taken
        new.rename(copy)
        fsync_folder(copy.parent)
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def _temporary(copy: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=copy.parent, prefix=f".{copy.name}.", suffix=".tmp"))


def _require_free(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder}: {free / 2**20:,.1f} MiB free, the dataset takes {needed / 2**20:,.1f} MiB; "
            "make room, or set XDG_CACHE_HOME there to another disk"
        )


@contextlib.contextmanager
def _locked(copy: Path) -> Iterator[None]:
    """Hold a copy's name for this process, once nobody else does."""
    descriptor = os.open(copy.with_name(f".{copy.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
