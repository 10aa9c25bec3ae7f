"""The checkpoint contract (CS336 assignment 1, section 5.2).

Loading never runs code from a file, and nothing is loaded in part: a source is read and compared
with the model and the optimizer as a whole before either is touched.
"""

import io
import os
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from torch import nn

from trainable.common.errors import CheckpointError, first_line
from trainable.common.files import write_atomic

Source = str | os.PathLike[str] | BinaryIO | IO[bytes]

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
    buffer = io.BytesIO()
    torch.save(training_state(model, optimizer, iteration), buffer)
    if isinstance(out, (str, os.PathLike)):
        write_atomic(Path(out), buffer.getvalue())
    else:
        out.write(buffer.getvalue())


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int
) -> dict[str, Any]:
    """Return what a checkpoint holds; its tensors are the model's and the optimizer's own."""
    return {
        "model": inner_module(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": int(iteration),
    }


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
    state = read_state(src)
    restore(state, model, optimizer)
    iteration: int = state["iteration"]
    return iteration


def inner_module(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile wrapped, or the module itself."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def read_state(src: Source) -> dict[str, Any]:
    """Return what save_checkpoint wrote, with nothing loaded yet.

    Raises:
        CheckpointError: the source is missing, damaged, or something else.
    """
    try:
        _require_plain_zip(src)
        state = torch.load(src, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {src}: no such file") from error
    except Exception as error:  # torch raises four unlike kinds for damaged files
        raise CheckpointError(
            f"checkpoint {_name(src)}: cannot be read ({first_line(error)}); "
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


def restore(state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a state that was read as a whole, once it fits both model and optimizer.

    Raises:
        CheckpointError: it does not; model and optimizer are then as before.
    """
    inner = inner_module(model)
    _require_same_model(state["model"], inner)
    _require_same_optimizer(state["optimizer"], optimizer)
    try:  # the optimizer first: it changes nothing until all of its state is read
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:
        raise CheckpointError(
            f"checkpoint: its optimizer state is damaged ({first_line(error)}); "
            "use another checkpoint"
        ) from error
    inner.load_state_dict(state["model"])


def restore_weights(state: dict[str, Any], model: nn.Module) -> None:
    """Load the model alone from a state that was read as a whole, once it fits.

    Raises:
        CheckpointError: it does not; the model is then as before.
    """
    inner = inner_module(model)
    _require_same_model(state["model"], inner)
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
        if isinstance(value, torch.Tensor) and not _is_finite(value):
            raise CheckpointError(f"checkpoint: {name} holds NaN or inf; use an earlier checkpoint")


def _is_finite(value: torch.Tensor) -> bool:
    if value.numel() == 0 or value.is_complex():
        return bool(torch.isfinite(value).all())
    # One pass without a temporary; NaN and inf both reach an extreme.
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(value))


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
