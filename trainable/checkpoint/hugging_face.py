"""A model as Hugging Face's transformers load it: Llama's layout, without any code of ours."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from safetensors.torch import save_file

from trainable.checkpoint.export import CONFIG_FILE, ORIGIN_FILE, WEIGHTS_FILE
from trainable.checkpoint.llama import llama_settings, llama_weights
from trainable.checkpoint.staged import staged
from trainable.common.errors import CheckpointError
from trainable.common.files import file_digest, write_atomic
from trainable.config.sealed import Sealed
from trainable.config.trial import TrialConfig
from trainable.data.corpus import END_OF_TEXT
from trainable.data.meta import TOKENIZER_FILE
from trainable.data.tokenizer import end_of_text_id, load_tokenizer
from trainable.model.transformer import Transformer


class Origin(Sealed):
    """lm_sweep.json: where the model comes from. It vouches for the files beside it, and itself."""

    seal: ClassVar[str] = "origin_blake3"

    format: Literal[1] = 1
    """Version of this layout."""
    trial: TrialConfig
    """The settings it was trained with."""
    facts: dict[str, Any]
    """Sweep, trial, step, losses."""
    blake3: dict[str, str]
    """BLAKE3 of each other file."""
    origin_blake3: str = ""
    """BLAKE3 of the fields above."""


def export_hugging_face(
    folder: Path, model: Transformer, config: TrialConfig, tokenizer: Path, facts: dict[str, Any]
) -> None:
    """Write what AutoModelForCausalLM and, where there is a tokenizer, AutoTokenizer load.

    The files are their owner's alone. What was exported there before stays whole until all of the
    new is on the disk.

    Raises:
        CheckpointError: the folder cannot be written or holds another model; or the disk is full.
        DataError: the tokenizer's file is not one.
    """
    if (folder / CONFIG_FILE).exists() and not (folder / ORIGIN_FILE).exists():
        raise CheckpointError(
            f"export to {folder}: another model lies there ({CONFIG_FILE}), and its files have the "
            "same names; choose another place (--out)"
        )
    end = None
    texts = {}
    if tokenizer.is_file():
        end = end_of_text_id(load_tokenizer(tokenizer))
        texts[TOKENIZER_FILE] = tokenizer.read_text(encoding="utf-8")
        texts["tokenizer_config.json"] = _json(_tokenizer_settings(config, end))
    texts["generation_config.json"] = _json(_generation_settings(config, end))
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "rope_theta": config.model.rope_theta,  # transformers 4 does not look further
        **llama_settings(config.model, model.vocab_size, end),
    }
    texts[CONFIG_FILE] = _json(settings)
    with staged(folder, last=CONFIG_FILE) as building:
        save_file(llama_weights(model), building / WEIGHTS_FILE, metadata={"format": "pt"})
        for name, text in texts.items():
            write_atomic(building / name, text.encode())
        digests = {n: file_digest(building / n, sync=True) for n in (WEIGHTS_FILE, *texts)}
        origin = Origin(trial=config, facts=facts, blake3=digests)
        write_atomic(building / ORIGIN_FILE, origin.sealed().text().encode())


def read_origin(folder: Path) -> Origin:
    """Return where a model comes from, once the digest of every file fits.

    Raises:
        CheckpointError: a file is missing or damaged, or the export is of another format.
    """
    try:
        origin = Origin.unsealed((folder / ORIGIN_FILE).read_bytes(), ORIGIN_FILE)
        for name, digest in origin.blake3.items():
            if file_digest(folder / name) != digest:
                raise ValueError(f"{name} does not have the digest that {ORIGIN_FILE} vouches for")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: damaged, or of another format ({error}); export it again with "
            "sweep/best.py --format hf"
        ) from error
    return origin


def _tokenizer_settings(config: TrialConfig, end: int | None) -> dict[str, Any]:
    special = {} if end is None else {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.model.context_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }


def _generation_settings(config: TrialConfig, end: int | None) -> dict[str, Any]:
    """Return what `generate` does unless told: it fills the context that was trained on."""
    special = {} if end is None else {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return {"max_length": config.model.context_length, **special}


def _json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"
