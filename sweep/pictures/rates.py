"""The best learning rate against parameters, and what that says of larger models."""

from collections.abc import Sequence

import numpy as np

from sweep.analysis.facts import Facts
from sweep.analysis.power_law import PowerLaw, fewest_sizes, fit_power_law
from sweep.analysis.sizes import SizeRow, place_of
from sweep.analysis.words import magnitude, show_value
from sweep.config.space import RATE
from sweep.pictures.look import looks_of
from sweep.pictures.picture import GREY, Picture, Trace, axis, band, line, marks, shown

KEY, TITLE = "rates", "Best learning rate against parameters"
MOST = 24
"""Sizes that the line is drawn through."""
AHEAD = (2, 4)
"""Times the largest size for which the rate is predicted."""


def rates(facts: Facts) -> Picture:
    """Return the best rate of each size with its band, and the line through them drawn on."""
    rows = [row for row in facts.by_size if row.rates is not None]
    parameters = {size.values: size.parameters for size in facts.sizes}
    known = [(count, row) for row in rows if (count := parameters[row.size])]
    known.sort(key=lambda pair: pair[0])
    if not known or facts.surface is None:
        return Picture(KEY, TITLE, "There is no best rate of more than one size to show.")
    places = [place_of(facts.config, row) for _, row in known]
    looks, traces = looks_of(facts), []
    for (count, row), place in zip(known, places, strict=True):
        assert row.rates is not None
        low, high = row.rates
        best = f"{facts.label_of(row.size)}: best rate {show_value(place[RATE])}"
        said = f"{best}, with 80 % in {low:.2g} .. {high:.2g}"
        trials = f"{row.trials} trials, {row.finished} finished"
        traces.append(
            marks(
                facts.label_of(row.size),
                [count],
                [place[RATE]],
                [f"{shown(said)}<br>{magnitude(count)} parameters · {trials}"],
                marker=looks[row.size].marker(hollow=not row.known, size=11),
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - place[RATE]],
                    "arrayminus": [place[RATE] - low],
                    "color": looks[row.size].colour,
                    "thickness": 1.2,
                    "width": 4,
                },
            )
        )
    counts = [count for count, _ in known]
    layout = {
        "xaxis": axis("trainable parameters", type="log", exponentformat="SI"),
        "yaxis": axis("best learning rate", type="log"),
    }
    note = (
        "Bars: the interval that holds the size's best rate with 80 %. Hollow: no trial of that "
        "size was finished near its best rate."
    )
    chosen = np.linspace(0, len(places) - 1, min(MOST, len(places))).round().astype(int)
    sizes = [[counts[n]] for n in chosen]
    law = fit_power_law(sizes, facts.surface.best_rates([places[n] for n in chosen]))
    if law is None:
        return Picture(KEY, TITLE, _few(facts, known), traces, layout, note)
    line_traces, sentence = _line(law, counts)
    note += (
        " Line and shade: power laws through joint draws of all sizes' best rates from the fit's "
        "posterior, median and 80 % of a size's rate. Beyond the largest size they are a "
        "prediction: nothing was trained there."
    )
    return Picture(KEY, TITLE, sentence, [*line_traces, *traces], layout, note)


def _line(law: PowerLaw, counts: list[int]) -> tuple[list[Trace], str]:
    """Return the line with its band and the predictions, and what they say.

    Args:
        law: of the parameters.
        counts: (n,) the sizes' parameters.
    """
    largest = max(counts)
    ends = [min(counts), largest, AHEAD[-1] * largest]
    inside = list(np.geomspace(ends[0], ends[1], 12))
    beyond = list(np.geomspace(ends[1], ends[2], 8))
    traces = []
    for name, places, dash, shade in (
        ("power law through them", inside, "solid", "rgba(128, 135, 144, 0.25)"),
        ("prediction", beyond, "dot", "rgba(128, 135, 144, 0.12)"),
    ):
        low, middle, high = zip(*(law.rate([x]) for x in places), strict=True)
        group = {"legendgroup": name}
        traces += [
            band(name, places, low, high, fillcolor=shade, showlegend=False, **group),
            line(name, places, middle, line={"color": GREY, "dash": dash, "width": 2}, **group),
        ]
    predicted = {times: law.rate([times * largest]) for times in AHEAD}
    traces.append(
        marks(
            "predicted",
            [times * largest for times in AHEAD],
            [predicted[times][1] for times in AHEAD],
            [
                f"prediction for {times} x the largest size: {predicted[times][1]:.2g}<br>"
                f"80 %: {predicted[times][0]:.2g} .. {predicted[times][2]:.2g}"
                for times in AHEAD
            ],
            mode="markers+text",
            text=[f"{times}x" for times in AHEAD],
            textposition="top right",
            marker={"symbol": "diamond-open", "size": 12, "color": GREY, "line": {"width": 2}},
        )
    )
    (power,) = law.exponents
    told = " and ".join(
        f"{values[1]:.2g} ({values[0]:.2g} .. {values[2]:.2g}) at "
        f"{magnitude(times * largest)} parameters"
        for times, values in predicted.items()
    )
    return traces, (
        f"The best rate goes as parameters to the power {power[1]:.2f} (80 %: {power[0]:.2f} .. "
        f"{power[2]:.2f}); for two and four times the largest size that predicts {told}."
    )


def _few(facts: Facts, known: Sequence[tuple[int, SizeRow]]) -> str:
    said = ", ".join(
        f"{row.rates[0]:.2g} .. {row.rates[1]:.2g} for {facts.label_of(row.size)}"
        for _, row in known
        if row.rates is not None
    )
    return (
        f"The best rate lies in {said}; fewer than {fewest_sizes(1)} sizes give no line to go on "
        "by."
    )
