"""Checkpoints: what is saved comes back, and what is damaged is refused with nothing touched."""

import copy
import io
import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3
from torch import nn

from trainable.checkpoint.contract import load_checkpoint, save_checkpoint, training_state
from trainable.checkpoint.digested import CHUNK_BYTES, DigestingWriter, MemoryFile, read_digested
from trainable.checkpoint.folder import (
    MANIFEST_FILE,
    Manifest,
    Snapshot,
    load_trial_checkpoint,
    load_weights,
    read_manifest,
    read_verified,
    save_trial_checkpoint,
)
from trainable.common.errors import CheckpointError
from trainable.config.trial import ModelConfig, OptimConfig, TrialConfig
from trainable.model.transformer import Transformer
from trainable.training.optim import build_optimizer

TINY = ModelConfig(d_model=8, n_layers=1, head_dim=4, d_ff=8, context_length=8)
FACTS: dict[str, Any] = {
    "iteration": 7,
    "config": TrialConfig(model=TINY),
    "vocab_size": 11,
    "dataset_digest": "0123456789abcdef",
    "val_loss": 2.5,
    "seconds": 1.25,
}

Pair = tuple[nn.Module, torch.optim.Optimizer]


class Masked(nn.Module):
    """A layer with a causal mask kept as a buffer, which rightly holds -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))


def transformer(seed: int = 0, **changes: Any) -> Pair:
    model = Transformer(TINY.model_copy(update=changes), 11, seed)
    return model, build_optimizer(model, OptimConfig(lr=0.01))


def linear(seed: int = 0) -> Pair:
    model = nn.Linear(3, 5)
    reseed(model, seed)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def with_buffers(seed: int = 0) -> Pair:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    reseed(model, seed)
    return model, torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)


def masked(seed: int = 0) -> Pair:
    model = Masked()
    reseed(model, seed)
    return model, torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5, centered=True)


def embedded(seed: int = 0) -> Pair:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)).double()
    reseed(model, seed)
    return model, torch.optim.Adagrad(model.parameters(), lr=0.1)


def two_groups(seed: int = 0) -> Pair:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).bfloat16()
    reseed(model, seed)
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1].parameters()}]
    return model, torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9))


def quasi_newton(seed: int = 0) -> Pair:
    model = nn.Linear(3, 2)
    reseed(model, seed)
    return model, torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)


def strange_parameters(seed: int = 0) -> Pair:
    """One without elements, one of complex numbers."""
    model = nn.ParameterList([torch.zeros(3, 0), torch.full((2,), 1j + seed)])
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def tied(seed: int = 0) -> Pair:
    return transformer(seed, tie_embeddings=True)


PAIRS: list[Callable[..., Pair]] = [
    linear,
    transformer,
    tied,
    with_buffers,
    masked,
    embedded,
    two_groups,
    quasi_newton,
    strange_parameters,
]


def reseed(model: nn.Module, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=rng) - 0.5)


def update(pair: Pair, steps: int, seed: int = 0) -> None:
    """Make optimizer steps with random gradients, so that every kind of state fills up."""
    model, optimizer = pair
    rng = torch.Generator().manual_seed(seed)

    def closure() -> float:
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.grad = noise.to(parameter.dtype)
        return 1.0

    for _ in range(steps):
        optimizer.step(closure)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point() and bool(torch.isfinite(buffer).all()):
                buffer.add_(0.25)


def snapshot(pair: Pair) -> tuple[Any, Any]:
    return copy.deepcopy((dict(pair[0].state_dict()), pair[1].state_dict()))


def assert_same(left: Any, right: Any, where: str = "state") -> None:
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}.{number}")
    else:
        assert left == right, where


def assert_refused(load: Callable[[], Any], pair: Pair, words: str | None = None) -> None:
    before = snapshot(pair)
    with pytest.raises(CheckpointError, match=words):
        load()
    assert_same(before, snapshot(pair))


@pytest.mark.parametrize("make", PAIRS)
def test_everything_saved_comes_back(make: Callable[..., Pair], tmp_path: Path) -> None:
    saved = make(seed=1)
    update(saved, steps=3)
    save_checkpoint(*saved, 42, tmp_path / "c.pt")
    loaded = make(seed=2)
    update(loaded, steps=1, seed=5)
    assert load_checkpoint(tmp_path / "c.pt", *loaded) == 42
    assert_same(snapshot(saved), snapshot(loaded))
    update(saved, steps=2, seed=9)
    update(loaded, steps=2, seed=9)
    assert_same(snapshot(saved), snapshot(loaded))


@pytest.mark.parametrize("make", PAIRS)
def test_a_fresh_optimizer_comes_back_fresh(make: Callable[..., Pair]) -> None:
    saved, loaded = make(seed=1), make(seed=2)
    buffer = io.BytesIO()
    save_checkpoint(*saved, 0, buffer)
    buffer.seek(0)
    assert load_checkpoint(buffer, *loaded) == 0
    assert_same(snapshot(saved), snapshot(loaded))


def test_an_iteration_of_numpy_comes_back_as_a_number() -> None:
    buffer = io.BytesIO()
    save_checkpoint(*linear(), np.int64(7), buffer)  # type: ignore[arg-type]
    buffer.seek(0)
    iteration = load_checkpoint(buffer, *linear())
    assert (iteration, type(iteration)) == (7, int)


def test_paths_and_file_objects(tmp_path: Path) -> None:
    saved = transformer(seed=1)
    update(saved, steps=2)
    save_checkpoint(*saved, 3, str(tmp_path / "text.pt"))
    save_checkpoint(*saved, 3, tmp_path / "path.pt")
    with (tmp_path / "file.pt").open("wb") as file:
        save_checkpoint(*saved, 3, file)
    buffer = io.BytesIO()
    save_checkpoint(*saved, 3, buffer)
    assert {p.name for p in tmp_path.iterdir()} == {"text.pt", "path.pt", "file.pt"}
    for name in ("text.pt", "path.pt", "file.pt"):
        for source in (tmp_path / name, str(tmp_path / name)):
            loaded = transformer(seed=2)
            assert load_checkpoint(source, *loaded) == 3
            assert_same(snapshot(saved), snapshot(loaded))
        with (tmp_path / name).open("rb") as file:
            loaded = transformer(seed=2)
            assert load_checkpoint(file, *loaded) == 3
            assert_same(snapshot(saved), snapshot(loaded))
    loaded = transformer(seed=2)
    assert load_checkpoint(io.BytesIO(buffer.getvalue()), *loaded) == 3
    assert_same(snapshot(saved), snapshot(loaded))


def test_compiled_model_is_saved_as_the_module_inside(tmp_path: Path) -> None:
    model, optimizer = transformer(seed=1)
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    save_checkpoint(compiled, optimizer, 1, tmp_path / "c.pt")
    loaded = transformer(seed=2)
    load_checkpoint(tmp_path / "c.pt", *loaded)
    assert_same(snapshot((model, optimizer)), snapshot(loaded))
    other = transformer(seed=3)
    other_compiled = torch.compile(other[0], backend="eager")
    assert isinstance(other_compiled, nn.Module)
    load_checkpoint(tmp_path / "c.pt", other_compiled, other[1])
    assert_same(snapshot((model, optimizer)), snapshot(other))


def test_saving_replaces_the_file_and_changes_nothing_in_memory(tmp_path: Path) -> None:
    pair = transformer(seed=1)
    update(pair, steps=1)
    before = snapshot(pair)
    for iteration in (1, 2):
        save_checkpoint(*pair, iteration, tmp_path / "c.pt")
    assert_same(before, snapshot(pair))
    assert load_checkpoint(tmp_path / "c.pt", *transformer()) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_reader_of_the_old_file_is_not_disturbed_by_a_save(tmp_path: Path) -> None:
    pair = transformer(seed=1)
    save_checkpoint(*pair, 1, tmp_path / "c.pt")
    content = (tmp_path / "c.pt").read_bytes()
    with (tmp_path / "c.pt").open("rb") as reader:
        update(pair, steps=1)
        save_checkpoint(*pair, 2, tmp_path / "c.pt")
        assert reader.read() == content
    assert (tmp_path / "c.pt").read_bytes() != content


def test_saving_to_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        save_checkpoint(*linear(), 1, tmp_path / "absent" / "c.pt")


@pytest.mark.fault
def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    pair = transformer(seed=1)
    save_checkpoint(*pair, 1, tmp_path / "c.pt")
    save_trial_checkpoint(tmp_path / "trial", *pair, FACTS)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    update(pair, steps=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a write beyond it fails
    try:
        with pytest.raises(OSError, match="large"):
            save_checkpoint(*pair, 2, tmp_path / "c.pt")
        with pytest.raises(OSError, match="large"):
            save_trial_checkpoint(tmp_path / "trial", *pair, {**FACTS, "iteration": 8})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files
    assert load_trial_checkpoint(tmp_path / "trial", *transformer()).iteration == 7


@pytest.mark.parametrize(
    "other",
    [
        {"d_model": 16},
        {"n_layers": 2},
        {"d_ff": 12},
        {"tie_embeddings": True},
    ],
    ids=str,
)
def test_other_architecture_is_refused(other: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    saved = transformer(seed=1, **other)
    update(saved, steps=1)
    save_checkpoint(*saved, 1, buffer)
    target = transformer()
    update(target, steps=1)
    assert_refused(lambda: load_checkpoint(io.BytesIO(buffer.getvalue()), *target), target)


def test_a_tensor_that_the_model_lacks_is_refused() -> None:
    saved, target = linear(seed=1), linear()
    saved[0].register_buffer("more", torch.zeros(2))
    buffer = io.BytesIO()
    save_checkpoint(*saved, 1, buffer)
    source = io.BytesIO(buffer.getvalue())
    assert_refused(lambda: load_checkpoint(source, *target), target, "the model has nothing")


def test_other_vocabulary_is_refused() -> None:
    buffer = io.BytesIO()
    model = Transformer(TINY, 12)
    save_checkpoint(model, build_optimizer(model, OptimConfig()), 1, buffer)
    target = transformer()
    source = io.BytesIO(buffer.getvalue())
    assert_refused(lambda: load_checkpoint(source, *target), target, "another architecture")


def test_other_dtype_is_refused() -> None:
    buffer = io.BytesIO()
    saved = nn.Linear(3, 5).double()
    save_checkpoint(saved, torch.optim.SGD(saved.parameters(), lr=0.1, momentum=0.9), 1, buffer)
    target = linear()
    update(target, steps=1)
    assert_refused(lambda: load_checkpoint(io.BytesIO(buffer.getvalue()), *target), target, "64")


def test_other_optimizer_is_refused() -> None:
    def pairs() -> list[Pair]:
        models = [transformer(seed)[0] for seed in range(4)]
        return [
            (models[0], build_optimizer(models[0], OptimConfig())),
            (models[1], torch.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.9)),
            (models[2], torch.optim.Adagrad(models[2].parameters(), lr=0.1)),
            (models[3], torch.optim.AdamW(models[3].parameters(), lr=0.1)),  # one group
        ]

    for source, saved in enumerate(pairs()):
        update(saved, steps=1)
        buffer = io.BytesIO()
        save_checkpoint(*saved, 1, buffer)
        for number, target in enumerate(pairs()):
            if number != source:
                update(target, steps=1, seed=3)
                read = io.BytesIO(buffer.getvalue())
                assert_refused(lambda r=read, t=target: load_checkpoint(r, *t), target, "optimizer")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    saved = transformer(seed=1)
    with torch.no_grad():
        saved[0].head.weight[-1, -1] = value
    buffer = io.BytesIO()
    save_checkpoint(*saved, 1, buffer)
    target = transformer()
    update(target, steps=1)
    source = io.BytesIO(buffer.getvalue())
    assert_refused(lambda: load_checkpoint(source, *target), target, "head.weight")


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_tied_weights_are_finite_under_each_of_their_names(name: str) -> None:
    """A file may hold two values for what is one tensor in the model."""
    state = training_state(*tied(seed=1), 1)
    weights = {key: value.clone() for key, value in state["model"].items()}
    weights[name][2, 3] = float("nan")
    buffer = io.BytesIO()
    torch.save({**state, "model": weights}, buffer)
    target = tied()
    source = io.BytesIO(buffer.getvalue())
    assert_refused(lambda: load_checkpoint(source, *target), target, f"{name} holds NaN")


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (transformer, "exp_avg"),
        (transformer, "exp_avg_sq"),
        (with_buffers, "max_exp_avg_sq"),
        (linear, "momentum_buffer"),
    ],
)
def test_moments_of_another_shape_are_refused(make: Callable[..., Pair], key: str) -> None:
    saved, target = make(seed=1), make()
    update(saved, steps=1)
    update(target, steps=1, seed=4)
    state = copy.deepcopy(training_state(*saved, 1))
    last = max(state["optimizer"]["state"])
    state["optimizer"]["state"][last][key] = torch.zeros(2, 1)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    source = io.BytesIO(buffer.getvalue())
    words = rf"{key} of parameter {last} has shape \(2, 1\)"
    assert_refused(lambda: load_checkpoint(source, *target), target, words)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    saved = transformer(seed=1)
    update(saved, steps=1)
    save_checkpoint(*saved, 1, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    target = transformer()
    update(target, steps=1, seed=4)
    file = tmp_path / "damaged.pt"
    for length in (0, 1, 4, 100, len(content) // 2, len(content) - 100, len(content) - 1):
        file.write_bytes(content[:length])
        assert_refused(lambda: load_checkpoint(file, *target), target, "damaged.pt")
        cut = io.BytesIO(content[:length])
        assert_refused(lambda cut=cut: load_checkpoint(cut, *target), target)
    for junk in (b"not a checkpoint at all", bytes(1000), b"PK\x03\x04" + bytes(100)):
        file.write_bytes(junk)
        assert_refused(lambda: load_checkpoint(file, *target), target, "damaged.pt")
    state = torch.load(tmp_path / "whole.pt", weights_only=True)
    for strange in (
        [1, 2],
        {"model": {}},
        {"model": {}, "optimizer": [], "iteration": 1},
        {**state, "iteration": "7"},
        {**state, "model": {}},
        {**state, "optimizer": {}},
        {**state, "optimizer": {**state["optimizer"], "state": {0: 5}}},
    ):
        torch.save(strange, file)
        assert_refused(lambda: load_checkpoint(file, *target), target)
    absent = tmp_path / "absent.pt"
    assert_refused(lambda: load_checkpoint(absent, *target), target, r"absent\.pt")
    assert_refused(lambda: load_checkpoint(tmp_path, *target), target)


@pytest.mark.fault
def test_flipped_bits_raise_nothing_but_checkpoint_errors() -> None:
    saved = linear(seed=1)
    update(saved, steps=1)
    buffer = io.BytesIO()
    save_checkpoint(*saved, 1, buffer)
    content = buffer.getvalue()
    target = linear()
    update(target, steps=1, seed=4)
    before = snapshot(target)
    refused = 0
    for bit in np.random.default_rng(0).choice(len(content) * 8, size=2000, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            load_checkpoint(io.BytesIO(damaged), *target)
        except CheckpointError:
            refused += 1
            assert_same(before, snapshot(target))
        else:  # a lone file holds no digest: a flip in a number cannot be seen
            target = linear()
            update(target, steps=1, seed=4)
    assert refused > 100


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# A run outside pytest would see only a warning, so it must not be what stops the load here.
@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE")
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_loading_never_runs_code_from_a_file(
    tmp_path: Path, kind: str, forced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    proof = tmp_path / "proof"
    target = linear()
    state = {
        "model": target[0].state_dict(),
        "optimizer": target[1].state_dict(),
        "iteration": 1,
        "extra": Payload(proof),
    }
    file = tmp_path / "evil.pt"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    assert_refused(lambda: load_checkpoint(file, *target), target)
    assert not proof.exists()
    folder = tmp_path / "trial"
    save_trial_checkpoint(folder, *target, FACTS)
    forge(folder, file.read_bytes())
    assert_refused(lambda: load_trial_checkpoint(folder, *target), target)
    assert not proof.exists()


def forge(folder: Path, state: bytes, **facts: Any) -> None:
    """Commit `state` in a checkpoint folder with a manifest that vouches for it."""
    manifest = read_manifest(folder).model_copy(
        update={
            "state_blake3": blake3(state).hexdigest(),
            "state_bytes": len(state),
            **facts,
        }
    )
    manifest = manifest.model_copy(update={"manifest_blake3": manifest.digest()})
    (folder / manifest.state_file).write_bytes(state)
    (folder / MANIFEST_FILE).write_text(manifest.text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a trial's checkpoint folder."""
    saved = transformer(seed=1)
    update(saved, steps=2)
    save_trial_checkpoint(tmp_path / "trial", *saved, FACTS)
    return tmp_path / "trial"


