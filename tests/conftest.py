"""Shared fixtures: each test has its own project and cache folder, and something tiny to train."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch starts, here and in subprocesses
# A shell starts what runs in its background with SIGINT ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from live_sweeps import ROOT

from sweep.tracking.store import open_client
from trainable.config.trial import TrialConfig
from trainable.data.build import prepare
from trainable.data.corpus import TextFiles

MakeConfig = Callable[..., TrialConfig]
RunPython = Callable[..., subprocess.CompletedProcess[str]]
SWEEP_RUN = str(ROOT / "sweep/run.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers begin with the long tests: one that starts last is waited for alone."""
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a project folder and a cache of its own; return the project folder."""
    home = tmp_path_factory.mktemp("project")
    monkeypatch.setenv("LM_SWEEP_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow's registry sets it for good
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return home


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an sqlite store that MLflow made, which takes it seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the project a store of its own; return its file."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copyfile(empty_store, project / "mlflow.db"))


@pytest.fixture(scope="session")
def tiny_documents() -> list[str]:
    """Return 20 documents of some 600 bytes over a few words: easy to learn, not to memorise."""
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "sweep", "trial", "rung", "loss", "été"]
    return [
        "\n".join(" ".join(rng.choice(words, size=8)) for _ in range(12)) + "\n" for _ in range(20)
    ]


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, tiny_documents: list[str]) -> Path:
    """Return a dataset folder of byte tokens: 18 documents to train on, 2 to validate on."""
    texts = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(tiny_documents):
        (texts / f"{number:02}.txt").write_text(text, encoding="utf-8")
    folder = tmp_path_factory.mktemp("datasets") / "tiny"
    prepare(TextFiles([texts]), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny_dataset: Path) -> MakeConfig:
    """Return a factory of a tiny trial, which takes dotted fields to replace."""
    tiny: dict[str, Any] = {
        "data.dataset": str(tiny_dataset),
        "model.d_model": 32,
        "model.n_layers": 2,
        "model.head_dim": 16,
        "model.context_length": 16,
        "train.batch_size": 4,
        "train.steps": 20,
        "train.eval_every": 5,
        "train.eval_tokens": 128,
        "train.device": "cpu",
        "train.threads": 1,
    }

    def make(values: dict[str, Any] | None = None) -> TrialConfig:
        return TrialConfig().with_values({**tiny, **(values or {})})

    return make


@pytest.fixture
def run_python(tmp_path_factory: pytest.TempPathFactory) -> RunPython:
    """Return a runner of this Python in another working folder, which captures its output."""

    def run(*arguments: object, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    return run


@pytest.fixture
def place(monkeypatch):
    """A TMPDIR of the test's own; short, for the names of Ray's sockets."""
    folder = tempfile.mkdtemp(prefix="t")
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start():
    """Return a function that starts a sweep in a process group, ended with the test."""
    started = []

    def start_sweep(
        home: Path, *arguments: str, program=(SWEEP_RUN,), before=(), **env
    ) -> subprocess.Popen:
        kept = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        places = {"LM_SWEEP_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        sweep = subprocess.Popen(
            [*before, sys.executable, *program, *arguments],
            env=kept | places | env,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(sweep)
        return sweep

    yield start_sweep
    for sweep in started:
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait()
        sweep.stdout.close()
        sweep.stderr.close()
