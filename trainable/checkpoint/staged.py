"""A folder of files replaced together: all of the new is on the disk before any of the old goes.

The file named last is the one without which the others are nothing: it goes first and comes last.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from trainable.common.errors import CheckpointError, first_line
from trainable.common.files import fsync_folder


@contextlib.contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """Give an empty folder to write synced files to; at the end they take their place in `folder`.

    `folder` is made if it is missing, its owner's alone to read and write.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full; what it held stays.
    """
    building = folder / ".exporting"
    shutil.rmtree(building, ignore_errors=True)  # of an export that was killed
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        building.mkdir()
        yield building
        names = sorted(os.listdir(building), key=lambda name: name == last)
        (folder / last).unlink(missing_ok=True)
        for name in names:
            os.replace(building / name, folder / name)
        fsync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"export to {folder}: {first_line(error)}; make room, or choose another place (--out)"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
