"""Early stopping: how many trials came to each rung, stayed and left, and at which losses.

A model stops at any evaluation: those at which it did stand for the rungs.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sweep.analysis.facts import Facts
from sweep.analysis.words import rung_text
from sweep.pictures.picture import OUTCOME_LOOKS, Picture, Trace, axis, line, marks, told
from sweep.record.results import TrialRecord

KEY, TITLE = "rungs", "Early stopping"
WIDTH = 0.32
"""Half the width of a rung's strip, in rungs."""
MOST = 8
"""Evaluations that are shown of a model's: those at which it stopped the most."""

Arrival = tuple[TrialRecord, float]
"""A trial, and its loss at a rung."""


def rungs(facts: Facts) -> Picture:
    """Return the losses at each rung as a strip, with the border between staying and leaving."""
    by_model = facts.config.stops_by == "model"
    steps = _stopped_at(facts) if by_model else facts.config.rungs
    came = {step: _arrivals(facts, step) for step in steps}
    came = {step: arrivals for step, arrivals in came.items() if arrivals}
    if by_model and not steps:
        return Picture(KEY, TITLE, "The search's model has stopped no trial yet.")
    if not steps:
        return Picture(KEY, TITLE, "There are no rungs: every trial runs to its end.")
    if not came:
        return Picture(KEY, TITLE, "No trial has come to a rung yet.")
    factor = facts.config.asha.reduction_factor
    losses = sorted(loss for arrivals in came.values() for _, loss in arrivals)
    room = max(losses[math.ceil(0.95 * (len(losses) - 1))] - losses[0], 0.02)
    ceiling = losses[0] + 1.07 * room
    stayed, left = (_marks(facts, came, ceiling, left=left) for left in (False, True))
    borders: list[Trace] = []
    bordered = facts.config.has_answer and not by_model
    for place, arrivals in enumerate(came.values() if bordered else ()):
        border = float(np.quantile([loss for _, loss in arrivals], 1 / factor))
        borders.append(
            line(
                f"border now: the best 1/{factor}",
                [place - WIDTH * 1.2, place + WIDTH * 1.2],
                [border, border],
                line={"color": "#d55e00", "width": 2},
                legendgroup="border",
                showlegend=not place,
            )
        )
    names = [_counted(facts, step, arrivals) for step, arrivals in came.items()]
    layout = {
        "xaxis": {
            **{"tickvals": list(range(len(came))), "ticktext": names},
            **{"range": [-0.6, len(came) - 0.4], "showgrid": False},
        },
        "yaxis": axis(
            f"validation loss at the {_kind(facts)}, nats per token",
            range=[losses[0] - 0.08 * room, losses[0] + 1.1 * room],
        ),
    }
    note = (
        "The border moves as trials arrive: an early one stays where a later one with the same "
        "loss is stopped, and the first to come to a rung always stays."
    )
    if by_model:
        note = (
            "The model judges by where a trial is expected to end, by its size, its rate and all "
            "curves so far: there is no border for all."
        )
    elif not bordered:
        note = "Each trial is ranked among those of its size, so that there is no border for all."
    if losses[-1] > ceiling:
        note += " Losses beyond the top edge are drawn on it."
    return Picture(KEY, TITLE, _sentence(facts, came), [stayed, left, *borders], layout, note)


def _stopped_at(facts: Facts) -> list[int]:
    """Return the steps of the plan at which the most trials were stopped, ascending."""
    stopped = Counter(
        facts.config.plan_step(trial.params, trial.rung)
        for trial in facts.record.trials.values()
        if trial.outcome == "stopped" and trial.rung is not None
    )
    return sorted(step for step, _ in stopped.most_common(MOST))


def _kind(facts: Facts) -> str:
    return "step" if facts.config.stops_by == "model" else "rung"


def _arrivals(facts: Facts, step: int) -> list[Arrival]:
    """Return who came to a rung with which loss, in the order of suggestions.

    A trial that trains the answer enters none.
    """
    return [
        (trial, told_["val_loss"])
        for trial in facts.record.trials.values()
        if not trial.is_answer
        for told_ in trial.evaluations
        if facts.config.plan_step(trial.params, told_["step"]) == step
    ]


def _left(facts: Facts, trial: TrialRecord, step: int) -> bool:
    if trial.outcome != "stopped" or trial.rung is None:
        return False
    return facts.config.plan_step(trial.params, trial.rung) == step


def _marks(facts: Facts, came: dict[int, list[Arrival]], ceiling: float, *, left: bool) -> Trace:
    x: list[float] = []
    y: list[float] = []
    hover: list[str] = []
    for place, (step, arrivals) in enumerate(came.items()):
        for number, (trial, loss) in enumerate(arrivals):
            if _left(facts, trial, step) == left:
                x.append(place + WIDTH * (2 * _spread(number) - 1))
                y.append(min(loss, ceiling))
                hover.append(
                    told(
                        trial,
                        f"loss {loss:.4f} at {_kind(facts)} {rung_text(facts.config, step)}",
                    )
                )
    symbol, colour = OUTCOME_LOOKS["stopped" if left else "finished"]
    return marks(
        "was stopped here" if left else "went on",
        x,
        y,
        hover,
        marker={"symbol": symbol, "color": colour, "size": 7, "line": {"width": 1.5 * left}},
        opacity=0.8,
    )


def _spread(number: int) -> float:
    """Return a place in [0, 1) away from those of the numbers before (van der Corput)."""
    place, share = 0.0, 0.5
    while number:
        place += share * (number & 1)
        number, share = number >> 1, share / 2
    return place


def _counted(facts: Facts, step: int, arrivals: Sequence[Arrival]) -> str:
    gone = sum(_left(facts, trial, step) for trial, _ in arrivals)
    came, stayed = len(arrivals), len(arrivals) - gone
    return (
        f"{_kind(facts)} {rung_text(facts.config, step)}<br>{came:,} came"
        f"<br>{stayed:,} stayed, {gone:,} left"
    )


def _sentence(facts: Facts, came: dict[int, list[Arrival]]) -> str:
    counts = [
        f"{sum(_left(facts, trial, step) for trial, _ in arrivals):,} of {len(arrivals):,} trials "
        f"at {'' if facts.config.by_flops else 'step '}{rung_text(facts.config, step)}"
        for step, arrivals in came.items()
    ]
    return f"Early stopping ended {', '.join(counts)}."
