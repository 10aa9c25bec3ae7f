"""Several sweeps side by side: one HTML file in the results folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep.analysis.facts import Facts
from sweep.analysis.words import counts_text, duration, loss_text, params_text
from sweep.pictures.compare import best_curves, best_valleys
from sweep.pictures.page import page
from sweep.record.folder import results_folder
from sweep.show.report_words import Part, Row, state
from trainable.common.files import write_atomic

OF_ONE_KIND = ("data's digest", "trial.train.steps", "search.compare", "search.flops")
"""What must be the same in sweeps whose losses are to be compared."""


def write_comparison(folders: Sequence[Path]) -> Path:
    """Write a report that compares sweeps; return its path.

    Raises:
        SweepError: a file of a sweep is missing or damaged.
        OSError: it cannot be written.
    """
    sweeps = [Facts.read(folder) for folder in folders]
    names = [facts.name for facts in sweeps]
    curves, valleys = best_curves(sweeps), best_valleys(sweeps)
    different = differing(sweeps)
    unlike = [row[0] for row in different[2] if row[0] in OF_ONE_KIND]
    warning = f"Their losses are not to be compared: the sweeps differ in {' and '.join(unlike)}."
    text = page(
        f"Sweeps {', '.join(names)}",
        [curves.sentence, *([warning] if unlike else [])],
        [],
        [],
        [curves, valleys],
        None,
        [_bests(sweeps), different],
    )
    path = results_folder() / f"report-{'-'.join(names)}.html"[-200:]
    write_atomic(path, text.encode())
    return path


def differing(sweeps: Sequence[Facts]) -> Part:
    """Return the settings that are not the same in all of the sweeps."""
    flats = [_settings(facts) for facts in sweeps]
    names = dict.fromkeys(name for flat in flats for name in flat)
    rows: list[Row] = []
    for name in names:
        values = [flat.get(name, "-") for flat in flats]
        if len(set(values)) > 1:
            rows.append((name, *values))
    return "Settings that differ", ("", *(facts.name for facts in sweeps)), rows


def _bests(sweeps: Sequence[Facts]) -> Part:
    told: list[Row] = [("state", *map(state, sweeps))]
    told.append(("trials", *(counts_text(facts.record) for facts in sweeps)))
    bests = [facts.record.best for facts in sweeps]
    told.append(("best trial", *("-" if b is None else b.name for b in bests)))
    told.append(("with", *("-" if b is None else params_text(b.params) for b in bests)))
    told.append(("val_loss", *(loss_text(b.best_val_loss if b else None) for b in bests)))
    told.append(("time", *(duration(facts.record.seconds) for facts in sweeps)))
    return "Side by side", ("", *(facts.name for facts in sweeps)), told


def _settings(facts: Facts) -> dict[str, str]:
    config = facts.config.model_dump(by_alias=True, exclude={"name"}, exclude_none=True)
    space = {f"space.{name}": f"{d.kind} {d.values}" for name, d in facts.config.space.items()}
    identity = facts.sweep.identity
    made_of = {"data's digest": identity.dataset_digest, "code's digest": identity.code_digest}
    return _flat({k: v for k, v in config.items() if k != "space"}) | space | made_of


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat
