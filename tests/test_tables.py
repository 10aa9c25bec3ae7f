"""What the terminal shows of a sweep: leaderboard, sizes, what to type next."""

import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.console import Console
from sweep_samples import (
    SPACE,
    ended,
    evaluated,
    event,
    new_sweep,
    planned_cost,
    record_of,
    run_of,
    session,
    shown,
    started,
    sweep_config,
    write_events,
)

from sweep.analysis.findings import findings
from sweep.analysis.study import Study
from sweep.analysis.words import counts_text, outcome_text, params_text
from sweep.record.results import SweepRecord
from sweep.show.commands import mlflow_command, next_commands, shown_path
from sweep.show.console import say, say_folded
from sweep.show.progress import Progress
from sweep.show.tables import best_by_size, leaderboard
from sweep.status import main as status
from trainable.common.paths import PACKAGE_PARENT


def sample() -> SweepRecord:
    """Return five trials of two sizes."""
    return record_of(
        [started("t000", lr=1e-3), evaluated("t000", 0, 5.0), ended("t000", "diverged")],
        run_of("t001", {0: 5.0, 10: 3.25}, "stopped", lr=3.16227766e-3),
        [
            started("t002", lr=2e-3, d_model=64),
            evaluated("t002", 0, 5.0, val_bpb=7.0),
            evaluated("t002", 80, 2.1234, val_bpb=3.06),
            ended("t002", "finished"),
        ],
        run_of("t003", {0: 5.0, 10: 3.0}, None, lr=4e-3),
        run_of("t004", {0: 5.0, 20: 2.5}, "interrupted", lr=5e-3, d_model=64),
    )


def rows(text: str) -> list[list[str]]:
    """Return a printed table's lines as words, without its rule."""
    lines = [line.split() for line in text.splitlines()]
    return [words for words in lines if words and not set("".join(words)) <= set("─━-")]


@pytest.mark.parametrize("terminal", [True, False])
def test_prose_is_folded_between_words_where_somebody_reads_it(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=terminal)
    text = "rungs     50, 150 steps, the best 1/3 go on, the last trial in any case"
    say_folded(console, text, indent=10)
    assert isinstance(console.file, io.StringIO)
    first, *others = console.file.getvalue().splitlines()
    assert bool(others) == terminal
    assert all(line.startswith(" " * 10) for line in others)
    assert " ".join([first, *map(str.strip, others)]) == text
    assert max(map(len, others), default=0) <= 40


def test_the_leaderboard_goes_from_the_best_to_the_lost() -> None:
    head, *body = rows(shown(leaderboard(sweep_config(), sample())))
    assert head == ["trial", "val_loss", "bits/byte", "lr", "d_model", "step", "outcome"]
    assert body == [
        ["1", "t002", "2.1234", "3.0600", "0.002", "64", "80", "finished"],
        ["2", "t004", "2.5000", "-", "0.005", "64", "20", "interrupted"],
        ["3", "t003", "3.0000", "-", "0.004", "32", "10", "running"],
        ["4", "t001", "3.2500", "-", "0.003162", "32", "10", "stopped", "at", "step", "10"],
        ["5", "t000", "-", "-", "0.001", "32", "0", "diverged"],
    ]


@pytest.mark.parametrize("width", [60, 80, 110])
def test_no_number_of_a_table_is_cut_however_narrow_the_terminal_is(width: int) -> None:
    space = {**SPACE, "model.n_layers": {"int": [1, 4]}}
    events = run_of("t000", {0: 5.0, 10: 3.0, 80: 2.1234}, "finished", d_model=64)
    other = run_of("t001", {0: 5.0, 10: 3.5678}, "stopped", lr=3.16227766e-3)
    for told in (events[0], other[0]):
        told["params"]["model.n_layers"] = 2
    study = Study(sweep_config(space=space), record_of(events, other))
    by_size = best_by_size(study)
    assert by_size is not None
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    for table in (leaderboard(study.config, study.record), by_size):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for number in ("2.1234", "3.5678", "0.003162", "0.001", "64"):
        assert number in text.split()
    row = study.sizes[0].cells()
    assert f" {row[3]} " in text, "the band, in one line"
    assert ("no room in 60 columns for bits/byte" in text) == (width == 60)
    assert ("no room in 80 columns for finished" in text) == (width == 80)
    assert ("no room" in text) == (width < 110)


