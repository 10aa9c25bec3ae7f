"""Checkpoints in a folder: of this machine, or one that all nodes of a cluster see."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainable.common.errors import StorageError
from trainable.common.files import fsync_folder, fsync_tree
from trainable.storage.store import is_name


class FolderStore:
    """Checkpoints below a folder, which is made with the first if the one above it is there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def writing(self, name: str, last: str) -> Iterator[Path]:
        """Give the checkpoint's own folder; at the end it is on the disk, with all names above.

        A folder says nothing of what was written to it last; the manifest's digests tell whether
        all of it arrived.
        """
        folder = self.root / name
        with contextlib.suppress(FileExistsError):
            # Not those above: they would be made on this machine where a shared disk is not there.
            self.root.mkdir(0o700)
            fsync_folder(self.root.parent)
        folder.mkdir(0o700, parents=True)
        try:
            yield folder
            fsync_tree(folder, self.root)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give the checkpoint's own folder."""
        yield self.root / name

    def exists(self, name: str) -> bool:
        """Say whether there is such a folder."""
        return (self.root / name).is_dir()

    def names(self, below: str = "") -> list[str]:
        """Return the names of the folders in the attempts'."""
        parts = ("session-*", "t*", "a-*", "checkpoint_*")[len(Path(below).parts) :]
        folders = (self.root / below).glob("/".join(parts))
        found = (folder.relative_to(self.root).as_posix() for folder in folders)
        return [name for name in found if is_name(name)]

    def delete(self, name: str) -> None:
        """Remove a checkpoint's folder, and its attempt's if that is empty then.

        A record may come from elsewhere: nothing is removed that is not below this store's own.
        """
        folder = self.root / name
        if self.root.resolve() not in folder.resolve().parents:
            return
        shutil.rmtree(folder, ignore_errors=True)
        if is_name(name):
            with contextlib.suppress(OSError):  # another checkpoint is there
                folder.parent.rmdir()

    def settle(self) -> None:
        """Do nothing: delete has ended when it returns."""

    def disk(self) -> Path | None:
        """Return the folder, or the one that it will be made in."""
        return self.root if self.root.exists() else self.root.parent

    def require_usable(self) -> None:
        """Write, sync and remove a small file.

        Raises:
            StorageError: it is no folder, or cannot be written.
        """
        if not self.root.is_dir():
            raise StorageError(f"storage {self.root}: no such folder; make it, or mount its disk")
        try:
            with tempfile.TemporaryFile(dir=self.root) as file:
                file.write(b"probe")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"storage {self.root}: {error.strerror}; name a folder that you can write"
            ) from error

    def address(self, name: str) -> str:
        """Return a checkpoint's path."""
        return str(self.root / name)
