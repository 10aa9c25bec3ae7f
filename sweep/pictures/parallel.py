"""All searched fields and the loss side by side, and how much each field matters."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sweep.analysis.facts import Facts
from sweep.analysis.gaussian_process import Array
from sweep.analysis.words import short_name, show_value
from sweep.config.space import Domain
from sweep.pictures.picture import COLOURS, PAPER, Picture, Trace, marks, shown, thinned, told
from sweep.record.results import TrialRecord

KEY, TITLE = "parallel", "Settings and loss side by side"
IMPORTANCE_KEY, IMPORTANCE_TITLE = "importance", "How much each field matters"
GROUPS = ("best quarter", "second quarter", "third quarter", "worst quarter")
LOOKS = (
    (COLOURS[0], "solid"),
    (COLOURS[2], "dash"),
    (COLOURS[4], "dot"),
    ("#808790", "longdashdot"),
)
MOST = 400
"""Trials; of more, an even choice by their loss is drawn."""
FEW = 6
"""Integers of a field up to which each is written at its axis."""
VALUES, OTHERS = 16, 64
"""Values of a field, and settings of the other fields at each, over which the fit is averaged."""


def parallel(facts: Facts) -> Picture:
    """Return each trial as a line over the searched fields and its loss at equal budget."""
    ranked = at_equal_budget(facts)
    if not ranked:
        return Picture(KEY, TITLE, "No trial has a loss that counts.")
    fields = list(facts.config.space)
    losses = [loss for _, loss in ranked]
    drawn = thinned(ranked, MOST)
    traces = []
    for number, (name, (colour, dash)) in enumerate(zip(GROUPS, LOOKS, strict=True)):
        edge = len(drawn) * number // 4, len(drawn) * (number + 1) // 4
        traces.append(_group(facts, fields, drawn[slice(*edge)], losses, name, colour, dash))
    heads = [short_name(name) for name in fields]
    layout = {
        "xaxis": {
            **{"tickvals": list(range(len(fields) + 1)), "ticktext": [*heads, "loss, full trial"]},
            **{"range": [-0.25, len(fields) + 0.3], "showgrid": True},
        },
        "yaxis": {"range": [-0.06, 1.06], "showticklabels": False, "showgrid": False},
        "annotations": [
            *(
                note
                for n, name in enumerate(fields)
                for note in _ticks(n, facts.config.space[name])
            ),
            *_ends(len(fields), [(0.0, f"{min(losses):.3f}"), (1.0, f"{max(losses):.3f}")]),
        ],
    }
    note = (
        "Losses are those of full trials: measured where a trial finished, the fit's expectation "
        "for those that were stopped, so that none is judged by where it was stopped."
    )
    if len(drawn) < len(ranked):
        note += f" An even choice of {len(drawn):,} of {len(ranked):,} trials is drawn."
    best = [trial for trial, _ in ranked[: max(1, len(ranked) // 4)]]
    ranges = "; ".join(f"{short_name(name)} {_range(best, name)}" for name in fields)
    sentence = f"The best quarter of the trials has {ranges}."
    return Picture(KEY, TITLE, sentence, [t for t in traces if t["x"]], layout, note)


def at_equal_budget(facts: Facts) -> list[tuple[TrialRecord, float]]:
    """Return the trials whose losses count with those of full trials, the best first."""
    usable = [t for t in facts.record.trials.values() if t.is_comparable and t.step > 0]
    usable = [t for t in usable if all(name in t.params for name in facts.config.space)]
    if facts.surface is None or not usable:
        return []
    expected = facts.surface.expected([trial.params for trial in usable]).tolist()
    pairs = [
        (t, t.best_val_loss if t.outcome == "finished" else loss)
        for t, loss in zip(usable, expected, strict=True)
    ]
    return sorted(pairs, key=lambda pair: (pair[1], pair[0].number))


def _group(
    facts: Facts,
    fields: Sequence[str],
    members: Sequence[tuple[TrialRecord, float]],
    losses: Sequence[float],
    name: str,
    colour: str,
    dash: str,
) -> Trace:
    low, room = min(losses), max(max(losses) - min(losses), 1e-9)
    x: list[float | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for trial, loss in members:
        told_ = told(trial, f"loss of a full trial {loss:.4f}")
        for place, field in enumerate(fields):
            x.append(place)
            y.append(share_of(facts.config.space[field], trial.params[field]))
            hover.append(told_)
        x += [len(fields), None]
        y += [(loss - low) / room, None]
        hover += [told_, ""]
    return marks(
        name,
        x,
        y,
        hover,
        mode="lines+markers",
        line={"color": colour, "width": 1.2, "dash": dash},
        marker={"size": 4},
        opacity=0.65,
        zorder=-GROUPS.index(name),  # the best on top
    )


def share_of(domain: Domain, value: Any) -> float:
    """Return where a value lies in its domain, in [0, 1]; choices are spread evenly."""
    values = domain.values
    if domain.choice is not None:
        ordered = sorted(values, key=lambda v: (isinstance(v, str), v))
        return ordered.index(value) / max(1, len(ordered) - 1) if value in ordered else 0.5
    low, high = values
    if low == high:
        return 0.5
    if domain.loguniform:
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _ticks(place: int, domain: Domain) -> list[dict[str, Any]]:
    values = domain.values
    if domain.choice is None:
        low, high = values
        middle = math.sqrt(low * high) if domain.loguniform else (low + high) / 2
        values = [low, float(f"{middle:.2g}"), high]
        if domain.integers:
            few = high - low < FEW
            values = list(range(low, high + 1)) if few else [low, high]
    return _ends(place, [(share_of(domain, v), show_value(v)) for v in values])


def _ends(place: int, ticks: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
    return [
        {
            **{"x": place, "y": share, "text": shown(text), "showarrow": False},
            **{"xanchor": "right", "xshift": -6, "font": {"size": 11}, "bgcolor": PAPER},
        }
        for share, text in ticks
    ]


def _range(trials: Sequence[TrialRecord], name: str) -> str:
    values = [trial.params[name] for trial in trials]
    if any(isinstance(value, str | bool) for value in values):
        return " or ".join(sorted({show_value(value) for value in values}))
    low, high = min(values), max(values)
    return show_value(low) if low == high else f"{show_value(low)} to {show_value(high)}"


def importance(facts: Facts) -> Picture:
    """Return the share of the fitted final loss's variance that each field explains alone."""
    if facts.surface is None or len(facts.config.space) < 2:
        return Picture(IMPORTANCE_KEY, IMPORTANCE_TITLE, "There are no two fields to compare.")
    shares = main_effects(facts)
    ordered = sorted(shares, key=lambda name: shares[name])
    bars = {
        "type": "bar",
        "orientation": "h",
        "name": "share of the variance",
        "x": [round(100 * shares[name], 2) for name in ordered],
        "y": [short_name(name) for name in ordered],
        "marker": {"color": COLOURS[0]},
        "text": [f"{shares[name]:.0%}" for name in ordered],
        "hovertext": [f"{shown(name)}: {shares[name]:.1%}" for name in ordered],
        "hoverinfo": "text",
        "showlegend": False,
    }
    layout = {
        "xaxis": {"title": {"text": "share of the variance, per cent"}, "range": [0, 105]},
        "yaxis": {"showgrid": False},
        "height": 130 + 40 * len(ordered),
    }
    first, second = ordered[-1], ordered[-2]
    rest = max(0.0, 1 - sum(shares.values()))
    sentence = (
        f"{short_name(first)} matters the most: alone it explains {shares[first]:.0%} of how the "
        f"final loss varies over the space, {short_name(second)} {shares[second]:.0%}; {rest:.0%} "
        "lies in what fields do together."
    )
    note = (
        "Method: first-order Sobol indices of the fitted loss of full trials, uniform over the "
        "searched space. All trials count, by the fit to their curves; no loss of a stopped trial "
        "is compared with a finished one's."
    )
    return Picture(IMPORTANCE_KEY, IMPORTANCE_TITLE, sentence, [bars], layout, note)


def main_effects(facts: Facts) -> dict[str, float]:
    """Return by field the first-order Sobol index of the fitted final loss (Saltelli 2008)."""
    surface = facts.surface
    assert surface is not None
    others = surface.points(OTHERS)
    means: dict[str, Array] = {}
    every: list[Array] = []
    for name in facts.config.space:
        values = surface.spread(name, VALUES)
        points = [point | {name: value} for value in values for point in others]
        losses = surface.expected(points).reshape(len(values), OTHERS)
        means[name] = losses.mean(axis=1)
        every.append(losses.ravel())
    total = float(np.concatenate(every).var())
    return {
        name: min(1.0, float(m.var()) / total) if total > 0 else 0.0 for name, m in means.items()
    }
