"""Trials and their evaluations as flat rows, for whatever reads tables."""

from typing import Any

from sweep.analysis.sizes import SizeRow, size_fields
from sweep.analysis.study import Size, Study
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord


def trial_columns(config: SweepConfig) -> list[str]:
    """Return the names in a row of trial_rows, in order."""
    return [
        *("trial", "rank", "outcome", "rung", "reason", *config.space, "size", "parameters"),
        *("val_loss", "val_bpb", "best_step", "last_val_loss", "step"),
        *("full_steps", "tokens", "flops"),
        *("seconds", "restarts", "started", "ended"),
    ]


def trial_rows(study: Study) -> list[dict[str, Any]]:
    """Return one row for each trial, in the order of suggestions; None where nothing is known.

    `status.py --csv`, the trials of `--json` and `load_sweep(NAME).trials` are made of these.

    - trial: its name; rank: from 1, the best
    - outcome: finished, stopped, diverged, out_of_memory, failed, interrupted, or running
    - rung: step of the rung that stopped it; reason: why it diverged or failed
    - each searched field by its dotted name, e.g. optim.lr
    - size: as people say it, e.g. 128x4; parameters: all that are trained
    - val_loss, val_bpb, best_step: the evaluation with the lowest validation loss, in nats per
      token and bits per byte; None where it does not count, as of a diverged trial
    - last_val_loss: the last one that was told, whether it counts or not
    - step, tokens, flops, seconds: training so far; full_steps: those of the trial in full
    - restarts: times its worker died and it went on
    - started, ended: Unix times, seconds
    """
    ranks = {trial.name: rank for rank, trial in enumerate(study.record.ranked, start=1)}
    sizes = {size.values: size for size in study.tried}
    trials = sorted(study.record.trials.values(), key=lambda trial: trial.number)
    return [_row(study, trial, ranks[trial.name], sizes[study.size_of(trial)]) for trial in trials]


def _row(study: Study, trial: TrialRecord, rank: int, size: Size) -> dict[str, Any]:
    best = trial.best if trial.is_comparable and trial.best else {}
    last = trial.evaluations[-1] if trial.evaluations else {}
    return {
        **{"trial": trial.name, "rank": rank, "outcome": trial.outcome or "running"},
        **{"rung": trial.rung, "reason": trial.reason and _encodable(trial.reason)},
        **{name: trial.params.get(name) for name in study.config.space},
        **{"size": size.label, "parameters": size.parameters},
        **{"val_loss": best.get("val_loss"), "val_bpb": best.get("val_bpb")},
        **{"best_step": best.get("step"), "last_val_loss": last.get("val_loss")},
        **{"step": trial.step, "full_steps": study.config.full_steps(trial.params)},
        **{name: last.get(name) for name in ("tokens", "flops", "seconds")},
        **{"restarts": trial.restarts, "started": trial.started, "ended": trial.ended},
    }


def _encodable(text: str) -> str:
    """Return a text that UTF-8 can hold: an exception's may quote bytes that were none."""
    return text.encode(errors="backslashreplace").decode()


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
