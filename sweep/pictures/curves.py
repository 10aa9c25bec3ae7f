"""Learning curves, coloured by outcome, the best one on top."""

import math
from collections.abc import Mapping, Sequence

from sweep.analysis.facts import Facts
from sweep.analysis.words import params_text, rung_text
from sweep.pictures.picture import (
    OUTCOME_LOOKS,
    Picture,
    Trace,
    axis,
    marks,
    thinned,
    told_at,
    vertical,
)
from sweep.record.results import OUTCOMES, TrialRecord

KEY, TITLE = "curves", "Learning curves"
BEST = 40
"""Curves that are drawn whatever their number is: those of the best trials."""
OTHERS = 160
POINTS = 40
"""Points of a curve."""


def curves(facts: Facts) -> Picture:
    """Return the validation loss against the step, a line a trial."""
    ranked = [t for t in facts.record.ranked if any(e["step"] > 0 for e in t.evaluations)]
    if not ranked:
        return Picture(KEY, TITLE, "No trial has been evaluated after its first step yet.")
    shown = ranked[:BEST] + thinned(ranked[BEST:], OTHERS)
    traces = [
        _traced(facts, outcome, [t for t in reversed(shown) if (t.outcome or "running") == outcome])
        for outcome in ("running", *OUTCOMES)
    ]
    best = facts.record.best
    if best is not None:
        traces.append(_best(facts, best))
    config = facts.config
    by_flops, planned = config.by_flops, config.trial.train.steps
    steps = 100 if by_flops else planned
    first = min(_at(facts, t, e) for t in shown for e in t.evaluations if e["step"] > 0)
    logarithmic = {
        "xaxis.type": "log",
        "xaxis.range": [math.log10(first) - 0.04, math.log10(steps * 1.03)],
    }
    linear = {"xaxis.type": "linear", "xaxis.range": [0, steps * 1.03]}
    layout = {
        "xaxis": axis(_unit(facts), range=linear["xaxis.range"]),
        "yaxis": axis("validation loss, nats per token", range=_height(shown)),
        "shapes": [
            vertical(100 * rung / planned if by_flops else rung, f"rung {rung_text(config, rung)}")
            for rung in config.rungs
        ],
    }
    note = "The curves begin at step 0, above the top edge: zoom out to see it."
    if len(shown) < len(ranked) or any(len(t.evaluations) > POINTS for t in shown):
        note += (
            f" Of {len(ranked):,} curves, the {BEST} best and an even choice of "
            f"{len(shown) - BEST:,} others are drawn, with at most {POINTS} points each."
        )
    return Picture(
        KEY,
        TITLE,
        _sentence(facts, ranked),
        [t for t in traces if t["x"]],
        layout,
        note,
        {"linear steps": linear, "logarithmic steps": logarithmic},
    )


def _height(trials: Sequence[TrialRecord]) -> list[float]:
    """Return the range of losses after the first evaluation that trained at all."""
    losses = [e["val_loss"] for t in trials for e in t.evaluations if e["step"] > 0]
    firsts = sorted(next(e["val_loss"] for e in t.evaluations if e["step"] > 0) for t in trials)
    high, low = firsts[math.ceil(0.9 * (len(firsts) - 1))], min(losses)
    room = max(high - low, 0.02)
    return [low - 0.05 * room, high + 0.05 * room]


def _unit(facts: Facts) -> str:
    return "share of the FLOPs of a full trial, %" if facts.config.by_flops else "optimizer step"


def _at(facts: Facts, trial: TrialRecord, told_: Mapping[str, float]) -> float:
    """Return where an evaluation is drawn: at its step, or at its share of all, percent."""
    if not facts.config.by_flops:
        return told_["step"]
    return 100 * told_["step"] / facts.config.full_steps(trial.params)


def _traced(facts: Facts, outcome: str, trials: Sequence[TrialRecord]) -> Trace:
    """Return all curves of an outcome as one trace, with gaps between them."""
    symbol, colour = OUTCOME_LOOKS[outcome]
    x: list[float | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for trial in trials:
        for told_ in thinned(trial.evaluations, POINTS):
            x.append(_at(facts, trial, told_))
            y.append(told_["val_loss"])
            hover.append(told_at(trial, told_))
        x.append(None)
        y.append(None)
        hover.append("")
    return marks(
        outcome.replace("_", " "),
        x,
        y,
        hover,
        mode="lines+markers",
        line={"color": colour, "width": 1},
        marker={"symbol": symbol, "size": 4},
        opacity=0.75,
    )


def _best(facts: Facts, trial: TrialRecord) -> Trace:
    return marks(
        f"the best, {trial.name}",
        (_at(facts, trial, e) for e in trial.evaluations),
        (e["val_loss"] for e in trial.evaluations),
        [told_at(trial, e) for e in trial.evaluations],
        mode="lines+markers",
        line={"color": "#d55e00", "width": 3},
        marker={"symbol": "star", "size": 9},
    )


def _sentence(facts: Facts, ranked: Sequence[TrialRecord]) -> str:
    best = facts.record.best
    if best is None:
        return "No trial has a loss that counts."
    ended = [t for t in ranked if t.outcome == "stopped"]
    config, first = facts.config, facts.config.grace_period
    early = len([t for t in ended if config.plan_step(t.params, t.rung or 0) == first])
    stopped = (
        f"; {len(ended):,} trials were stopped early, {early:,} of them at "
        f"{'' if config.by_flops else 'step '}{rung_text(config, first)}"
        if ended
        else ""
    )
    falling = ""
    if len(best.evaluations) > 2:
        before, last = best.evaluations[-2]["val_loss"], best.evaluations[-1]["val_loss"]
        falling = f", and fell by {before - last:.3f} nats between its last two evaluations"
    return (
        f"The best curve is {best.name}'s ({params_text(best.params)}): it ends at "
        f"{best.best_val_loss:.4f}{falling}{stopped}."
    )
