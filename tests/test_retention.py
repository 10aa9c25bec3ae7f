"""Which checkpoint folders stay: what a resume needs, and the best; nothing else is touched."""

import contextlib
import random
from pathlib import Path

import pytest
from sweep_samples import (
    ended,
    evaluated,
    new_sweep,
    record_of,
    saved,
    session,
    started,
    write_events,
)

from sweep.common.errors import SweepError
from sweep.record.events import Event
from sweep.record.results import SweepRecord
from sweep.record.retention import collect, existing, kept, prune, to_resume_from
from trainable.storage.folder import FolderStore

pytestmark = pytest.mark.fault


def trained(trial: str, losses: dict[int, float], outcome: str | None) -> list[Event]:
    """Return a trial that saved a checkpoint at each evaluation after step 0."""
    events = [started(trial)]
    for step, loss in losses.items():
        events.append(evaluated(trial, step, loss))
        if step:
            events.append(saved(trial, step, loss))
    if outcome is not None:
        events.append(ended(trial, outcome, step=max(losses)))
    return events


def folders_of(folder: Path, record: SweepRecord) -> None:
    """Make the checkpoint folders of a record."""
    for trial in record.trials.values():
        for checkpoint in trial.checkpoints:
            (folder / checkpoint.path).mkdir(parents=True)
            (folder / checkpoint.path / "manifest.json").write_text("{}", encoding="utf-8")


