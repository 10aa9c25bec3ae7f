"""The best learning rate over widths, with the standard parametrization and with muP.

Real trials, short and small: one layer, 60 steps of the standard library's text. What is compared
is where the final loss is least, by a parabola through the three best rates: muP is made for it to
stay put (Yang et al. 2022), while the standard one has it fall with the width.
"""

import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Bar, Row
from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset, open_dataset
from trainable.data.build import prepare
from trainable.data.corpus import TextFiles
from trainable.training.trainer import Trainer

WIDTHS = (64, 128, 256)
RATES = tuple(1.25e-3 * 2**n for n in range(6))
FILES = 60
"""Modules of the standard library, by name."""
TRIAL = {
    "model.n_layers": 1,
    "model.context_length": 64,
    "train.batch_size": 8,
    "train.steps": 60,
    "train.eval_every": 60,
    "train.eval_tokens": 8_192,
    "train.device": "cpu",
    "train.threads": 1,
    "train.precision": "fp32",
    "train.attention": "products",
    "train.compile": "never",
}


def rows(short: bool) -> Iterator[Row]:
    """Yield how the best rate moves from the narrowest to the widest model."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(sysconfig.get_path("stdlib"))
        prepare(TextFiles(sorted(library.glob("*.py"))[:FILES]), Path(folder, "text"))
        config = TrialConfig().with_values({"data.dataset": str(Path(folder, "text")), **TRIAL})
        dataset = open_dataset(config.data, config.model.context_length)
        for kind in ("standard", "mup"):
            own = config.with_values({"model.parametrization": kind})
            best = {width: best_rate(own, dataset, width) for width in WIDTHS}
            figure = best[WIDTHS[-1]] / best[WIDTHS[0]]
            yield Row(
                "parametrization",
                f"{kind}, best rate of d{WIDTHS[-1]}",
                figure,
                figure,
                figure,
                unit=f"x that of d{WIDTHS[0]}",
                bar=Bar(at_least=0.67, at_most=1.5) if kind == "mup" else Bar(),
                note=", ".join(f"d{width} {rate:.2g}" for width, rate in best.items()),
                margin=None,
            )


def best_rate(config: TrialConfig, dataset: TokenDataset, width: int) -> float:
    """Return where the final loss is least along the rate."""
    trials = [config.with_values({"model.d_model": width, "optim.lr": rate}) for rate in RATES]
    losses = [list(Trainer(trial, dataset).run())[-1].val_loss for trial in trials]
    return float(np.exp(lowest(np.log(RATES), np.array(losses))))


def lowest(places: np.ndarray, losses: np.ndarray) -> float:
    """Return where the parabola through the lowest of losses (n,) and its neighbours is least.

    Args:
        places: (n,), ascending, evenly spaced.
        losses: at them; if the lowest is at an end, that is returned.
    """
    at = int(losses.argmin())
    if at in (0, len(losses) - 1):
        return float(places[at])
    below, least, above = losses[at - 1 : at + 2]
    shift = 0.5 * (below - above) / (below - 2 * least + above)
    return float(places[at] + shift * (places[1] - places[0]))
