"""What each worker did when."""

from collections.abc import Sequence

from sweep.analysis.facts import Facts
from sweep.analysis.words import duration
from sweep.analysis.workers import Span, worker_spans
from sweep.pictures.picture import GREY, Picture, Trace, shown, thinned

KEY, TITLE = "timeline", "What the workers did"
MOST = 4_000
"""Stretches; of more, an even choice is drawn."""
LOOKS = {"training": ("#0072b2", ""), "evaluation": ("#d55e00", "/"), "waiting": (GREY, "x")}
"""Colour and pattern of what a worker does."""
BAR = 0.55
"""Share of a worker's height that its bar takes; trials' names stand above it."""
MARGINS, NAME = 75, 18
"""Pixels that the page's margins take of the height, and a trial's name."""
ROOM = 1 / 40
"""Share of the whole time that a trial's name takes: those without room have none."""


def timeline(facts: Facts) -> Picture:
    """Return a bar a worker over the time, and what it did."""
    spans = worker_spans(facts.events)
    if not spans:
        return Picture(KEY, TITLE, "The record does not tell which worker did what.")
    workers = sorted({span.worker for span in spans}, key=lambda name: (len(name), name))
    began = min(span.begin for span in spans)
    drawn = thinned(spans, MOST)
    traces = [_bars(doing, [s for s in drawn if s.doing == doing], began) for doing in LOOKS]
    height = min(900, 130 + 70 * len(workers))
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "seconds since the first trial began"}},
        "yaxis": {"categoryorder": "array", "categoryarray": workers[::-1], "type": "category"},
        "height": height,
        "annotations": _names(spans, began, (height - MARGINS) / len(workers)),
    }
    note = (
        "Evaluation: with the report and the search's answer. Checkpoints are saved while the "
        "trial trains on, so saving takes no time of its own. Waiting: behind a trial's last "
        "evaluation. Empty: idle."
    )
    if len(drawn) < len(spans):
        note += f" An even choice of {len(drawn):,} of {len(spans):,} stretches is drawn."
    return Picture(
        KEY, TITLE, _sentence(spans, workers), [t for t in traces if t["x"]], layout, note
    )


def shares(spans: Sequence[Span], workers: int) -> dict[str, float]:
    """Return what part of all workers' time, from the first trial to the last, went into what."""
    whole = workers * (max(s.end for s in spans) - min(s.begin for s in spans))
    spent = {d: sum(s.seconds for s in spans if s.doing == d) / whole for d in LOOKS}
    return spent | {"idle": max(0.0, 1 - sum(spent.values()))}


def _bars(doing: str, spans: Sequence[Span], began: float) -> Trace:
    colour, pattern = LOOKS[doing]
    return {
        "type": "bar",
        "orientation": "h",
        "name": doing,
        "y": [span.worker for span in spans],
        "base": [round(span.begin - began, 3) for span in spans],
        "x": [round(span.seconds, 3) for span in spans],
        "width": BAR,
        "hovertext": [
            f"{span.trial} · {doing}<br>up to step {span.step:,}, {span.seconds:.2f} s<br>"
            f"{shown(span.worker)}"
            for span in spans
        ],
        "hoverinfo": "text",
        "marker": {
            "color": colour,
            "line": {"width": 0},
            "pattern": {"shape": pattern, "fgcolor": "#fff", "size": 5, "fillmode": "overlay"},
        },
    }


def _names(spans: Sequence[Span], began: float, height: float) -> list[dict[str, object]]:
    """Return trials' names above their bars, wherever the one before leaves room.

    Args:
        spans: of all workers.
        began: when the first one began.
        height: of a worker, pixels.
    """
    if height * (1 - BAR) < NAME:
        return []
    room = ROOM * (max(span.end for span in spans) - began)
    first: dict[tuple[str, str], Span] = {}
    for span in spans:
        first.setdefault((span.worker, span.trial), span)
    named: list[Span] = []
    free_from: dict[str, float] = {}
    for span in sorted(first.values(), key=lambda span: span.begin):
        if span.begin >= free_from.get(span.worker, began):
            named.append(span)
            free_from[span.worker] = span.begin + room
    return [
        {
            **{"x": span.begin - began, "y": span.worker, "text": span.trial, "showarrow": False},
            **{"xanchor": "left", "yanchor": "bottom", "yshift": height * BAR / 2},
            **{"font": {"size": 9}, "textangle": -30},
        }
        for span in named
    ]


def _sentence(spans: Sequence[Span], workers: Sequence[str]) -> str:
    parts = shares(spans, len(workers))
    said = ", ".join(f"{share:.0%} {doing}" for doing, share in parts.items() if share >= 0.005)
    whole = duration(max(s.end for s in spans) - min(s.begin for s in spans))
    count = "One worker" if len(workers) == 1 else f"{len(workers)} workers"
    return f"{count} in {whole}: {said}."
