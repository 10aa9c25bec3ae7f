"""Ready views of a sweep's trials on MLflow's pages: a table, and a page of charts.

MLflow keeps shared views as experiment tags and lists them under "Views". Their format is not
documented (read in 3.17's pages, checked in a browser): where it is not understood, the page shows
all runs as it would without.
"""

import json
import os
from typing import Any
from urllib.parse import quote

from sweep.analysis.words import params_text, rate_text, short_name, size_text
from sweep.common.redact import redact
from sweep.config.space import RATE
from sweep.config.sweep import SweepConfig
from sweep.record.results import TrialRecord
from sweep.tracking.store import is_server, tracking_uri

LOCAL_UI = "http://127.0.0.1:5000"
"""Where plain `mlflow ui` answers."""

VIEW_TAG = "mlflow.sharedViewState."

CHARTS_KEY = "{}:charts"
"""Key of a sweep's charts; its table has the sweep's own name, in which there is no colon."""

_LOSS = "metrics.`best_val_loss`"

_SECTION = "sweep"


def view_tags(name: str, config: SweepConfig, created: float) -> dict[str, str]:
    """Return the experiment tags that hold the views of sweep `name`.

    Args:
        name: the sweep's.
        config: its settings; the searched fields become columns and axes.
        created: Unix time, seconds.
    """
    charts = CHARTS_KEY.format(name)
    table = _table(name, config)
    shown = {"compareRunCharts": _charts(config), "compareRunSections": _sections()}
    return {
        f"{VIEW_TAG}{name}": _view(name, created, table),
        f"{VIEW_TAG}{charts}": _view(
            f"{name} charts", created, table | shown | {"runListHidden": True}
        ),
    }


def page_addresses(experiment_id: str, name: str) -> tuple[str, str]:
    """Return the addresses of a sweep's trials and charts, where a browser finds them.

    That is LM_SWEEP_MLFLOW_PAGE, or else the server itself, or a local `mlflow ui`. In a network of
    containers a server has a name that browsers outside do not know.
    """
    uri = tracking_uri()
    page = os.environ.get("LM_SWEEP_MLFLOW_PAGE") or (uri if is_server(uri) else LOCAL_UI)
    server = redact(page).rstrip("/")
    trials, charts = (page_route(experiment_id, name, charts=c) for c in (False, True))
    return f"{server}/{trials}", f"{server}/{charts}"


def page_route(experiment_id: str, name: str, *, charts: bool = False) -> str:
    """Return the place of a sweep's view, to be put behind a server's address."""
    key, mode = (CHARTS_KEY.format(name), "&compareRunsMode=CHART") if charts else (name, "")
    return (
        f"#/experiments/{experiment_id}/runs"
        f"?viewStateShareKey={quote(key)}&workflowType=machine_learning{mode}"
    )


def run_route(experiment_id: str, run_id: str, tab: str = "") -> str:
    """Return the place of a run's page, or of a tab of it."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{tab}?workflowType=machine_learning"


def run_name(trial: TrialRecord) -> str:
    """Return a name that MLflow's pages do not cut: "t031 3.1e-3 128x4"."""
    params = dict(trial.params)
    rate = params.pop(RATE, None)
    size = {field: value for field, value in params.items() if field.startswith("model.")}
    parts = [rate_text(rate) if rate is not None else "", size_text([*size], [*size.values()])]
    if not any(parts):
        parts = [params_text(dict([next(iter(params.items()))]))]
    return " ".join([trial.name, *filter(None, parts)])


def log_param(field: str) -> str:
    """Return the name of the param that holds a field's common logarithm: charts have no log x."""
    return f"log10 {short_name(field)}"


def logarithmic(config: SweepConfig) -> list[str]:
    """Return the searched fields that are drawn by their logarithm."""
    return [field for field, domain in config.space.items() if domain.kind == "loguniform"]


def _view(shown_as: str, created: float, state: dict[str, Any]) -> str:
    view = {"name": shown_as, "createdAt": int(created * 1000), "state": json.dumps(state)}
    return json.dumps(view)


def _table(name: str, config: SweepConfig) -> dict[str, Any]:
    # The name tells rate and size already: what became of the trial comes before them.
    widths = {_LOSS: 100, "tags.`outcome`": 90, "tags.`outcome.step`": 110}
    widths |= {f"params.`{field}`": 110 for field in config.space}
    widths["params.`parameters`"] = 90
    return {
        "searchFilter": f"tags.`sweep.name` = '{name}' and tags.`sweep.trial` LIKE 't%'",
        "orderByKey": _LOSS,
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*widths, "attributes.`Duration`"],
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *widths],
        "columnWidths": {"attributes.`Run Name`": 190, "runDateAndNestInfo": 140, **widths},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOW_ALL",
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


def _charts(config: SweepConfig) -> list[dict[str, Any]]:
    """Return the three charts: all curves, loss against each field, all fields together."""
    curves: dict[str, Any] = {
        "type": "LINE",
        "metricKey": "val_loss",
        "selectedMetricKeys": ["val_loss"],
        # The first evaluation, at step 0, has no place on it: it would press all others flat.
        "xAxisScaleType": "log",
        "scaleType": "log",
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "lineSmoothness": 0,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
        "displayName": "val_loss of every trial",
    }
    axes = [_axis(config, field) for field in config.space]
    scatters: list[dict[str, Any]] = [
        {
            "type": "SCATTER",
            "xaxis": {"key": axis, "type": "PARAM"},
            "yaxis": {"key": "best_val_loss", "type": "METRIC"},
        }
        for axis in axes
    ]
    together: dict[str, Any] = {
        "type": "PARALLEL",
        "selectedParams": axes,
        "selectedMetrics": ["best_val_loss"],
        "showAllRuns": False,
    }
    common = {"runsCountToCompare": 1_000, "deleted": False, "isGenerated": False}
    return [
        {"uuid": f"{_SECTION}-{number}", "metricSectionId": _SECTION, **common, **chart}
        for number, chart in enumerate([curves, *scatters, together])
    ]


def _axis(config: SweepConfig, field: str) -> str:
    return log_param(field) if field in logarithmic(config) else field


def _sections() -> list[dict[str, Any]]:
    """Return the section of our charts, and, closed, that of the charts MLflow makes itself."""
    common = {"isReordered": False, "columns": 2, "cardHeight": 420}
    own = {"uuid": _SECTION, "name": "The sweep", "display": True, **common}
    rest = {"uuid": "rest", "name": "Model metrics", "display": False, **common}
    return [own, rest]
