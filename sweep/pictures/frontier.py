"""Loss against training FLOPs, with the frontier: the least loss that so many FLOPs bought."""

import math
from collections.abc import Sequence

from sweep.analysis.facts import Facts
from sweep.analysis.words import flops_text
from sweep.pictures.look import looks_of
from sweep.pictures.picture import Picture, axis, line, marks, shown, thinned, told
from sweep.record.results import TrialRecord

KEY, TITLE = "frontier", "Loss against training FLOPs"
MOST = 6_000
"""Points; of more, an even choice is drawn."""

WIDTH, HEIGHT = 1 / 14, 1 / 18
"""Shares of the frontier's width and of the height that the name of a size takes."""

Point = tuple[float, float, TrialRecord]
"""FLOPs, loss, and whose they are."""


def frontier(facts: Facts) -> Picture:
    """Return every evaluation over its FLOPs, and the lower edge of all."""
    points: list[Point] = [
        (told_["flops"], told_["val_loss"], trial)
        for trial in facts.record.trials.values()
        if trial.is_comparable
        for told_ in trial.evaluations
        if told_.get("flops")
    ]
    if not points:
        return Picture(KEY, TITLE, "No evaluation tells its FLOPs yet.")
    edge = lower_edge(points)
    looks, traces = looks_of(facts), []
    kept = thinned(points, MOST)
    for size in facts.sizes:
        own = [point for point in kept if facts.size_of(point[2]) == size.values]
        if own:
            traces.append(
                marks(
                    size.label,
                    (flops for flops, _, _ in own),
                    (loss for _, loss, _ in own),
                    [_hover(flops, loss, trial) for flops, loss, trial in own],
                    marker=looks[size.values].marker(size=7, opacity=0.45),
                )
            )
    traces.append(
        line(
            "frontier",
            (flops for flops, _, _ in edge),
            (loss for _, loss, _ in edge),
            line={"color": "#d55e00", "width": 2, "shape": "hv"},
        )
    )
    entries = [
        p for n, p in enumerate(edge) if not n or _size(facts, p) != _size(facts, edge[n - 1])
    ]
    losses = sorted(loss for _, loss, _ in points)
    room = max(losses[math.ceil(0.97 * (len(losses) - 1))] - losses[0], 0.02)
    labelled = _apart(entries, math.log10(edge[-1][0] / edge[0][0]), room)
    traces.append(
        marks(
            "size on the frontier",
            (flops for flops, _, _ in entries),
            (loss for _, loss, _ in entries),
            [_hover(*point) for point in entries],
            mode="markers+text",
            text=[shown(_size(facts, p)) if p in labelled else "" for p in entries],
            textposition="top right",
            textfont={"size": 11},
            marker={"symbol": "circle-open", "size": 12, "color": "#d55e00", "line": {"width": 2}},
        )
    )
    top = losses[0] + 1.06 * room
    layout = {
        "xaxis": axis("training FLOPs of the trial so far", type="log", exponentformat="SI"),
        "yaxis": axis(
            "validation loss, nats per token",
            range=[losses[0] - 0.06 * room, top],
        ),
    }
    note = "The highest losses lie above the top edge: zoom out." if losses[-1] > top else ""
    if len(kept) < len(points):
        note += (
            f" An even choice of {len(kept):,} of {len(points):,} evaluations is drawn; the "
            "frontier is that of all."
        )
    return Picture(KEY, TITLE, _sentence(facts, edge, entries), traces, layout, note)


def _apart(entries: Sequence[Point], decades: float, room: float) -> list[Point]:
    """Return those whose names do not lie on one another, the lowest losses first."""
    named: list[Point] = []
    for flops, loss, trial in reversed(entries):
        if not any(
            abs(math.log10(flops / other)) < WIDTH * decades and abs(loss - height) < HEIGHT * room
            for other, height, _ in named
        ):
            named.append((flops, loss, trial))
    return named


def lower_edge(points: Sequence[Point]) -> list[Point]:
    """Return the points below which none has fewer FLOPs, in the order of FLOPs."""
    edge: list[Point] = []
    for point in sorted(points, key=lambda point: point[:2]):
        if not edge or point[1] < edge[-1][1]:
            edge.append(point)
    return edge


def _size(facts: Facts, point: Point) -> str:
    return facts.label_of(facts.size_of(point[2]))


def _hover(flops: float, loss: float, trial: TrialRecord) -> str:
    return told(trial, f"{flops_text(flops)} · loss {loss:.4f}")


def _sentence(facts: Facts, edge: Sequence[Point], entries: Sequence[Point]) -> str:
    flops, loss, _ = edge[-1]
    names = list(dict.fromkeys(_size(facts, point) for point in entries))
    ended = f"it ends at {loss:.4f} with {flops_text(flops)}, {_size(facts, edge[-1])}"
    if len(names) == 1:
        return f"One size holds the whole frontier, {names[0]}: {ended}."
    halves = [point for point in edge if point[0] <= flops / 4]
    before = (
        f"; a quarter of those FLOPs buys {halves[-1][1]:.4f}, with {_size(facts, halves[-1])}"
        if halves
        else ""
    )
    return f"Along the frontier the best size changes {len(entries) - 1} times; {ended}{before}."
