"""Mistakes: each ends with exit status 2 and one message, quickly, and leaves nothing behind."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from sweep import best, report, run, status
from sweep.config.sweep import SweepConfig
from trainable import generate, local, prepare
from trainable.common.command import run_command
from trainable.common.errors import ConfigError
from trainable.config.explain import validate
from trainable.training.trainer import Trainer

GOOD = """
num_samples: 2
space:
  optim.lr: {loguniform: [1e-4, 1e-2]}
trial:
  data: {dataset: DATASET}
  model: {d_model: 32, head_dim: 16, n_layers: 1, context_length: 16}
  train: {steps: 8, batch_size: 2, eval_every: 4, eval_tokens: 64}
"""


@pytest.fixture
def refused(project, monkeypatch, capsys):
    """Return a function that runs a command, expects a refusal, and returns its message."""

    def check(command, *arguments):
        files = sorted(str(p) for p in project.rglob("*"))
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
        capsys.readouterr()
        started = time.monotonic()
        with pytest.raises(SystemExit) as exit_:
            run_command(command.main)
        took = time.monotonic() - started
        output = capsys.readouterr()
        assert exit_.value.code == 2, output
        assert took < 10
        assert "Traceback" not in output.out + output.err
        assert sorted(str(p) for p in project.rglob("*")) == files
        (line,) = output.err.strip().splitlines()
        assert line.startswith("error: ")
        return line

    return check


@pytest.fixture
def config_file(project, tiny_dataset):
    """Return a function that writes a sweep's config with one text replaced by another."""

    def write(old="", new=""):
        text = GOOD.replace("DATASET", str(tiny_dataset))
        assert old in text
        path = project / "sweep.yaml"
        path.write_text(text.replace(old, new, 1) if old else text + new)
        return path

    return write


