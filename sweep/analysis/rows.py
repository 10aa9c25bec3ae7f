"""Trials and their evaluations as flat rows, for whatever reads tables."""

from typing import Any

from sweep.analysis.facts import Facts
from sweep.analysis.leaderboard import leaderboard
from sweep.analysis.sizes import SizeRow, size_fields
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord


def trial_columns(config: SweepConfig) -> list[str]:
    """Return the names in a row of trial_rows, in order."""
    return [
        *("trial", "rank", "outcome", "rung", "reason", *config.space, "size", "parameters"),
        *("val_loss", "val_bpb", "best_step", "step", "tokens", "flops", "seconds"),
        *("restarts", "started", "ended"),
    ]


def trial_rows(facts: Facts) -> list[dict[str, Any]]:
    """Return one row for each trial, in the order of suggestions; None where nothing is known.

    - trial: its name; rank: from 1, the best
    - outcome: finished, stopped, diverged, out_of_memory, failed, interrupted, or running
    - rung: step of the rung that stopped it; reason: why it diverged or failed
    - each searched field by its dotted name, e.g. optim.lr
    - size: as people say it, e.g. 128x4; parameters: all that are trained
    - val_loss, val_bpb, best_step: the evaluation with the lowest validation loss, in nats per
      token and bits per byte; none of a diverged trial
    - step, tokens, flops, seconds: training so far
    - restarts: times its worker died and it went on
    - started, ended: Unix times, seconds
    """
    config, record = facts.config, facts.record
    sizes = {size.values: size for size in facts.sizes}
    rows = []
    for row in sorted(leaderboard(config, record), key=lambda row: record.trials[row.trial].number):
        trial = record.trials[row.trial]
        size = sizes[facts.size_of(trial)]
        last = trial.evaluations[-1] if trial.evaluations else {}
        rows.append(
            {
                "trial": row.trial,
                "rank": row.rank,
                "outcome": trial.outcome or "running",
                "rung": trial.rung,
                "reason": trial.reason,
                **dict(zip(config.space, row.params, strict=True)),
                **{"size": size.label, "parameters": size.parameters},
                "val_loss": row.val_loss,
                "val_bpb": row.val_bpb,
                "best_step": None if row.val_loss is None or not trial.best else trial.best["step"],
                "step": trial.step,
                **{name: last.get(name) for name in ("tokens", "flops", "seconds")},
                "restarts": trial.restarts,
                "started": trial.started,
                "ended": trial.ended,
            }
        )
    return rows


EVALUATION_COLUMNS = (
    *("step", "tokens", "flops", "seconds", "train_loss", "val_loss", "val_bpb", "grad_norm"),
    *("lr", "tokens_per_second"),
)


def evaluation_rows(record: SweepRecord) -> list[dict[str, Any]]:
    """Return one row for each evaluation, trial by trial, by ascending step.

    Its trial, and what a trial tells at a step: see Evaluation in trainable/training/evaluation.py
    (losses in nats per token, sums since the first step). None where nothing was told.
    """
    return [
        {"trial": trial.name, **{name: told.get(name) for name in EVALUATION_COLUMNS}}
        for trial in sorted(record.trials.values(), key=lambda trial: trial.number)
        for told in trial.evaluations
    ]


def size_rows(config: SweepConfig, sizes: list[SizeRow]) -> list[dict[str, Any]]:
    """Return one row for each model size that was tried: what the fit to all curves says of it.

    The size's and the other searched fields by dotted name, the latter at their best there, and
    what SizeRow tells; `rates` and `tried` as two columns each, low and high.
    """
    size_names, other_names = size_fields(config)
    rows = []
    for row in sizes:
        rates, tried = row.rates or (None, None), row.tried or (None, None)
        rows.append(
            {
                **dict(zip(size_names, row.size, strict=True)),
                **dict(zip(other_names, row.best, strict=True)),
                **{"rate_low": rates[0], "rate_high": rates[1]},
                **{"loss": row.loss, "deviation": row.deviation, "flops": row.flops},
                **{"tried_low": tried[0], "tried_high": tried[1]},
                **{"trials": row.trials, "finished": row.finished, "known": row.known},
            }
        )
    return rows