def test_the_leaderboard_shows_ten_or_all() -> None:
    record = record_of(*[run_of(f"t{n:03d}", {0: 5.0 + n}, "finished") for n in range(15)])
    config = sweep_config()
    assert len(rows(shown(leaderboard(config, record)))) == 1 + 10
    assert len(rows(shown(leaderboard(config, record, limit=None)))) == 1 + 15
    assert len(rows(shown(leaderboard(config, SweepRecord())))) == 1


def test_the_best_of_each_size_is_shown_with_its_rate() -> None:
    events = run_of("t000", {0: 5.0, 10: 3.0, 80: 2.5}, "finished", lr=1e-3, d_model=64)
    at = next(e for e in events if e["event"] == "evaluation" and e["metrics"]["step"] == 10)
    at["metrics"]["flops"] = 1_250_000
    record = record_of(events, run_of("t001", {0: 5.0, 10: 3.5}, "stopped", lr=5e-3))
    head, *body = shown(best_by_size(Study(sweep_config(), record))).replace("─", "").splitlines()
    names = ["d_model", "best lr", "80% band", "final loss", "+-", "known by", "FLOPs"]
    assert re.split(r"\s{2,}", head.strip()) == [*names, "trials", "finished"]
    small, large = (re.split(r"\s{2,}", line.strip()) for line in body if line)
    assert [small[i] for i in (0, 5, 6, 7, 8)] == ["32", "predicted", "-", "1", "0"]
    assert [large[i] for i in (0, 5, 6, 7, 8)] == ["64", "finished", "10M", "1", "1"]
    assert float(small[3]) > float(large[3]) == pytest.approx(2.5, abs=0.1)
    assert float(small[4]) > float(large[4]) > 0


def test_without_a_finished_trial_no_final_loss_is_told() -> None:
    record = record_of(run_of("t000", {0: 5.0, 10: 3.0}, "stopped"))
    _, row = rows(shown(best_by_size(Study(sweep_config(), record))))
    assert row[-6:] == ["-", "-", "-", "-", "1", "0"]


def test_sizes_are_shown_only_where_sizes_and_rates_are_searched() -> None:
    for name in SPACE:
        assert best_by_size(Study(sweep_config(space={name: SPACE[name]}), sample())) is None


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory", "failed"])
def test_a_size_whose_trials_were_all_lost_has_a_prediction_without_them(outcome: str) -> None:
    lost = run_of("t000", {0: 5.0, 10: 1.0, 80: 1.0}, outcome)
    assert best_by_size(Study(sweep_config(), record_of(lost))) is None
    record = record_of(lost, run_of("t001", {0: 5.0, 80: 2.5}, "finished", d_model=64))
    _, row, _ = rows(shown(best_by_size(Study(sweep_config(), record))))
    assert row[0] == "32"
    assert "predicted" in row
    assert row[-2:] == ["1", "0"]
    assert float(row[row.index("predicted") - 2]) > 2.0


def test_outcomes_and_counts_in_words() -> None:
    record = sample()
    texts = {name: outcome_text(trial) for name, trial in record.trials.items()}
    assert texts == {
        "t000": "diverged",
        "t001": "stopped at step 10",
        "t002": "finished",
        "t003": "running",
        "t004": "interrupted",
    }
    assert counts_text(record) == "1 running, 1 finished, 1 stopped, 1 diverged, 1 interrupted"
    assert counts_text(record_of(run_of("t0", {}, "out_of_memory"))) == "1 out of memory"
    assert counts_text(SweepRecord()) == ""
    many = record_of(*[run_of(f"t{n:04d}", {}, "failed") for n in range(1_234)])
    assert counts_text(many) == "1,234 failed"
    told = [finding.text for finding in findings(Study(sweep_config(), many))]
    assert "none of 1,234 trials came to its end: what a full one reaches is not known" in told
    assert "1,234 of 1,234 trials failed: why" in told
    assert (
        params_text({"optim.lr": 3.16227766e-3, "model.d_model": 128}) == "lr=0.003162 d_model=128"
    )


