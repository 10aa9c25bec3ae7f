"""What comes next is what a resume, or an extended sweep, really begins with."""

import json
import shlex
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from live_sweeps import ROOT
from sweep_samples import new_sweep, record_of, run_of, session, sweep_config, write_events
from test_answers import ALGORITHMS, Sweep

from sweep import status
from sweep.cluster.packing import at_most
from sweep.config.sweep import SweepConfig
from sweep.record.events import Event
from sweep.search.tune_search import SweepSearch
from sweep.search.upcoming import new_numbers, upcoming


def begun(config: SweepConfig, events: list[Event]) -> dict[str, object]:
    """Return the first new trial that a resume begins, after those that it goes on with."""
    record = record_of(events)
    search = SweepSearch(config, record, {}, at_most(1_000))
    for trial in record.unfinished:
        search.suggest(trial.name)
    suggested = search.suggest("new")
    assert isinstance(suggested, dict)
    return {name: suggested[name] for name in ("name", "params", "answer")}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_finished_sweep_is_extended_by_what_was_told(algorithm: str) -> None:
    search = {"algorithm": algorithm, "startup_trials": 4}
    sweep = Sweep(sweep_config(num_samples=12, search=search))
    for number in range(12):
        sweep.run(number)
    told = upcoming(sweep.config, record_of(sweep.events))
    assert (told.trial, told.num_samples, told.answer) == ("t012", 24, False)
    assert upcoming(sweep.config, record_of(sweep.events)) == told
    longer = sweep_config(num_samples=24, search=search)
    first = {"name": "t012", "params": told.params, "answer": False}
    assert begun(longer, sweep.events) == first


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("done", [4, 11])
def test_an_unfinished_sweep_goes_on_with_what_was_told(algorithm: str, done: int) -> None:
    """Of 12 trials some have ended and one runs; the last of all trains the answer."""
    search = {"algorithm": algorithm, "startup_trials": 4}
    sweep = Sweep(sweep_config(num_samples=12, search=search))
    for number in range(done - 1):
        sweep.run(number)
    sweep.start(done - 1)
    told = upcoming(sweep.config, record_of(sweep.events))
    assert (told.trial, told.num_samples, told.answer) == (f"t{done:03d}", 12, done == 11)
    first = {"name": told.trial, "params": told.params, "answer": told.answer}
    assert begun(sweep.config, sweep.events) == first


def test_a_start_point_comes_first_and_a_gap_is_filled() -> None:
    points = [{"optim.lr": 3e-3, "model.d_model": 64}, {"optim.lr": 1e-3, "model.d_model": 32}]
    config = sweep_config(start_points=points)
    there = record_of(run_of("t000", {0: 5.0, 80: 2.0}, "finished"), run_of("t002", {}, None))
    there.lost.add(3)
    told = upcoming(config, there)
    assert (told.trial, told.params) == ("t001", points[1])
    numbers = new_numbers(there)
    assert [next(numbers) for _ in range(3)] == [1, 4, 5]


def test_the_command_tells_what_comes_next_and_how_to_get_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep(sweep_config(num_samples=6, search={"startup_trials": 3}))
    for number in range(6):
        sweep.run(number)
    folder, _ = new_sweep("six", sweep.config)
    write_events(folder, session(num_samples=6), sweep.events)
    assert status.main(["six", "--recommend"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("next, as t006 of 12, by search.algorithm tpe")
    assert lines[at + 1].startswith("  lr=")
    assert "local.py" in lines[at + 2]
    assert shlex.split(lines[at + 3])[2:] == ["--resume", "six", "--num-samples", "12"]
    assert status.main(["six", "--recommend", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    jsonschema.validate(told, json.loads((ROOT / "formats.schema.json").read_text()))
    following = upcoming(sweep.config, record_of(sweep.events))
    assert told["next"] == {
        **{"trial": "t006", "params": following.params, "num_samples": 12, "answer": False},
    }


def test_of_an_unfinished_sweep_the_resume_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep(sweep_config())
    for number in range(3):
        sweep.run(number)
    sweep.start(3)
    folder, _ = new_sweep("half", sweep.config)
    write_events(folder, session(), sweep.events)
    assert status.main(["half", "--recommend"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("next, as t004 of 8, by search.algorithm tpe; unfinished before it: 1")
    assert shlex.split(lines[at + 3])[2:] == ["--resume", "half"]
