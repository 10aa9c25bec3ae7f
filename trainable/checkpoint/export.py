"""A model on its own: weights as safetensors, with its config and its tokenizer beside them."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model as load_tensors
from safetensors.torch import save_model

from trainable.checkpoint.folder import MANIFEST_FILE, load_weights, read_manifest
from trainable.common.errors import CheckpointError, first_line
from trainable.common.paths import in_project
from trainable.config.section import Section
from trainable.config.trial import TrialConfig
from trainable.model.transformer import Transformer

WEIGHTS_FILE = "model.safetensors"

CONFIG_FILE = "config.json"

TOKENIZER_FILE = "tokenizer.json"


class ExportedConfig(Section):
    """config.json of an exported model."""

    trial: TrialConfig
    """The settings it was trained with."""
    vocab_size: int
    """Number of token ids."""
    facts: dict[str, Any]
    """Where it comes from: sweep, trial, step, losses."""


def export_model(
    folder: Path, model: Transformer, config: TrialConfig, tokenizer: Path, facts: dict[str, Any]
) -> None:
    """Write weights, config and, where there is one, the tokenizer to `folder`.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS_FILE))
    exported = ExportedConfig(trial=config, vocab_size=model.vocab_size, facts=facts)
    (folder / CONFIG_FILE).write_text(exported.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if tokenizer.is_file():
        shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)


def load_model(folder: Path) -> tuple[Transformer, Path]:
    """Return the model in an exported folder or a trial's checkpoint, and its tokenizer's path.

    Raises:
        CheckpointError: the folder is neither, or damaged.
    """
    if (folder / MANIFEST_FILE).is_file():
        manifest = read_manifest(folder)
        model = Transformer(manifest.config.model, manifest.vocab_size)
        load_weights(folder, model)
        return model, in_project(manifest.config.data.dataset) / TOKENIZER_FILE
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{folder}: neither a checkpoint ({MANIFEST_FILE}) nor an exported model "
            f"({WEIGHTS_FILE})"
        )
    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
        config = ExportedConfig.model_validate(json.loads(text))
        model = Transformer(config.trial.model, config.vocab_size)
        load_tensors(model, str(folder / WEIGHTS_FILE))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot be loaded ({first_line(error)}); export it again"
        ) from error
    return model, folder / TOKENIZER_FILE
