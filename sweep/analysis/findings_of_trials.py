"""Findings about the trials: how they ended, which sizes were left out, how long it took."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator

from sweep.analysis.finding import Finding, listed
from sweep.analysis.sizes import size_fields, trials_by_size
from sweep.analysis.study import Study
from sweep.analysis.words import duration, rung_text, show_value, size_text
from sweep.config.space import RATE
from sweep.record.results import Outcome, TrialRecord

MOST_SIZES = 1_000
"""Sizes of a space beyond which it is not said which of them were never tried."""


def unfinished(study: Study) -> Iterator[Finding]:
    """Say that the sweep has not come to its end."""
    record = study.record
    ended = len(record.trials) - len(record.unfinished)
    if record.complete:
        return
    yield Finding(
        "unfinished",
        f"{ended:,} of {record.num_samples:,} trials have ended: what is found so far may change",
        {"ended": ended, "trials": record.num_samples},
        "a trial that was asked for has not ended",
    )


def none_finished(study: Study) -> Iterator[Finding]:
    """Say that no trial came to its end."""
    record = study.record
    if not record.complete or any(t.outcome == "finished" for t in record.trials.values()):
        return
    yield Finding(
        "none_finished",
        f"none of {len(record.trials):,} trials came to its end: what a full one reaches is not "
        "known",
        {"trials": len(record.trials)},
        "all trials have ended, none as finished",
    )


def failed(study: Study) -> Iterator[Finding]:
    """Say how many trials failed, and why most of them did."""
    lost = _ended(study, "failed")
    if not lost:
        return
    reasons = Counter(t.reason or "no reason was told" for t in lost)
    reason, times = reasons.most_common(1)[0]
    first = reason.strip().partition("\n")[0]
    most = "" if len(reasons) == 1 else f", {times:,} of them for the same reason"
    yield Finding(
        "failed",
        f"{len(lost):,} of {len(study.record.trials):,} trials failed{most}: {first}",
        {
            "failed": [t.name for t in lost],
            "trials": len(study.record.trials),
            "reason": reason,
            "with_this_reason": times,
        },
        "trials whose outcome is failed, with their commonest reason",
    )


def out_of_memory(study: Study) -> Iterator[Finding]:
    """Say how many trials ran out of memory, and at which sizes."""
    lost = _ended(study, "out_of_memory")
    if not lost:
        return
    fields, _ = size_fields(study.config)
    sizes = sorted({tuple(t.params[name] for name in fields) for t in lost} - {()})
    of = f", of {listed([size_text(fields, size) for size in sizes])}" if sizes else ""
    yield Finding(
        "out_of_memory",
        f"{len(lost):,} of {len(study.record.trials):,} trials ran out of memory{of}: lower "
        "max_concurrent or trial.train.batch_size",
        {
            "out_of_memory": [t.name for t in lost],
            "trials": len(study.record.trials),
            "sizes": [list(size) for size in sizes],
        },
        "trials whose outcome is out_of_memory, with their sizes",
    )


def tried_once(study: Study) -> Iterator[Finding]:
    """Name the sizes that were tried once, by a trial that was stopped."""
    fields, _ = size_fields(study.config)
    if not fields:
        return
    once = [
        (size, trials[0])
        for size, trials in trials_by_size(fields, study.record)
        if len(trials) == 1 and trials[0].outcome == "stopped"
    ]
    if not once:
        return
    names = listed([size_text(fields, size) for size, _ in once])
    config = study.config
    steps = sorted({config.plan_step(trial.params, trial.step) for _, trial in once})
    first, last = (rung_text(config, step) for step in (steps[0], steps[-1]))
    unit = "" if config.by_flops else "step " if first == last else "steps "
    at = f"{unit}{first}" if first == last else f"{unit}{first} to {last}"
    yield Finding(
        "tried_once",
        f"{names} {'were' if len(once) > 1 else 'was'} tried once, and stopped at {at}: the answer "
        "there is not known",
        {"sizes": [list(size) for size, _ in once], "steps": [trial.step for _, trial in once]},
        "sizes with one trial, which was stopped early",
    )


def never_tried(study: Study) -> Iterator[Finding]:
    """Name the sizes of the space that no trial had."""
    fields, _ = size_fields(study.config)
    domains = [study.config.space[name] for name in fields]
    values = [
        range(d.integers[0], d.integers[1] + 1) if d.integers else d.choice or [] for d in domains
    ]
    there = math.prod(map(len, values))
    if not fields or not study.record.complete or not 1 < there <= MOST_SIZES:
        return
    tried = {tuple(t.params[name] for name in fields) for t in study.record.trials.values()}
    never = [size for size in itertools.product(*values) if size not in tried]
    if not never:
        return
    yield Finding(
        "never_tried",
        f"{len(never):,} of {there:,} sizes {'were' if len(never) > 1 else 'was'} never tried: "
        f"{listed([size_text(fields, size) for size in never])}",
        {"sizes": [list(size) for size in never], "of": there},
        "sizes of the space that no trial had, where all have ended",
    )


def diverged(study: Study) -> Iterator[Finding]:
    """Say how many trials diverged, and from which rate on."""
    record, best = study.record, study.record.best
    lost = _ended(study, "diverged")
    if not lost:
        return
    numbers = {"diverged": [t.name for t in lost], "trials": len(record.trials)}
    text = f"{len(lost):,} of {len(record.trials):,} trials diverged"
    if RATE in study.config.space:
        rates = [t.params[RATE] for t in lost]
        numbers |= {"least_rate": min(rates), "largest_rate": max(rates)}
        least, one = show_value(min(rates)), len(lost) == 1
        if best is None or min(rates) > best.params[RATE]:
            text += f", at a rate of {least}" if one else f", all at rates of {least} and more"
        else:
            text += (
                f", at {f'a rate of {least}' if one else f'rates from {least} on'}, though the "
                f"best trial's is {show_value(best.params[RATE])}: the rate is not all there is "
                "to it"
            )
    yield Finding("diverged", text, numbers, "trials whose outcome is diverged, with their rates")


def time_taken(study: Study) -> Iterator[Finding]:
    """Say how long the sweep took, and what its plan had said."""
    record = study.record
    if record.plan is None or record.plan.seconds is None:
        return
    if record.sessions > 1 or not record.complete:
        return
    planned = record.plan.seconds
    yield Finding(
        "time_taken",
        f"the plan said {duration(planned)}, it took {duration(record.seconds)}",
        {"planned_seconds": planned, "seconds": record.seconds},
        "wall-clock time of a sweep that came to its end in one session",
    )


def _ended(study: Study, outcome: Outcome) -> list[TrialRecord]:
    return [t for t in study.record.trials.values() if t.outcome == outcome]