def test_trial_checkpoint_comes_back_from_another_place(folder: Path, tmp_path: Path) -> None:
    saved = transformer(seed=1)
    update(saved, steps=2)
    moved = folder.rename(tmp_path / "moved")
    loaded = transformer(seed=2)
    manifest = load_trial_checkpoint(moved, *loaded)
    assert_same(snapshot(saved), snapshot(loaded))
    for name, value in FACTS.items():
        assert getattr(manifest, name) == value, name
    assert manifest == read_manifest(moved)
    assert manifest.threads == torch.get_num_threads()
    assert manifest.torch_version == torch.__version__
    model = transformer(seed=3)[0]
    load_weights(moved, model)
    assert_same(dict(saved[0].state_dict()), dict(model.state_dict()))
    assert len(read_verified(moved)[1]) == manifest.state_bytes


@pytest.mark.parametrize("sizes", [(1, 3 << 19, 5, 1 << 21, 7), (1 << 20, 1 << 20, 3), (0,)])
def test_tensors_around_the_size_of_a_chunk_come_back(tmp_path: Path, sizes: Any) -> None:
    """Small pieces are gathered and large ones passed on: none may overtake another."""
    rng = torch.Generator().manual_seed(0)
    state = {str(n): torch.rand(size, generator=rng) for n, size in enumerate(sizes)}
    whole = {"model": state, "optimizer": {}, "iteration": 7}
    manifest = Snapshot(whole, FACTS).save(tmp_path / "trial")
    (file,) = (tmp_path / "trial").glob("state-*.pt")
    assert blake3(file.read_bytes()).hexdigest() == manifest.state_blake3
    assert_same(torch.load(file, weights_only=True), whole)
    content = read_verified(tmp_path / "trial")[1]
    assert content == file.read_bytes()


