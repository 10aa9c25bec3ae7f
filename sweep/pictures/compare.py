"""Several sweeps in one picture: their best curves, and the valleys of their best sizes."""

from collections.abc import Sequence

from sweep.analysis.facts import Facts
from sweep.analysis.sizes import place_of
from sweep.analysis.words import params_text
from sweep.config.space import RATE
from sweep.pictures.picture import (
    COLOURS,
    DASHES,
    SYMBOLS,
    Picture,
    Trace,
    axis,
    line,
    marks,
    told_at,
)
from sweep.record.results import TrialRecord


def best_curves(sweeps: Sequence[Facts]) -> Picture:
    """Return the learning curve of each sweep's best trial."""
    title = "The best trial of each sweep"
    traces = []
    by_flops = any(facts.config.by_flops for facts in sweeps)
    for number, facts in enumerate(sweeps):
        best = facts.record.best
        if best is None:
            continue
        trained = [e for e in best.evaluations if e["step"] > 0 and (not by_flops or "flops" in e)]
        traces.append(
            marks(
                facts.name,
                (e["flops"] if by_flops else e["step"] for e in trained),
                (e["val_loss"] for e in trained),
                [_hover(facts, best, e) for e in trained],
                mode="lines+markers",
                **_look(number),
            )
        )
    if not traces:
        return Picture("best_curves", title, "No trial of these sweeps has a loss that counts.")
    layout = {
        "xaxis": axis("training FLOPs" if by_flops else "optimizer step"),
        "yaxis": axis("validation loss, nats per token"),
    }
    note = "From the first evaluation after step 0 on."
    return Picture("best_curves", title, _lead(sweeps), traces, layout, note)


def best_valleys(sweeps: Sequence[Facts]) -> Picture:
    """Return the fitted loss over the rate of each sweep's best size, and its finished trials."""
    title = "The best size of each sweep over the learning rate"
    traces: list[Trace] = []
    said = []
    for number, facts in enumerate(sweeps):
        if not facts.study.by_loss or facts.surface is None:
            continue
        loss, row = facts.study.by_loss[0]
        if row.rates is None:
            continue
        valley = facts.surface.valley(place_of(facts.config, row))
        assert valley is not None
        group, look = {"legendgroup": facts.name}, _look(number)
        name = f"{facts.name}, {facts.label_of(row.size)}"
        traces.append(line(name, valley.rates, valley.loss, line=look["line"], **group))
        ended = [t for t in facts.record.trials.values() if t.outcome == "finished"]
        own = [t for t in ended if facts.size_of(t) == row.size]
        traces.append(
            marks(
                name,
                (t.params[RATE] for t in own),
                (t.best_val_loss for t in own),
                [_hover(facts, t, t.best) for t in own if t.best is not None],
                marker=look["marker"],
                showlegend=False,
                **group,
            )
        )
        said.append(
            f"{facts.name}'s best size {facts.label_of(row.size)} is expected to reach "
            f"{loss:.4f} +- {row.deviation:.3f} at rates of {row.rates[0]:.2g} to "
            f"{row.rates[1]:.2g}"
        )
    if not traces:
        return Picture("best_valleys", title, "There is no fit of a size over the rate to compare.")
    layout = {
        "xaxis": axis("learning rate", type="log"),
        "yaxis": axis("validation loss of a full trial, nats per token"),
    }
    note = "Lines: the fit to all curves of a sweep. Marks: finished trials of that size."
    return Picture("best_valleys", title, f"{'; '.join(said)}.", traces, layout, note)


def _hover(facts: Facts, trial: TrialRecord, evaluation: dict[str, float]) -> str:
    return f"{facts.name}<br>{told_at(trial, evaluation)}"


def _look(number: int) -> Trace:
    colour, place = COLOURS[number % len(COLOURS)], number % len(DASHES)
    return {
        "line": {"color": colour, "width": 2, "dash": DASHES[place]},
        "marker": {"color": colour, "symbol": SYMBOLS[place], "size": 8},
    }


def _lead(sweeps: Sequence[Facts]) -> str:
    ranked = sorted(
        ((facts.record.best, facts) for facts in sweeps if facts.record.best is not None),
        key=lambda pair: pair[0].best_val_loss,
    )
    (first, ahead), *others = ranked
    said = (
        f"The lowest loss, {first.best_val_loss:.4f}, is that of {ahead.name} "
        f"({params_text(first.params)})"
    )
    if not others:
        return f"{said}."
    second, behind = others[0]
    lead = second.best_val_loss - first.best_val_loss
    return f"{said}, {lead:.4f} nats below {behind.name}'s best."
