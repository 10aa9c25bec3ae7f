"""What a report says in words and tables of text: the answer, and what the sweep ran on."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from sweep.analysis.facts import Facts
from sweep.analysis.words import (
    GOALS,
    counts_text,
    describe_domains,
    duration,
    flops_text,
    magnitude,
    older_text,
    params_text,
    rung_text,
)
from sweep.config.sweep import SweepConfig
from sweep.record.results import TrialRecord
from sweep.show.commands import next_commands

Row = tuple[str, ...]
Part = tuple[str, tuple[str, ...], list[Row]]
"""Heading, the columns' names, rows."""


def answer(facts: Facts) -> Iterator[str]:
    """Yield what a sweep says, the best first, in a few paragraphs."""
    record, best = facts.record, facts.record.best
    if best is None or best.best is None:
        yield "No trial has a loss that counts."
    else:
        told = best.best
        bits = f" = {told['val_bpb']:.4f} bits per byte" if "val_bpb" in told else ""
        yield (
            f"Best: {best.name} with {params_text(best.params)}: validation loss "
            f"{best.best_val_loss:.4f} nats per token{bits}."
        )
        cost = [f"{magnitude(told['tokens'])} tokens"] if "tokens" in told else []
        cost += [flops_text(told["flops"])] if "flops" in told else []
        after = f", after {' and '.join(cost)}" if cost else ""
        yield f"It was reached at step {told['step']:,.0f}{after}."
    yield (
        f"The sweep is {state(facts)}: {counts_text(record) or 'no trials'} of "
        f"{record.num_samples:,}, in {duration(record.seconds)}."
    )


def answer_commands(facts: Facts) -> list[tuple[str, str]]:
    """Return what to do with the answer, in words, and what to type for it."""
    if facts.record.best is None:
        return []
    commands = next_commands(facts.name, facts.config.num_samples)
    return [("Restore and check the best trial:", commands["best"])]


def state(facts: Facts) -> str:
    """Return whether a sweep is running, complete or interrupted, as its record has it."""
    if facts.record.session_started is not None:
        return "running"
    return "complete" if facts.record.complete else "interrupted"


def plan_and_fact(facts: Facts, folder: Path) -> Part:
    """Return what the plan said and what came of it."""
    config, record = facts.config, facts.record
    plan = record.plan
    # Of trials that are to come it is not known how large they are.
    mean = [config.full_steps(trial.params) for trial in record.trials.values()]
    full = round(record.num_samples * sum(mean) / len(mean)) if mean else 0
    rows: list[Row] = [
        ("time", _or_dash(plan.seconds if plan else None, duration), duration(record.seconds)),
        ("trials", f"{record.num_samples:,}", f"{len(record.trials):,}"),
        (
            "steps",
            f"{_or_dash(plan.steps if plan else None, '{:,.0f}'.format)} of {full:,}",
            f"{record.steps:,}" + (f" ({record.steps / full:.0%})" if full else ""),
        ),
    ]
    for rung in config.rungs:
        judged = [t for t in record.trials.values() if not t.is_answer]
        came = [t for t in judged if rung in _passed(config, t)]
        left = sum(config.plan_step(t.params, t.rung or 0) == rung for t in came)
        of = "" if config.has_answer else " of each size"
        share = f"the best 1/{config.asha.reduction_factor}{of} go on"
        rows.append(
            (f"rung {rung_text(config, rung)}", share, f"{len(came):,} came, {left:,} were stopped")
        )
    rows.append(
        (
            "checkpoints",
            _or_dash(plan.disk_bytes if plan else None, lambda n: f"at most {_mebibytes(n)}"),
            _mebibytes(_checkpoint_bytes(facts, folder)),
        )
    )
    return "Plan and fact", ("", "plan", "fact"), rows


def _passed(config: SweepConfig, trial: TrialRecord) -> set[int]:
    """Return the evaluations of a trial, in steps of the plan."""
    return {config.plan_step(trial.params, told["step"]) for told in trial.evaluations}


def origin(facts: Facts) -> Part:
    """Return what a sweep was made of and ran on."""
    identity, config = facts.sweep.identity, facts.config
    sessions = [event for event in facts.events if event["event"] == "session_started"]
    machines = dict.fromkeys(e["machine"] for e in sessions if e.get("machine"))
    stops = {
        "rungs": f"rungs at {', '.join(rung_text(config, rung) for rung in config.rungs)}",
        "model": "its model stops trials",
        "nothing": "no trial is stopped",
    }[config.stops_by]
    goal, flops = GOALS.get(config.search.goal), config.search.flops
    rows: list[Row] = [
        ("began", _moment(identity.created)),
        ("sessions", str(facts.record.sessions)),
        *(("machine", str(machine)) for machine in machines),
        ("data", f"{config.trial.data.dataset}, digest {identity.dataset_digest}"),
        ("code", f"digest {identity.code_digest}, commit {identity.git_commit or 'not known'}"),
        ("versions", ", ".join(f"{n} {v}" for n, v in identity.versions.items())),
        ("seeds", f"{config.seed} of the search, {config.trial.train.seed} of every trial"),
        ("computed in", config.trial.train.computed_in),
        ("searched", "; ".join(describe_domains(config))),
        *([("compared at", f"{flops_text(flops)} a trial")] if flops else []),
        ("search", f"{config.algorithm}{f' for {goal}' if goal else ''}; {stops}"),
        *([("warm start", older_text(facts.record.older))] if facts.record.older else []),
        ("sweep's id", identity.sweep_id),
    ]
    return "What it ran on", ("", ""), rows


def _checkpoint_bytes(facts: Facts, folder: Path) -> int:
    kept = {
        folder / saved.path
        for trial in facts.record.holding.values()
        for saved in trial.checkpoints
        if (folder / saved.path).is_dir()
    }
    return sum(path.stat().st_size for place in kept for path in place.iterdir())


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _or_dash(value: float | None, text: Callable[[float], str]) -> str:
    return "-" if value is None else text(value)
