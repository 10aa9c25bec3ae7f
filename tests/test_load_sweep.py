"""A sweep in hand: its tables, its findings, and the models that it kept."""

import re
import shutil
from pathlib import Path

import pandas
import pytest
import torch
from conftest import MakeConfig, RunPython
from live_sweeps import ROOT
from sweep_samples import (
    ended,
    evaluated,
    new_sweep,
    run_of,
    saved,
    session,
    started,
    sweep_config,
    write_events,
)

import sweep
from sweep import best, load_sweep
from sweep.common.errors import SweepError
from sweep.pictures.gallery import PICTURES
from trainable.common.errors import CheckpointError
from trainable.config.trial import ModelConfig, TrialConfig
from trainable.model.counts import flops_per_token, parameter_count
from trainable.training.trainer import Trainer

START = pandas.Timestamp(1_700_000_000, unit="s", tz="UTC")


def model(d_model: int) -> ModelConfig:
    return ModelConfig(d_model=d_model, n_layers=2, head_dim=16, context_length=16)


FLOPS = 640 * flops_per_token(model(32), 257)


@pytest.fixture
def mixed(project: Path) -> Path:
    """The folder of a sweep in which one trial of each kind has ended, and one runs."""
    folder, _ = new_sweep("mixed")
    write_events(
        folder,
        session(),
        run_of("t000", {0: 5.5, 40: 3.0, 80: 3.25}, "finished", lr=1e-3),
        run_of("t001", {0: 5.5, 10: 4.5}, "stopped", lr=2e-4, d_model=64),
        run_of("t002", {0: 5.5, 10: 2.0}, "diverged", lr=9e-3),
        started("t003", lr=3e-3),
        evaluated("t003", 10, 2.5, val_bpb=3.5, tokens=640, flops=FLOPS, seconds=1.5, lr=1e-3),
    )
    return folder


def test_trials_are_one_row_each(mixed: Path) -> None:
    trials = load_sweep("mixed").trials
    assert list(trials.index) == ["t000", "t001", "t002", "t003"]
    assert list(trials.columns) == [
        *("rank", "outcome", "rung", "reason", "optim.lr", "model.d_model", "size", "parameters"),
        *("val_loss", "val_bpb", "best_step", "last_val_loss", "step", "full_steps"),
        *("tokens", "flops", "seconds", "restarts", "started", "ended"),
    ]
    assert list(trials["outcome"]) == ["finished", "stopped", "diverged", "running"]
    assert list(trials["rank"]) == [2, 3, 4, 1]
    assert list(trials["optim.lr"]) == [1e-3, 2e-4, 9e-3, 3e-3]
    assert list(trials["model.d_model"]) == [32, 64, 32, 32]
    assert list(trials["size"]) == [f"d_model={width}" for width in (32, 64, 32, 32)]
    assert list(trials["parameters"]) == [parameter_count(model(w), 257) for w in (32, 64, 32, 32)]
    assert list(trials["val_loss"].fillna(0)) == [3.0, 4.5, 0, 2.5]
    assert list(trials["best_step"].fillna(-1)) == [40, 10, -1, 10]
    assert list(trials["step"]) == [80, 10, 10, 10]
    assert trials.loc["t001", "rung"] == 10
    assert trials.loc["t002", "reason"] == "why"
    assert trials.loc["t003", "tokens"] == 640
    assert trials.loc["t003", "val_bpb"] == 3.5
    assert (trials["started"] == START).all()
    assert list(trials["ended"].isna()) == [False, False, False, True]


def test_evaluations_are_one_row_each(mixed: Path) -> None:
    table = load_sweep(mixed).evaluations
    assert list(table["trial"]) == ["t000"] * 3 + ["t001"] * 2 + ["t002"] * 2 + ["t003"]
    curve = table[table.trial == "t000"]
    assert list(curve["step"]) == [0, 40, 80]
    assert list(curve["val_loss"]) == [5.5, 3.0, 3.25]
    last = table.iloc[-1]
    assert (last.tokens, last.flops, last.seconds, last.lr) == (640, FLOPS, 1.5, 1e-3)


def test_the_best_the_fit_and_the_findings_are_those_of_the_terminal(mixed: Path) -> None:
    loaded = load_sweep("mixed")
    assert loaded.name == "mixed"
    assert not loaded.complete
    assert loaded.best.name == "t003"
    assert loaded.best.params == {"optim.lr": 3e-3, "model.d_model": 32}
    assert repr(loaded) == "<Sweep mixed: 3/8 trials ended, best 2.5000 (t003)>"
    assert list(loaded.sizes["model.d_model"]) == [32, 64]
    assert (loaded.sizes["rate_low"] <= loaded.sizes["optim.lr"]).all()
    assert (loaded.sizes["optim.lr"] <= loaded.sizes["rate_high"]).all()
    assert any("diverged" in finding.text for finding in loaded.findings)


