"""What stands in words on MLflow's pages: a sweep's note, and the experiment's list of sweeps."""

from collections.abc import Iterable
from dataclasses import dataclass

from sweep.analysis.findings import findings
from sweep.analysis.sizes import size_heads
from sweep.analysis.study import Study
from sweep.analysis.words import counts_text, loss_text, params_text
from sweep.record.folder import REPORT_FILE
from sweep.tracking.view import page_route, run_route

FIRST_WORDS = "Sweeps, the newest first:"
"""Begin the experiment's description; one that begins otherwise is somebody's own."""

IN_FIRST_LINE = 5
"""Sweeps that the first line names."""


@dataclass(frozen=True)
class ParentRow:
    """A sweep's own run, as the experiment's description lists it."""

    name: str
    run_id: str
    best_val_loss: float | None
    best_params: str
    outcomes: str


def parent_note(name: str, study: Study, experiment_id: str, run_id: str, *, report: bool) -> str:
    """Return the parent run's note, in Markdown: the best first, for few lines are shown.

    Args:
        name: the sweep's.
        study: the sweep, read.
        experiment_id: the experiment that holds the runs.
        run_id: the parent's.
        report: whether the parent has the sweep's report.
    """
    record, best = study.record, study.record.best
    pages = {"all trials": page_route(experiment_id, name)}
    pages["charts"] = page_route(experiment_id, name, charts=True)
    if report:
        pages = {"report": run_route(experiment_id, run_id, f"/artifacts/{REPORT_FILE}"), **pages}
    links = "Open " + ", ".join(f"[{shown}]({route})" for shown, route in pages.items())
    head = ""
    if best is not None:
        head = (
            f"**Best: val_loss {best.best_val_loss:.4f}** with {params_text(best.params)} "
            f"({best.name}); {counts_text(record)}. "
        )
    # In one paragraph: the page folds what is below a second line, and links there take no click.
    lines = [head + links]
    lines.append("\n".join(f"- {finding.text}" for finding in findings(study)))
    lines.append(
        f"Restore and check the best: `python sweep/best.py {name}`; more trials: "
        f"`python sweep/run.py --resume {name} --num-samples {2 * record.num_samples}`"
    )
    if study.sizes:
        lines.append(_table(size_heads(study.config), (row.cells() for row in study.sizes)))
    return "\n\n".join(filter(None, lines))


def experiment_note(experiment_id: str, parents: Iterable[ParentRow]) -> str:
    """Return the experiment's description, in Markdown: its sweeps, each with its pages."""
    rows = [
        [
            f"[{row.name}]({run_route(experiment_id, row.run_id)})",
            f"[trials]({page_route(experiment_id, row.name)})",
            f"[charts]({page_route(experiment_id, row.name, charts=True)})",
            loss_text(row.best_val_loss),
            row.best_params,
            row.outcomes,
        ]
        for row in parents
    ]
    heads = ["sweep", "", "", "best val_loss", "with", "outcomes"]
    # Closed, the description shows its first line only: whoever comes by it is one click away.
    links = " · ".join(name for name, *_ in rows[:IN_FIRST_LINE])
    return f"{FIRST_WORDS} {links}\n\n{_table(heads, rows)}"


def _table(heads: list[str], rows: Iterable[list[str]]) -> str:
    table = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
