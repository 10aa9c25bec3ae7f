"""Parsers fed with anything: they answer, or refuse with their own error, and nothing else."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep.common.errors import SweepError
from sweep.config.sweep import SweepConfig
from sweep.record.folder import read_sweep
from trainable.checkpoint.folder import read_manifest
from trainable.common.errors import CheckpointError, ConfigError, DataError
from trainable.config.explain import validate
from trainable.config.trial import TrialConfig
from trainable.config.yaml_file import read_yaml
from trainable.data.meta import DatasetMeta
from trainable.data.tokenfile import open_npy
from trainable.training.trainer import Trainer

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["loguniform", "choice", "optim.lr", "model.d_model", "1e-4", "../x"]),
)
names = st.sampled_from(
    [
        *SweepConfig.model_fields,
        "data",
        "model",
        "optim",
        "train",
        "optim.lr",
        "model.d_model",
        "loguniform",
        "int",
        "choice",
        "lr",
        "steps",
        "d_model",
        "x",
    ]
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)


def _one_line(error: Exception) -> None:
    assert len(str(error).splitlines()) == 1, str(error)


@quick
@given(tree=trees)
def test_config_trees(tree):
    for model in (SweepConfig, TrialConfig):
        try:
            validate(model, tree, "fuzz")
        except ConfigError as error:
            _one_line(error)


@quick
@given(tree=trees)
def test_spaces(tree):
    base = {"space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}}}
    for values in (base | {"space": tree}, base | {"start_points": tree}, base | {"trial": tree}):
        with contextlib.suppress(ConfigError):
            validate(SweepConfig, values, "fuzz")


@quick
@given(
    content=st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | trees.map(lambda tree: yaml.safe_dump(tree).encode())
)
def test_yaml_files(content, tmp_path):
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_yaml(path), dict)
    except ConfigError as error:
        _one_line(error)


@pytest.fixture(scope="module")
def manifest_text(tmp_path_factory, tiny_dataset):
    """The manifest of a real checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny = {
        "data.dataset": str(tiny_dataset),
        "model.d_model": 32,
        "model.n_layers": 1,
        "model.context_length": 16,
        "train.eval_tokens": 64,
    }
    Trainer(TrialConfig().with_values(tiny)).save(folder)
    return (folder / "manifest.json").read_bytes()


@quick
@given(data=st.data())
def test_changed_manifests(data, manifest_text, tmp_path):
    content = bytearray(manifest_text)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if bytes(content) == manifest_text:
        return
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_manifest(tmp_path)


@quick
@given(tree=trees)
def test_json_files(tree, tmp_path):
    for name, read, error in (
        ("manifest.json", read_manifest, CheckpointError),
        ("meta.json", DatasetMeta.read, DataError),
        ("sweep.json", read_sweep, SweepError),
    ):
        (tmp_path / name).write_text(json.dumps(tree))
        with pytest.raises(error):
            read(tmp_path)


@quick
@given(data=st.data())
def test_changed_token_headers(data, tmp_path):
    path = Path(tmp_path / "train.npy")
    tokens = np.arange(100, dtype=np.uint16)
    np.save(path, tokens)
    digest = blake3(tokens.tobytes()).hexdigest()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert np.array_equal(open_npy(path, 257, digest).tokens, tokens)
    except DataError as error:
        _one_line(error)
