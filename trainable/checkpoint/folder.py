"""A trial's checkpoint folder: the state, and the manifest that vouches for it.

The manifest is accepted in one spelling only and carries its own digest, so that no flipped bit in
the folder goes unnoticed. Nothing is loaded before everything fits.
"""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.serialization import config as serialization

from trainable.checkpoint.contract import read_state, restore, restore_weights, training_state
from trainable.checkpoint.digested import DigestingWriter, MemoryFile, read_digested
from trainable.common.errors import CheckpointError, DamagedCheckpointError
from trainable.common.files import fsync_folder, temporary_beside
from trainable.config.sealed import Sealed
from trainable.config.trial import TrialConfig

MANIFEST_FILE = "manifest.json"


class Manifest(Sealed):
    """Facts about a trial's checkpoint. Replacing this file is what commits a save."""

    seal: ClassVar[str] = "manifest_blake3"

    format: Literal[2] = 2
    """Version of this layout."""
    iteration: int = Field(ge=0)
    """Finished optimizer steps."""
    config: TrialConfig
    """The trial's settings."""
    vocab_size: int = Field(ge=2)
    """Number of token ids."""
    dataset_digest: str
    """Fingerprint of the tokens trained on."""
    val_loss: float | None = None
    """Validation loss at this iteration, nats per token."""
    seconds: float = Field(ge=0)
    """Training time so far."""
    threads: int = Field(ge=1)
    """CPU threads in use: other counts give other low-order bits."""
    torch_version: str
    """The torch that wrote it."""
    state_blake3: str = Field(pattern=r"^[0-9a-f]{64}$")
    """BLAKE3 of the state file, which is named after it."""
    state_bytes: int = Field(ge=1)
    """Size of the state file."""
    manifest_blake3: str = ""
    """BLAKE3 of the fields above."""

    @property
    def state_file(self) -> str:
        """Name of the state file beside the manifest."""
        return f"state-{self.state_blake3[:16]}.pt"


def save_trial_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> Manifest:
    """Write a checkpoint folder, or replace the one there: a crash leaves the old or the new.

    The state goes to a file named after its digest; replacing the manifest then commits it.

    Args:
        folder: where to write; made if missing.
        model: any module.
        optimizer: any optimizer.
        facts: the manifest's fields, but for those of the state, `threads` and `torch_version`.

    Raises:
        OSError: the disk is full or not writable; what was committed before stays.
    """
    state = training_state(model, optimizer, facts["iteration"])
    return Snapshot(state, facts).save(folder)


@dataclass(frozen=True)
class Snapshot:
    """A trial's state at one step, and the facts for its manifest."""

    state: dict[str, Any]
    """What training_state returns."""
    facts: dict[str, Any]
    """As for save_trial_checkpoint."""

    def save(self, folder: Path, *, durable: bool = True) -> Manifest:
        """Write it as a checkpoint folder: see save_trial_checkpoint.

        Args:
            folder: where to.
            durable: wait for the disk; False: somebody else does, for a copy.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with (
            temporary_beside(folder / "state") as (file, temporary),
            temporary_beside(folder / MANIFEST_FILE) as (manifest_file, manifest_temporary),
            DigestingWriter(file) as writer,
        ):
            # The digest vouches for every byte: the archive's own checksums would add nothing.
            # (torch puts `patch` into its config when that is imported.)
            with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
                torch.save(self.state, cast(IO[bytes], writer))
            manifest = Manifest(
                **self.facts,
                threads=torch.get_num_threads(),
                torch_version=str(torch.__version__),
                state_blake3=writer.hexdigest(),
                state_bytes=writer.size,
            ).sealed()
            manifest_file.write(manifest.text().encode())
            file.flush()
            manifest_file.flush()
            if durable:
                # Side by side: a file system writes its journal once for both.
                synced = writer.start_sync()
                os.fsync(manifest_file.fileno())
                synced.result()
            os.replace(temporary, folder / manifest.state_file)
            # A journal keeps the order of two renames in one folder: the manifest's commits.
            os.replace(manifest_temporary, folder / MANIFEST_FILE)
        if durable:
            fsync_folder(folder)
        for path in (
            *folder.glob("state-*.pt"),
            *folder.glob(".state*"),
            *folder.glob(".manifest*"),
        ):
            if path.name != manifest.state_file:
                path.unlink(missing_ok=True)
        return manifest


def copied(value: Any, seen: dict[Any, Tensor] | None = None) -> Any:
    """Return a state with copies, in main memory, of all its tensors; tied ones stay tied."""
    seen = {} if seen is None else seen
    if isinstance(value, Tensor):
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if place not in seen:
            seen[place] = value.detach().to("cpu", copy=True)
        return seen[place]
    if isinstance(value, dict):
        whole = copy.copy(value)  # of its own kind: a module's dict carries its version
        whole.update((key, copied(item, seen)) for key, item in value.items())
        return whole
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item, seen) for item in value)
    return value


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint folder's manifest, without verifying the files.

    Raises:
        DamagedCheckpointError: it is missing, damaged or of another format.
    """
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise DamagedCheckpointError(
            f"checkpoint {folder}: no readable {MANIFEST_FILE} ({error}): the save was not "
            "finished, or this is no checkpoint folder; use another checkpoint"
        ) from error
    try:
        return Manifest.unsealed(content, MANIFEST_FILE)
    except ValueError as error:
        raise DamagedCheckpointError(
            f"checkpoint {folder}: damaged or of another format ({error}); use another "
            "checkpoint, or the version that wrote it"
        ) from error


def load_trial_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Manifest:
    """Verify a checkpoint folder, then restore model and optimizer from it.

    Raises:
        CheckpointError: as for read_manifest, read_verified and load_checkpoint.
    """
    manifest, state = read_verified(folder)
    read = read_state(cast(IO[bytes], MemoryFile(state)))
    if read["iteration"] != manifest.iteration:
        raise CheckpointError(
            f"checkpoint {folder}: the manifest says iteration {manifest.iteration}, the state "
            f"{read['iteration']}; use another checkpoint"
        )
    restore(read, model, optimizer)
    return manifest


def load_weights(folder: Path, model: nn.Module) -> Manifest:
    """Verify a checkpoint folder, then restore the model alone from it.

    Raises:
        CheckpointError: as for load_trial_checkpoint.
    """
    manifest, state = read_verified(folder)
    restore_weights(read_state(cast(IO[bytes], MemoryFile(state))), model)
    return manifest


def read_verified(folder: Path) -> tuple[Manifest, memoryview]:
    """Return the manifest and the state of a checkpoint folder, once every digest fits.

    What was hashed is what is returned: the file is read once.

    Raises:
        DamagedCheckpointError: a file is missing, or its size or digest is not the manifest's.
    """
    manifest = read_manifest(folder)
    path = folder / manifest.state_file
    try:
        if path.stat().st_size != manifest.state_bytes:
            raise DamagedCheckpointError(
                f"checkpoint {folder}: {path.name} has {path.stat().st_size} bytes, its manifest "
                f"vouches for {manifest.state_bytes}: it is damaged; use another checkpoint"
            )
        with path.open("rb", buffering=0) as file:
            state, digest = read_digested(file, manifest.state_bytes)
    except OSError as error:
        raise DamagedCheckpointError(
            f"checkpoint {folder}: {path.name}: {error.strerror}; use another checkpoint"
        ) from error
    if digest != manifest.state_blake3:
        raise DamagedCheckpointError(
            f"checkpoint {folder}: {path.name} does not have the digest that its manifest "
            "vouches for: it is damaged; use another checkpoint"
        )
    return manifest, state
