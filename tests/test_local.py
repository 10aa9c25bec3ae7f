"""A trial without Ray, and text from its checkpoint, as a user runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig, RunPython

import trainable.generate
import trainable.local
from trainable.checkpoint.export import export_model, load_model
from trainable.checkpoint.folder import load_trial_checkpoint, read_manifest
from trainable.common.errors import CheckpointError, ConfigError
from trainable.config.trial import ModelConfig
from trainable.generate import generate
from trainable.model.transformer import Transformer
from trainable.training.choice import as_chosen
from trainable.training.trainer import Trainer

LOCAL = Path(trainable.local.__file__)
GENERATE = Path(trainable.generate.__file__)


def as_yaml(make: MakeConfig, path: Path) -> Path:
    path.write_text(json.dumps(make().model_dump()))  # JSON is YAML
    return path


@pytest.fixture
def config_file(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    """Return a YAML file with the tiny trial."""
    return as_yaml(tiny_config, tmp_path / "trial.yaml")


@pytest.fixture(scope="module")
def finished(
    tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the script once, from another folder; return what it printed and its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "elsewhere").mkdir()
    file = as_yaml(tiny_config, folder / "trial.yaml")
    command = [sys.executable, LOCAL, "--config", file, "--optim.lr", "2e-3"]
    return (
        subprocess.run(
            [*command, "--checkpoint", folder / "checkpoint"],
            cwd=folder / "elsewhere",
            env={**os.environ, "XDG_CACHE_HOME": str(folder), "LM_SWEEP_HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        ),
        folder / "checkpoint",
    )


def test_script_prints_each_evaluation(
    finished: tuple[subprocess.CompletedProcess[str], Path], tiny_config: MakeConfig
) -> None:
    done, checkpoint = finished
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line[1] for line in lines] == ["0", "5", "10", "15", "20"]
    stored = read_manifest(checkpoint).config
    config = as_chosen(tiny_config({"optim.lr": 2e-3}), stored.train)
    expected = Trainer(config).run()
    printed = [float(line[line.index("val") + 1]) for line in lines]
    assert printed == pytest.approx([e.val_loss for e in expected], abs=1e-4)
    assert f"checkpoint in {checkpoint}" in done.stdout
    assert not list((checkpoint.parent / "elsewhere").iterdir())
    assert stored == config


def test_resume_goes_on_with_the_checkpoint(
    finished: tuple[subprocess.CompletedProcess[str], Path],
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--config", str(config_file), "--optim.lr", "2e-3", "--resume", str(finished[1])]
    to = tmp_path / "more"
    assert trainable.local.main([*flags, "--train.steps", "30", "--checkpoint", str(to)]) == 0
    out = capsys.readouterr().out
    assert "at step 20" in out
    steps = [line.split()[1] for line in out.splitlines() if line.startswith("step ")]
    assert steps == ["25", "30"]
    assert read_manifest(to).iteration == 30
    assert trainable.local.main(flags) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_resume_says_which_settings_are_not_those_of_the_checkpoint(
    finished: tuple[subprocess.CompletedProcess[str], Path],
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--config", str(config_file), "--resume", str(finished[1]), "--optim.lr", "2e-3"]
    assert trainable.local.main(command) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("at step 20")
    to = tmp_path / "more"
    changed = ["--train.steps", "25", "--optim.weight-decay", "0.5", "--optim.beta2", "0.8"]
    assert trainable.local.main([*command, *changed, "--checkpoint", str(to)]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[0]
        .endswith(
            "at step 20; changed since then: optim.beta2 0.95 -> 0.8, "
            "optim.weight_decay 0.1 -> 0.5, train.steps 20 -> 25"
        )
    )
    trainer = Trainer(read_manifest(to).config)
    load_trial_checkpoint(to, trainer.model, trainer.optimizer)
    groups = trainer.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [group["betas"] for group in groups] == [(0.9, 0.8)] * 2


@pytest.mark.fault
def test_resume_with_other_threads_is_told(
    finished: tuple[subprocess.CompletedProcess[str], Path],
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--config", str(config_file), "--resume", str(finished[1]), "--train.threads", "2"]
    try:
        assert trainable.local.main(flags) == 0
    finally:
        torch.set_num_threads(1)
    warning = "warning: saved with 1 threads, running with 2: low-order bits will differ"
    assert warning in capsys.readouterr().err


@pytest.mark.fault
def test_damaged_checkpoint_is_no_silent_restart(
    finished: tuple[subprocess.CompletedProcess[str], Path], config_file: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(finished[1], tmp_path / "broken")
    (broken / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="broken"):
        trainable.local.main(["--config", str(config_file), "--resume", str(broken)])
    with pytest.raises(CheckpointError, match="broken"):
        trainable.generate.main([str(broken)])


def test_no_sweep_libraries_are_loaded(config_file: Path, run_python: RunPython) -> None:
    code = (
        "import sys; from trainable.local import main\n"
        "main(['--config', sys.argv[1], '--train.steps', '5'])\n"
        "print('loaded', *sys.modules)"
    )
    done = run_python("-c", code, config_file)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "torch" in loaded
    assert not loaded & {"ray", "mlflow", "optuna", "sweep"}
    assert not loaded & {"torch._dynamo", "sympy"}, "torch's compiler takes seconds to import"


def test_help_does_not_wait_for_torch(run_python: RunPython) -> None:
    for name in ("local", "generate", "prepare"):
        code = (
            f"import sys; from trainable.{name} import main\n"
            "try: main(['--help'])\n"
            "except SystemExit as end: print('status', end.code, 'torch' in sys.modules)"
        )
        done = run_python("-c", code)
        assert done.stdout.splitlines()[-1] == "status 0 False", done.stderr


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--optim.lrr", "1e-3"], "--optim.lr"),
        (["--optim.lr", "-1"], "greater than 0"),
        (["--train.steps", "many"], "many"),
        (["--model.d-model", "33", "--model.head-dim", "16"], "multiple"),
        (["--config"], "--config"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_mistake_on_the_command_line_exits_2(
    flags: list[str], hint: str, run_python: RunPython
) -> None:
    done = run_python(LOCAL, *flags)
    assert done.returncode == 2
    assert hint in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_unknown_yaml_key_exits_2_with_the_nearest_name(
    tmp_path: Path, run_python: RunPython
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("train:\n  stepps: 10\n")
    done = run_python(LOCAL, "--config", file)
    assert done.returncode == 2
    assert "train.stepps" in done.stderr
    assert "'steps'" in done.stderr
    assert "Traceback" not in done.stderr


def test_unusable_folders_are_config_errors(config_file: Path, tmp_path: Path) -> None:
    flags = ["--config", str(config_file)]
    with pytest.raises(ConfigError, match="--checkpoint"):
        trainable.local.main([*flags, "--checkpoint", str(config_file / "below")])
    with pytest.raises(CheckpointError, match="absent"):
        trainable.local.main([*flags, "--resume", str(tmp_path / "absent")])


def test_divergence_exits_1_with_advice(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--optim.lr", "1e3", "--optim.weight-decay", "1e3"]
    assert trainable.local.main(["--config", str(config_file), *flags]) == 1
    error = capsys.readouterr().err
    assert "diverged" in error
    assert "lower optim.lr" in error


def test_overfitting_one_batch_by_flag(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--overfit-one-batch", "--train.steps", "150", "--train.eval-every", "75"]
    main = trainable.local.main
    assert main(["--config", str(config_file), *flags, "--optim.lr", "1e-2"]) == 0
    *_, last = (line.split() for line in capsys.readouterr().out.splitlines())
    assert float(last[last.index("train") + 1]) < 0.1


def test_profile_is_a_trace_file(config_file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    flags = ["--profile", str(trace), "--train.steps", "2", "--train.eval-every", "2"]
    assert trainable.local.main(["--config", str(config_file), *flags]) == 0
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.fault
@pytest.mark.slow
def test_interrupt_exits_130_and_leaves_a_whole_checkpoint(
    config_file: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    flags = ["--train.steps", "1000000", "--train.eval-every", "2", "--checkpoint", str(folder)]
    command = [sys.executable, str(LOCAL), "--config", str(config_file), *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step      10"):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    trainer = Trainer(tiny_config())
    manifest = load_trial_checkpoint(folder, trainer.model, trainer.optimizer)
    assert manifest.iteration >= 8


def test_generate_script_prints_text_from_its_prompt(
    finished: tuple[subprocess.CompletedProcess[str], Path], run_python: RunPython
) -> None:
    done = run_python(GENERATE, finished[1], "--prompt", "alpha beta été", "--max-tokens", "40")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("alpha beta été")
    assert len(done.stdout) > len("alpha beta été\n")


def test_generate_draws_by_its_seed(
    finished: tuple[subprocess.CompletedProcess[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def text(*flags: str) -> str:
        assert trainable.generate.main([str(finished[1]), "--max-tokens", "60", *flags]) == 0
        return capsys.readouterr().out

    assert text("--temperature", "0") == text("--temperature", "0", "--seed", "5")
    assert text("--seed", "3") == text("--seed", "3")
    assert text("--seed", "3") != text("--seed", "4")
    assert text("--prompt", "")  # begins a document


@pytest.mark.parametrize(
    "flags",
    [
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--top-p", "0"],
        ["--top-p", "1.5"],
        ["--max-tokens", "0"],
        ["--seed", "-1"],
    ],
    ids=" ".join,
)
def test_generate_refuses_what_makes_no_sense(
    flags: list[str], finished: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    with pytest.raises(ConfigError, match=flags[0]):
        trainable.generate.main([str(finished[1]), *flags])


@pytest.mark.parametrize("tied", [False, True])
def test_exported_model_is_the_same_model(
    tiny_config: MakeConfig, tmp_path: Path, tied: bool
) -> None:
    trainer = Trainer(tiny_config({"model.tie_embeddings": tied}))
    trainer.train_step(1)
    folder = tmp_path / "best"
    tokenizer = trainer.dataset.tokenizer_file
    export_model(folder, trainer.model, trainer.config, tokenizer, {"val_loss": 1.5})
    model, exported = load_model(folder)
    assert exported.read_bytes() == tokenizer.read_bytes()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="best"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="neither"):
        load_model(tmp_path)


TINY = ModelConfig(d_model=8, n_layers=1, head_dim=4, context_length=4)
PROBABILITIES = [0.5, 0.3, 0.15, 0.05]


def with_fixed_probabilities(probabilities: list[float]) -> Transformer:
    """Return a model that gives the next token these probabilities after any text."""
    model = Transformer(TINY, len(probabilities))
    with torch.no_grad():
        model.embedding.weight.fill_(1.0)  # its norm is 1, and the block adds nothing
        model.blocks[0].attention.out.weight.zero_()
        model.blocks[0].feed_forward.w2.weight.zero_()
        logits = torch.tensor(probabilities).log() / TINY.d_model
        model.head.weight.copy_(logits[:, None].expand_as(model.head.weight))
    return model


def shares(tokens: list[int]) -> list[float]:
    return [tokens.count(token) / len(tokens) for token in range(len(PROBABILITIES))]


@pytest.mark.parametrize(
    ("top_p", "temperature", "expected"),
    [
        (1.0, 1.0, PROBABILITIES),
        (0.9, 1.0, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (0.7, 1.0, [0.625, 0.375, 0, 0]),
        (0.3, 1.0, [1, 0, 0, 0]),
        (1e-9, 5.0, [1, 0, 0, 0]),
        (1.0, 0.5, [p**2 / 0.365 for p in PROBABILITIES]),
        (1.0, 0.0, [1, 0, 0, 0]),
        (1.0, 1e-3, [1, 0, 0, 0]),
        (1.0, 1e-40, [1, 0, 0, 0]),
        (0.5, 1e-300, [1, 0, 0, 0]),
    ],
)
def test_nucleus_and_temperature_give_the_right_shares(
    top_p: float, temperature: float, expected: list[float]
) -> None:
    model = with_fixed_probabilities(PROBABILITIES)
    draws = 1000
    tokens = generate(model, torch.tensor([0]), draws, temperature=temperature, top_p=top_p)
    assert len(tokens) == draws
    for share, probability in zip(shares(tokens), expected, strict=True):
        assert abs(share - probability) <= 5 * (probability * (1 - probability) / draws) ** 0.5


def test_end_of_text_stops_and_is_not_returned() -> None:
    model = with_fixed_probabilities(PROBABILITIES)
    prompt = torch.tensor([3])
    free = generate(model, prompt, 200, seed=1)
    assert generate(model, prompt, 200, seed=1, stop=3) == free[: free.index(3)]
    assert 3 in free
    assert generate(model, prompt, 200, temperature=0, stop=0) == []


def test_greedy_text_is_the_likeliest_token_each_time() -> None:
    model = Transformer(TINY, 30, seed=2)
    tokens = [4, 9, 1, 7, 7, 2]  # longer than the context
    new = generate(model, torch.tensor(tokens), 12, temperature=0)
    for _ in range(12):
        tokens.append(int(model(torch.tensor([tokens[-4:]]))[0, -1].argmax()))
    assert new == tokens[6:]


def test_drawing_leaves_global_randomness_alone() -> None:
    model = Transformer(TINY, 30)
    texts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        texts.append(generate(model, torch.tensor([1]), 20, seed=7))
        assert torch.equal(torch.get_rng_state(), before)
    assert texts[0] == texts[1]
    assert all(parameter.grad is None for parameter in model.parameters())