@pytest.mark.parametrize("name", ["valleys", "curves"])
def test_a_figure_is_the_report_s(mixed: Path, name: str) -> None:
    loaded = load_sweep("mixed")
    figure = loaded.figure(name)
    assert figure.layout.title.text == PICTURES[name](loaded.facts).title
    assert len(figure.data) > 0
    with pytest.raises(SweepError, match=r"figure 'none': there are valleys, curves"):
        loaded.figure("none")


def test_a_sweep_without_trials_has_empty_tables() -> None:
    new_sweep("empty")
    loaded = load_sweep("empty")
    assert (len(loaded.trials), len(loaded.evaluations), len(loaded.sizes)) == (0, 0, 0)
    assert "val_loss" in loaded.trials.columns
    assert loaded.best is None
    with pytest.raises(SweepError, match="no trial has a usable loss"):
        loaded.restore()


def test_no_such_sweep() -> None:
    with pytest.raises(SweepError, match=r"sweep 'none': not in .*"):
        load_sweep("none")


@pytest.fixture
def kept(project: Path, tiny_config: MakeConfig) -> dict[str, Trainer]:
    """What trained t000 and t001 of the sweep "kept"; t000, the best, is older than its last."""
    trainers = {}
    folder, _ = new_sweep("kept", sweep_config(trial=tiny_config().model_dump()))
    write_events(folder, session(num_samples=3))
    for seed, name in enumerate(("t000", "t001", "t002")):
        trainer = Trainer(tiny_config({"train.seed": seed, "train.steps": 5}))
        evaluations = list(trainer.run())
        loss = 3.0 + seed
        write_events(
            folder,
            started(name),
            [evaluated(name, e.step, loss + 5 - e.step) for e in evaluations],
            saved(name, 5, loss),
            ended(name, "finished", step=5),
        )
        trainer.save(folder / "session-1" / name / "a-1" / "checkpoint_000005")
        trainers[name] = trainer
    shutil.rmtree(folder / "session-1" / "t002")
    return trainers


@pytest.mark.parametrize("name", [None, "t000", "t001"])
def test_a_kept_model_comes_back(kept: dict[str, Trainer], name: str | None) -> None:
    model = load_sweep("kept").restore(name)
    assert not torch.equal(*(kept[n].model.norm.weight for n in ("t000", "t001")))
    for key, value in kept[name or "t000"].model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_a_model_that_was_not_kept_is_told(kept: dict[str, Trainer], project: Path) -> None:
    loaded = load_sweep("kept")
    with pytest.raises(CheckpointError, match=r"t002 keeps no checkpoint.*keep_checkpoints"):
        loaded.restore("t002")
    with pytest.raises(SweepError, match=r"no trial 't009'; there are t000 \.\. t002"):
        loaded.restore("t009")
    (state,) = (project / "results/kept/session-1/t000").rglob("state-*.pt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        loaded.restore()


@pytest.mark.slow
def test_what_the_readme_types_works(
    tmp_path: Path, tiny_dataset: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """But for the lines that run a sweep, which other tests do."""
    shutil.copytree(tiny_dataset, project / "data" / "own")
    trial = TrialConfig().with_values(
        {"data.dataset": "data/own", "train.steps": 10, "train.eval_every": 5}
    )
    folder, _ = new_sweep("sweep-001", sweep_config(trial=trial.model_dump()))
    trainer = Trainer(trial)
    losses = {e.step: e.val_loss for e in trainer.run()}
    trainer.save(folder / "session-1" / "t000" / "a-1" / "checkpoint_000010")
    write_events(folder, session(num_samples=1), run_of("t000", losses, None))
    write_events(folder, saved("t000", 10, losses[10]), ended("t000", "finished", step=10))
    monkeypatch.chdir(project)
    assert best.main(["sweep-001"]) == best.main(["sweep-001", "--format", "hf"]) == 0
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## In Python and in other tools")[1].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    names = {"tokens": torch.arange(16)[None]}
    for block in blocks:
        lines = (line for line in block.splitlines() if "run_sweep(" not in line)
        exec("\n".join(lines), names)
    assert names["sweep"].name == "sweep-001"
    assert torch.equal(names["logits"], trainer.model(names["tokens"]))
    assert (project / "study.db").is_file()
    assert "def " in capsys.readouterr().out


def test_the_package_gives_its_doors_and_loads_nothing_for_them(run_python: RunPython) -> None:
    assert sweep.load_sweep is load_sweep
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        _ = sweep.runs
    code = "import sys; before = set(sys.modules); import sweep; print(set(sys.modules) - before)"
    assert run_python("-c", code).stdout == "{'sweep'}\n"
    code = "import sweep, sys; sweep.load_sweep; print({'torch', 'pandas', 'ray'} & {*sys.modules})"
    assert run_python("-c", code).stdout == "set()\n"
