"""A damaged record: mended or set aside by `status.py NAME --repair`, and the sweep goes on."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import RunPython
from sweep_samples import (
    ended,
    evaluated,
    event,
    new_sweep,
    run_of,
    saved,
    sealed,
    session,
    started,
    sweep_config,
    write_events,
)

from sweep.cluster.packing import at_most
from sweep.common.errors import SweepError
from sweep.record.events import EVENTS_FILE, read_events
from sweep.record.folder import sweep_names
from sweep.record.lines import from_line, mended, to_line
from sweep.record.results import SweepRecord
from sweep.search.tune_search import SweepSearch
from sweep.status import main as status
from sweep.tracking.delivery import read_delivery, save_delivery

pytestmark = pytest.mark.fault

STORY = [
    session(num_samples=3),
    *run_of("t000", {0: 5.0, 10: 4.0}, "stopped"),
    *run_of("t001", {0: 5.0, 10: 3.0}, "finished"),
    started("t002"),
    evaluated("t002", 0, 5.0),
    saved("t002", 10, 4.0),
]


def damaged_sweep(name: str, lines: Iterable[int], flip: bytes = b"@@@") -> tuple[Path, bytes]:
    """Make a sweep with `flip` in some lines of its record; return it and the record before."""
    folder, _ = new_sweep(name)
    write_events(folder, *STORY)
    path = folder / EVENTS_FILE
    whole = path.read_bytes()
    content = whole.splitlines(keepends=True)
    for number in lines:
        line = bytearray(content[number])
        for place, bits in enumerate(flip, start=12):
            line[place] ^= bits
        content[number] = bytes(line)
    path.write_bytes(b"".join(content))
    with pytest.raises(SweepError, match=f"{name} --repair"):
        SweepRecord.read(folder)
    return folder, whole


def test_a_flipped_bit_in_any_byte_of_a_line_is_mended() -> None:
    line = to_line(evaluated("t000", 10, 3.5))
    for place in range(len(line)):
        changed = bytearray(line)
        changed[place] ^= 1 << place % 8
        if b"\n" not in changed[:-1]:  # the file's reader would see two lines
            assert mended(bytes(changed)) == [line]
    assert mended(line[:30] + b"XYZ" + line[33:]) == []
    assert mended(b"\0" * 10**6) == []


def test_a_long_line_is_not_tried_for_it_would_take_minutes() -> None:
    line = to_line(event("failure", trial="t000", reason="x" * 20_000))
    assert mended(bytes([line[0] ^ 1]) + line[1:]) == []


def test_a_flipped_newline_is_mended_to_two_lines() -> None:
    lines = [to_line(started("t000")), to_line(evaluated("t000", 0, 5.0))]
    for place in range(8):
        joined = lines[0][:-1] + bytes([10 ^ 1 << place]) + lines[1]
        assert mended(joined) == lines


@pytest.mark.parametrize("number", [0, 1, 3, len(STORY) - 1])
def test_one_flipped_bit_costs_nothing(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    folder, whole = damaged_sweep("bit", [number], b"\x04")
    assert status(["bit", "--repair"]) == 0
    assert (folder / EVENTS_FILE).read_bytes() == whole
    told = capsys.readouterr().out
    assert f"line {number + 1}: one flipped bit, mended: " in told
    assert "--resume bit" in told
    assert status(["bit", "--repair"]) == 0
    assert "nothing is damaged" in capsys.readouterr().out


def test_only_damaged_lines_are_set_aside(capsys: pytest.CaptureFixture[str]) -> None:
    folder, whole = damaged_sweep("middle", [3, 4])  # t000's last evaluation and its outcome
    before = (folder / EVENTS_FILE).read_bytes().splitlines(keepends=True)
    with (folder / EVENTS_FILE).open("ab") as file:
        file.write(b'{"event": "torn"')
    assert status(["results/middle", "--repair"]) == 0
    lines = whole.splitlines(keepends=True)
    assert (folder / EVENTS_FILE).read_bytes() == b"".join(lines[:3] + lines[5:])
    aside = folder / f"{EVENTS_FILE}.damaged-1"
    assert aside.read_bytes() == b"".join(before[3:5])
    assert aside.stat().st_mode & 0o077 == 0
    told = capsys.readouterr().out
    assert 'line 4: cannot be read, set aside: b\'{"event": "e' in told
    assert aside.name in told
    record = SweepRecord.read(folder)
    assert [t.name for t in record.unfinished] == ["t000", "t002"], "a resume goes on with it"
    assert status(["middle"]) == 0


def test_a_trial_without_its_start_is_lost_and_its_number_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = damaged_sweep("lost", [1])
    assert status(["lost", "--repair"]) == 0
    assert "set aside, for its start is lost: outcome of t000" in capsys.readouterr().out
    record = SweepRecord.read(folder)
    assert list(record.trials) == ["t001", "t002"]
    kinds = [e["event"] for e in read_events(folder) if e.get("trial") == "t000"]
    assert kinds == ["trial_lost"]
    search = SweepSearch(sweep_config(num_samples=3), record, {}, at_most(9))
    names = [suggestion["name"] for n in "abc" if (suggestion := search.suggest(n))]
    assert names == ["t002", "t003", "t004"], "its run in MLflow is not another trial's"


def test_a_lost_start_of_a_session_is_written_again() -> None:
    """Else the next session would take the number, and write into the same folder."""
    folder, _ = damaged_sweep("first", [0])
    for number in (1, 3, 2):
        (folder / f"session-{number}" / "t002").mkdir(parents=True)
    assert status(["first", "--repair"]) == 0
    record = SweepRecord.read(folder)
    assert (record.sessions, record.num_samples, record.seconds) == (3, 8, 0.0)
    assert len(record.trials) == 3


def test_trials_without_their_starts_are_written_in_their_order() -> None:
    folder, _ = new_sweep("orphans")
    names = [f"t{number:03d}" for number in range(9)]
    write_events(folder, session(num_samples=9), *(evaluated(name, 0, 5.0) for name in names))
    with pytest.raises(SweepError):
        SweepRecord.read(folder)
    assert status(["orphans", "--repair"]) == 0
    lost = [e["trial"] for e in read_events(folder) if e["event"] == "trial_lost"]
    assert lost == names


def test_events_that_name_no_trial_are_set_aside_although_their_checksum_fits() -> None:
    folder, _ = new_sweep("foreign")
    write_events(folder, session(), *run_of("t000", {0: 5.0}, "finished"))
    with (folder / EVENTS_FILE).open("ab") as file:
        file.write(sealed(json.dumps(event("notice", trial="t007", text="x")).encode()))
    with pytest.raises(SweepError, match="--repair"):
        SweepRecord.read(folder)
    assert status(["foreign", "--repair"]) == 0
    assert list(SweepRecord.read(folder).trials) == ["t000"]


def test_what_is_delivered_is_delivered_again_after_a_repair() -> None:
    """Offsets into the old record mean nothing in the new one."""
    folder, whole = damaged_sweep("told", [3])
    save_delivery(folder, "1", "parent", {"t000": "run"}, len(whole))
    assert status(["told", "--repair"]) == 0
    state = read_delivery(folder)
    assert state is not None
    assert (state.offset, state.parent, state.runs) == (0, "parent", {"t000": "run"})


def test_a_second_repair_keeps_the_first_ones_lines() -> None:
    folder, _ = damaged_sweep("twice", [3])
    status(["twice", "--repair"])
    path = folder / EVENTS_FILE
    path.write_bytes(path.read_bytes().replace(b"t001", b"t00X"))
    status(["twice", "--repair"])
    assert len(list(folder.glob(f"{EVENTS_FILE}.damaged-*"))) == 2


def test_a_repair_that_cannot_be_written_changes_nothing(
    run_python: RunPython, tmp_path: Path
) -> None:
    folder, _ = damaged_sweep("full", [3])
    before = (folder / EVENTS_FILE).read_bytes()
    script = tmp_path / "repair.py"
    script.write_text(
        "import resource\n"  # a limit on a file's size stands for a full disk
        "from sweep.status import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "cli()\n",
        encoding="utf-8",
    )
    done = run_python(script, "full", "--repair")
    assert done.returncode == 2
    assert done.stderr.startswith("error: sweep full: its record cannot be written")
    assert len(done.stderr.splitlines()) == 1
    assert (folder / EVENTS_FILE).read_bytes() == before
    assert not list(folder.glob(".events*"))


def test_sweeps_are_listed_from_the_oldest_while_others_come_and_go() -> None:
    for age, name in enumerate(("b", "c", "a")):
        folder, _ = new_sweep(name)
        os.utime(folder / "sweep.json", (1_000 + age, 1_000 + age))
    code = (
        "import os, sys\n"
        "files = [f'{sys.argv[1]}/refused-{n}/sweep.json' for n in range(30)]\n"
        "while True:\n"
        "    for file in files: os.mkdir(os.path.dirname(file)); open(file, 'x').close()\n"
        "    for file in files: os.unlink(file); os.rmdir(os.path.dirname(file))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder.parent)]) as other:
        try:
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                assert sweep_names()[:3] == ["b", "c", "a"]
            assert other.poll() is None
        finally:
            other.kill()


def test_the_list_shows_sound_sweeps_beside_damaged_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged_sweep("broken", [2])
    for name in ("fine", "rotten", "other"):
        folder, _ = new_sweep(name)
        write_events(folder, session(num_samples=1), *run_of("t000", {0: 2.5}, "finished"))
    path = folder.parent / "rotten" / "sweep.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    path = folder.parent / "other" / EVENTS_FILE
    path.unlink()
    path.mkdir()
    assert status([]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^fine +complete +1/1 +2\.5000 +t000", told, re.MULTILINE)
    for name, why in (("broken", "--repair"), ("rotten", "backup"), ("other", "Is a directory")):
        assert re.search(f"^{name} +damaged", told, re.MULTILINE)
        assert re.search(f"^/.*/{name}/.*{why}", told, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["--repair"], ["--sync"]])
def test_what_changes_a_sweep_wants_its_name(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="name the sweep"):
        status(arguments)


def test_a_story_is_sound_as_long_as_nothing_is_damaged() -> None:
    folder, _ = new_sweep("sound")
    write_events(folder, *STORY, ended("t002", "finished"))
    before = (folder / EVENTS_FILE).read_bytes()
    assert status(["sound", "--repair"]) == 0
    assert (folder / EVENTS_FILE).read_bytes() == before
    assert [from_line(line) for line in before.splitlines(keepends=True)] == read_events(folder)
