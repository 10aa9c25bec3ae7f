"""The same sweep as a user writes it with Ray's stock pieces, run as a program of its own.

OptunaSearch, ASHAScheduler and MLflowLoggerCallback, a function trainable, no reuse of workers; in
it Hugging Face's Llama (our own modules where transformers is missing) in eager fp32, the textbook
batch loader, and torch.save. Trials, seeds, rates, rungs and validation windows are those of a
sweep of ours: `python benchmarks/stock_sweep.py SWEEP_FOLDER OUT`.
"""

import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from ray import tune
from torch import nn

LOGITS_AT_ONCE = 8_192
"""Tokens evaluated at once, as in ours."""


def train(config: dict[str, Any], base: dict[str, Any]) -> None:
    """Train a trial: `base` with the values in `config`; report with checkpoints."""
    import numpy as np

    from benchmarks.batches import textbook_batch
    from benchmarks.llama import llama, peer_installed
    from trainable.config.trial import TrialConfig
    from trainable.data.batches import open_dataset, validation_starts, windows
    from trainable.model.transformer import Transformer, next_token_loss
    from trainable.training.optim import build_optimizer, learning_rate, set_learning_rate

    torch.set_num_threads(1)
    trial = TrialConfig.model_validate(base).with_values(config)
    length, batch = trial.model.context_length, trial.train.batch_size
    dataset = open_dataset(trial.data, length)
    data = np.load(dataset.train.path, mmap_mode="r")
    torch.manual_seed(trial.train.seed)
    ours = Transformer(trial.model, dataset.vocab_size, trial.train.seed)
    model = llama(ours, "sdpa") if peer_installed() else ours
    optimizer = build_optimizer(model, trial.optim)

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        out = model(tokens)
        return out if isinstance(out, torch.Tensor) else out.logits

    starts = validation_starts(len(dataset.val.tokens), length, trial.train.eval_tokens)
    rows = max(1, LOGITS_AT_ONCE // length)

    @torch.no_grad()
    def evaluate() -> float:
        total = 0.0
        for first in range(0, len(starts), rows):
            x, y = windows(dataset.val.tokens, starts[first : first + rows], length, "cpu")
            total += float(next_token_loss(logits(x), y)) * len(x)
        return total / len(starts)

    def report(step: int) -> None:
        metrics = {"step": step, "val_loss": evaluate()}
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, Path(folder) / "checkpoint.pt")
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    report(0)
    for step in range(1, trial.train.steps + 1):
        set_learning_rate(optimizer, learning_rate(step, trial.optim, trial.train.steps))
        x, y = textbook_batch(data, batch, length)
        loss = next_token_loss(logits(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), trial.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % trial.train.eval_interval == 0 or step == trial.train.steps:
            report(step)


def main(sweep: Path, out: Path) -> None:
    """Run the trials of a sweep of ours; print the seconds of the session and its outcome."""
    import optuna
    import ray
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from sweep.record.folder import read_sweep
    from sweep.record.results import SweepRecord
    from sweep.search.optuna_search import distribution

    config, record = read_sweep(sweep).config, SweepRecord.read(sweep)
    ray.init(
        address="local",
        num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(out / "ray"),
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    steps = config.trial.train.steps
    search = OptunaSearch(
        {name: distribution(domain) for name, domain in config.space.items()},
        metric="val_loss",
        mode="min",
        seed=config.seed,
        points_to_evaluate=[trial.params for trial in record.trials.values()],
    )
    scheduler = ASHAScheduler(
        time_attr="step",
        metric="val_loss",
        mode="min",
        max_t=steps,
        grace_period=min(config.rungs, default=steps),
        reduction_factor=config.asha.reduction_factor,
    )
    base = config.trial.model_dump()
    started = time.perf_counter()
    results = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, base=base), {"cpu": 1}),
        tune_config=tune.TuneConfig(
            num_samples=len(record.trials), search_alg=search, scheduler=scheduler
        ),
        run_config=tune.RunConfig(
            storage_path=str(out / "results"),
            callbacks=[
                MLflowLoggerCallback(
                    tracking_uri=f"sqlite:///{out / 'mlflow.db'}", experiment_name="stock"
                )
            ],
            verbose=0,
        ),
    ).fit()
    seconds = time.perf_counter() - started
    reached = [int(result.metrics["step"]) for result in results]
    losses = [float(result.metrics["val_loss"]) for result in results]
    ray.shutdown()
    print(json.dumps({"seconds": seconds, "steps": sum(reached), "best": min(losses)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
