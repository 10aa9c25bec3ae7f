"""Trains a table of real learning curves: `python benchmarks/search/make_table.py NAME`.

Every trial is the default sweep's (configs/sweep.yaml), trained by the product's own trainer on one
core, with losses every 25 steps. A table grows by one line a trained trial, best design first:
coarse rates everywhere, then the rates around each optimum of the fit to the curves so far, then
two more training seeds there. It can be interrupted anywhere: the same command goes on. About half
an hour of a core's time for the default sizes; `--decays` makes the weight decay one more field.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from benchmarks.search.table import FOLDER, Table
from trainable.config.trial import TrialConfig
from trainable.config.yaml_file import read_yaml

DEFAULT_SWEEP = Path(__file__).resolve().parents[2] / "configs" / "sweep.yaml"
EVERY = 25
"""Steps between a table's losses."""
COARSE, FINE = 7, 13
"""Rates over the default sweep's interval, logarithmically even; every other fine one is coarse."""
SEEDS = (1, 2)
"""Further training seeds near each optimum."""

Place = tuple[Any, ...]
"""Values of a table's fields: width, layers, rate and, where it is searched, decay."""


def main() -> None:
    """Train what is missing of a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the table")
    parser.add_argument("--text", type=Path, help="UTF-8 file; unset: Python's standard library")
    parser.add_argument("--about", default="", help="what the text is")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the table")
    parser.add_argument("--sizes", default="64,96,128,192:2,3,4", help="widths:layers")
    parser.add_argument("--decays", default="", help="weight decays, to search them, too")
    arguments = parser.parse_args()
    widths, layers = ([int(n) for n in part.split(",")] for part in arguments.sizes.split(":"))
    decays = [float(decay) for decay in arguments.decays.split(",") if decay]
    path: Path = arguments.out / f"{arguments.name}.jsonl"
    trial = TrialConfig.model_validate(_base_trial(arguments.name, arguments.text))
    if not path.exists():
        head = head_of(arguments.name, arguments.about, trial, widths, layers, decays)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head) + "\n")
    _cut_torn_line(path)
    sizes = list(product(widths, layers))
    while (job := next(missing(Table.read(path), sizes, decays), None)) is not None:
        started = time.perf_counter()
        line = trained(Table.read(path), *job)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(*job, line["loss"][-1], f"{time.perf_counter() - started:.1f} s", flush=True)


def head_of(
    name: str,
    about: str,
    trial: TrialConfig,
    widths: list[int],
    layers: list[int],
    decays: list[float],
) -> dict[str, Any]:
    """Return a table's first line, the passes' form chosen as in a sweep."""
    from trainable.data.batches import open_dataset
    from trainable.training.choice import resolve

    space = dict(read_yaml(DEFAULT_SWEEP)["space"])
    space["model.d_model"] = {"choice": widths}
    whole = layers == list(range(layers[0], layers[-1] + 1))
    space["model.n_layers"] = {"int": [layers[0], layers[-1]]} if whole else {"choice": layers}
    if decays:
        space["optim.weight_decay"] = {"loguniform": [min(decays), max(decays)]}
    chosen = resolve(trial, open_dataset(trial.data, trial.model.context_length))
    order = ["model.d_model", "model.n_layers", "optim.lr", "optim.weight_decay"]
    return {
        "name": name,
        "text": about or "standard library of Python",
        "fields": [field for field in order if field in space],
        "space": space,
        "trial": chosen.model_dump(mode="json", exclude={"data"}),
        "steps": list(range(0, trial.train.steps + 1, EVERY)),
    }


def missing(
    table: Table, sizes: Sequence[Place], decays: list[float]
) -> Iterator[tuple[Place, int]]:
    """Yield the places and seeds that a table lacks, in the order in which they are trained.

    What is near an optimum depends on the curves so far: ask again after each.
    """
    there = {(curve.at, curve.seed) for curve in table.curves}
    for at, seed in _wanted(table, sizes, decays):
        if (at, seed) not in there:
            yield at, seed


def _wanted(
    table: Table, sizes: Sequence[Place], decays: list[float]
) -> Iterator[tuple[Place, int]]:
    space = table.head["space"]
    low, high = space["optim.lr"]["loguniform"]
    fine = [float(f"{rate:.4g}") for rate in np.geomspace(low, high, FINE)]
    others: list[tuple[float, ...]] = [(decay,) for decay in decays] or [()]
    lines = list(product(sizes, others))
    for size, other in lines:
        for rate in fine[:: (FINE - 1) // (COARSE - 1)]:
            yield (*size, rate, *other), 0
    for size, other in lines:
        for rate in _nearest(table, size, other, fine, 3):
            yield (*size, rate, *other), 0
    for seed, (size, other) in product(SEEDS, lines):
        if not other or other[0] in _nearest_decays(table, size, decays):
            for rate in _nearest(table, size, other, fine, 2):
                yield (*size, rate, *other), seed
    for size, other in lines:
        for rate in _nearest(table, size, other, fine, 5):
            yield (*size, rate, *other), 0


def _nearest(
    table: Table, size: Place, other: tuple[float, ...], rates: list[float], number: int
) -> list[float]:
    """Return the rates that are nearest to the fit's best one, given the other fields."""
    grid = np.geomspace(rates[0], rates[-1], 201)
    fields = table.fields
    losses = [table.final(dict(zip(fields, (*size, rate, *other), strict=True))) for rate in grid]
    best = grid[int(np.argmin(losses))]
    return sorted(rates, key=lambda rate: abs(np.log(rate / best)))[:number]


