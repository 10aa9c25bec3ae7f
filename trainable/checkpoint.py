"""The checkpoint contract (CS336 assignment 1, section 5.2), and a trial's verified folder.

Loading never runs code from a file, and nothing is loaded in part: a source is read and compared
with the model and the optimizer as a whole before either is touched.
"""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import torch
from pydantic import Field
from torch import nn

from trainable.config import Section, TrialConfig
from trainable.errors import CheckpointError
from trainable.files import write_atomic

Source = str | os.PathLike[str] | BinaryIO | IO[bytes]

MANIFEST_FILE = "manifest.json"
_SHAPED_LIKE_PARAMETERS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}


def save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: Source
) -> None:
    """Write all that resuming needs: weights, optimizer state and iteration.

    Args:
        model: any module; one compiled by torch.compile is saved as the module inside it.
        optimizer: any optimizer.
        iteration: finished optimizer steps.
        out: a path, replaced atomically, or a binary file object.

    Raises:
        OSError: the path cannot be written; what was there stays.
    """
    state = {
        "model": _inner(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": int(iteration),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if isinstance(out, (str, os.PathLike)):
        write_atomic(Path(out), buffer.getvalue())
    else:
        out.write(buffer.getvalue())


def load_checkpoint(src: Source, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what save_checkpoint wrote, and return its iteration.

    Args:
        src: a path or a binary file object.
        model: of the same architecture as the saved one.
        optimizer: of the same kind, over the same parameters.

    Raises:
        CheckpointError: the source is missing, damaged, of another architecture or holds weights
            that are not finite. Model and optimizer are then as before.
    """
    state = _read(src)
    _restore(state, model, optimizer)
    iteration: int = state["iteration"]
    return iteration


class Manifest(Section):
    """Facts about a trial's checkpoint. Replacing this file is what commits a save."""

    format: Literal[1] = 1
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
    state_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the state file, which is named after it."""
    state_bytes: int = Field(ge=1)
    """Size of the state file."""
    manifest_sha256: str = ""
    """Digest of the fields above."""

    @property
    def state_file(self) -> str:
        """Name of the state file beside the manifest."""
        return f"state-{self.state_sha256[:16]}.pt"

    def digest(self) -> str:
        """Return what manifest_sha256 must be."""
        text = self.model_dump_json(exclude={"manifest_sha256"})
        return hashlib.sha256(text.encode()).hexdigest()

    def text(self) -> str:
        """Return the one spelling that read_manifest accepts."""
        return self.model_dump_json(indent=2)


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
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    save_checkpoint(model, optimizer, facts["iteration"], buffer)
    state = buffer.getvalue()
    manifest = Manifest(
        **facts,
        threads=torch.get_num_threads(),
        torch_version=str(torch.__version__),
        state_sha256=hashlib.sha256(state).hexdigest(),
        state_bytes=len(state),
    )
    manifest = manifest.model_copy(update={"manifest_sha256": manifest.digest()})
    write_atomic(folder / manifest.state_file, state)
    write_atomic(folder / MANIFEST_FILE, manifest.text().encode())
    for path in (*folder.glob("state-*.pt"), *folder.glob(".state-*"), *folder.glob(".manifest*")):
        if path.name != manifest.state_file:
            path.unlink(missing_ok=True)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint folder's manifest, without verifying the files.

    Raises:
        CheckpointError: it is missing, damaged or of a newer format.
    """
    path = folder / MANIFEST_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"checkpoint {folder}: no readable {MANIFEST_FILE} ({error}): the save was not "
            "finished, or this is no checkpoint folder; use another checkpoint"
        ) from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {folder}: {MANIFEST_FILE} is damaged or of a newer format "
            f"({_first_line(error)}); use another checkpoint, or a newer version"
        ) from error
    if manifest.manifest_sha256 != manifest.digest() or manifest.text() != text:
        raise CheckpointError(
            f"checkpoint {folder}: {MANIFEST_FILE} was changed after it was written; "
            "it is damaged: use another checkpoint"
        )
    return manifest


def load_trial_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Manifest:
    """Verify a checkpoint folder, then restore model and optimizer from it.

    Raises:
        CheckpointError: as for read_manifest, read_verified and load_checkpoint.
    """
    manifest, state = read_verified(folder)
    read = _read(io.BytesIO(state))
    if read["iteration"] != manifest.iteration:
        raise CheckpointError(
            f"checkpoint {folder}: the manifest says iteration {manifest.iteration}, the state "
            f"{read['iteration']}; use another checkpoint"
        )
    _restore(read, model, optimizer)
    return manifest


def load_weights(folder: Path, model: nn.Module) -> Manifest:
    """Verify a checkpoint folder, then restore the model alone from it.

    Raises:
        CheckpointError: as for load_trial_checkpoint.
    """
    manifest, state = read_verified(folder)
    weights = _read(io.BytesIO(state))["model"]
    _require_same_model(weights, _inner(model))
    _inner(model).load_state_dict(weights)
    return manifest


def read_verified(folder: Path) -> tuple[Manifest, bytes]:
    """Return the manifest and the state of a checkpoint folder, once every digest fits.

    What was hashed is what is returned: the file is read once.

    Raises:
        CheckpointError: a file is missing, or its size or digest is not the manifest's.
    """
    manifest = read_manifest(folder)
    path = folder / manifest.state_file
    try:
        if path.stat().st_size != manifest.state_bytes:
            raise CheckpointError(
                f"checkpoint {folder}: {path.name} has {path.stat().st_size} bytes, its manifest "
                f"vouches for {manifest.state_bytes}: it is damaged; use another checkpoint"
            )
        state = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {folder}: {path.name}: {error.strerror}; use another checkpoint"
        ) from error
    if hashlib.sha256(state).hexdigest() != manifest.state_sha256:
        raise CheckpointError(
            f"checkpoint {folder}: {path.name} does not have the digest that its manifest "
            "vouches for: it is damaged; use another checkpoint"
        )
    return manifest, state


def _inner(model: nn.Module) -> nn.Module:
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def _read(src: Source) -> dict[str, Any]:
    try:
        _require_plain_zip(src)
        state = torch.load(src, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {src}: no such file") from error
    except Exception as error:  # torch raises four unlike kinds for damaged files
        raise CheckpointError(
            f"checkpoint {_name(src)}: cannot be read ({_first_line(error)}); "
            "it is damaged or not a checkpoint"
        ) from error
    shape = {"model": dict, "optimizer": dict, "iteration": int}
    if not isinstance(state, dict) or any(
        not isinstance(state.get(key), kind) for key, kind in shape.items()
    ):
        raise CheckpointError(
            f"checkpoint {_name(src)}: holds no model, optimizer and iteration; "
            "it was not written by save_checkpoint"
        )
    return state


def _restore(state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a state that was read as a whole, once it fits both model and optimizer."""
    inner = _inner(model)
    _require_same_model(state["model"], inner)
    _require_same_optimizer(state["optimizer"], optimizer)
    try:  # the optimizer first: it changes nothing until all of its state is read
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:
        raise CheckpointError(
            f"checkpoint: its optimizer state is damaged ({_first_line(error)}); "
            "use another checkpoint"
        ) from error
    inner.load_state_dict(state["model"])


def _require_plain_zip(src: Source) -> None:
    """Refuse a file whose parts are compressed: torch writes none, and a bomb would be."""
    start = None if isinstance(src, (str, os.PathLike)) else src.tell()
    with zipfile.ZipFile(src) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("it holds compressed parts")
    if start is not None and not isinstance(src, (str, os.PathLike)):
        src.seek(start)


def _require_same_model(saved: dict[str, Any], model: nn.Module) -> None:
    own = model.state_dict()
    differing = [
        name
        for name in sorted({*saved, *own})
        if name not in saved or name not in own or _kind(saved[name]) != _kind(own[name])
    ]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"checkpoint of another architecture: {len(differing)} of {len(own)} tensors differ, "
            f"first {name}: saved {_kind(saved.get(name))}, the model has {_kind(own.get(name))}; "
            "build the model from the checkpoint's own config"
        )
    for name, _ in model.named_parameters(remove_duplicate=False):  # a mask may hold -inf
        value = saved[name]
        if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"checkpoint: {name} holds NaN or inf; use an earlier checkpoint")


def _require_same_optimizer(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    groups = saved.get("param_groups")
    slots = saved.get("state")
    if not (
        isinstance(groups, list)
        and isinstance(slots, dict)
        and all(
            isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
        )
        and all(isinstance(slot, dict) for slot in slots.values())
    ):
        raise CheckpointError("checkpoint: its optimizer state has no groups or no state")
    saved_layout = [(len(group["params"]), sorted(group)) for group in groups]
    own_layout = [(len(group["params"]), sorted(group)) for group in optimizer.param_groups]
    if saved_layout != own_layout:
        raise CheckpointError(
            f"checkpoint of another optimizer: saved groups {_groups(saved_layout)}, this "
            f"{type(optimizer).__name__} has {_groups(own_layout)}"
        )
    own = [p for group in optimizer.param_groups for p in group["params"]]
    names = [index for group in groups for index in group["params"]]
    for index, parameter in zip(names, own, strict=True):
        for key in _SHAPED_LIKE_PARAMETERS & slots.get(index, {}).keys():
            value = slots[index][key]
            if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
                raise CheckpointError(
                    f"checkpoint of another optimizer: {key} of parameter {index} has shape "
                    f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}"
                )


def _groups(layout: list[tuple[int, list[str]]]) -> str:
    return ", ".join(f"{count} parameters with {'/'.join(keys)}" for count, keys in layout)


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return "nothing" if value is None else type(value).__name__


def _name(src: Source) -> str:
    return str(src) if isinstance(src, (str, os.PathLike)) else "file object"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
