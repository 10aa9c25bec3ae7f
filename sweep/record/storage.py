"""Where the checkpoints of a sweep lie."""

from pathlib import Path

from sweep.config.sweep import SweepConfig
from sweep.record.folder import read_sweep, results_folder
from trainable.storage.address import open_store, resolved
from trainable.storage.store import Store


def base_of(config: SweepConfig) -> str:
    """Return the address below which a sweep's checkpoints will go."""
    return resolved(config.storage) if config.storage else str(results_folder())


def store_of(folder: Path) -> Store:
    """Return the store of a sweep's checkpoints: its own folder, or one of its own in `storage`.

    The latter's name is that of no other sweep: projects may share a storage.

    Raises:
        SweepError: sweep.json is missing or damaged.
    """
    sweep = read_sweep(folder)
    if sweep.config.storage is None:
        return open_store(str(folder))
    own = f"{sweep.config.name or folder.name}-{sweep.identity.sweep_id[:12]}"
    return open_store(f"{resolved(sweep.config.storage)}/{own}")