CONFIGS = {
    "unknown key": ("num_samples: 2", "num_sample: 2", "num_samples"),
    "unknown nested key": ("steps: 8", "stepz: 8", "steps"),
    "unknown section": ("trial:", "trail:", "trial"),
    "text for a number": ("steps: 8", "steps: eight", "steps"),
    "quoted number": ("[1e-4, 1e-2]", "['1e-4', 1e-2]", "optim.lr"),
    "fraction for a whole number": ("steps: 8", "steps: 8.5", "steps"),
    "bool for a number": ("batch_size: 2", "batch_size: true", "batch_size"),
    "width is no multiple": ("d_model: 32", "d_model: 40", "head_dim"),
    "odd head": ("head_dim: 16", "head_dim: 1", "head_dim"),
    "zero steps": ("steps: 8", "steps: 0", "steps"),
    "negative steps": ("steps: 8", "steps: -8", "steps"),
    "zero batch": ("batch_size: 2", "batch_size: 0", "batch_size"),
    "zero context": ("context_length: 16", "context_length: 0", "context_length"),
    "zero layers": ("n_layers: 1", "n_layers: 0", "n_layers"),
    "evaluation beyond the end": ("eval_every: 4", "eval_every: 9", "eval_every"),
    "no trials": ("num_samples: 2", "num_samples: 0", "num_samples"),
    "negative trials": ("num_samples: 2", "num_samples: -3", "num_samples"),
    "reversed range": ("[1e-4, 1e-2]", "[1e-2, 1e-4]", "reversed"),
    "log from zero": ("[1e-4, 1e-2]", "[0, 1e-2]", "logarithm"),
    "log from below zero": ("[1e-4, 1e-2]", "[-1, 1e-2]", "logarithm"),
    "range to infinity": ("[1e-4, 1e-2]", "[1e-4, .inf]", "finite"),
    "range with NaN": ("[1e-4, 1e-2]", "[.nan, 1e-2]", "finite"),
    "three ends": ("[1e-4, 1e-2]", "[1e-4, 1e-3, 1e-2]", "at most 2"),
    "empty choice": ("{loguniform: [1e-4, 1e-2]}", "{choice: []}", "choice"),
    "unknown domain": ("loguniform:", "logunifrom:", "loguniform"),
    "two domains": ("{loguniform: [1e-4, 1e-2]}", "{uniform: [0, 1], int: [1, 2]}", "one of"),
    "a field that is not there": ("optim.lr:", "optim.lrate:", "optim.lr"),
    "a field that refuses": (
        "optim.lr: {loguniform: [1e-4, 1e-2]}",
        "model.d_model: {choice: [32, 33]}",
        "d_model",
    ),
    "an empty space": ("  optim.lr: {loguniform: [1e-4, 1e-2]}", "  {}", "space"),
    "grace beyond the budget": ("", "asha: {grace_period: 12}\n", "grace_period"),
    "grace between evaluations": ("", "asha: {grace_period: 5}\n", "grace_period"),
    "reduction by one": ("", "asha: {reduction_factor: 1}\n", "reduction_factor"),
    "start point outside": ("", "start_points: [{optim.lr: 1.0}]\n", "start_points"),
    "duplicate key": ("", "num_samples: 3\n", "twice"),
    "alias": ("", "x: &a [1]\ny: *a\n", "alias"),
    "object tag": ("", "name: !!python/object/apply:os.system ['true']\n", "YAML"),
    "not YAML": ("num_samples: 2", "{num_samples: [", "YAML"),
    "more CPUs than there are": ("", "cpus_per_trial: 4000\n", "cpus_per_trial"),
    "more GPUs than there are": ("", "gpus_per_trial: 512\n", "gpus_per_trial"),
    "no CPU": ("", "cpus_per_trial: 0\n", "cpus_per_trial"),
    "a thousand trials on one CPU": ("", "cpus_per_trial: 0.001\n", "cpus_per_trial"),
    "one and a half CPUs": ("", "cpus_per_trial: 1.5\n", "whole"),
    "one and a half GPUs": ("", "gpus_per_trial: 1.5\n", "whole"),
    "a device that is not there": ("steps: 8", "device: 'cuda:77', steps: 8", "cuda:77"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_config(case, refused, config_file):
    old, new, told = CONFIGS[case]
    assert told in refused(run, "--config", config_file(old, new), "--dry-run")


@pytest.mark.parametrize(
    "field",
    [
        "optim.min_lr_fraction",
        "optim.weight_decay",
        "optim.grad_clip",
        "optim.beta1",
        "optim.eps",
        "model.rope_theta",
        "model.norm_eps",
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_numbers_as_flags(field, value, refused, config_file):
    flag = f"--trial.{field.replace('_', '-')}"
    told = refused(run, "--config", config_file(), f"{flag}={value}", "--dry-run")
    assert field.rpartition(".")[2] in told


def _numbers(model, prefix=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _numbers(kind, f"{prefix}{name}.")
        elif {int, float} & {kind, *get_args(kind)}:
            yield prefix + name


ZERO_MEANS_SOMETHING = {
    "seed",
    "gpus_per_trial",
    "max_failures",
    "trial.optim.warmup_fraction",
    "trial.optim.decay_fraction",
    "trial.optim.min_lr_fraction",
    "trial.optim.beta1",
    "trial.optim.beta2",
    "trial.optim.weight_decay",
    "trial.train.seed",
}


@pytest.mark.parametrize("name", list(_numbers(SweepConfig)))
def test_every_number_of_a_config(name):
    wrong = [float("nan"), float("inf"), float("-inf"), -1, True, "many", []]
    if name not in ZERO_MEANS_SOMETHING:
        wrong.append(0)
    *sections, field = name.split(".")
    for value in wrong:
        tree = {field: value}
        for section in reversed(sections):
            tree = {section: tree}
        tree["space"] = {"optim.weight_decay": {"uniform": [0, 1]}}
        with pytest.raises(ConfigError) as caught:
            validate(SweepConfig, tree, "sweep.yaml")
        told = str(caught.value)
        assert field in told
        assert str(value).lower() in told.lower()
        assert "\n" not in told


def test_yaml_files_that_are_none(refused, project, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("- a\n- b\n")
    assert "list" in refused(run, "--config", path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(run, "--config", path)
    path.write_text("a: " + "[" * 5_000)
    assert "YAML" in refused(run, "--config", path)
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    path.write_text(bomb)
    assert "alias" in refused(run, "--config", path)
    path.write_bytes(b"# " + b"x" * 100_000_000)
    assert "100000002 bytes" in refused(run, "--config", path)
    assert "no such file" in refused(run, "--config", tmp_path / "missing.yaml")
    assert "no such file" in refused(run, "--config", tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\nb", "x" * 300, "", ".hidden", "-x y"])
def test_names(name, refused, config_file):
    assert "name" in refused(run, "--config", config_file(), f"--name={name}", "--dry-run")
    assert "name" in refused(status, "--", name)
    assert "name" in refused(best, "--", name)
    assert "name" in refused(run, f"--resume={name}")


def test_a_sweep_that_does_not_fit_on_the_disk(refused, config_file, monkeypatch, tmp_path):
    config = config_file()
    monkeypatch.setenv("LM_SWEEP_HOME", str(tmp_path / "not" / "made" / "yet"))
    many = ("--num-samples", "1000000", "--keep-checkpoints", "1000000")
    told = refused(run, "--config", config, *many)
    assert re.search(r"disk: .* MiB free .* may need .* MiB; make room", told)
    assert not (tmp_path / "not").exists()


def test_the_disk_that_counts_is_that_of_the_results(refused, config_file, project):
    config = config_file()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert os.stat(other).st_dev != os.stat(project).st_dev
        (project / "results").symlink_to(other)
        many = ("--num-samples", "1000000", "--keep-checkpoints", "1000000")
        assert f"free in {other}" in refused(run, "--config", config, *many)


def test_results_that_are_no_folder(refused, config_file, project):
    config = config_file()
    (project / "results").touch()
    assert "LM_SWEEP_HOME" in refused(run, "--config", config)


@pytest.mark.parametrize("command", [run, status, best, report, local, generate, prepare])
@pytest.mark.parametrize("more", [[], ["--json"], ["--quiet"]])
def test_words_that_are_no_flags_are_told_in_one_line(command, more, refused):
    words = ["some"] if command in (best, generate) else []
    assert "--qiet" in refused(command, *words, "--qiet", *more)


def test_a_misspelt_flag_is_told_with_the_nearest_one(refused, run_python, monkeypatch):
    told = refused(run, "--num-sample", "3")
    assert "Unrecognized options: --num-sample, 3; Perhaps you meant: --num-samples INT" in told
    assert "invalid choice 'zip'" in refused(best, "some", "--format", "zip")
    assert "Name of the sweep" in refused(best)
    drawn = "import sys; sys.argv[1:] = ['some', '--qiet']; from sweep.best import cli; cli()"
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        done = run_python("-c", drawn)
        assert done.stderr.startswith("error: best.py: Unrecognized options: --qiet; Perhaps")
        assert done.stderr.count("\n") == 1


def test_sweeps_that_are_not_there(refused):
    for arguments in ((status, "nowhere"), (best, "nowhere"), (run, "--resume", "nowhere")):
        assert "nowhere" in refused(*arguments)
    assert "--config" in refused(run, "--resume", "nowhere", "--config", "sweep.yaml")


def _npy(array):
    return lambda path: np.save(path, array, allow_pickle=array.dtype == object)


def _bytes(content):
    return lambda path: path.write_bytes(content)


def _raw_as_npy(path):
    np.arange(500, dtype=np.uint16).tofile(path)


def _cut(path):
    np.save(path, np.zeros(500, dtype=np.uint16))
    os.truncate(path, path.stat().st_size - 10)


TOKENS = np.arange(600, dtype=np.uint16) % 250
FILES = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": _bytes(b""),
    "odd length": _bytes(b"\0" * 1001),
    "too short": _npy(TOKENS[:16]),
    "no tokens": _npy(TOKENS[:0]),
    "an id outside": _npy(np.append(TOKENS, np.uint16(257))),
    "an id outside on the last page": _npy(
        np.append(np.zeros(3_000_000, dtype=np.uint16), np.uint16(999))
    ),
    "float32": _npy(TOKENS.astype(np.float32)),
    "int32": _npy(TOKENS.astype(np.int32)),
    "int64": _npy(TOKENS.astype(np.int64)),
    "signed and negative": _npy(-TOKENS.astype(np.int16)),
    "big-endian": _npy(TOKENS.astype(">u2")),
    "raw": _raw_as_npy,
    "objects": _npy(np.array([1, "a", None], dtype=object)),
    "a pickle": _bytes(pickle.dumps(list(range(100)))),
    "two-dimensional": _npy(TOKENS.reshape(2, -1)),
    "Fortran order": _npy(np.asfortranarray(TOKENS.reshape(2, -1))),
    "truncated": _cut,
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("case", FILES)
def test_token_files(case, split, refused, config_file, tiny_dataset, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    (dataset / f"{split}.npy").unlink()
    FILES[case](dataset / f"{split}.npy")
    config = config_file(str(tiny_dataset), str(dataset))
    assert f"{split}.npy" in refused(run, "--config", config, "--dry-run")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TOKENS.tobytes()[:-1], "multiple of 2"),
        (TOKENS.astype(">u2").tobytes(), "outside the vocabulary"),
        (TOKENS.astype("<f4").tobytes(), "outside the vocabulary"),
        (b"\x93NUMPY" + bytes(1000), ".npy"),
        (b"", "empty"),
    ],
)
def test_raw_token_files(content, told, refused, tmp_path):
    (tmp_path / "train.bin").write_bytes(content)
    (tmp_path / "val.bin").write_bytes(TOKENS.tobytes())
    raw = ("--data.raw-dtype", "uint16", "--data.raw-vocab-size", "257")
    assert told in refused(local, "--data.dataset", tmp_path, *raw)


def test_unreadable_token_file(tiny_dataset, tmp_path, config_file):
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    (dataset / "train.npy").chmod(0)
    config = config_file(str(tiny_dataset), str(dataset))
    command = [sys.executable, run.__file__, "--config", str(config), "--dry-run"]
    if os.geteuid() == 0:  # root may read everything, but for this
        everything = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", everything, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*train\.npy.*Permission denied.*\n", done.stderr)


def test_a_token_file_cut_while_mapped_is_told(tiny_config, tiny_dataset, tmp_path):
    from trainable.common.errors import DataError

    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    trainer = Trainer(tiny_config({"data.dataset": str(dataset)}))
    evaluations = trainer.run()
    next(evaluations)
    # A page is left, so that the steps until the next look do not touch what is gone.
    os.truncate(dataset / "val.npy", 100)
    with pytest.raises(DataError, match="shrunk"):
        next(evaluations)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "at least two"),
        (b"one document only\n", "at least two"),
        (b"caf\xe9 \xff\n", "UTF-8"),
        (b"text\0text\n", "NUL"),
        (b"<|endoftext|>" * 10, "at least two"),
    ],
)
def test_text(content, told, refused, project, tmp_path):
    (tmp_path / "text.txt").write_bytes(content)
    out = project / "made"
    assert told in refused(prepare, "--input", tmp_path / "text.txt", "--out", out)


def test_arguments_of_prepare(refused, project, tmp_path):
    (tmp_path / "text.txt").write_text("a<|endoftext|>b")
    source = ("--input", tmp_path / "text.txt")
    assert "--out" in refused(prepare, *source)
    assert "no such" in refused(prepare, "--input", tmp_path / "no", "--out", project / "x")
    assert "vocab" in refused(prepare, *source, "--out", project / "x", "--tokenizer", "bpe")
    few = ("--tokenizer", "bpe", "--vocab-size", "20")
    assert "257" in refused(prepare, *source, "--out", project / "x", *few)
    (tmp_path / "empty").mkdir()
    assert "no files" in refused(prepare, "--input", tmp_path / "empty", "--out", project / "x")
    assert "exists" in refused(prepare, *source, "--out", tmp_path)
    for nothing in (["--input"], ["--input="], ["--input", ""]):
        assert "a name is missing" in refused(prepare, *nothing, "--out", project / "x")
        assert "a name is missing" in refused(prepare, "--out", project / "x", *nothing)
    assert "UTF-8" in refused(prepare, *source, "--out", project / os.fsdecode(b"caf\xe9"))


@pytest.mark.slow
def test_a_gigabyte_on_one_line_is_prepared_in_little_memory(tmp_path, run_python):
    text = tmp_path / "long.txt"
    with text.open("wb") as file:
        for _ in range(1024):
            file.write(b"word " * (2**20 // 5))
        file.write(b"<|endoftext|>the second document\n")
    measure = (
        "import sys; from trainable.prepare import main; main(sys.argv[1:]); "
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    done = run_python("-c", measure, "--input", text, "--out", tmp_path / "made", seconds=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 300_000  # KiB


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """A trial's checkpoint folder."""
    trainer = Trainer(tiny_config())
    trainer.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def _state(folder):
    (path,) = folder.glob("state-*.pt")
    return path


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def _newer(folder):
    path = folder / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"format": 2', '"format": 3'))
    assert path.read_text() != text


def _harm(folder):
    with _state(folder).open("wb") as file:
        torch.save({"model": _Harmful(folder / "harmed")}, file)


CHECKPOINTS = {
    "truncated": lambda folder: os.truncate(_state(folder), 1000),
    "flipped": lambda folder: _flip(_state(folder)),
    "flipped manifest": lambda folder: _flip(folder / "manifest.json"),
    "no state": lambda folder: _state(folder).unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "newer format": _newer,
    "malicious": _harm,
    "a folder that is empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints(case, checkpoint, refused):
    CHECKPOINTS[case](checkpoint)
    assert "checkpoint" in refused(generate, checkpoint)
    assert not (checkpoint / "harmed").exists()


@pytest.mark.parametrize(
    "values",
    [{"model.d_model": 64}, {"model.n_layers": 1}, {"model.tie_embeddings": True}],
)
def test_resuming_a_foreign_architecture(values, checkpoint, tiny_config, refused, tmp_path):
    config = tmp_path / "trial.yaml"
    import yaml

    config.write_text(yaml.safe_dump(tiny_config(values).model_dump()))
    assert "another" in refused(local, "--config", config, "--resume", checkpoint)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    from trainable.checkpoint.contract import load_checkpoint
    from trainable.common.errors import CheckpointError

    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w", force_zip64=True) as part:
            for _ in range(512):
                part.write(bytes(2**20))
    assert bomb.stat().st_size < 2**20
    model = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(bomb, model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    "flags", [("--max-tokens", "0"), ("--temperature", "-1"), ("--top-p", "0"), ("--top-p", "1.5")]
)
def test_arguments_of_generate(flags, checkpoint, refused):
    assert flags[0] in refused(generate, checkpoint, *flags)
