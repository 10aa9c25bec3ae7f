"""A ready view of a sweep on MLflow's pages: its trials, the best first, the columns that matter.

MLflow keeps shared views as experiment tags. Their format is not documented (read in 3.17's pages,
checked in a browser): where it is not understood, the page shows all runs as it would without.
"""

import json
from urllib.parse import quote

from sweep.config import SweepConfig


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
