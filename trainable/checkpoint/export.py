"""A model on its own: weights as safetensors, with its config and its tokenizer beside them."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_model as load_tensors
from safetensors.torch import save_model

from trainable.checkpoint.folder import MANIFEST_FILE, load_weights, read_manifest
from trainable.checkpoint.staged import staged
from trainable.common.errors import CheckpointError, first_line
from trainable.common.files import file_digest, write_atomic
from trainable.common.paths import in_project
from trainable.config.sealed import Sealed
from trainable.config.trial import TrialConfig
from trainable.data.meta import TOKENIZER_FILE, DatasetMeta
from trainable.model.transformer import Transformer

WEIGHTS_FILE = "model.safetensors"

CONFIG_FILE = "config.json"

ORIGIN_FILE = "lm_sweep.json"
"""In a folder of Hugging Face's layout (hugging_face.py)."""


class ExportedConfig(Sealed):
    """config.json of an exported model: it vouches for the files beside it, and for itself."""

    seal: ClassVar[str] = "config_blake3"

    format: Literal[2] = 2
    """Version of this layout."""
    trial: TrialConfig
    """The settings it was trained with."""
    vocab_size: int = Field(ge=2)
    """Number of token ids."""
    facts: dict[str, Any]
    """Where it comes from: sweep, trial, step, losses."""
    weights_blake3: str
    """BLAKE3 of model.safetensors."""
    tokenizer_blake3: str | None
    """BLAKE3 of tokenizer.json; None where the dataset had none."""
    config_blake3: str = ""
    """BLAKE3 of the fields above."""


def export_model(
    folder: Path, model: Transformer, config: TrialConfig, tokenizer: Path, facts: dict[str, Any]
) -> None:
    """Write weights, config and, where there is one, the tokenizer to `folder`.

    They are their owner's alone to read and write. What was exported there before stays whole until
    all of the new is on the disk.

    Raises:
        CheckpointError: the folder cannot be written or holds another kind of export; or the disk
            is full.
    """
    if (folder / ORIGIN_FILE).exists():
        raise CheckpointError(
            f"export to {folder}: a model in Hugging Face's format lies there; choose another "
            "place (--out)"
        )
    with staged(folder, last=CONFIG_FILE) as building:
        save_model(model, str(building / WEIGHTS_FILE))
        names = [WEIGHTS_FILE]
        if tokenizer.is_file():
            write_atomic(building / TOKENIZER_FILE, tokenizer.read_bytes())
            names.append(TOKENIZER_FILE)
        digests = {name: file_digest(building / name, sync=True) for name in names}
        exported = ExportedConfig(
            trial=config,
            vocab_size=model.vocab_size,
            facts=facts,
            weights_blake3=digests[WEIGHTS_FILE],
            tokenizer_blake3=digests.get(TOKENIZER_FILE),
        )
        write_atomic(building / CONFIG_FILE, exported.sealed().text().encode())


def read_export(folder: Path) -> ExportedConfig:
    """Return the config of an exported model, once the digest of every file fits.

    Raises:
        CheckpointError: a file is missing or damaged, or the export is of another format.
    """
    try:
        config = ExportedConfig.unsealed((folder / CONFIG_FILE).read_bytes(), CONFIG_FILE)
        vouched = {WEIGHTS_FILE: config.weights_blake3, TOKENIZER_FILE: config.tokenizer_blake3}
        for name, digest in vouched.items():
            if digest is not None and file_digest(folder / name) != digest:
                raise ValueError(f"{name} does not have the digest that {CONFIG_FILE} vouches for")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: damaged, or of another format ({error}); export it again with sweep/best.py"
        ) from error
    return config


def load_checkpoint_model(folder: Path) -> Transformer:
    """Return the model in a trial's checkpoint, once every digest fits.

    Raises:
        CheckpointError: the folder is no checkpoint, or damaged.
    """
    manifest = read_manifest(folder)
    model = Transformer(manifest.config.model, manifest.vocab_size)
    load_weights(folder, model)
    return model


def load_model(folder: Path) -> tuple[Transformer, Path]:
    """Return the model in an exported folder or a trial's checkpoint, and its tokenizer's path.

    Raises:
        CheckpointError: the folder is neither, or damaged.
        DataError: the tokenizer of a checkpoint's dataset is missing or damaged.
    """
    if (folder / MANIFEST_FILE).is_file():
        model = load_checkpoint_model(folder)
        manifest = read_manifest(folder)
        dataset = in_project(manifest.config.data.dataset)
        if manifest.config.data.raw_dtype is None:
            DatasetMeta.read(dataset).require_tokenizer(dataset)
        return model, dataset / TOKENIZER_FILE
    if (folder / ORIGIN_FILE).is_file():
        raise CheckpointError(
            f"{folder}: in Hugging Face's format, for transformers' AutoModelForCausalLM; for this "
            "command export it without --format hf"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{folder}: neither a checkpoint ({MANIFEST_FILE}) nor an exported model "
            f"({WEIGHTS_FILE})"
        )
    config = read_export(folder)
    model = Transformer(config.trial.model, config.vocab_size)
    try:
        load_tensors(model, str(folder / WEIGHTS_FILE))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot be loaded ({first_line(error)}); export it again"
        ) from error
    return model, folder / TOKENIZER_FILE
