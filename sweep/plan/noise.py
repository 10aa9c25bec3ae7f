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


def standard_error(dataset: TokenDataset, trial: TrialConfig) -> float | None:
    """Return the standard error of a difference between two trials' validation losses, in nats.

    It is what the choice of the fixed windows contributes; another seed of the training adds its
    own. Both trials see the same windows, so what is common to them cancels. None for one window.
    """
    length = trial.model.context_length
    tokens = dataset.val.tokens
    starts = validation_starts(len(tokens), length, trial.train.eval_tokens)
    if len(starts) < 2:
        return None
    ids, counts = np.unique(np.asarray(dataset.train.tokens[:SAMPLE_TOKENS]), return_counts=True)
    counts = np.append(counts, 0)  # of what the sample lacks
    losses = []
    for start in starts:
        window = tokens[start + 1 : start + 1 + length]
        places = np.searchsorted(ids, window)
        seen = np.where(np.isin(window, ids), places, len(ids))
        losses.append(-np.log(counts[seen] + 1.0).mean())
    return PAIRED_SHARE * float(np.std(losses)) / math.sqrt(len(starts))
