"""The report: one file that tells everything, asks nobody for anything, runs nothing foreign."""

import base64
import hashlib
import json
import re
import shlex
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from live_sweeps import wait_for
from sweep_samples import (
    TRIAL,
    ended,
    new_sweep,
    run_of,
    session,
    sweep_config,
    write_events,
)

from sweep.record.folder import results_folder
from sweep.record.lock import locked
from sweep.record.storage import store_of
from sweep.report import main as report
from sweep.show.commands import setting_flags
from sweep.show.report import watch_report, write_report
from trainable.common.errors import ConfigError
from trainable.common.paths import config_file
from trainable.config.explain import validate
from trainable.config.flags import parse_flags
from trainable.config.trial import TrialConfig
from trainable.config.yaml_file import read_yaml

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & \"'"


def sample(name: str = "seen", trials: int = 3, **changes: Any) -> Path:
    folder, _ = new_sweep(name, sweep_config(**changes))
    lost = run_of("t000", {0: 5.0}, None)
    write_events(folder, session(num_samples=trials), lost)
    write_events(folder, ended("t000", "failed", step=0, reason=HOSTILE))
    for n in range(1, trials):
        losses = {0: 5.0, 10: 3.0, 80: 2.0 + n / 100}
        told = run_of(f"t{n:03d}", losses, "finished", lr=1e-3 * (1 + n / trials))
        for event in told:
            if event["event"] == "evaluation":
                event["metrics"]["flops"] = 1e6 * (1 + event["metrics"]["step"])
                event["metrics"]["tokens"] = 100 * (1 + event["metrics"]["step"])
        write_events(folder, told)
    return folder


def packed(html: str, name: str) -> str:
    found = re.search(f'<script type="text/plain" id="{name}">([^<]*)</script>', html)
    assert found
    return zlib.decompress(base64.b64decode(found[1])).decode()


