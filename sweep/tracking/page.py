"""What a sweep's own page in MLflow carries: note, report, pictures, leaderboard and config."""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from sweep.analysis.leaderboard import leaderboard, leaderboard_heads
from sweep.analysis.study import Study
from sweep.config.sweep import SweepConfig
from sweep.record.folder import PICTURES_FOLDER, REPORT_FILE, SweepFile
from sweep.record.results import SweepRecord
from sweep.tracking.calls import PARENT, Call, LogFile, LogText, SetTags
from sweep.tracking.note import parent_note

LEADERBOARD = "leaderboard.json"


def page_calls(
    folder: Path, sweep: SweepFile, record: SweepRecord, experiment_id: str, run_id: str
) -> Iterator[Call]:
    """Yield the calls that log all there is; made again, they replace what was logged before.

    Args:
        folder: the sweep's.
        sweep: its config and identity.
        record: what happened in it.
        experiment_id: the experiment that holds the runs.
        run_id: the sweep's own.
    """
    if not record.trials:
        return
    name, config = folder.name, sweep.config
    yield LogText(PARENT, "config.yaml", _config_text(name, config))
    yield LogText(PARENT, LEADERBOARD, _table_text(config, record))
    report = folder / REPORT_FILE
    if report.is_file():
        yield LogFile(PARENT, report)
    for picture in sorted((folder / PICTURES_FOLDER).glob("*.*")):
        yield LogFile(PARENT, picture, PICTURES_FOLDER)
    study = Study(config, record)
    note = parent_note(name, study, experiment_id, run_id, report=report.is_file())
    # Its pages draw as tables what this tag names, and load no other file before it is opened.
    tables = json.dumps([{"path": LEADERBOARD, "type": "table"}])
    yield SetTags(PARENT, {"mlflow.note.content": note, "mlflow.loggedArtifacts": tables})


def _config_text(name: str, config: SweepConfig) -> str:
    """Return a file that `run.py --config` takes for a new sweep with the same settings."""
    settings = config.model_dump(mode="json", by_alias=True, exclude={"name"}, exclude_none=True)
    head = f"# All settings of {name}: `python sweep/run.py --config FILE` runs it again.\n"
    return head + yaml.safe_dump(settings, sort_keys=False)


def _table_text(config: SweepConfig, record: SweepRecord) -> str:
    """Return all trials, the best first, as MLflow's log_table writes a table."""
    rank, *heads = leaderboard_heads(config)
    assert not rank
    rows = [row.cells() for row in leaderboard(config, record)]
    return json.dumps({"columns": ["rank", *heads], "data": rows})