def _nearest_decays(table: Table, size: Place, decays: list[float]) -> list[float]:
    best = table.best(size)[0][1]
    return sorted(decays, key=lambda decay: abs(np.log(decay / best)))[:2]


def trained(table: Table, at: Place, seed: int) -> dict[str, Any]:
    """Train one trial to its end; return its line of the table."""
    from trainable.data.batches import open_dataset
    from trainable.model.counts import flops_per_token
    from trainable.training.trainer import Trainer

    values = dict(zip(table.fields, at, strict=True))
    base = {**table.head["trial"], "data": {"dataset": _dataset(table.name)}}
    config = TrialConfig.model_validate(base).with_values({**values, "train.seed": seed})
    dataset = open_dataset(config.data, config.model.context_length)
    trainer = Trainer(config, dataset)
    losses, started = [], 0.0
    for evaluation in trainer.run():
        # Of this process alone: what else the machine does must not count. From step 0 on.
        started = started or time.process_time()
        losses.append(round(evaluation.val_loss, 4))
    flops = flops_per_token(config.model, dataset.vocab_size) * config.tokens_per_step
    seconds = round(time.process_time() - started, 2)
    return {"at": at, "seed": seed, "loss": losses, "seconds": seconds, "flops": flops}


def _base_trial(name: str, text: Path | None) -> dict[str, Any]:
    """Return the default sweep's trial on a table's text; its dataset is made if it is missing."""
    from trainable.common.paths import in_project
    from trainable.data.build import prepare
    from trainable.data.corpus import StandardLibrary, TextFiles

    folder = in_project(_dataset(name))
    if not folder.exists():
        prepare(TextFiles([text]) if text else StandardLibrary(), folder)
    trial: dict[str, Any] = read_yaml(DEFAULT_SWEEP)["trial"]
    trial["data"] = {"dataset": str(folder)}
    trial["train"] |= {"eval_every": EVERY, "device": "cpu", "threads": 1}
    return trial


def _dataset(name: str) -> str:
    return f"data/table-{name}"


def _cut_torn_line(path: Path) -> None:
    """Cut off what a killed process wrote of a line."""
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n") + 1])


if __name__ == "__main__":
    main()