def left(folder: Path) -> dict[str, list[int]]:
    """Return the steps of the checkpoints on disk, by trial."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("session-*/*/a-*/checkpoint_*")):
        found.setdefault(path.parts[-3], []).append(int(path.name.removeprefix("checkpoint_")))
    return found


def pruned(*stories: list[Event], keep: int = 2) -> dict[str, list[int]]:
    """Return what pruning leaves of some trials, from a record that was read from disk."""
    folder, _ = new_sweep("pruned")
    write_events(folder, session(), *stories)
    record = SweepRecord.read(folder)
    folders_of(folder, record)
    prune(FolderStore(folder), record, keep)
    # The record in memory knows what is left, and a resume finds the same on disk.
    for trial in record.trials.values():
        steps = left(folder).get(trial.name, [])
        assert sorted(c.step for c in trial.checkpoints) == steps
        again = SweepRecord.read(folder).trials[trial.name]
        assert [c.step for c in existing(FolderStore(folder), again)] == steps[::-1], (
            "the newest first"
        )
    before = left(folder)
    prune(FolderStore(folder), SweepRecord.read(folder), keep)
    assert left(folder) == before, "pruning twice, or in the next session, removes no more"
    return left(folder)


FALLING = {0: 5.0, 10: 4.0, 20: 3.0, 30: 2.0, 40: 1.0}
RISING = {0: 5.0, 10: 1.5, 20: 2.0, 30: 2.5, 40: 3.0}


@pytest.mark.parametrize("outcome", [None, "interrupted"])
def test_an_unfinished_trial_keeps_its_two_newest_and_its_best(outcome: str | None) -> None:
    assert pruned(trained("t000", RISING, outcome)) == {"t000": [10, 30, 40]}


@pytest.mark.parametrize("outcome", [None, "interrupted"])
def test_the_newest_may_be_the_best(outcome: str | None) -> None:
    assert pruned(trained("t000", FALLING, outcome)) == {"t000": [30, 40]}


@pytest.mark.parametrize("outcome", ["finished", "stopped"])
def test_an_ended_trial_among_the_best_keeps_its_best(outcome: str) -> None:
    stories = trained("t000", RISING, outcome), trained("t001", FALLING, outcome)
    assert pruned(*stories) == {"t000": [10], "t001": [40]}


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory", "failed"])
def test_a_lost_trial_keeps_nothing(outcome: str) -> None:
    assert pruned(trained("t000", FALLING, outcome)) == {}


def test_only_the_best_ended_trials_keep_anything() -> None:
    stories = [trained(f"t{n:03d}", {0: 5.0, 10: 4.0 - n / 10}, "stopped") for n in range(6)]
    assert pruned(*stories, keep=2) == {"t004": [10], "t005": [10]}


def test_running_and_lost_trials_take_no_place_of_the_best() -> None:
    stories = [
        trained("t000", {0: 5.0, 10: 1.0}, "failed"),
        trained("t001", {0: 5.0, 10: 1.1}, None),
        trained("t002", {0: 5.0, 10: 3.0}, "stopped"),
        trained("t003", {0: 5.0, 10: 3.1}, "finished"),
        trained("t004", {0: 5.0, 10: 3.2}, "finished"),
    ]
    assert pruned(*stories, keep=2) == {"t001": [10], "t002": [10], "t003": [10]}


def test_the_earlier_of_equal_checkpoints_is_the_best() -> None:
    flat = {0: 5.0, 10: 2.0, 20: 2.0, 30: 2.0}
    assert pruned(trained("t000", flat, "finished")) == {"t000": [10]}


@pytest.mark.parametrize("seed", range(20))
def test_the_best_checkpoint_of_the_best_trial_always_survives(seed: int) -> None:
    """After every event of a random sweep, as the recorder prunes, with at least one kept."""
    rng = random.Random(seed)
    folder, _ = new_sweep("random")
    record = record_of(session())
    running: dict[str, int] = {}
    names = [f"t{n:03d}" for n in range(10)]
    while names or running:
        if names and len(running) < 3:
            name = names.pop(0)
            running[name] = 0
            record.apply_all([started(name), evaluated(name, 0, 9.0)])
        name = rng.choice(list(running))
        running[name] += 10
        step, loss = running[name], rng.choice([rng.uniform(1, 5), 3.0])
        checkpoint = saved(name, step, loss)
        record.apply_all([evaluated(name, step, loss), checkpoint])
        (folder / checkpoint["path"]).mkdir(parents=True)
        prune(FolderStore(folder), record, 1)
        if rng.random() < 0.3:
            outcome = rng.choice(["finished", "stopped", "diverged", "failed", "interrupted"])
            record.apply(ended(name, outcome, step))
            del running[name]
            prune(FolderStore(folder), record, 1)
        for trial in record.unfinished:
            assert {c.step for c in existing(FolderStore(folder), trial)} >= {
                max(0, trial.step - 10),
                trial.step,
            } - {0}
        best = record.best
        if best is not None and best.best is not None and best.step > 0:
            assert best.best["step"] in {c.step for c in existing(FolderStore(folder), best)}, best


def test_keeping_is_decided_without_looking_at_the_disk() -> None:
    record = record_of(trained("t000", RISING, None))
    assert {c.step for c in kept(record.trials["t000"], True)} == {10, 30, 40}


def test_a_trial_goes_on_from_the_newest_of_what_should_be_there() -> None:
    trial = record_of(trained("t000", RISING, "interrupted")).trials["t000"]
    assert [c.step for c in to_resume_from(trial)] == [40, 30, 10], "whether it is there or not"


def test_of_two_checkpoints_of_one_step_the_later_counts() -> None:
    """The earlier was damaged: the trial went on from the one before, and came there again."""
    again = [saved("t000", 40, 1.0, "session-2/t000/a-1/checkpoint_000000")]
    trial = record_of(trained("t000", FALLING, None), again).trials["t000"]
    paths = ["session-2/t000/a-1/checkpoint_000000", "session-1/t000/a-1/checkpoint_000030"]
    assert [c.path for c in to_resume_from(trial)] == paths


def test_a_checkpoint_that_is_gone_is_passed_over() -> None:
    folder, _ = new_sweep("gone")
    record = record_of(trained("t000", FALLING, None))
    (folder / "session-1/t000/a-1/checkpoint_000030").mkdir(parents=True)
    assert [c.step for c in existing(FolderStore(folder), record.trials["t000"])] == [30]
    prune(FolderStore(folder), record, 5)
    assert left(folder) == {"t000": [30]}


def test_what_no_line_names_is_collected_and_nothing_that_is_needed() -> None:
    """A worker was killed while it saved; another was taken for dead, and saved after all."""
    folder, _ = new_sweep("orphans")
    record = record_of(trained("t000", FALLING, "interrupted"), trained("t001", RISING, "failed"))
    folders_of(folder, record)
    half = folder / "session-1/t000/a-2/checkpoint_000050/.state.x7"
    late = folder / "session-1/t000/a-3/checkpoint_000040/manifest.json"
    elsewhere = folder / "session-1/t000/notes/checkpoint_000040/manifest.json"
    for path in (half, late, elsewhere):
        path.parent.mkdir(parents=True)
        path.write_text("{}", encoding="utf-8")
    assert collect(FolderStore(folder), record, 5) == 2 + 2 + 4
    assert left(folder) == {"t000": [30, 40]}
    assert elsewhere.exists(), "nothing but attempts is looked at"
    assert not half.parent.parent.exists()
    assert collect(FolderStore(folder), record, 5) == 0


@pytest.mark.parametrize(
    "path",
    [
        "../other",
        "{outside}",
        "session-1/../../other",
        "session-1/link",
        "session-1/link/deep",
        ".",
    ],
)
def test_nothing_outside_the_sweep_folder_is_ever_removed(path: str) -> None:
    """A record may come from elsewhere: its paths are not to be trusted."""
    folder, _ = new_sweep("mine")
    outside = folder.parent / "other"
    for place in (outside / "deep", folder / "session-1"):
        place.mkdir(parents=True)
        (place / "precious").write_text("x", encoding="utf-8")
    (folder / "session-1" / "link").symlink_to(outside)
    wrong = saved("t000", 10, 4.0, path.format(outside=outside))
    with contextlib.suppress(SweepError):
        record = record_of(started("t000"), wrong, ended("t000", "failed"))
        prune(FolderStore(folder), record, 5)
    assert (outside / "deep" / "precious").exists()
    assert (folder / "sweep.json").exists()
