"""Pictures as SVG files, for papers, chats and MLflow: the same figures, drawn by matplotlib.

It needs no browser. It draws what our scatter figures use of plotly's description: points, lines,
filled bands, error bars, logarithmic axes, upright lines, and a legend.
"""

import io
import logging
from collections.abc import Sequence
from html import unescape
from typing import Any

from sweep.analysis.words import magnitude
from sweep.pictures.picture import Picture, Trace

MARKERS = {
    **{"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v"},
    **{"pentagon": "p", "star": "*", "hexagon": "h", "cross": "P", "x": "X", "square-x": "s"},
}
DASHES = {
    **{"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))},
    "longdashdot": (0, (8, 3, 2, 3)),
}
MOST_SHAPES = 2_000
"""Marks of a picture beyond which they are pixels in the SVG: 10,000 shapes take megabytes."""
STYLE = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "lm-sweep",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dfe3e8",
    "grid.linewidth": 0.6,
    "font.family": "sans-serif",
}


def svg(picture: Picture) -> bytes:
    """Return a picture as an SVG file on white, 7.2 x 4.2 inches; the same bytes each time."""
    # It warns of slow fonts, and of a home folder where it cannot keep what it found of them.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.115, 0.12, 0.69, 0.79))
        axes.set_axisbelow(True)
        _lay_out(axes, picture.layout)
        shapes = sum(len(trace["x"]) for trace in picture.traces if "markers" in trace["mode"])
        named: set[str] = set()
        for trace in picture.traces:
            group = str(trace.get("legendgroup", trace["name"]))
            told = trace.get("showlegend", True) and group not in named
            named |= {group} if told else set()
            _draw(axes, trace, trace["name"] if told else None, pixels=shapes > MOST_SHAPES)
        axes.set_title(picture.title, loc="left", fontsize=11)
        if named:
            figure.legend(loc="upper left", bbox_to_anchor=(0.81, 0.93), frameon=False, fontsize=8)
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=200, metadata={"Date": None})
    return file.getvalue()


def _draw(axes: Any, trace: Trace, label: str | None, *, pixels: bool) -> None:
    x = [float("nan") if value is None else value for value in trace["x"]]
    y = [float("nan") if value is None else value for value in trace["y"]]
    mode, look = trace["mode"], trace.get("marker", {})
    alpha = trace.get("opacity", look.get("opacity", 1.0))
    stroke = trace.get("line", {})
    if trace.get("fill") == "toself":
        axes.fill(x, y, color="#808790", alpha=0.18, linewidth=0)
        return
    colour = stroke.get("color") or look.get("color")
    if "lines" in mode:
        steps = "steps-post" if stroke.get("shape") == "hv" else "default"
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=0.8 * stroke.get("width", 1),
            linestyle=DASHES[stroke.get("dash", "solid")],
            drawstyle=steps,
            alpha=alpha,
            label=None if "markers" in mode else label,
        )
    if "markers" in mode:
        symbol = look.get("symbol", "circle")
        hollow = symbol.endswith("-open")
        paint = look.get("color", colour)
        sizes = look.get("size", 6)
        area = [(0.75 * s) ** 2 for s in sizes] if isinstance(sizes, list) else (0.75 * sizes) ** 2
        axes.scatter(
            x,
            y,
            s=area,
            marker=MARKERS[symbol.removesuffix("-open")],
            facecolors="none" if hollow else paint,
            edgecolors=paint if hollow else "none",
            linewidths=1.0 if hollow else 0,
            alpha=alpha,
            label=label,
            zorder=3,
            rasterized=pixels,
        )
    if "text" in mode:
        for at, height, text in zip(x, y, trace["text"], strict=True):
            axes.annotate(
                unescape(text),
                (at, height),
                (5, 3),
                textcoords="offset points",
                fontsize=7,
                color=trace.get("textfont", {}).get("color", "#1b1f24"),
            )
    if "error_y" in trace:
        bars = trace["error_y"]
        ends = [bars["arrayminus"], bars["array"]]
        axes.errorbar(x, y, ends, color=colour, fmt="none", capsize=3, linewidth=1)


def _lay_out(axes: Any, layout: dict[str, Any]) -> None:
    for name in ("x", "y"):
        axis = layout[f"{name}axis"]
        getattr(axes, f"set_{name}scale")(axis.get("type", "linear"))
        getattr(axes, f"set_{name}label")(axis.get("title", {}).get("text", ""))
        _limit(getattr(axes, f"set_{name}lim"), axis)
        if axis.get("type") == "log":
            _tick(getattr(axes, f"{name}axis"))
    for shape in layout.get("shapes", []):
        if shape["type"] == "line":
            axes.axvline(shape["x0"], color="#808790", linewidth=0.8, linestyle=":")
        else:
            axes.axvspan(shape["x0"], shape["x1"], color="#808790", alpha=0.1, linewidth=0)


def _tick(axis: Any) -> None:
    """Write logarithmic ticks as plain numbers: as formulas they take half of the time."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axis.set_minor_locator(NullLocator())


def _number(value: float) -> str:
    return magnitude(value) if value >= 1 else f"{value:.4g}"


def _limit(limit: Any, axis: dict[str, Any]) -> None:
    ends: Sequence[float] | None = axis.get("range")
    if ends is not None:
        limit(*(10**end if axis.get("type") == "log" else end for end in ends))
