"""Loss against learning rate, one curve a model size."""

import math
from collections.abc import Iterator

from sweep.analysis.facts import Facts
from sweep.analysis.sizes import place_of
from sweep.analysis.study import Size
from sweep.analysis.words import outcome_text, show_value
from sweep.config.space import RATE
from sweep.pictures.look import Look, looks_of
from sweep.pictures.picture import GREY, SHADE, Picture, Trace, axis, line, marks, told
from sweep.record.results import TrialRecord

KEY, TITLE = "valleys", "Loss against learning rate"
FEWEST = 3
"""Trials of a size without which its valley would be all guess."""
MOST_LABELS = 48
"""Trials up to which each stopped one has its rung written beside it."""


def valleys(facts: Facts) -> Picture:
    """Return every trial as a mark over its rate, with the fitted valley of each size."""
    if RATE not in facts.config.space:
        return Picture(KEY, TITLE, "The learning rate was not searched.")
    trials = [trial for trial in facts.record.trials.values() if trial.step > 0 or trial.reason]
    if not trials:
        return Picture(KEY, TITLE, "No trial has been evaluated yet.")
    ceiling, floor = _height(trials)
    whole = [floor, ceiling * 1.01]
    looks = looks_of(facts)
    labelled = len(trials) <= MOST_LABELS
    traces: list[Trace] = []
    for size in facts.sizes:
        traces += _of_size(facts, size, looks[size.values], ceiling, labelled=labelled)
    traces += _lost(facts, trials, ceiling)
    space = facts.config.space[RATE].values
    low, high = min(space), max(space)
    margin = (high / low) ** 0.04
    searched = {
        **{"type": "rect", "xref": "x", "yref": "paper", "x0": low, "x1": high, "y0": 0, "y1": 1},
        **{"fillcolor": SHADE, "line": {"width": 0}, "layer": "below"},
    }
    layout = {
        "xaxis": axis(
            "learning rate (searched range shaded)",
            type="log",
            range=[math.log10(low / margin), math.log10(high * margin)],
        ),
        "yaxis": axis("validation loss, nats per token", range=whole),
        "shapes": [searched],
    }
    note = (
        "Filled: finished. Hollow: stopped early or not ended, at its lowest loss; the earlier "
        "it was stopped, the smaller. Crosses at the top edge: lost. Losses beyond the top edge "
        f"are drawn on it. Lines: the fitted loss of full trials, for sizes with {FEWEST} or more."
    )
    near = [floor, _bottoms(traces, trials, floor)]
    switches = {"all trials": {"yaxis.range": whole}, "lowest losses": {"yaxis.range": near}}
    if near[1] >= ceiling:
        switches = {}
    return Picture(KEY, TITLE, _sentence(facts), traces, layout, note, switches)


def _bottoms(traces: list[Trace], trials: list[TrialRecord], floor: float) -> float:
    """Return the loss up to which all finished trials and the bottoms of all valleys lie."""
    ends = [t.best_val_loss for t in trials if t.outcome == "finished"]
    ends += [min(trace["y"]) for trace in traces if trace["mode"] == "lines" and trace["y"]]
    return floor + 1.15 * (max(ends, default=math.inf) - floor)


def _height(trials: list[TrialRecord]) -> tuple[float, float]:
    """Return the highest and the lowest loss that are shown: the worst tenth may stand out."""
    losses = sorted(t.best_val_loss for t in trials if t.best and t.is_comparable)
    if not losses:
        return 1.0, 0.0
    worst = losses[math.ceil(0.9 * (len(losses) - 1))]
    room = max(worst - losses[0], 0.02)
    return worst + 0.15 * room, losses[0] - 0.08 * room


def _of_size(
    facts: Facts, size: Size, look: Look, ceiling: float, *, labelled: bool
) -> Iterator[Trace]:
    usable = [t for t in size.trials if t.is_comparable and t.step > 0]
    group = {"legendgroup": size.label}
    whole = [t for t in usable if t.outcome == "finished"]
    part = [t for t in usable if t.outcome != "finished"]
    first = True
    for trials, hollow in ((whole, False), (part, True)):
        if not trials:
            continue
        sizes = [11 if not hollow else _small(facts, trial) for trial in trials]
        trace = marks(
            size.label,
            (t.params[RATE] for t in trials),
            (min(t.best_val_loss, ceiling) for t in trials),
            [_hover(facts, t) for t in trials],
            marker=look.marker(hollow=hollow) | {"size": sizes},
            showlegend=first,
            **group,
        )
        if hollow and labelled:
            trace |= {
                "mode": "markers+text",
                "text": [f"{t.rung:,}" if t.rung else "" for t in trials],
                "textposition": "middle right",
                "textfont": {"size": 9, "color": GREY},
            }
        yield trace
        first = False
    known = next((row for row in facts.by_size if row.size == size.values), None)
    valley = None
    if facts.surface is not None and known is not None and len(usable) >= FEWEST:
        valley = facts.surface.valley(place_of(facts.config, known))
    if valley is not None:
        inside = [(x, y) for x, y in zip(valley.rates, valley.loss, strict=True) if y <= ceiling]
        yield line(
            f"{size.label}, fitted",
            [x for x, _ in inside],
            [y for _, y in inside],
            line={"color": look.colour, "dash": look.dash, "width": 2},
            showlegend=False,
            **group,
        )


def _small(facts: Facts, trial: TrialRecord) -> int:
    return 6 + round(4 * trial.step / facts.config.full_steps(trial.params))


def _lost(facts: Facts, trials: list[TrialRecord], ceiling: float) -> Iterator[Trace]:
    lost = [trial for trial in trials if not trial.is_comparable]
    if lost:
        yield marks(
            "diverged or failed",
            (trial.params[RATE] for trial in lost),
            (ceiling for _ in lost),
            [_hover(facts, trial) for trial in lost],
            marker={"symbol": "x", "color": "#d55e00", "size": 10},
        )


def _hover(facts: Facts, trial: TrialRecord) -> str:
    size = facts.label_of(facts.size_of(trial))
    step = f"{size} · step {trial.step:,} of {facts.config.full_steps(trial.params):,}"
    loss = f" · loss {trial.best_val_loss:.4f}" if trial.best else ""
    return told(trial, step + loss, *([trial.reason[:120]] if trial.reason else []))


def _sentence(facts: Facts) -> str:
    best = facts.record.best
    if best is None:
        return "No trial has a loss that counts."
    size = facts.label_of(facts.size_of(best))
    said = (
        f"The lowest loss, {best.best_val_loss:.4f}, is {best.name}'s at a rate of "
        f"{show_value(best.params[RATE])} and size {size} ({outcome_text(best)})"
    )
    if not facts.study.by_loss:
        return said + "."
    loss, least = facts.study.by_loss[0]
    assert least.rates is not None
    return (
        f"{said}; by the fit a full trial does best, {loss:.4f} +- {least.deviation:.3f}, at "
        f"size {facts.label_of(least.size)} and rates of {least.rates[0]:.2g} to "
        f"{least.rates[1]:.2g}."
    )
