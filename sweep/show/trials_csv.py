"""A sweep's trials as CSV, one row each: what spreadsheets and data frames read."""

import csv
import io

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord

COLUMNS = (
    *("trial", "rank", "outcome", "rung", "step", "best_step", "val_loss", "val_bpb"),
    *("last_val_loss", "tokens", "flops", "seconds", "started", "ended", "restarts", "reason"),
)
"""Columns before those of the searched fields, which have their dotted names.

rank: from 1, the best. step: the last that was reported. val_loss: the lowest, at best_step, in
nats per token, empty where it does not count; val_bpb: the same in bits per byte. last_val_loss,
tokens, flops, seconds: those of the last evaluation. started, ended: Unix time, seconds.
"""


def trials_csv(config: SweepConfig, record: SweepRecord) -> str:
    """Return the trials in the order of suggestion; numbers have every digit."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, *config.space])
    ranks = {trial.name: rank for rank, trial in enumerate(record.ranked, start=1)}
    for trial in record.trials.values():
        best = trial.best if trial.is_comparable and trial.best else {}
        last = trial.evaluations[-1] if trial.evaluations else {}
        writer.writerow(
            [
                trial.name,
                ranks[trial.name],
                trial.outcome or "running",
                trial.rung,
                trial.step,
                best.get("step"),
                best.get("val_loss"),
                best.get("val_bpb"),
                last.get("val_loss"),
                *(last.get(name) for name in ("tokens", "flops", "seconds")),
                trial.started,
                trial.ended,
                trial.restarts,
                trial.reason,
                *(trial.params.get(name) for name in config.space),
            ]
        )
    return file.getvalue()
