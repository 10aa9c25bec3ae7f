"""One picture: a figure as plotly's plain data, with a sentence that says what to see in it.

The data is what plotly's own `Figure` takes; nothing here imports it. Colours are read on white and
on near-black alike, and no meaning hangs on a colour alone: marks have shapes, lines have dashes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from sweep.analysis.words import outcome_text, params_text
from sweep.record.results import TrialRecord

Trace = dict[str, Any]

Numbers = Iterable[float | None]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07800", "#7a68d8", "#5a8ca0", "#b04a5a")
"""Okabe and Ito's colours but for the three that vanish on white, and four more."""
GREY = "#808790"
PAPER = "rgba(255, 255, 255, 0.8)"
"""Behind text that lies on lines; the page replaces it by what it is printed on."""
SHADE = "rgba(128, 135, 144, 0.13)"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star", "hexagon", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
OUTCOME_LOOKS = {
    "finished": ("circle", "#0072b2"),
    "stopped": ("circle-open", GREY),
    "running": ("diamond", "#009e73"),
    "interrupted": ("diamond-open", "#a07800"),
    "diverged": ("x", "#d55e00"),
    "failed": ("triangle-down", "#d55e00"),
    "out_of_memory": ("square-x", "#d55e00"),
}
"""Symbol and colour of each outcome."""


@dataclass(frozen=True)
class Picture:
    """A figure and what to see in it. Without traces the sentence says why there is nothing."""

    key: str
    """Its name for `figure(...)` and for files."""
    title: str
    sentence: str
    """Plain text."""
    traces: list[Trace] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    """What was left out, and by what rule; plain text."""
    switches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Buttons: by label, what of the layout it changes."""

    def figure(self) -> Any:
        """Return it as a `plotly.graph_objects.Figure`, e.g. for a notebook."""
        from plotly import graph_objects

        return graph_objects.Figure(self.traces, {"title": {"text": self.title}, **self.layout})


def marks(name: str, x: Numbers, y: Numbers, hover: Sequence[str], **more: Any) -> Trace:
    """Return points, each with its hover text (see `told`)."""
    shown = {"hovertext": list(hover), "hoverinfo": "text"} if hover else {"hoverinfo": "skip"}
    points = {"x": rounded(x), "y": rounded(y), **shown}
    return {"type": "scatter", "mode": "markers", "name": name, **points, **more}


def line(name: str, x: Numbers, y: Numbers, **more: Any) -> Trace:
    """Return a line; None in it is a gap."""
    points = {"x": rounded(x), "y": rounded(y), "hoverinfo": "skip"}
    return {"type": "scatter", "mode": "lines", "name": name, **points, **more}


def band(name: str, x: Sequence[float], low: Numbers, high: Numbers, **more: Any) -> Trace:
    """Return the area between two lines over ascending x."""
    around = [*x, *reversed(x)]
    edge = [*low, *reversed(list(high))]
    return line(name, around, edge, fill="toself", line={"width": 0}, **more)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis; `type="log"` makes it logarithmic."""
    if more.get("type") == "log":
        more = {"dtick": "D2", "exponentformat": "power", **more}
    return {"title": {"text": title}, **more}


def vertical(x: float, text: str = "") -> dict[str, Any]:
    """Return a thin upright line over the whole height, e.g. of a rung."""
    label = {"text": text, "textposition": "end", "textangle": 0, "font": {"size": 10}}
    return {
        **{"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1},
        "line": {"width": 1, "dash": "dot", "color": GREY},
        "label": label,
    }


def told(trial: TrialRecord, *lines: str) -> str:
    """Return a hover text: the trial with its settings and its end, and more lines."""
    first = f"{trial.name} · {params_text(trial.params)}"
    return "<br>".join(map(shown, (first, *lines, outcome_text(trial))))


def told_at(trial: TrialRecord, evaluation: dict[str, float]) -> str:
    """Return the hover text of one evaluation."""
    return told(trial, f"step {evaluation['step']:,.0f} · loss {evaluation['val_loss']:.4f}")


def shown(text: str) -> str:
    """Return text as plotly shows it: what looks like markup in it is none."""
    return escape(text, quote=False)


def rounded(values: Numbers) -> list[float | None]:
    """Return numbers with six digits, as many as can be seen; None stays a gap."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]
