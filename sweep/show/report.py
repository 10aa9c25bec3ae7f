"""A sweep's report, written from what lies in its folder."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from sweep.analysis.facts import Facts
from sweep.analysis.findings import findings
from sweep.pictures.gallery import FILES, PICTURES
from sweep.pictures.page import page
from sweep.pictures.picture import Picture
from sweep.pictures.static import svg
from sweep.pictures.table import Commands, TrialTable
from sweep.record.events import EVENTS_FILE
from sweep.record.folder import PICTURES_FOLDER, REPORT_FILE
from sweep.record.lock import is_running
from sweep.record.results import TrialRecord
from sweep.record.retention import existing
from sweep.record.storage import store_of
from sweep.show.commands import command, own_settings, replay_flags, shown_path
from sweep.show.report_words import answer, answer_commands, origin, plan_and_fact
from trainable.common.files import write_atomic
from trainable.storage.store import Store


def write_report(folder: Path) -> Path:
    """Write a sweep's report and its main pictures as SVG files; return the report's path.

    Raises:
        SweepError: a file of the sweep is missing or damaged.
        OSError: it cannot be written.
    """
    facts = Facts.read(folder)
    pictures = [draw(facts) for draw in PICTURES.values()]
    text = page(
        f"Sweep {facts.name}",
        list(answer(facts)),
        answer_commands(facts),
        [(finding.text, finding.rule) for finding in findings(facts.study)],
        pictures,
        TrialTable(facts.config, facts.record, _commands(facts, folder)),
        [plan_and_fact(facts, folder), origin(facts)],
    )
    path = folder / REPORT_FILE
    _write_pictures(folder / PICTURES_FOLDER, pictures)
    write_atomic(path, text.encode())
    return path


def watch_report(folder: Path, every: float) -> Path:
    """Write the report again when the record grew, until no session runs; return its path.

    Args:
        folder: the sweep's.
        every: seconds between two looks.

    Raises:
        SweepError, OSError: as for write_report.
    """
    seen = -1
    while True:
        running = is_running(folder)  # asked first: what it wrote last is then read
        events = folder / EVENTS_FILE
        size = events.stat().st_size if events.exists() else 0
        if size != seen:
            path, seen = write_report(folder), size
        if not running:
            return path
        time.sleep(every)


def _write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    folder.mkdir(exist_ok=True)
    for picture in pictures:
        if picture.key in FILES and picture.traces:
            write_atomic(folder / f"{picture.key}.svg", svg(picture))


def _commands(facts: Facts, folder: Path) -> Commands:
    config = facts.config
    shared, flags = replay_flags(config)
    local = command("trainable", "local")
    store = store_of(folder)
    here = store.disk() is not None  # a server is not asked for each trial at each report
    holding = facts.record.holding if here else {}
    return Commands(
        replay=f"{local} {shared}",
        flags=flags,
        own={
            name: "".join(f" {flags[n]} {v}" for n, v in own_settings(config, trial.params).items())
            for name, trial in (facts.record.trials.items() if config.by_flops else ())
        },
        use=command("trainable", "generate"),
        go_on=f"{local} {shared} --resume",
        checkpoints={
            name: shlex.quote(shown_path(path))
            for name, trial in holding.items()
            if (path := _kept(store, trial)) is not None
        },
    )


def _kept(store: Store, trial: TrialRecord) -> Path | None:
    """Return the trial's best checkpoint that is still there."""
    best = min(existing(store, trial), key=lambda saved: saved.val_loss, default=None)
    return None if best is None else Path(store.address(best.path))
