"""What a person sees on MLflow's pages: names, the note, and a ready view of a sweep's trials.

MLflow keeps shared views as experiment tags. Their format is not documented (read in 3.17's pages,
checked in a browser): where it is not understood, the page shows all runs as it would without.
"""

import json
from urllib.parse import quote

from sweep.analysis.sizes import size_heads
from sweep.analysis.study import Study
from sweep.analysis.words import counts_text, params_text, short_name
from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord


def view_tag(name: str, config: SweepConfig, created: float) -> tuple[str, str]:
    """Return the experiment tag, name and value, that holds the view of sweep `name`.

    Args:
        name: the sweep's.
        config: its settings; the searched fields become columns.
        created: Unix time, seconds.
    """
    columns = [
        "metrics.`best_val_loss`",
        *(f"params.`{field}`" for field in config.space),
        "params.`parameters`",
        "tags.`outcome`",
        "attributes.`Duration`",
    ]
    state = {
        "searchFilter": f"tags.`sweep.name` = '{name}' and tags.`sweep.trial` LIKE 't%'",
        "orderByKey": "metrics.`best_val_loss`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOWALL",
        "runsVisibilityMap": {},
        "groupBy": None,
        "groupsExpanded": {},
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "autoRefreshEnabled": False,
    }
    view = {"name": name, "createdAt": int(created * 1000), "state": json.dumps(state)}
    return f"mlflow.sharedViewState.{name}", json.dumps(view)


def page_address(experiment_id: str, name: str) -> str:
    """Return the address of the view on a local `mlflow ui`."""
    return (
        f"http://127.0.0.1:5000/#/experiments/{experiment_id}/runs"
        f"?viewStateShareKey={quote(name)}&workflowType=machine_learning"
    )


def run_name(trial: TrialRecord) -> str:
    """Return a name that MLflow's pages do not cut: the trial and its first searched value."""
    field, value = next(iter(trial.params.items()))
    shown = f"{value:.3g}" if isinstance(value, float) else value
    return f"{trial.name} {short_name(field)}={shown}"


def parent_note(name: str, config: SweepConfig, record: SweepRecord) -> str:
    """Return the parent run's note, in Markdown: the best first, for four lines are shown."""
    best = record.best
    lines = []
    if best is not None:
        lines.append(
            f"**Best: val_loss {best.best_val_loss:.4f}** with {params_text(best.params)} "
            f"({best.name}); {counts_text(record)}."
        )
    lines.append(f"Restore and check it: `python sweep/best.py {name}`")
    rows = Study(config, record).sizes
    if rows:
        heads = size_heads(config)
        table = [heads, ["---"] * len(heads), *(row.cells() for row in rows)]
        lines.append("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    return "\n\n".join(lines)
