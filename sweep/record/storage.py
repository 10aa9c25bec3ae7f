"""Where the checkpoints of a sweep lie."""

from pathlib import Path

from trainable.storage.address import open_store
from trainable.storage.store import Store


def store_of(folder: Path) -> Store:
    """Return the store of a sweep's checkpoints: its own folder."""
    return open_store(str(folder))
