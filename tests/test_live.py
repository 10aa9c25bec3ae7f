"""A running sweep at a glance: at each width it tells what matters."""

import io
import time

import pytest
from rich.console import Console, Group
from sweep_samples import flat, planned_cost, run_of, session, sweep_config

from sweep.record.lines import Event
from sweep.record.results import SweepRecord
from sweep.show.live import BEST, BLOCKS, ENDS, RUNNING, LiveView
from sweep.show.progress import Progress

STORY = [
    session(),
    *run_of("t000", {0: 5.0, 10: 3.0, 20: 2.5, 40: 2.25, 80: 2.0}, "finished", lr=1e-3),
    *run_of("t001", {0: 5.0, 10: 3.5}, "stopped", lr=3.16227766e-3, d_model=64),
    *run_of("t002", {0: 5.0, 10: 3.25}, "stopped", lr=2e-3),
    *run_of("t003", {0: 5.0, 10: 1.0}, "diverged", lr=9e-3),
    *run_of("t004", {0: 5.0, 10: 2.9}, None, lr=4e-3, d_model=64),
    *run_of("t005", {}, None, lr=5e-3),
]


def seen(events: list[Event]) -> LiveView:
    record = SweepRecord()
    view = LiveView(sweep_config(), record)
    for event in events:
        record.apply(event)
        view.notice(event)
    return view


def shown(view: LiveView, width: int, trouble: str | None = None, **facts: object) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **facts)  # type: ignore[arg-type]
    console.print(Group(*view.lines(console.options, "1 min 20 s, about 55 s left", trouble)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_what_matters_is_there_at_each_width(width: int) -> None:
    lines = shown(seen(STORY), width, color_system=None)
    assert max(map(len, lines)) <= width
    assert [line for line in lines if "4/8 trials" in line and "about 55 s left" in line]
    table = [line.split() for line in lines[3:] if line.startswith(("1 ", "2 ", "4 ", "- "))]
    assert table[0][:7] == ["1", "t000", "2.0000", "0.001", "d_model=32", "80", "finished"]
    assert table[1][:5] == ["2", "t004", "2.9000", "0.004", "d_model=64"]
    assert table[1][6:9] == ["runs", "to", "rung"]
    assert width == 60 or table[1][9] == "20"
    assert table[2][3:5] == ["0.003162", "d_model=64"]
    assert table[-1][:6] == ["-", "t005", "-", "0.005", "d_model=32", "0"]
    assert "t001 stopped at step 10: rank 2 of 2, best 1/2 go on" in map(str.strip, lines)
    assert "t002 stopped at step 10: rank 2 of 3, best 1/2 go on" in map(str.strip, lines)
    assert "t003 diverged: why" in map(str.strip, lines)
    assert any(mark in "".join(lines) for mark in BLOCKS) == (width >= 80)
    assert len({row[1] for row in table}) == len(table), "a running one of the best is there once"


def test_before_the_first_trial_it_says_what_is_waited_for() -> None:
    lines = shown(seen([session()]), 80, color_system=None)
    assert "0/8 trials" in lines[0]
    assert [line.strip() for line in lines[1:]] == ["the workers start"]


def test_a_curve_falls_on_one_scale_for_all() -> None:
    first, second = (line.split()[-1] for line in shown(seen(STORY), 80, color_system=None)[3:5])
    heights = [BLOCKS.index(mark) for mark in first]
    assert heights == sorted(heights, reverse=True)
    assert (heights[-1], len(heights)) == (0, 4)
    assert BLOCKS.index(second) > heights[1]


def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = "\n".join(shown(seen(STORY), 80, trouble="x", color_system="standard"))
    assert "\x1b[33m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    bare = "\n".join(shown(seen(STORY), 80, trouble="x", color_system="standard"))
    assert not any(f"\x1b[{code}" in bare for code in (*range(30, 38), *range(90, 98)))


def test_a_terminal_of_another_alphabet_gets_curves_in_its_own() -> None:
    console = Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80, force_terminal=True
    )
    console.print(Group(*seen(STORY).lines(console.options, "", None)))


def test_the_view_stays_short_however_much_runs() -> None:
    running = [run_of(f"t{n:03d}", {0: 5.0, 10: 3.0}, None) for n in range(50)]
    ends = [run_of(f"t{n:03d}", {0: 5.0, 10: 4.0}, "stopped") for n in range(50, 90)]
    lines = shown(seen(flat(session(num_samples=100), *running, *ends)), 80)
    assert len(lines) <= 4 + 5 + RUNNING + ENDS
    assert any(f"and {50 - BEST - RUNNING} more are running" in line for line in lines)


def test_a_view_that_comes_later_shows_the_same_trials() -> None:
    """As `status.py --follow` does: it was not there when they began."""
    record = SweepRecord()
    record.apply_all(STORY)
    late = LiveView(sweep_config(), record)
    assert shown(late, 80) == shown(seen(STORY), 80)[: len(shown(late, 80))]
    assert late.reason(record.trials["t002"]).endswith("rank 4 of 5, best 1/2 go on")


def test_ten_thousand_trials_are_drawn_at_once() -> None:
    stories = [run_of(f"t{n:05d}", {0: 5.0, 10: 3 + n / 1e4}, "stopped") for n in range(10_000)]
    view = seen(flat(session(num_samples=10_000), *stories))
    begun = time.thread_time()
    shown(view, 80)
    assert time.thread_time() - begun < 0.25


def test_progress_shows_the_view_in_a_terminal_alone() -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        record = SweepRecord()
        with Progress(sweep_config(), record, planned_cost(), console) as progress:
            for event in STORY:
                record.apply(event)
                progress.notice(event)
        assert isinstance(console.file, io.StringIO)
        assert ("rank 2 of 3" in console.file.getvalue()) == terminal
        assert ("[1/8] t000 lr=0.001" in console.file.getvalue()) != terminal
