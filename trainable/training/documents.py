"""What the commands on one trial print as JSON: a run, a text, a dataset."""

from typing import Any, Literal

from trainable.common.document import Document


class TrialRunDocument(Document):
    """A trial that was run by itself: `local.py --json`."""

    format: Literal["lm-sweep.trial-run/1"] = "lm-sweep.trial-run/1"
    outcome: Literal["finished", "diverged"]
    reason: str | None
    """Why it diverged."""
    parameters: int
    device: str
    evaluations: list[dict[str, int | float]]
    """Metrics by ascending step: step, tokens, flops, seconds, val_loss and so on."""
    checkpoint: str | None
    """Folder of the checkpoint, if one was kept."""
    config: dict[str, Any]
    """Every setting, as in YAML."""


class TextDocument(Document):
    """Text that a model wrote: `generate.py --json`."""

    format: Literal["lm-sweep.text/1"] = "lm-sweep.text/1"
    checkpoint: str
    prompt: str
    text: str
    """What follows the prompt."""
    new_tokens: int
    seed: int


class DatasetDocument(Document):
    """A token dataset that was made: `prepare.py --json`."""

    format: Literal["lm-sweep.dataset/1"] = "lm-sweep.dataset/1"
    folder: str
    meta: dict[str, Any]
    """What its meta.json says."""
