"""From the text that names a place for checkpoints to the place."""

from pathlib import Path

from trainable.storage.folder import FolderStore
from trainable.storage.store import Store


def open_store(address: str) -> Store:
    """Return the store at an absolute path."""
    return FolderStore(Path(address))