def test_pieces_of_any_size_are_written_in_order_with_their_digest(tmp_path: Path) -> None:
    """Below and above half a chunk, up to it and past it, also in many small pieces."""
    rng = np.random.default_rng(0)
    half = CHUNK_BYTES // 2
    edges = [half - 1, half, half + 1, CHUNK_BYTES, CHUNK_BYTES + 1, 1, 0, half, half, 5, half + 1]
    small = rng.integers(0, CHUNK_BYTES // 3, size=15).tolist()
    whole = b""
    with (tmp_path / "file").open("wb") as file, DigestingWriter(file) as writer:
        for size in [*edges, *small, *edges]:
            content = bytearray(rng.bytes(size))
            whole += content
            assert writer.write(content) == size
            content[:] = bytes(size)  # it is the caller's again
        assert writer.hexdigest() == blake3(whole).hexdigest()
        assert writer.size == len(whole)
        writer.start_sync().result()
        assert (tmp_path / "file").read_bytes() == whole


def test_a_failed_write_is_told_with_the_digest(tmp_path: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as file, DigestingWriter(file) as writer:
        for _ in range(3):
            assert writer.write(bytes(CHUNK_BYTES)) == CHUNK_BYTES
        with pytest.raises(OSError, match="No space left"):
            writer.hexdigest()


@pytest.mark.parametrize("missing", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5])
def test_a_file_cut_behind_its_size_does_not_have_its_digest(missing: int) -> None:
    content = np.random.default_rng(0).bytes(2 * CHUNK_BYTES + 5)
    size = len(content)
    read, digest = read_digested(io.BytesIO(content[: size - missing]), size)
    assert bytes(read) == content[: size - missing] + bytes(missing)
    assert digest == blake3(read).hexdigest()
    assert (digest == blake3(content).hexdigest()) == (missing == 0)


def test_bytes_in_memory_read_as_a_file() -> None:
    content = bytes(range(100))
    ours, plain = MemoryFile(memoryview(content)), io.BytesIO(content)
    rng = np.random.default_rng(0)
    for _ in range(300):
        count, offset = int(rng.integers(0, 60)), int(rng.integers(0, 130))
        assert ours.read(count) == plain.read(count)
        assert ours.tell() == plain.tell()
        whence = int(rng.integers(3))
        offset = min(0, offset - 100) if whence == io.SEEK_END else offset
        assert ours.seek(offset, whence) == plain.seek(offset, whence)
    with pytest.raises(ValueError, match="negative"):
        ours.seek(-1)


def test_new_save_replaces_the_old_and_its_leftovers(folder: Path) -> None:
    pair = transformer(seed=4)
    update(pair, steps=3)
    (folder / ".state-0123.pt.abc").write_bytes(b"torn")
    (folder / ".manifest.json.xyz").write_bytes(b"torn")
    save_trial_checkpoint(folder, *pair, {**FACTS, "iteration": 8, "val_loss": None})
    assert len(list(folder.iterdir())) == 2
    loaded = transformer()
    manifest = load_trial_checkpoint(folder, *loaded)
    assert (manifest.iteration, manifest.val_loss) == (8, None)
    assert_same(snapshot(pair), snapshot(loaded))
    save_trial_checkpoint(folder, *pair, {**FACTS, "iteration": 8})  # the same state again
    assert load_trial_checkpoint(folder, *transformer()).val_loss == 2.5


@pytest.mark.fault
def test_crash_before_the_manifest_leaves_the_old_checkpoint(folder: Path, tmp_path: Path) -> None:
    before = transformer(seed=1)
    update(before, steps=2)
    later = transformer(seed=1)
    update(later, steps=5)
    save_trial_checkpoint(tmp_path / "next", *later, {**FACTS, "iteration": 9})
    (state,) = (tmp_path / "next").glob("state-*.pt")
    shutil.copy(state, folder)  # the first half of a save: the manifest does not name it
    (folder / f".{state.name}.tmp").write_bytes(state.read_bytes()[:1000])
    loaded = transformer(seed=2)
    assert load_trial_checkpoint(folder, *loaded).iteration == 7
    assert_same(snapshot(before), snapshot(loaded))
    save_trial_checkpoint(folder, *later, {**FACTS, "iteration": 9})
    assert load_trial_checkpoint(folder, *loaded).iteration == 9
    assert len(list(folder.iterdir())) == 2


@pytest.mark.fault
def test_flipped_bits_in_a_folder_are_never_accepted(folder: Path) -> None:
    target = transformer(seed=2)
    update(target, steps=1, seed=3)
    before = snapshot(target)
    rng = np.random.default_rng(0)
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for bit in rng.choice(len(content) * 8, size=200, replace=False):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                load_trial_checkpoint(folder, *target)
        file.write_bytes(content)
    assert_same(before, snapshot(target))
    assert load_trial_checkpoint(folder, *target).iteration == 7


@pytest.mark.fault
def test_a_flip_in_any_byte_of_a_manifest_is_refused(folder: Path) -> None:
    file = folder / MANIFEST_FILE
    content = file.read_bytes()
    bits = np.random.default_rng(0).integers(8, size=len(content))
    for place, bit in enumerate(bits):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_manifest(folder)


def edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / MANIFEST_FILE
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}, indent=2))

    return edit