def data_of(html: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(packed(html, "data"))
    return data


def test_the_command_writes_a_report_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    folder = sample()
    assert report(["seen"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "Best: t001 with lr=0.001333 d_model=32" in html
    assert "validation loss 2.0100 nats per token" in html
    assert "after 8.1k tokens and 81 MFLOP" in html
    assert "1 failed" in html
    for told in ("da7a5e7", "0123abc", "torch 2"):
        assert told in html


@pytest.mark.parametrize("elsewhere", [False, True])
def test_all_trials_are_in_the_table_with_reasons_and_commands(
    tmp_path: Path, elsewhere: bool
) -> None:
    storage = tmp_path / "shared"
    storage.mkdir()
    folder = sample(trials=40, **({"storage": str(storage)} if elsewhere else {}))
    name = "session-1/t002/a-0123456789ab/checkpoint_000080"
    kept = Path(store_of(folder).address(name))
    kept.mkdir(parents=True)
    checkpoint = {"event": "checkpoint", "time": 1.8e9, "trial": "t002", "step": 80}
    write_events(folder, {**checkpoint, "val_loss": 2.02, "path": name})
    table = data_of(write_report(folder).read_text())["table"]
    heads, rows = table["heads"], table["rows"]
    assert heads[:6] == ["rank", "trial", "val_loss", "bits/byte", "lr", "d_model"]
    assert heads[6:] == ["step", "outcome", "reason"]
    assert sorted(row[1] for row in rows) == [f"t{n:03d}" for n in range(40)]
    assert [row[0] for row in rows] == list(range(1, 41))
    assert rows[0][1:3] == ["t001", 2.01]
    assert rows[-1][1] == "t000"
    assert rows[-1][8] == HOSTILE
    (told,) = [shlex.split(row[-1])[0] for row in rows if row[-1]]
    assert kept == Path.cwd() / told


def test_what_a_record_holds_cannot_run() -> None:
    html = write_report(sample()).read_text()
    assert html.count("<script") == 3, "two of data, one that runs"
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html, "a finding tells the reason"
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    rules = dict(part.strip().split(" ", 1) for part in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    program = html.rpartition("<script>")[2].partition("</script>")[0]
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in (packed(html, "library"), program)
    ]
    assert rules["script-src"].split() == digests
    assert not re.findall(r"""(?:src|href)=["']""", html.partition("<script")[0])


def test_a_report_is_small_and_its_numbers_are_numbers() -> None:
    html = write_report(sample(trials=20)).read_text()
    assert len(html) < 2.5e6
    for picture in data_of(html)["pictures"]:
        for trace in [trace for trace in picture["traces"] if trace["type"] == "scatter"]:
            for axis in ("x", "y"):
                assert all(isinstance(v, int | float | None) for v in trace[axis])


def test_a_sweep_without_events_has_a_report_too() -> None:
    folder, _ = new_sweep("empty")
    html = write_report(folder).read_text()
    assert "No trial has a loss that counts." in html
    assert data_of(html)["table"]["rows"] == []


def test_the_settings_of_a_trial_come_back_from_its_flags() -> None:
    """What the report says to type gives the same trial, whatever local.py's own defaults are."""
    wanted = TrialConfig().with_values(
        {
            "data.dataset": "data/with space",
            "model.tie_embeddings": True,
            "model.d_ff": None,
            "optim.schedule": "wsd",
            "optim.lr": 1.2345678901234567e-3,
            "train.eval_every": None,
            "train.steps": 77,
            "train.seed": 12345678901,
        }
    )
    flags, searched = setting_flags(wanted, ["optim.lr", "model.d_model"])
    words = [*shlex.split(flags), searched["optim.lr"], str(wanted.optim.lr)]
    words += [searched["model.d_model"], str(wanted.model.d_model)]
    default = validate(TrialConfig, read_yaml(config_file("trial.yaml")), "trial.yaml")
    assert parse_flags(TrialConfig, default, words, "local.py", "") == wanted


def test_sweeps_are_compared_and_what_differs_is_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, seed, loss in (("first", 0, 2.0), ("second", 7, 1.9)):
        folder, _ = new_sweep(name, sweep_config(seed=seed))
        losses = {0: 5.0, 10: 3.0, 80: loss}
        trials = [run_of(f"t{n}", losses, "finished", lr=1e-3 * (n + 1)) for n in range(3)]
        write_events(folder, session(), *trials)
    assert report(["first", "second"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.name == "report-first-second.html"
    html = path.read_text()
    assert "The lowest loss, 1.9000, is that of second" in html
    assert "0.1000 nats below first" in html
    assert re.search(r'<th scope="row">seed</th><td>0</td><td>7</td>', html)
    assert "num_samples" not in html, "alike in both"
    assert "not to be compared" not in html
    curves, valleys = data_of(html)["pictures"]
    assert [trace["name"] for trace in curves["traces"]] == ["first", "second"]
    assert curves["traces"][1]["y"] == [3.0, 1.9]
    assert {trace["legendgroup"] for trace in valleys["traces"]} == {"first", "second"}


def test_losses_on_other_budgets_are_not_called_comparable() -> None:
    for name, steps in (("short", 80), ("long", 160)):
        trial = {**TRIAL, "train": {**TRIAL["train"], "steps": steps}}
        new_sweep(name, sweep_config(trial=trial))
    assert report(["short", "long"]) == 0
    html = (results_folder() / "report-short-long.html").read_text()
    assert "not to be compared: the sweeps differ in trial.train.steps" in html


def test_a_watched_report_follows_the_record_until_the_session_ends() -> None:
    folder = sample()
    path = folder / "report.html"
    with ThreadPoolExecutor(1) as threads:
        with locked(folder):
            watching = threads.submit(watch_report, folder, 0.05)
            wait_for(path.exists, seconds=30)
            before = path.stat().st_mtime_ns
            write_events(folder, run_of("t777", {0: 5.0, 80: 1.5}, "finished"))
            wait_for(lambda: path.stat().st_mtime_ns > before, seconds=30)
            assert not watching.done()
        assert watching.result(timeout=30) == path
    assert "Best: t777" in path.read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a sweep"),
        (["a", "b", "--watch"], "--watch"),
        (["a", "--every", "0"], "--every 0"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        report(words)
