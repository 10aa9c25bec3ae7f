"""What the benchmarks train, and in what surroundings: nothing of the user's is touched."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset
from trainable.data.tokenfile import TokenFile
from trainable.training.trainer import Trainer

DEFAULT = {
    "model.d_model": 128,
    "model.n_layers": 4,
    "model.context_length": 128,
    "train.batch_size": 8,
    "train.device": "cpu",
}
"""The default shape: 8 x 128 tokens a step."""


def random_dataset(vocab_size: int = 257, tokens: int = 2_000_000) -> TokenDataset:
    """Return random tokens as a dataset: no step is faster or slower for what the tokens are."""
    ids = np.random.default_rng(0).integers(0, vocab_size, tokens).astype(np.uint16)
    # An evaluation looks at the file's size: any file that does not shrink will do.
    file = TokenFile(Path(__file__), ids, "0" * 64, 0)
    return TokenDataset(Path(__file__).parent, file, file, vocab_size, None, None)


def trial(values: dict[str, Any] | None = None, vocab_size: int = 257) -> Trainer:
    """Return a trial of the default shape, with some values changed."""
    return Trainer(
        TrialConfig().with_values({**DEFAULT, **(values or {})}), random_dataset(vocab_size)
    )


def own_environment(home: Path) -> dict[str, str]:
    """Return an environment in which sweeps, caches and MLflow's store are below `home`."""
    ours = {"LM_SWEEP_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment = os.environ | ours
    environment.pop("MLFLOW_TRACKING_URI", None)
    return environment
