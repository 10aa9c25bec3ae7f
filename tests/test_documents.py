"""What commands print with --json, --quiet and --csv: by the schema, and nothing else beside it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pandas
import pytest
from conftest import MakeConfig
from live_sweeps import ROOT
from sweep_samples import (
    ended,
    evaluated,
    event,
    new_sweep,
    record_of,
    run_of,
    saved,
    session,
    started,
    sweep_config,
    write_events,
)

import trainable.generate
import trainable.local
import trainable.prepare
from sweep import best, load_sweep, report, run, status
from sweep.common.errors import SweepError
from sweep.conduct import resume, start
from sweep.record.folder import SweepFile
from sweep.record.identity import new_identity
from sweep.record.lock import locked
from sweep.record.results import SweepRecord
from sweep.show.documents import SweepLine
from sweep.show.formats import DOCUMENTS, formats_schema
from trainable.common.errors import ConfigError
from trainable.common.output import Output
from trainable.data.batches import open_dataset
from trainable.training.trainer import Trainer

Capture = pytest.CaptureFixture[str]
SCHEMA = ROOT / "formats.schema.json"
STRANGE = 'a "quoted", reason\nwith \x1b[31m \ud800 é'
TOLD = STRANGE.replace("\ud800", "\\ud800")


def not_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def document_of(capsys: Capture) -> dict[str, Any]:
    """Return the one document on standard output, which keeps to the schema."""
    printed = capsys.readouterr()
    document: dict[str, Any] = json.loads(printed.out, parse_constant=not_json)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    return document


def small_sweep() -> Path:
    """Return a sweep with a trial of each outcome, the last one running."""
    folder, _ = new_sweep("small")
    plan = {"seconds": 82.0, "steps": 640.0, "disk_bytes": 10**6, "standard_error": 0.013}
    write_events(
        folder,
        session(plan=plan),
        [
            started("t000", lr=2e-3, d_model=64),
            evaluated("t000", 0, 5.0, val_bpb=7.0, flops=0),
            evaluated("t000", 80, 2.125, val_bpb=3.0, flops=10**15, tokens=5120, seconds=1.5),
            saved("t000", 80, 2.125),
            ended("t000", "finished"),
        ],
        run_of("t001", {0: 5.0, 10: 3.25}, "stopped", lr=1e-3),
        run_of("t002", {0: 5.0}, "diverged", lr=9e-3),
        run_of("t003", {}, "out_of_memory"),
        [started("t004"), ended("t004", "failed", step=0, reason=STRANGE)],
        run_of("t005", {0: 5.0, 10: 3.0}, "interrupted"),
        run_of("t006", {}, None),
    )
    return folder


def test_the_schema_is_the_one_that_is_written_down() -> None:
    """After a change: `python sweep/status.py --schema > formats.schema.json`."""
    assert json.loads(SCHEMA.read_text()) == formats_schema()
    formats = [document.model_fields["format"].default for document in DOCUMENTS]
    assert len(set(formats)) == len(DOCUMENTS)


def test_status_prints_the_schema(capsys: Capture) -> None:
    assert status.main(["--schema"]) == 0
    assert capsys.readouterr().out == SCHEMA.read_text()


def test_a_sweep_as_json(capsys: Capture) -> None:
    folder = small_sweep()
    assert status.main(["small", "--json"]) == 0
    document = document_of(capsys)
    assert document["format"] == "lm-sweep.sweep/1"
    assert (document["name"], document["state"]) == ("small", "interrupted")
    assert document["counts"]["failed"] == 1
    assert document["best"] == {
        "trial": "t000",
        "params": {"optim.lr": 2e-3, "model.d_model": 64},
        "step": 80,
        "val_loss": 2.125,
        "val_bpb": 3.0,
    }
    assert document["plan"]["seconds"] == 82.0
    trials = document["trials"]
    outcomes = ["finished", "stopped", "diverged", "out_of_memory", "failed", "interrupted"]
    assert [trial["outcome"] for trial in trials] == [*outcomes, "running"]
    assert [trial["val_loss"] for trial in trials] == [2.125, 3.25, None, None, None, 3.0, None]
    assert trials[0]["evaluations"][1] == {
        "step": 80,
        "val_loss": 2.125,
        "val_bpb": 3.0,
        "flops": 10**15,
        "tokens": 5120,
        "seconds": 1.5,
    }
    assert trials[0]["checkpoints"] == [
        {"step": 80, "val_loss": 2.125, "path": "session-1/t000/a-1/checkpoint_000080"}
    ]
    assert (trials[1]["rung"], trials[4]["reason"]) == (10, TOLD)
    ranked = [trial.name for trial in SweepRecord.read(folder).ranked]
    assert [t["trial"] for t in sorted(trials, key=lambda t: t["rank"])] == ranked
    assert [size["size"] for size in document["sizes"]] == [
        {"model.d_model": 32},
        {"model.d_model": 64},
    ]
    assert {finding["kind"] for finding in document["findings"]} > {"unfinished", "failed"}
    assert sweep_config().model_validate(document["config"]) == sweep_config()


def test_a_sweep_without_a_trial_as_json(capsys: Capture) -> None:
    new_sweep("empty")
    assert status.main(["empty", "--json"]) == 0
    document = document_of(capsys)
    assert (document["best"], document["trials"], document["findings"]) == (None, [], [])


def test_the_list_of_sweeps_as_json(capsys: Capture) -> None:
    assert status.main(["--json"]) == 0
    assert document_of(capsys)["sweeps"] == []
    small_sweep()
    running, _ = new_sweep("running")
    broken, _ = new_sweep("broken")
    (broken / "events.jsonl").write_text("nothing\n")
    with locked(running):
        assert status.main(["--json"]) == 0
    lines = {line["name"]: line for line in document_of(capsys)["sweeps"]}
    states = {name: line["state"] for name, line in lines.items()}
    assert states == {"small": "interrupted", "running": "running", "broken": "damaged"}
    assert lines["small"]["val_loss"] == 2.125
    assert "--repair" in lines["broken"]["damage"]


def test_quiet_prints_names_or_one_line(capsys: Capture) -> None:
    assert status.main(["--quiet"]) == 0
    assert capsys.readouterr().out == ""
    small_sweep()
    assert status.main(["--quiet"]) == 0
    assert capsys.readouterr().out == "small\n"
    assert status.main(["small", "--quiet"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("small: interrupted; 1 running, 1 finished, 1 stopped")
    assert line.endswith("best: t000 lr=0.002 d_model=64, val_loss 2.1250")


def test_the_trials_as_csv(tmp_path: Path, capsys: Capture) -> None:
    small_sweep()
    assert status.main(["small", "--csv", str(tmp_path / "trials.csv")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/trials.csv: 7 trials\n"
    text = (tmp_path / "trials.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["trial"] for row in rows] == [f"t{n:03d}" for n in range(7)]
    first, stopped, lost = rows[0], rows[1], rows[2]
    assert (first["optim.lr"], first["model.d_model"], first["rank"]) == ("0.002", "64", "1")
    assert (first["val_loss"], first["best_step"], first["tokens"]) == ("2.125", "80", "5120")
    assert (stopped["outcome"], stopped["rung"], stopped["reason"]) == ("stopped", "10", "")
    assert (lost["outcome"], lost["val_loss"], lost["last_val_loss"]) == ("diverged", "", "5.0")
    assert rows[4]["reason"] == TOLD
    assert status.main(["small", "--csv", "-"]) == 0
    assert capsys.readouterr().out == text


def test_a_trial_is_told_alike_as_csv_as_json_and_as_a_data_frame(capsys: Capture) -> None:
    small_sweep()
    assert status.main(["small", "--csv", "-"]) == 0
    as_csv = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert status.main(["small", "--json"]) == 0
    as_json = document_of(capsys)["trials"]
    frame = load_sweep("small").trials.reset_index()
    assert list(frame.columns) == list(as_csv[0])
    fields = set(as_csv[0]) - set(as_json[0])
    assert fields == set(as_json[0]["params"])
    for cells, told, (_, row) in zip(as_csv, as_json, frame.iterrows(), strict=True):
        for name in ("trial", "rank", "size", "parameters", "val_loss", "last_val_loss", "tokens"):
            value = told[name]
            assert cells[name] == ("" if value is None else str(value)), name
            assert row[name] == value or (value is None and pandas.isna(row[name])), name


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (["--csv", "-"], "name the sweep"),
        (["small", "--csv", "-", "--json"], "leave one of them out"),
        (["small", "--csv", "-", "--repair"], "give one of them"),
        (["small", "--csv", "/nowhere/x.csv"], "/nowhere/x.csv: No such file"),
    ],
)
def test_what_csv_refuses(flags: list[str], wrong: str) -> None:
    small_sweep()
    with pytest.raises(ConfigError, match=wrong):
        status.main(flags)


def test_a_plan_as_json_and_in_quiet(tiny_config: MakeConfig, capsys: Capture) -> None:
    config = sweep_config(trial=tiny_config().model_dump())
    assert start.start_sweep(config, dry_run=True, output=Output(json=True)) == 0
    document = document_of(capsys)
    assert document["num_samples"] == 8
    assert document["smallest"]["parameters"] < document["largest"]["parameters"]
    assert document["seconds"] > 0
    assert document["rungs"] == [10]
    assert start.start_sweep(config, dry_run=True, output=Output(quiet=True)) == 0
    assert capsys.readouterr().out.startswith("trials    8, ")


def test_a_sweep_that_goes_on_by_itself_prints_no_result() -> None:
    for flag in ("--json", "--quiet"):
        with pytest.raises(ConfigError, match="--detach: the result goes to no terminal"):
            run.main(["--detach", flag])


def test_nothing_to_resume_is_told_as_the_sweep(tiny_config: MakeConfig, capsys: Capture) -> None:
    trial = tiny_config().model_dump()
    config = sweep_config(trial=trial, num_samples=1, tracking={"enabled": False})
    identity = new_identity(1_700_000_000.0, open_dataset(config.trial.data, 16).digest)
    folder, _ = new_sweep("done", config)
    told = SweepFile(identity=identity, config=config)
    story = run_of("t000", {0: 5.0, 20: 2.0}, "finished")
    write_events(folder, session(num_samples=1), story, event("session_ended", completed=True))
    assert resume.resume_sweep(folder, told, told.config, output=Output(json=True)) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["name"], document["state"]) == ("done", "complete")
    assert "nothing to do" in printed.err
    assert resume.resume_sweep(folder, told, told.config, output=Output(quiet=True)) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("done: complete; 1 finished of 1")
    assert printed.err == ""


def test_a_trial_its_text_and_its_dataset_as_json(
    tiny_config: MakeConfig, tmp_path: Path, tiny_documents: list[str], capsys: Capture
) -> None:
    (tmp_path / "trial.yaml").write_text(json.dumps(tiny_config().model_dump()))
    place = str(tmp_path / "checkpoint")
    flags = ["--config", str(tmp_path / "trial.yaml"), "--checkpoint", place]
    assert trainable.local.main([*flags, "--json"]) == 0
    told = document_of(capsys)
    assert (told["outcome"], told["checkpoint"]) == ("finished", place)
    assert [e["step"] for e in told["evaluations"]] == [0, 5, 10, 15, 20]
    assert told["config"]["optim"]["lr"] == tiny_config().optim.lr
    assert trainable.local.main([*flags, "--quiet"]) == 0
    assert capsys.readouterr().out == f"val_loss {told['evaluations'][-1]['val_loss']:.4f}\n"

    draw = [place, "--prompt", "alpha", "--max-tokens", "5", "--temperature", "0"]
    assert trainable.generate.main([*draw, "--json"]) == 0
    text = document_of(capsys)
    assert (text["prompt"], text["new_tokens"]) == ("alpha", 5)
    assert trainable.generate.main([*draw, "--quiet"]) == 0
    assert capsys.readouterr().out == text["text"] + "\n"
    assert trainable.generate.main(draw) == 0
    assert capsys.readouterr().out == f"alpha{text['text']}\n"

    (tmp_path / "a.txt").write_text("<|endoftext|>".join(tiny_documents))
    make = ["--input", str(tmp_path / "a.txt"), "--out"]
    assert trainable.prepare.main([*make, str(tmp_path / "one"), "--json"]) == 0
    assert document_of(capsys)["meta"]["vocab_size"] == 257
    assert trainable.prepare.main([*make, str(tmp_path / "two"), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/two\n"


def test_a_trial_that_diverges_as_json(
    tiny_config: MakeConfig, tmp_path: Path, capsys: Capture
) -> None:
    values = {"optim.lr": 1e3, "train.precision": "fp32"}
    (tmp_path / "trial.yaml").write_text(json.dumps(tiny_config(values).model_dump()))
    assert trainable.local.main(["--config", str(tmp_path / "trial.yaml"), "--json"]) == 1
    told = document_of(capsys)
    assert told["outcome"] == "diverged"
    assert "lower optim.lr" not in told["reason"]
    assert told["evaluations"][0]["step"] == 0


def test_a_report_as_json_and_in_quiet(capsys: Capture) -> None:
    folder = small_sweep()
    assert report.main(["small", "--json"]) == 0
    document = document_of(capsys)
    assert (document["kind"], document["sweeps"]) == ("report", ["small"])
    assert document["path"] == str(folder / "report.html")
    assert Path(document["path"]).is_file()
    assert report.main(["small", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_the_best_as_json_and_in_quiet(tiny_config: MakeConfig, capsys: Capture) -> None:
    config = tiny_config({"train.steps": 10})
    folder, _ = new_sweep("mine", sweep_config(trial=config.model_dump()))
    trainer = Trainer(config)
    *_, last = trainer.run()
    trainer.save(folder / "session-1" / "t000" / "a-1" / "checkpoint_000010")
    write_events(
        folder,
        session(num_samples=1),
        run_of("t000", {0: 9.0, 10: last.val_loss}, None),
        saved("t000", 10, last.val_loss),
        ended("t000", "finished", step=10),
    )
    assert best.main(["mine", "--json"]) == 0
    document = document_of(capsys)
    assert (document["exact"], document["val_loss"]) == (True, last.val_loss)
    assert document["exported"] == str(folder / "best")
    assert (document["registered"], document["version"]) == (None, None)
    assert best.main(["mine", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{folder / 'best'}\n"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_does_not_get_into_a_document(bad: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        SweepLine(name="x", state="running", val_loss=bad)
    with pytest.raises(SweepError, match="event 2 of the sweep is damaged"):
        record_of(session(), started("t000", lr=bad))
