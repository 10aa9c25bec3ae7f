"""The sweep's record on disk: what is written is read again, and a crash costs one line at most."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RunPython
from sweep_samples import evaluated, new_sweep, saved, sealed, write_events

from sweep.common.errors import SweepError
from sweep.record.events import EVENTS_FILE, Event, EventLog, read_events, read_events_from
from sweep.record.folder import SWEEP_FILE, read_sweep


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    opened = EventLog(tmp_path)
    yield opened
    opened.close()


def facts(events: list[Event]) -> list[Event]:
    """Return events without their times."""
    return [{name: value for name, value in e.items() if name != "time"} for e in events]


def test_events_are_read_as_they_were_written(log: EventLog, tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    log.append("trial_started", trial="t000", params={"optim.lr": 1e-3, "x": [1, None, "é\n"]})
    log.append("notice", trial="t000", text="line\nbreak and \u2028")
    assert facts(read_events(tmp_path)) == [
        {
            "event": "trial_started",
            "trial": "t000",
            "params": {"optim.lr": 1e-3, "x": [1, None, "é\n"]},
        },
        {"event": "notice", "trial": "t000", "text": "line\nbreak and \u2028"},
    ]
    first, second = (e["time"] for e in read_events(tmp_path))
    assert 1.7e9 < first <= second


def test_a_number_comes_back_to_the_last_bit(log: EventLog, tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, 2**53 + 1, 3.0000000000000004]
    log.append("x", values=values)
    assert read_events(tmp_path)[0]["values"] == values


def test_a_sweep_that_never_began_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    assert read_events_from(tmp_path, 0) == ([], 0)


def test_a_later_writer_adds_to_the_record(tmp_path: Path) -> None:
    for number in range(3):
        log = EventLog(tmp_path)
        log.append("session_started", session=number)
        log.close()
    assert [e["session"] for e in read_events(tmp_path)] == [0, 1, 2]


def test_only_the_owner_reads_the_record(log: EventLog, tmp_path: Path) -> None:
    assert (tmp_path / EVENTS_FILE).stat().st_mode & 0o077 == 0


def test_only_the_owner_enters_a_sweep_s_folder(project: Path) -> None:
    old = os.umask(0)
    try:
        folder, _ = new_sweep("mine")
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_without_a_sweep_is_told(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=f"{SWEEP_FILE}: No such file"):
        read_sweep(tmp_path)


def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append("a", number=1)
    log.append("b", number=2)
    log.close()
    path = tmp_path / EVENTS_FILE
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):  # a crash after any byte of the second line
        path.write_bytes(whole[:cut])
        assert facts(read_events(tmp_path)) == [{"event": "a", "number": 1}]
    log = EventLog(tmp_path)
    log.append("c", number=3)
    log.close()
    assert [e["event"] for e in read_events(tmp_path)] == ["a", "c"]


def test_a_record_of_one_torn_line_starts_anew(tmp_path: Path) -> None:
    (tmp_path / EVENTS_FILE).write_bytes(b'{"event": "sess')
    assert read_events(tmp_path) == []
    log = EventLog(tmp_path)
    log.append("a")
    log.close()
    assert [e["event"] for e in read_events(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"null",
        b'"event"',
        b"17",
        b'{"event": "a"}',
        b'{"time": 1.0}',
        b'{"event": 1, "time": 1.0}',
        b'{"event": "a", "time": "now"}',
        b'{"event": "a", "time": null}',
        b'{"event": "a", "time": NaN}',
        b'{"event": "a", "time": 1.0, "val_loss": Infinity}',
        b'{"event": "a", "time": 1e999}',
        b'\xff\xfe{"event": "a", "time": 1.0}',
        b"\0" * 64,
        b"[" * 100_000,
        b'{"event": "a", "time": ' + b"9" * 5_000 + b"}",
        b'{"event": "a", "time": 1.0}{"event": "b", "time": 1.0}',
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_damaged_line_is_an_error_that_says_where(tmp_path: Path, damaged: bytes) -> None:
    sound = sealed(b'{"event": "a", "time": 1.0}')
    for line in (damaged + b"\n", sealed(damaged)):  # a checksum that fits makes no event of it
        (tmp_path / EVENTS_FILE).write_bytes(sound + line + sound)
        with pytest.raises(SweepError, match=f"at byte {len(sound)} ") as caught:
            read_events(tmp_path)
        assert str(tmp_path / EVENTS_FILE) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_a_flipped_bit_in_any_byte_of_a_record_is_found(tmp_path: Path) -> None:
    """In the last newline, too: that does not make a torn line of a whole one."""
    write_events(tmp_path, evaluated("t000", 10, 3.5), saved("t000", 10, 3.5))
    path = tmp_path / EVENTS_FILE
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(SweepError, match="--repair"):
            read_events(tmp_path)


def test_a_line_is_json_for_anybody(log: EventLog, tmp_path: Path) -> None:
    log.append("a", number=1, text="é")
    (line,) = (tmp_path / EVENTS_FILE).read_text(encoding="utf-8").splitlines()
    assert facts([json.loads(line)]) == [
        {"event": "a", "number": 1, "text": "é", "crc32": line[-10:-2]}
    ]


def test_a_flipped_bit_in_sweep_json_is_found() -> None:
    folder, sweep = new_sweep("rotten")
    assert read_sweep(folder) == sweep.sealed()
    path = folder / SWEEP_FILE
    whole = path.read_bytes()
    assert json.loads(whole)["config"]["num_samples"] == 8
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(SweepError, match=r"damaged or of another version") as caught:
            read_sweep(folder)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(not shutil.which("strace"), reason="takes strace")
def test_the_record_is_on_the_disk_before_it_is_told(tmp_path: Path, project: Path) -> None:
    """A new sweep's names, the record's when it is made, its lines when they are synced."""
    script = tmp_path / "record.py"
    script.write_text(
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from sweep_samples import EventLog, new_sweep\n"
        "from sweep.record.events import sync_events\n"
        "def say(word): os.write(1, word.encode())\n"
        "folder, _ = new_sweep('safe'); say('sweep')\n"
        "log = EventLog(folder); say('made')\n"
        "log.append('a'); sync_events(folder); say('told')\n"
        "log.append('b'); log.close(); say('closed')\n",
        encoding="utf-8",
    )
    trace = tmp_path / "trace"
    calls = ["strace", "-y", "-o", str(trace), "-e", "trace=fsync,write", sys.executable]
    command = [*calls, str(script), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "ptrace" in done.stderr.lower():
        pytest.skip("tracing is not allowed here")
    assert done.stdout == "sweepmadetoldclosed", done.stderr
    calls = re.findall(r'(?:fsync\(\d+<(.*)>|write\(1<.*"(\w+)")', trace.read_text())
    synced = [word or re.sub(r"\.\w{8}$", "", path) for path, word in calls]
    folder = project / "results" / "safe"
    places = [folder / ".sweep.json", folder, folder.parent, project]
    assert synced == [
        *(*map(str, places), "sweep"),
        *(str(folder), "made"),
        *(str(folder / EVENTS_FILE), "told"),
        *(str(folder / EVENTS_FILE), "closed"),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_not_written(log: EventLog, tmp_path: Path, value: float) -> None:
    heard: list[Event] = []
    log.listen(heard.append)
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        log.append("evaluation", trial="t000", metrics={"val_loss": value})
    assert (tmp_path / EVENTS_FILE).read_bytes() == b""
    assert heard == []


def test_listeners_hear_of_an_event_once_it_is_on_disk(log: EventLog, tmp_path: Path) -> None:
    heard: list[tuple[str, Event, int]] = []
    log.append("before")
    for name in ("first", "second"):
        log.listen(lambda e, name=name: heard.append((name, e, len(read_events(tmp_path)))))
    log.append("a", number=1)
    written = read_events(tmp_path)[-1]
    assert heard == [("first", written, 2), ("second", written, 2)]


def test_reading_goes_on_from_an_offset(log: EventLog, tmp_path: Path) -> None:
    for number in range(4):
        log.append("a", number=number)
    events, end = read_events_from(tmp_path, 0)
    assert end == (tmp_path / EVENTS_FILE).stat().st_size
    assert [e["number"] for e in events] == [0, 1, 2, 3]
    assert read_events_from(tmp_path, end) == ([], end)
    log.append("a", number=4)
    later, last = read_events_from(tmp_path, end)
    assert [e["number"] for e in later] == [4]
    # What one reader saw up to an offset, another sees again, and no more.
    assert read_events_from(tmp_path, 0, end) == (events, end)
    assert read_events_from(tmp_path, 0, 0) == ([], 0)
    with (tmp_path / EVENTS_FILE).open("ab") as file:
        file.write(b'{"event": "torn"')
    assert read_events_from(tmp_path, last) == ([], last)


def test_a_reader_beside_the_writer_sees_whole_events_only(log: EventLog, tmp_path: Path) -> None:
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            log.append("a", number=number, text="x" * 500)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[Event] = []
    offset = 0
    finished = False
    while not finished:
        finished = done.is_set()  # before the last look, not after it
        events, offset = read_events_from(tmp_path, offset)
        seen += events
    writer.join()
    assert [e["number"] for e in seen] == list(range(300))


def test_a_record_without_room_stays_as_it_was(tmp_path: Path, run_python: RunPython) -> None:
    script = tmp_path / "full_disk.py"
    # A limit on the file's size stands for a full disk: the write comes back short.
    script.write_text(
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from sweep.record.events import EventLog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "log.append('a')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "try:\n"
        "    log.append('b', text='x' * 500)\n"
        "except OSError as error:\n"
        "    print('refused', error.errno)\n"
        "log.append('c')\n",
        encoding="utf-8",
    )
    told = run_python(script, tmp_path)
    assert told.stdout.startswith("refused"), told.stderr
    assert [e["event"] for e in read_events(tmp_path)] == ["a", "c"]
    for line in (tmp_path / EVENTS_FILE).read_bytes().splitlines():
        json.loads(line)
