"""The plan before a sweep: sizes, share of steps, time and disk, and how it is worded."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig
from sweep_samples import SPACE, TRIAL, sweep_config

from sweep.analysis.words import duration, flops_text, magnitude
from sweep.conduct import start
from sweep.config.sweep import SweepConfig
from sweep.plan.plan import make_plan
from sweep.plan.sizes import mean_flops
from sweep.show.plan_text import plan_lines
from trainable.data.batches import TokenDataset, open_dataset, validation_starts
from trainable.data.corpus import TextFiles
from trainable.model.counts import flops_per_token, parameter_count
from trainable.training.trainer import Trainer


@pytest.fixture
def dataset(tiny_config: MakeConfig) -> TokenDataset:
    return open_dataset(tiny_config().data, 16)


def planned(dataset: TokenDataset, **changes: Any) -> SweepConfig:
    """Return a small sweep on the tiny dataset."""
    return sweep_config(**{"trial": {**TRIAL, "data": {"dataset": str(dataset.folder)}}, **changes})


SIZES = {
    **SPACE,
    "model.n_layers": {"int": [1, 3]},
    "model.tie_embeddings": {"choice": [True, False]},
}


def test_the_ends_are_those_of_all_that_can_be_suggested(dataset: TokenDataset) -> None:
    config = planned(dataset, space={**SIZES, "model.d_model": {"choice": [64, 32]}})
    plan = make_plan(config, dataset, 2)
    assert plan.sizes == 12
    models = [
        config.trial_config(
            {"model.d_model": d, "model.n_layers": n, "model.tie_embeddings": t}
        ).model
        for d in (32, 64)
        for n in (1, 2, 3)
        for t in (True, False)
    ]
    models.sort(key=lambda model: parameter_count(model, 257))
    tokens = 80 * 4 * 16
    for end, model in ((plan.smallest, models[0]), (plan.largest, models[-1])):
        assert end.model == model
        assert end.parameters == parameter_count(model, 257)
        assert end.tokens == tokens
        assert end.flops == tokens * flops_per_token(model, 257)
    mean = sum(flops_per_token(model, 257) for model in models) / 12
    assert mean_flops(config, 257) == pytest.approx(tokens * mean)


def test_a_size_counts_as_many_parameters_as_its_model_has(dataset: TokenDataset) -> None:
    config = planned(dataset)
    plan = make_plan(config, dataset, 1)
    for end in (plan.smallest, plan.largest):
        trainer = Trainer(config.trial_config({"model.d_model": end.model.d_model}), dataset)
        assert end.parameters == sum(p.numel() for p in trainer.model.parameters())


def test_one_size_where_none_is_searched(dataset: TokenDataset) -> None:
    config = planned(dataset, space={"optim.lr": SPACE["optim.lr"]})
    plan = make_plan(config, dataset, 1)
    assert plan.sizes == 1
    assert plan.smallest == plan.largest
    assert plan.largest.model == config.trial.model
    assert mean_flops(config, 257) == plan.largest.flops


def test_the_ends_are_found_in_a_space_of_any_size(dataset: TokenDataset) -> None:
    """Twelve million sizes; neither end is the first or the last of them."""
    space = {
        "model.n_layers": {"int": [1, 100]},
        "model.d_ff": {"int": [64, 10_063]},
        "model.tie_embeddings": {"choice": [True, False]},
        "model.d_model": {"choice": [32, 64, 16]},
        "model.head_dim": {"choice": [16, 8]},
        "train.batch_size": {"choice": [2, 8, 4]},
    }
    config = planned(dataset, space=space)
    plan = make_plan(config, dataset, 2)
    assert plan.sizes == 100 * 10_000 * 2 * 3 * 2
    small, large = plan.smallest.model, plan.largest.model
    assert (small.n_layers, small.d_ff, small.d_model, small.tie_embeddings) == (1, 64, 16, True)
    assert (large.n_layers, large.d_ff, large.d_model) == (100, 10_063, 64)
    assert not large.tie_embeddings
    assert (small.head_dim, large.head_dim) == (16, 8), "more heads hold more"
    assert (plan.smallest.tokens, plan.largest.tokens) == (80 * 2 * 16, 80 * 8 * 16)
    assert plan.memory_bytes >= 24 * plan.largest.parameters, "the state, and its copy when saved"
    assert plan.disk_bytes == 12 * plan.largest.parameters * (5 + 4 * 2)
    # The mean of a product of independent draws.
    width, squares, inner = (16 + 32 + 64) / 3, (16**2 + 32**2 + 64**2) / 3, (64 + 10_063) / 2
    block = 4 * squares + 3 * width * inner + 2 * 16 * width
    mean = 80 * 16 * (14 / 3) * 6 * (50.5 * block + 257 * width)
    assert mean_flops(config, 257) == pytest.approx(mean, rel=0.1)


def test_the_disk_is_enough_for_what_is_kept(dataset: TokenDataset, tmp_path: Path) -> None:
    config = planned(dataset, keep_checkpoints=3)
    plan = make_plan(config, dataset, 2)
    trainer = Trainer(config.trial_config({"model.d_model": 64}), dataset)
    next(trainer.run())
    trainer.train_step(1)
    trainer.iteration = 1
    trainer.save(tmp_path)
    one = sum(path.stat().st_size for path in tmp_path.iterdir())
    # Three ended trials keep one each, two running ones up to four.
    assert plan.disk_bytes == pytest.approx((3 + 2 * 4) * one, rel=0.05)
    fewer = make_plan(planned(dataset, num_samples=1, keep_checkpoints=3), dataset, 1)
    assert fewer.disk_bytes == pytest.approx((1 + 4) * one, rel=0.05)


def test_the_windows_are_those_of_an_evaluation(dataset: TokenDataset) -> None:
    plan = make_plan(planned(dataset), dataset, 1)
    assert plan.eval_windows == len(validation_starts(len(dataset.val.tokens), 16, 128)) == 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (60, "1 min 00 s"),
        (250, "4 min 10 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1_000, "1k"),
        (820_900, "821k"),
        (999_499, "999k"),
        (999_999, "1M"),
        (1_234_000, "1.23M"),
        (54.3e9, "54.3G"),
        (1e12, "1T"),
        (5.67e15, "5.67P"),
        (7.44e18, "7.44E"),
    ],
)
def test_magnitudes_have_three_digits_and_a_suffix(value: float, text: str) -> None:
    assert magnitude(value) == text


def lines(config: SweepConfig, dataset: TokenDataset, seconds: float | None = None) -> str:
    plan = make_plan(config, dataset, 2)
    return "\n".join(plan_lines(config, plan, "the data", 2, seconds))


def test_the_plan_says_what_will_be_done(dataset: TokenDataset) -> None:
    config = planned(dataset, space=SIZES, num_samples=12)
    text = lines(config, dataset, 300.0)
    plan = make_plan(config, dataset, 2)
    for words in (
        "12, 2 at a time with 1 CPU and 0 GPU each",
        "the data",
        "optim.lr: 0.0001 .. 0.01 (loguniform)",
        "model.d_model: 32, 64 (choice)",
        "model.n_layers: 1 .. 3 (int)",
        "12, from d_model=32 n_layers=1 tie_embeddings=True",
        f"({magnitude(plan.smallest.parameters)} parameters, {flops_text(plan.smallest.flops)} a",
        "to d_model=64 n_layers=3 tie_embeddings=False",
        f"({magnitude(plan.largest.parameters)} parameters, {flops_text(plan.largest.flops)} a",
        "80 steps x 64 tokens = 5.12k tokens a trial",
        "evaluated every 10 steps on 8 fixed windows",
        f"a standard error of about {plan.standard_error:.3f} nats",
        "10, 20, 40 steps, the best 1/2 go on",
        f"about {plan.share:.0%} of all steps expected",
        "time      about 5 min 00 s once started",
        f"memory    at least {plan.memory_bytes / 2**20:,.0f} MiB a trial",
        f"checkpoints up to {plan.disk_bytes / 2**20:,.0f} MiB",
    ):
        assert words in text, words


def test_the_plan_says_what_the_trials_are_for_and_when_none_trains_the_answer(
    dataset: TokenDataset,
) -> None:
    def text(**search: Any) -> str:
        return lines(planned(dataset, space=SIZES, search={"algorithm": "gp", **search}), dataset)

    assert "goal" not in text()
    assert "goal      the best configuration\n" in text(goal="best")
    assert "goal      the best rate of every size\n" in text(goal="table")
    assert "step 10 on, the last trial never" in text()
    point = [{"optim.lr": 1e-3}]
    begun = planned(dataset, space=SIZES, start_points=point, search={"algorithm": "gp"})
    assert "on, the first and the last trial never" in lines(begun, dataset)
    table = {"algorithm": "gp", "goal": "table"}
    begun = planned(dataset, space=SIZES, start_points=point, search=table)
    assert "on, the first trial never" in lines(begun, dataset)
    assert "the last trial" not in text(goal="table")


def test_the_plan_says_why_tpe_searches(dataset: TokenDataset) -> None:
    space = {
        **SPACE,
        "optim.weight_decay": {"uniform": [0.0, 0.3]},
        "optim.beta2": {"choice": [0.9, 0.95]},
    }

    def text(asked: str, *fields: str) -> str:
        searched = {name: space[name] for name in ("optim.lr", "model.d_model", *fields)}
        return lines(planned(dataset, space=searched, search={"algorithm": asked}), dataset)

    one, two = "optim.weight_decay", "optim.beta2"
    assert "search    tpe, since weight_decay is searched, too\n" in text("auto", one)
    assert "search    tpe, since weight_decay and beta2 are searched, too\n" in text(
        "auto", one, two
    )
    assert "search    tpe" not in text("auto") + text("tpe", one) + text("gp", one)


def test_the_plan_of_one_size_without_early_stopping(dataset: TokenDataset) -> None:
    space = {"optim.lr": SPACE["optim.lr"]}
    text = lines(planned(dataset, space=space, asha={"enabled": False}), dataset)
    assert "size      d_model=32 n_layers=2" in text
    assert "rungs     none: every trial runs to its end" in text
    assert "time      unknown" in text


def test_the_plan_says_what_is_a_guess_and_what_may_not_fit(dataset: TokenDataset) -> None:
    config = planned(dataset, space={**SPACE, "train.batch_size": {"choice": [2, 4]}})
    plan = make_plan(config, dataset, 2)
    text = "\n".join(plan_lines(config, plan, "the data", 2, 300.0, probed=1 / 64))
    assert "80 steps x 32 to 64 tokens" in text
    assert "time      about 5 min 00 s once started, scaled by FLOPs from a probe of 0.02" in text
    assert "do not fit" not in text
    short = replace(plan, available_bytes=plan.memory_bytes * 2 - 1)
    text = "\n".join(plan_lines(config, short, "the data", 2, 300.0))
    assert "scaled" not in text
    assert "warning: 2 large ones at a time do not fit, lower max_concurrent" in text
    text = "\n".join(plan_lines(config, short, "the data", 1, 300.0))
    assert "warning" not in text


def test_a_dry_run_without_data_plans_with_it_and_leaves_nothing(
    project: Path,
    tmp_path: Path,
    tiny_documents: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "text").write_text("<|endoftext|>".join(tiny_documents))
    monkeypatch.setattr(start, "StandardLibrary", lambda: TextFiles([tmp_path / "text"]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trial = {key: TRIAL[key] for key in ("model", "train")}
    assert start.start_sweep(sweep_config(trial=trial), dry_run=True) == 0
    assert re.search(r"data .* training and .* 257 ids", capsys.readouterr().out)
    assert list(project.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