def respell(folder: Path, old: str, new: str) -> None:
    file = folder / MANIFEST_FILE
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def on_state(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (file,) = folder.glob("state-*.pt")
        file.write_bytes(change(file.read_bytes()))

    return edit


def remove_state(folder: Path) -> None:
    (file,) = folder.glob("state-*.pt")
    file.unlink()


SPOILT: dict[str, Callable[[Path], Any]] = {
    "no folder": shutil.rmtree,
    "no manifest": lambda folder: (folder / MANIFEST_FILE).unlink(),
    "empty manifest": lambda folder: (folder / MANIFEST_FILE).write_bytes(b""),
    "manifest not UTF-8": lambda folder: (folder / MANIFEST_FILE).write_bytes(b"\xff\xfe"),
    "manifest of another kind": lambda folder: (folder / MANIFEST_FILE).write_text("[1, 2]"),
    "newer format": edit_manifest(format=3),
    "older format": edit_manifest(format=1),
    "unknown fact": edit_manifest(colour="green"),
    "another iteration": edit_manifest(iteration=8),
    "digest left out": edit_manifest(manifest_blake3=""),
    "another spelling of a number": lambda folder: respell(folder, "1.25", "1.250"),
    "another spelling of white space": lambda folder: respell(folder, "\n  ", "\n "),
    "no state": remove_state,
    "empty state": on_state(lambda content: b""),
    "cut state": on_state(lambda content: content[:-1]),
    "longer state": on_state(lambda content: content + b"\0"),
    "state of equal length": on_state(lambda content: content[::-1]),
}


@pytest.mark.fault
@pytest.mark.parametrize("fault", SPOILT)
def test_spoilt_folder_is_refused(folder: Path, fault: str) -> None:
    SPOILT[fault](folder)
    target = transformer(seed=2)
    update(target, steps=1)
    assert_refused(lambda: load_trial_checkpoint(folder, *target), target, "trial")
    assert_refused(lambda: load_weights(folder, target[0]), target, "trial")


@pytest.mark.parametrize("number", [1, 3])
def test_another_format_is_told(folder: Path, number: int) -> None:
    edit_manifest(format=number)(folder)
    with pytest.raises(CheckpointError, match="of another format"):
        read_manifest(folder)


def test_state_of_another_iteration_is_refused_untouched(folder: Path) -> None:
    state = read_verified(folder)[1]
    forge(folder, state, iteration=8)
    target = transformer(seed=2)
    assert_refused(lambda: load_trial_checkpoint(folder, *target), target, "iteration")


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    target = transformer(seed=2, n_layers=2)
    assert_refused(lambda: load_weights(folder, target[0]), target, "architecture")
    assert_refused(lambda: load_trial_checkpoint(folder, *target), target, "architecture")


def test_manifest_facts_are_checked_when_saved(tmp_path: Path) -> None:
    for wrong in ({"iteration": -1}, {"seconds": float("nan")}, {"vocab_size": "11"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            save_trial_checkpoint(tmp_path / "trial", *transformer(), {**FACTS, **wrong})
    assert not (tmp_path / "trial" / MANIFEST_FILE).exists()
    assert "manifest_blake3" in Manifest.model_fields


KILLED_SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from trainable.checkpoint.folder import load_trial_checkpoint, save_trial_checkpoint
from trainable.config.trial import ModelConfig, OptimConfig, TrialConfig
from trainable.model.transformer import Transformer
from trainable.training.optim import build_optimizer

config = TrialConfig(model=ModelConfig(d_model=64, n_layers=2, head_dim=16, context_length=8))
folder = Path(sys.argv[1])
waits = random.Random(0)

def build():
    model = Transformer(config.model, 300)
    return model, build_optimizer(model, OptimConfig())

def save_for_ever(first, acknowledge):
    model, optimizer = build()
    for iteration in range(first, 10**9):
        with torch.no_grad():
            model.head.weight.fill_(iteration)
        save_trial_checkpoint(folder, model, optimizer, {
            "iteration": iteration, "config": config, "vocab_size": 300,
            "dataset_digest": "0" * 16, "val_loss": None, "seconds": 0.0})
        os.write(acknowledge, iteration.to_bytes(8, "big"))

done = 0
for kill in range(int(sys.argv[2])):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        save_for_ever(done + 1, write)
    os.close(write)
    acknowledged = os.read(read, 8)
    time.sleep(waits.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 8):
        acknowledged = more
    os.close(read)
    last = int.from_bytes(acknowledged, "big")
    model, optimizer = build()
    manifest = load_trial_checkpoint(folder, model, optimizer)
    assert last <= manifest.iteration <= last + 1, (last, manifest.iteration)
    assert bool((model.head.weight == manifest.iteration).all())
    done = manifest.iteration
print("survived", done)
"""


@pytest.mark.fault
@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path, run_python: Any) -> None:
    result = run_python("-c", KILLED_SAVER, tmp_path / "trial", 30)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("survived")
