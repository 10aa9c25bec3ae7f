"""Events as calls: a run that has ended has all that was told of it."""

import pytest
from stored_runs import whole_story
from sweep_samples import ended, evaluated, event, new_sweep, session, started

from sweep.record.lines import Event
from sweep.tracking.calls import Call, EndRun, GoOn, LogMetrics, SetTags, StartTrial, Translator

RESUMED = [
    session(num_samples=2),
    started("t000"),
    started("t001"),
    evaluated("t000", 0, 5.0),
    evaluated("t001", 0, 5.0),
    evaluated("t001", 10, 4.5),
    ended("t000", "interrupted", step=0),
    ended("t001", "interrupted", step=10),
    event("session_ended", completed=False),
    session(2, num_samples=2),
    started("t000"),
    evaluated("t000", 10, 4.0),
    evaluated("t000", 20, 3.0),
    ended("t000", "finished", step=20),
]


def evaluation_of(trial: str, told: Event) -> bool:
    return told["event"] == "evaluation" and told["trial"] == trial


def calls_of(events: list[Event]) -> list[Call]:
    folder, sweep = new_sweep("calls")
    return list(Translator(folder.name, sweep, 257).calls(events))


@pytest.mark.parametrize("story", [whole_story(), RESUMED], ids=["whole", "resumed"])
def test_a_run_has_all_its_points_before_it_ends(story: list[Event]) -> None:
    open_runs = {""}
    steps = {
        name: iter([e["metrics"]["step"] for e in story if evaluation_of(name, e)])
        for name in ("t000", "t001", "t002")
    }
    for call in calls_of(story):
        match call:
            case StartTrial(trial):
                open_runs.add(trial)
            case GoOn(run):
                open_runs.add(run)
            case LogMetrics(run, points):
                assert run in open_runs, f"{run} has ended"
                for point in points:
                    assert not run or point.key != "val_loss" or point.step == next(steps[run])
            case EndRun(run):
                open_runs.discard(run)
            case SetTags(run, tags):
                assert tags
                assert run in open_runs
    assert all(next(rest, None) is None for rest in steps.values()), "every step was told"


@pytest.mark.parametrize("known", range(len(RESUMED)))
def test_what_was_told_before_changes_nothing_in_what_is_told_next(known: int) -> None:
    """A new process reads what it was told; the calls are those of one that never stopped."""
    folder, sweep = new_sweep("calls")
    translator = Translator(folder.name, sweep, 257)
    list(translator.calls(RESUMED[:known]))
    rest = list(translator.calls(RESUMED[known:]))
    assert list(Translator(folder.name, sweep, 257, RESUMED[:known]).calls(RESUMED[known:])) == rest