def test_next_commands_name_the_sweep_and_double_it() -> None:
    commands = next_commands("mine", 32)
    assert shlex.split(commands["best"])[-2:] == [
        shown_path(PACKAGE_PARENT / "sweep/best.py"),
        "mine",
    ]
    resume, extend = shlex.split(commands["resume"]), shlex.split(commands["extend"])
    assert resume[2:] == ["--resume", "mine", "--num-samples", "32"]
    assert extend[2:] == ["--resume", "mine", "--num-samples", "64"]
    assert shlex.split(commands["generate"])[-2:] == ["--prompt", "def "]


def programs_exist(words: list[str], folder: Path) -> bool:
    """Say whether a command's program, and its script, would be found from a folder."""
    program = words[0]
    path = folder / program
    found = (
        path.is_file()
        if os.sep in program
        else any((Path(p) / program).is_file() for p in os.environ["PATH"].split(os.pathsep))
    )
    return found and ((folder / words[1]).is_file() if words[1].endswith(".py") else True)


@pytest.mark.parametrize("place", ["checkout", "home", "elsewhere", "venv"])
@pytest.mark.parametrize("on_path", [True, False])
def test_next_commands_can_be_pasted_where_the_user_stands(
    place: str, *, on_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "my project"  # with a space, as people have them
    home.mkdir()
    monkeypatch.setenv("LM_SWEEP_HOME", str(home))
    folder = {
        "checkout": PACKAGE_PARENT,
        "home": home,
        "elsewhere": tmp_path,
        "venv": Path(sys.executable).parents[1],
    }[place]
    monkeypatch.chdir(folder)
    path = [str(Path(sys.executable).parent)] if on_path else []
    monkeypatch.setenv("PATH", os.pathsep.join([*path, "/usr/bin", "/bin"]))
    commands = next_commands("mine", 4)
    for name in ("best", "generate", "resume", "extend"):
        assert programs_exist(shlex.split(commands[name]), folder), commands[name]
    target = shlex.split(commands["generate"])[2]
    assert (folder / target) == home / "results" / "mine" / "best"
    words = shlex.split(mlflow_command().strip("()"))
    if place != "home":
        assert words[:3] == ["cd", str(home), "&&"]
        words = words[3:]
    assert words[1:] == ["ui"]
    assert programs_exist(words, home), words


def test_paths_below_the_working_folder_are_shown_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "a" / "b") == "a/b"
    assert shown_path(Path("/etc/x")) == "/etc/x"


STRANGE = "[/data/x.bin] [bold]is[/bold] :x: \x1b[31m\ud800 [enforce fail at CPUAllocator]"
SHOWN = "[/data/x.bin] [bold]is[/bold] :x: \\x1b[31m\\ud800 [enforce fail at CPUAllocator]"


def test_data_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Reasons, settings, messages: neither markup nor codes for the terminal."""
    folder, _ = new_sweep("strange")
    trial = run_of("t000", {0: 5.0}, None)
    trial[0]["params"]["model.d_model"] = STRANGE
    write_events(folder, session(), trial, ended("t000", "failed", step=0, reason=STRANGE))
    assert status(["strange"]) == 0
    reasons = " ".join(capsys.readouterr().out.split())
    assert SHOWN in reasons
    record = SweepRecord.read(folder)
    assert SHOWN in " ".join(shown(leaderboard(sweep_config(), record)).split())
    console = Console(file=io.StringIO(), width=300, force_terminal=True, color_system=None)
    say(console, STRANGE)
    record = record_of(trial)
    with Progress(
        sweep_config(), record, planned_cost(), console, lambda: f"trouble {STRANGE}"
    ) as progress:
        progress.notice(event("notice", trial="t000", text=f"notice {STRANGE}"))
    assert isinstance(console.file, io.StringIO)
    told = console.file.getvalue()
    assert told.startswith(f"{SHOWN}\n")
    for part in (
        "t000: notice ",
        "away, training goes on: trouble ",
    ):
        assert f"{part}{SHOWN}" in told
    assert f"1  t000   5.0000  0.001  d_model={SHOWN}  " in told
