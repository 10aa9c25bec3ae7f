"""A running sweep asked for its end from elsewhere: control.json, `status.py NAME --stop`."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from live_sweeps import (
    ALONE,
    ROOT,
    SLOWER,
    assert_whole,
    events,
    run,
    start_and_wait,
)
from rich.console import Console
from stored_runs import stored
from sweep_samples import event, new_sweep, run_of, session, write_events

from sweep.common.errors import SweepError
from sweep.conduct.stop import stop_sweep
from sweep.control import orders
from sweep.control.orders import CONTROL_FILE, OrderWatch, give_order, read_order
from sweep.record.lock import locked
from sweep.record.results import SweepRecord
from sweep.status import main as status
from trainable.common.errors import ConfigError


@pytest.fixture
def hears(tmp_path, monkeypatch):
    """Return a function that watches for orders to session 2, and tells what it was asked."""
    monkeypatch.setattr(orders, "LOOK_EVERY_SECONDS", 0.002)

    def listen(write) -> list[str]:
        asked, heard = [], threading.Event()

        def obey(want) -> None:
            asked.append(want)
            heard.set()

        with OrderWatch(tmp_path, 2, obey):
            write(tmp_path)
            heard.wait(0.1)
        return asked

    return listen


@pytest.mark.parametrize("want", ["stop", "pause"])
def test_a_session_hears_what_it_is_asked_once_and_leaves_nothing(hears, tmp_path, want):
    assert hears(lambda folder: give_order(folder, want, 2)) == [want]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 1, 3])
def test_an_order_to_another_session_is_none(hears, number):
    assert hears(lambda folder: give_order(folder, "stop", number)) == []


def test_an_order_that_stayed_behind_is_none(hears, tmp_path):
    give_order(tmp_path, "stop", 2)
    assert hears(lambda folder: None) == []


def test_a_damaged_order_is_none(tmp_path):
    path = tmp_path / CONTROL_FILE
    give_order(tmp_path, "stop", 2)
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 7):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        assert read_order(tmp_path) is None
    for content in (b"", whole[:-1], whole * 2, b'{"want": "stop", "session": 2}', b"\xff" * 9):
        path.write_bytes(content)
        assert read_order(tmp_path) is None


def test_what_is_no_file_is_no_order(hears, tmp_path):
    assert hears(lambda folder: os.mkfifo(folder / CONTROL_FILE)) == []
    assert hears(lambda folder: (folder / CONTROL_FILE).mkdir()) == []


def test_a_sweep_that_does_not_run_is_told_in_a_line(capsys):
    folder, _ = new_sweep("still")
    write_events(folder, session(), run_of("t000", {0: 5.0}, "interrupted"))
    write_events(folder, event("session_ended", completed=False, ended_by="pause"))
    assert status(["still", "--stop"]) == 0
    told = "still: does not run (paused), so there is nothing to stop\n"
    assert capsys.readouterr().out == told
    assert not (folder / CONTROL_FILE).exists()


def test_a_sweep_that_does_not_end_is_told(capsys):
    folder, _ = new_sweep("hanging")
    write_events(folder, session(number=3))
    with locked(folder), pytest.raises(SweepError, match=r"--pause: the sweep has not ended in"):
        stop_sweep(folder, "pause", Console(), patience=0.1)
    order = read_order(folder)
    assert order is not None
    assert (order.want, order.session) == ("pause", 3)


def test_one_thing_is_asked_at_a_time():
    new_sweep("two")
    with pytest.raises(ConfigError, match="--stop, --pause: give one of them"):
        status(["two", "--stop", "--pause"])
    with pytest.raises(ConfigError, match="--stop: name the sweep"):
        status(["--stop"])


def ask(home: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "sweep/status.py", *words],
        env=os.environ | {"LM_SWEEP_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.fault
def test_a_sweep_is_stopped_paused_resumed_and_extended(tmp_path, start, monkeypatch):
    """Two ask at once; what is left of an order, or of a damaged one, ends no later session."""
    monkeypatch.setenv("LM_SWEEP_HOME", str(tmp_path))
    folder = tmp_path / "results" / "asked"
    flags = (*SLOWER, *ALONE)
    for want, state in (("stop", "stopped"), ("pause", "paused")):
        sweep = start_and_wait(start, tmp_path, "asked", *flags, step=200)
        asking = [ask(tmp_path, "asked", f"--{want}") for _ in range(2)]
        output, errors = sweep.communicate(timeout=60)
        assert (sweep.returncode, errors) == (143, "")
        assert f"{state} by status.py asked --{want}: " in output
        assert "--resume asked" in output
        for one in asking:
            told = one.communicate(timeout=60)[0]
            assert one.returncode == 0, told
            assert told.splitlines()[-1].startswith(f"asked: {state}: ")
        last = events(folder)[-1]
        assert (last["event"], last["ended_by"]) == ("session_ended", want)
        (trial,) = SweepRecord.read(folder).unfinished
        assert trial.step - trial.checkpoints[-1].step <= 100, "a report was just being saved"
        runs = stored().values()
        assert {run["status"] for run in runs} <= {"KILLED", "FINISHED"}
        assert stored()[""]["tags"]["sweep.state"] == state
        listed = run(tmp_path, "sweep/status.py", "asked").stdout
        assert listed.startswith(f"asked: {state}; ")
        (folder / CONTROL_FILE).write_text('{"want": "stop"')
        flags = ()
    give_order(folder, "stop", SweepRecord.read(folder).sessions)
    extended = run(tmp_path, "sweep/run.py", "--resume", "asked", "--num-samples", "4")
    assert extended.returncode == 0, extended.stderr
    assert_whole(tmp_path, "asked", steps=2000, trials=4)
    assert stored()[""]["tags"]["sweep.state"] == "complete"
