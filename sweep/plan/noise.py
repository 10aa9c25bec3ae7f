"""How small a difference between the losses of two trials means something."""

import math

import numpy as np

from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset, validation_starts

PAIRED_SHARE = 0.2
"""How much two trained models differ from window to window, as a share of how much the loss of a
model differs that knows only how often each token occurs. Found 0.08 to 0.30, in the middle 0.17,
over the fifteen pairs of six trials of the default sweep: rates, widths, depths and seeds."""

SAMPLE_TOKENS = 500_000
"""Tokens of either text that are looked at: more would not tell more."""


def standard_error(dataset: TokenDataset, trial: TrialConfig) -> float | None:
    """Return the standard error of a difference between two trials' validation losses, in nats.

    It is what the choice of the fixed windows contributes; another seed of the training adds its
    own. Both trials see the same windows, so what is common to them cancels. None for one window.
    """
    length = trial.model.context_length
    starts = validation_starts(len(dataset.val.tokens), length, trial.train.eval_tokens)
    if len(starts) < 2:
        return None
    looked_at = starts[:: math.ceil(len(starts) / max(2, SAMPLE_TOKENS // length))]
    targets = dataset.val.tokens[looked_at[:, None] + np.arange(1, 1 + length)]
    sample = np.asarray(dataset.train.tokens[:SAMPLE_TOKENS])
    ids, counts = np.unique(sample, return_counts=True)
    places = np.minimum(np.searchsorted(ids, targets), len(ids) - 1)
    seen = np.where(ids[places] == targets, counts[places], 0)  # 0: the sample lacks it
    losses = -np.log(seen + 1.0).mean(axis=1)
    return PAIRED_SHARE * float(np.std(losses, ddof=1)) / math.sqrt(len(starts))
