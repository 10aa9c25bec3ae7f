"""Text to token files and back, and which token files are refused."""

import itertools
import json
import os
import resource
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from tokenizers import Tokenizer, models, pre_tokenizers

from trainable.common.errors import ConfigError, DataError
from trainable.common.paths import in_project
from trainable.config.trial import DataConfig
from trainable.data import build
from trainable.data.batches import open_dataset
from trainable.data.build import ensure_default, prepare
from trainable.data.corpus import END_OF_TEXT, PIECE_CHARACTERS, StandardLibrary, TextFiles
from trainable.data.meta import DatasetMeta
from trainable.data.tokenizer import Encoder, byte_tokenizer, load_tokenizer, train_bpe
from trainable.prepare import main

AWKWARD = [
    "plain\n",
    "tabs\tand\r\nWindows ends\r\n",
    "  leading and trailing  ",
    "\ufeffa byte-order mark",
    "naïve café → 東京 🙂 \u0301",
    "\n\n\n",
    "\x01\x7f control",
]


def write_texts(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_bytes(text.encode())
    return folder


def documents_of(path: Path, end_of_text: int) -> list[list[int]]:
    documents: list[list[int]] = [[]]
    for token in np.load(path).tolist():
        if token == end_of_text:
            documents.append([])
        else:
            documents[-1].append(token)
    assert documents.pop() == []  # the file ends with <|endoftext|>
    return documents


def texts_of(corpus: Any) -> list[str]:
    return ["".join(pieces) for pieces in corpus.documents()]


def test_byte_tokens_are_the_text(tmp_path: Path) -> None:
    out = tmp_path / "out"
    meta = prepare(TextFiles([write_texts(tmp_path / "texts", AWKWARD)]), out)
    train = [bytes(d).decode() for d in documents_of(out / "train.npy", 256)]
    val = [bytes(d).decode() for d in documents_of(out / "val.npy", 256)]
    assert val == [AWKWARD[1]]
    assert train == AWKWARD[:1] + AWKWARD[2:]
    tokenizer = load_tokenizer(out / "tokenizer.json")
    for text in AWKWARD:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == list(text.encode())
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert np.load(out / "train.npy").dtype == np.dtype("<u2")
    assert meta == DatasetMeta.read(out)
    assert (meta.vocab_size, meta.dtype, meta.tokenizer) == (257, "uint16", "byte")
    assert (meta.train_documents, meta.val_documents) == (6, 1)
    assert meta.train_bytes == sum(len(t.encode()) for t in train)
    assert meta.train_tokens == meta.train_bytes + 6 == len(np.load(out / "train.npy"))
    assert meta.val_tokens == meta.val_bytes + 1 == len(np.load(out / "val.npy"))


def test_bpe_tokens_decode_to_the_text(tmp_path: Path, tiny_documents: list[str]) -> None:
    texts = [*tiny_documents, *AWKWARD]
    out = tmp_path / "out"
    meta = prepare(TextFiles([write_texts(tmp_path / "texts", texts)]), out, "bpe", 300)
    assert (meta.vocab_size, meta.dtype, meta.tokenizer) == (300, "uint16", "bpe")
    tokenizer = load_tokenizer(out / "tokenizer.json")
    end = tokenizer.token_to_id(END_OF_TEXT)
    decoded = {
        name: [tokenizer.decode(d, skip_special_tokens=False) for d in documents_of(path, end)]
        for name in ("train", "val")
        for path in [out / f"{name}.npy"]
    }
    assert decoded["val"] == texts[1::10]
    assert decoded["train"] == [t for n, t in enumerate(texts) if n % 10 != 1]
    assert np.load(out / "train.npy").max() < 300
    assert meta.train_tokens < 0.7 * meta.train_bytes


def test_bpe_learns_nothing_from_validation_documents(tmp_path: Path) -> None:
    trained = []
    for name, held_out in (("a", "some text\n" * 20), ("b", "zqzq xjxj\n" * 200)):
        texts = write_texts(tmp_path / name, ["common words again\n" * 30, held_out, "more\n" * 9])
        prepare(TextFiles([texts]), tmp_path / f"{name}.out", "bpe", 270)
        trained.append((tmp_path / f"{name}.out" / "tokenizer.json").read_bytes())
    assert trained[0] == trained[1]


def test_each_document_is_wholly_on_one_side(tmp_path: Path) -> None:
    texts = [f"document {n} " + "x" * (37 * n) for n in range(35)]
    out = tmp_path / "out"
    prepare(TextFiles([write_texts(tmp_path / "texts", texts)]), out)
    train = [bytes(d).decode() for d in documents_of(out / "train.npy", 256)]
    val = [bytes(d).decode() for d in documents_of(out / "val.npy", 256)]
    assert sorted(train + val) == sorted(texts)
    assert len(val) == 4
    assert not set(train) & set(val)


def test_separators_split_a_file_into_documents(tmp_path: Path) -> None:
    file = tmp_path / "stories.txt"
    file.write_text(f"{END_OF_TEXT}one{END_OF_TEXT}{END_OF_TEXT}two\n{END_OF_TEXT}thr<|end|>ee")
    assert texts_of(TextFiles([file])) == ["one", "two\n", "thr<|end|>ee"]


@pytest.mark.parametrize("letter", ["a", "word ", "é"])
def test_separator_across_the_chunk_boundary(tmp_path: Path, letter: str) -> None:
    file = tmp_path / "big.txt"
    for chunks, before in itertools.product((1, 2), range(len(END_OF_TEXT) + 1)):
        size = chunks * PIECE_CHARACTERS - before
        first = (letter.encode() * size)[:size].decode(errors="ignore")
        file.write_text(f"{first}{END_OF_TEXT}second", encoding="utf-8")
        assert texts_of(TextFiles([file])) == [first, "second"], (chunks, before)


@pytest.mark.parametrize(
    "unit", ["x", "é", "words and\nlines ", "a" * 700_000 + "\n" + "b" * 700_000]
)
def test_document_larger_than_a_chunk_is_streamed_whole(tmp_path: Path, unit: str) -> None:
    text = (unit * (3_300_000 // len(unit)))[:3_300_000]
    file = tmp_path / "big.txt"
    file.write_text(f"first{END_OF_TEXT}{text}{END_OF_TEXT}last", encoding="utf-8")
    documents = [list(pieces) for pieces in TextFiles([file]).documents()]
    assert ["".join(pieces) for pieces in documents] == ["first", text, "last"]
    assert max(len(piece) for piece in documents[1]) <= PIECE_CHARACTERS


def test_large_document_is_one_document_in_the_dataset(tmp_path: Path) -> None:
    text = "words of a long document\n" * 60_000
    file = tmp_path / "big.txt"
    file.write_text(f"first{END_OF_TEXT}{text}", encoding="utf-8")
    meta = prepare(TextFiles([file]), tmp_path / "out")
    assert meta.val_documents == 1
    assert documents_of(tmp_path / "out" / "val.npy", 256) == [list(text.encode())]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, "<u2"), (2**16 + 1, "<u4")])
def test_ids_take_the_smallest_type_that_holds_the_vocabulary(vocab_size: int, dtype: str) -> None:
    words = [END_OF_TEXT, *(f"w{n}" for n in range(1, vocab_size))]
    vocabulary = {word: n for n, word in enumerate(words)}
    encoder = Encoder(
        Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=END_OF_TEXT)), is_byte=False
    )
    assert encoder.dtype == np.dtype(dtype)
    ids = np.concatenate(list(encoder.encode(iter([words[-1]]))))
    assert ids.tolist() == [vocab_size - 1, 0]
    assert ids.dtype == np.dtype(dtype)


def test_byte_tokenizer_has_the_separator_last() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.get_vocab_size() == 257
    assert tokenizer.encode(f"a{END_OF_TEXT}b").ids == [97, 256, 98]


def test_every_byte_has_its_token() -> None:
    tokenizer = byte_tokenizer()
    characters = [*map(chr, range(1, 0x800)), "\u20ac", "\ud7ff", "\U0010ffff"]
    text = "".join(characters)  # holds every byte that UTF-8 text can hold
    ids = tokenizer.encode(text).ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert set(tokenizer.get_vocab()) == {*pre_tokenizers.ByteLevel.alphabet(), END_OF_TEXT}


def test_bpe_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="257"):
        train_bpe(["text"], 256)


def test_failures_name_the_file_and_leave_nothing_behind(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text(f"one{END_OF_TEXT}two{END_OF_TEXT}three")
    late = b"x" * (PIECE_CHARACTERS + 10)
    contents = {
        "latin1.txt": b"caf\xe9 au lait",
        "cut.txt": "café".encode()[:-1],
        "late.txt": late + b"\xff",
        "binary.bin": b"some\0thing",
        "late.bin": late + b"\0",
        "single.txt": b"only one document",
        "empty.txt": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    before = {p.name for p in tmp_path.iterdir()}
    for name in contents:
        alone = name in ("single.txt", "empty.txt")
        corpus = TextFiles([tmp_path / name] if alone else [good, tmp_path / name])
        for tokenizer, size in (("byte", None), ("bpe", 260)):
            with pytest.raises(DataError, match=name.replace(".", r"\.")):
                prepare(corpus, tmp_path / "out", tokenizer, size)
    for missing in ("absent.txt", "folder"):
        with pytest.raises(DataError, match=missing):
            prepare(TextFiles([good, tmp_path / missing]), tmp_path / "out")
    for tokenizer, size in (("byte", 300), ("bpe", None), ("bpe", 100)):
        with pytest.raises(ConfigError, match="vocab-size"):
            prepare(TextFiles([good]), tmp_path / "out", tokenizer, size)
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_existing_output_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    kept = out / "mine.txt" if kind == "folder" else out
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    texts = write_texts(tmp_path / "texts", ["a", "b"])
    with pytest.raises(ConfigError, match="exists"):
        prepare(TextFiles([texts]), out)
    assert kept.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"out", "texts"}


def test_digest_of_the_source_is_of_its_documents(tmp_path: Path) -> None:
    def digest(name: str, texts: list[str]) -> str:
        folder = write_texts(tmp_path / name, texts)
        return prepare(TextFiles([folder]), tmp_path / f"{name}.out").source_sha256

    files = digest("files", ["ab", "c", "def"])
    assert digest("again", ["ab", "c", "def"]) == files
    assert digest("separators", [f"ab{END_OF_TEXT}c", "def"]) == files
    others = [["a", "bc", "def"], ["ab", "c", "deg"], ["c", "ab", "def"], ["ab", "cdef"]]
    for number, texts in enumerate(others):
        assert digest(f"other{number}", texts) != files


def test_equal_text_gives_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        texts = write_texts(tmp_path / name, ["one\n" * 50, "two\n" * 30, "three\n" * 70])
        prepare(TextFiles([texts]), tmp_path / f"{name}.out", "bpe", 264)
    for file in ("train.npy", "val.npy", "tokenizer.json"):
        assert (tmp_path / "a.out" / file).read_bytes() == (tmp_path / "b.out" / file).read_bytes()


def test_standard_library_is_text_in_a_fixed_order() -> None:
    def first() -> list[str]:
        pieces = itertools.islice(StandardLibrary().documents(), 60)
        return ["".join(p) for p in pieces]

    texts = first()
    assert texts == first()
    assert len(texts) == 60
    assert all(texts)
    assert sum(map(len, texts)) > 100_000
    assert "Python" in StandardLibrary().description


def test_standard_library_leaves_out_tests_and_installed_packages(tmp_path: Path) -> None:
    kept = ["a.py", "b/c.py", "b/test.py", "tester/e.py"]
    left_out = [
        "test/f.py",
        "b/tests/g.py",
        "idlelib/idle_test/h.py",
        "site-packages/torch/i.py",
        "b/dist-packages/j.py",
    ]
    for name in (*left_out, *reversed(kept)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "b" / "latin1.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "b" / "mark.py").write_text(f"x = {END_OF_TEXT!r}\n")
    (tmp_path / "b" / "empty.py").write_text("")
    (tmp_path / "b" / "data.txt").write_text("not a module")
    assert texts_of(StandardLibrary(tmp_path)) == [f"# {name}\n" for name in kept]


def test_embedded_corpus_is_made_only_under_its_own_name(project: Path) -> None:
    assert ensure_default(DataConfig(dataset="elsewhere")) is None
    default = project / DataConfig().dataset
    default.mkdir(parents=True)
    assert ensure_default(DataConfig()) is None
    assert list(default.iterdir()) == []


def test_command_prepares_what_it_says(
    tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_texts(tmp_path / "texts", ["one", "two", "three"])
    assert main(["--input", str(texts), "--out", "data/mine"]) == 0
    meta = DatasetMeta.read(project / "data" / "mine")
    assert f"{meta.train_tokens} training" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--out"):
        main(["--input", str(texts)])


@pytest.mark.fault
@pytest.mark.parametrize("limit", [100, 8_000, 20_000])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    """The tokenizer, the training tokens, or the validation tokens do not fit."""
    texts = write_texts(tmp_path / "texts", ["x" * 10_000, "y" * 30_000])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DataError, match=r"--out .*: File too large; nothing was kept"):
            prepare(TextFiles([texts]), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_who_may_read_one_file_of_a_dataset_may_read_them_all(tmp_path: Path, mask: int) -> None:
    texts = write_texts(tmp_path / "texts", ["one", "two"])
    before = os.umask(mask)
    try:
        prepare(TextFiles([texts]), tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}


def test_a_file_s_name_need_not_be_utf_8(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.txt")
    file.write_text(f"one{END_OF_TEXT}two")
    prepare(TextFiles([file]), tmp_path / "out")
    assert DatasetMeta.read(tmp_path / "out").source == "caf\ufffd.txt"


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        pytest.fail(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path, tiny_dataset: Path) -> Path:
    """Return a copy of the tiny dataset that may be spoilt."""
    return shutil.copytree(tiny_dataset, tmp_path / "dataset")


def raw_config(folder: Path, dtype: str = "uint16", vocab_size: int = 257) -> DataConfig:
    return DataConfig.model_validate(
        {"dataset": str(folder), "raw_dtype": dtype, "raw_vocab_size": vocab_size}
    )


def test_prepared_dataset_opens_read_only_and_memory_mapped(
    tiny_dataset: Path, tiny_documents: list[str]
) -> None:
    dataset = open_dataset(DataConfig(dataset=str(tiny_dataset)), 16)
    assert dataset.vocab_size == 257
    for file, name in ((dataset.train, "train"), (dataset.val, "val")):
        assert np.array_equal(file.tokens, np.load(tiny_dataset / f"{name}.npy"))
        assert isinstance(file.tokens.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            file.tokens[0] = 1
    held_out = "".join(tiny_documents[1::10]).encode()
    assert dataset.bytes_per_val_token == len(held_out) / (len(held_out) + 2)
    assert load_tokenizer(dataset.tokenizer_file).get_vocab_size() == 257


def test_relative_dataset_starts_at_the_project_folder(project: Path, tiny_dataset: Path) -> None:
    shutil.copytree(tiny_dataset, project / "data" / "here")
    dataset = open_dataset(DataConfig(dataset="data/here"), 16)
    assert dataset.folder == project / "data" / "here"


@pytest.mark.parametrize(("dtype", "kind"), [("uint16", "<u2"), ("uint32", "<u4")])
def test_raw_files_open_with_their_stated_type(tmp_path: Path, dtype: str, kind: str) -> None:
    ids = np.random.default_rng(0).integers(0, 50_257, size=200)
    ids[7] = 50_256
    for name in ("train", "val"):
        ids.astype(kind).tofile(tmp_path / f"{name}.bin")
    dataset = open_dataset(raw_config(tmp_path, dtype, 50_257), 16)
    assert dataset.train.tokens.tolist() == ids.tolist()
    assert dataset.vocab_size == 50_257
    assert dataset.bytes_per_val_token is None


def vouch(folder: Path, **facts: Any) -> None:
    """Make meta.json vouch for the files that are in the folder now."""
    digests = {
        f"{name}_blake3": blake3(np.load(folder / f"{name}.npy").tobytes()).hexdigest()
        for name in ("train", "val")
    }
    tokenizer = blake3((folder / "tokenizer.json").read_bytes()).hexdigest()
    meta = DatasetMeta.read(folder).model_copy(update={"tokenizer_blake3": tokenizer, **digests})
    meta.model_copy(update=facts).sealed().write(folder)


def test_digest_is_of_the_tokens_and_what_gives_them_their_meaning(
    tmp_path: Path, folder: Path
) -> None:
    config = DataConfig(dataset=str(folder))
    seen = {open_dataset(config, 16).digest}
    moved = shutil.copytree(folder, tmp_path / "moved")
    vouch(moved, source="the same text from another place")
    assert {open_dataset(DataConfig(dataset=str(moved)), 16).digest} == seen
    for name in ("train", "val"):
        tokens = np.load(folder / f"{name}.npy")
        tokens[-5] ^= 1
        np.save(folder / f"{name}.npy", tokens)
        vouch(folder)
        seen.add(open_dataset(config, 16).digest)
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b"\n")
    vouch(folder)
    seen.add(open_dataset(config, 16).digest)
    for facts in ({"vocab_size": 300}, {"val_bytes": 1}):
        vouch(folder, **facts)
        seen.add(open_dataset(config, 16).digest)
    assert len(seen) == 6


def test_digest_of_raw_files_covers_their_tokenizer(tmp_path: Path) -> None:
    for name in ("train", "val"):
        zeros.tofile(tmp_path / f"{name}.bin")
    seen = {open_dataset(raw_config(tmp_path), 16).digest}
    seen.add(open_dataset(raw_config(tmp_path, vocab_size=258), 16).digest)
    for text in ("{}", "{ }"):
        (tmp_path / "tokenizer.json").write_text(text)
        seen.add(open_dataset(raw_config(tmp_path), 16).digest)
    assert len(seen) == 4


def save_npy(tokens: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, tokens)


def write_version_2_header(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.zeros(50, np.uint16), version=(2, 0))


def write_torn_header(path: Path) -> None:
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (50,"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace_by(kind: Callable[[Path], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.unlink()
        kind(path)

    return spoil


zeros = np.zeros(50, dtype=np.uint16)
SPOILT_NPY: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "raw tokens": lambda path: path.write_bytes(zeros.tobytes()),
    "truncated": truncate,
    "only a magic": lambda path: path.write_bytes(b"\x93NUMPY"),
    "cut in its header": lambda path: os.truncate(path, 60),
    "torn header": write_torn_header,
    "longer than its header says": lambda path: path.write_bytes(path.read_bytes() + b"\0\0"),
    "no tokens": save_npy(zeros[:0]),
    "float32": save_npy(zeros.astype(np.float32)),
    "int16": save_npy(zeros.astype(np.int16)),
    "int32": save_npy(zeros.astype(np.int32)),
    "int64": save_npy(zeros.astype(np.int64)),
    "uint8": save_npy(zeros.astype(np.uint8)),
    "uint64": save_npy(zeros.astype(np.uint64)),
    "bool": save_npy(zeros.astype(bool)),
    "structured": save_npy(np.zeros(50, dtype=[("id", "<u2")])),
    "big-endian": save_npy(zeros.astype(">u2")),
    "2-D": save_npy(zeros.reshape(5, 10)),
    "Fortran order": save_npy(np.asfortranarray(zeros.reshape(5, 10))),
    "0-D": save_npy(np.uint16(3)),
    "objects": save_npy(np.array([{"a": 1}, None], dtype=object)),
    "format version 2": write_version_2_header,
    "FIFO": replace_by(os.mkfifo),
    "folder": replace_by(os.mkdir),
    "id outside in the last place": save_npy(np.append(zeros, np.uint16(257))),
    "shorter than a window": save_npy(zeros[:16]),
}


@pytest.mark.parametrize("name", ["train.npy", "val.npy"])
@pytest.mark.parametrize("fault", SPOILT_NPY)
def test_unfit_npy_file_is_refused_by_name(folder: Path, name: str, fault: str) -> None:
    SPOILT_NPY[fault](folder / name)
    said = f"{name}: empty file" if fault == "empty" else name
    with time_limit(20), pytest.raises(DataError, match=said):
        open_dataset(DataConfig(dataset=str(folder)), 16)


SPOILT_RAW: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "odd length": lambda path: path.write_bytes(bytes(101)),
    "npy under another name": lambda path: path.with_suffix(".npy").rename(path),
    "id outside in the last place": lambda path: np.append(zeros, np.uint16(257)).tofile(path),
    "big-endian": lambda path: (zeros + 2).astype(">u2").tofile(path),
    "float32": lambda path: np.full(50, 0.1, np.float32).tofile(path),
    "FIFO": replace_by(os.mkfifo),
    "folder": replace_by(os.mkdir),
    "shorter than a window": lambda path: zeros[:16].tofile(path),
}


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
@pytest.mark.parametrize("fault", SPOILT_RAW)
def test_unfit_raw_file_is_refused_by_name(folder: Path, name: str, fault: str) -> None:
    for split in ("train", "val"):
        np.load(folder / f"{split}.npy").tofile(folder / f"{split}.bin")
    open_dataset(raw_config(folder), 16)
    SPOILT_RAW[fault](folder / name)
    with time_limit(20), pytest.raises(DataError, match=name):
        open_dataset(raw_config(folder), 16)


def test_npy_file_under_another_name_is_refused_whatever_the_vocabulary(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / f"{split}.npy").rename(folder / f"{split}.bin")
    with pytest.raises(DataError, match="npy"):
        open_dataset(raw_config(folder, vocab_size=65_536), 16)


def test_npy_header_with_any_bit_flipped_is_refused_or_harmless(folder: Path) -> None:
    file = folder / "train.npy"
    content = file.read_bytes()
    tokens = np.load(file)
    config = DataConfig(dataset=str(folder))
    for bit in range(128 * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            opened = open_dataset(config, 16).train.tokens
        except DataError:
            continue
        assert np.array_equal(opened, tokens), f"bit {bit}"


def test_largest_id_of_the_vocabulary_is_accepted(folder: Path) -> None:
    np.save(folder / "train.npy", np.append(zeros, np.uint16(256)))
    vouch(folder)
    assert len(open_dataset(DataConfig(dataset=str(folder)), 16).train.tokens) == 51


def test_file_of_one_window_is_enough(folder: Path) -> None:
    np.save(folder / "val.npy", zeros[:17])
    vouch(folder)
    open_dataset(DataConfig(dataset=str(folder)), 16)


def test_every_chunk_of_a_large_file_is_checked(folder: Path) -> None:
    tokens = np.zeros((1 << 22) + 5, dtype=np.uint16)  # 8 MiB and a bit: three chunks
    for place in (0, 1 << 21, (1 << 21) - 1, len(tokens) - 1):
        tokens[place] = 300
        np.save(folder / "train.npy", tokens)
        with pytest.raises(DataError, match="300"):
            open_dataset(DataConfig(dataset=str(folder)), 16)
        tokens[place] = 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "prepare.py"),
        ("", "JSON"),
        ("[1]", "meta.json"),
        ("{}", "vocab_size"),
        ('{"format": 2}', "format"),
    ],
)
def test_unfit_meta_is_refused(folder: Path, content: str | None, words: str) -> None:
    path = folder / "meta.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(DataError, match=words):
        open_dataset(DataConfig(dataset=str(folder)), 16)


def test_missing_folder_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.*prepare\.py"):
        open_dataset(DataConfig(dataset=str(tmp_path / "absent")), 16)


def overwrite_keeping_size_and_time(path: Path, content: bytes) -> None:
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_check_of_a_whole_file_is_made_once_and_again_when_the_file_changes(folder: Path) -> None:
    config = DataConfig(dataset=str(folder))
    path = folder / "train.npy"
    digest = open_dataset(config, 16).digest
    content = path.read_bytes()
    # The last id is now outside the vocabulary: only who reads the whole file can know.
    overwrite_keeping_size_and_time(path, content[:-2] + b"\xff\xff")
    assert open_dataset(config, 16).digest == digest
    os.utime(path)
    with pytest.raises(DataError, match="65535"):
        open_dataset(config, 16)
    path.write_bytes(content)
    assert open_dataset(config, 16).digest == digest
    grown = np.append(np.load(path), np.uint16(999))
    status = path.stat()
    np.save(path, grown)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="999"):
        open_dataset(config, 16)


def test_what_was_checked_is_remembered_where_only_the_owner_can_write(folder: Path) -> None:
    before = os.umask(0)
    try:
        open_dataset(DataConfig(dataset=str(folder)), 16)
    finally:
        os.umask(before)
    (checked,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("checked")
    assert checked.stat().st_mode & 0o777 == 0o700
    assert list(checked.iterdir())
    assert not any(path.stat().st_mode & 0o077 for path in checked.iterdir())


def test_remembered_check_knows_the_vocabulary(tmp_path: Path) -> None:
    for name in ("train", "val"):
        np.append(zeros, np.uint16(499)).tofile(tmp_path / f"{name}.bin")
    open_dataset(raw_config(tmp_path, vocab_size=500), 16)
    with pytest.raises(DataError, match="499"):
        open_dataset(raw_config(tmp_path, vocab_size=499), 16)


def test_remembered_check_knows_the_type(tmp_path: Path) -> None:
    for name in ("train", "val"):
        np.full(100, 200, np.uint16).tofile(tmp_path / f"{name}.bin")
    open_dataset(raw_config(tmp_path, "uint16"), 16)
    with pytest.raises(DataError, match="vocabulary"):
        open_dataset(raw_config(tmp_path, "uint32"), 16)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"size": 1}'])
def test_damaged_record_of_a_check_means_checking_again(folder: Path, content: bytes) -> None:
    config = DataConfig(dataset=str(folder))
    digest = open_dataset(config, 16).digest
    records = [p for p in Path(os.environ["XDG_CACHE_HOME"]).rglob("*") if p.is_file()]
    assert len(records) == 2
    for record in records:
        json.loads(record.read_bytes())
        record.write_bytes(content)
    assert open_dataset(config, 16).digest == digest


def test_cache_that_cannot_be_written_is_no_fault(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_dataset(DataConfig(dataset=str(folder)), 16).vocab_size == 257


FILES = ("train.npy", "val.npy", "tokenizer.json", "meta.json")


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.fault
@pytest.mark.parametrize("name", FILES)
def test_a_flip_behind_a_file_s_size_and_time_is_found_when_every_byte_is_looked_at(
    folder: Path, name: str
) -> None:
    config = DataConfig(dataset=str(folder))
    digest = open_dataset(config, 16).digest
    path = folder / name
    content = path.read_bytes()
    start = 128 if name.endswith(".npy") else 0  # flips in the header have their own test
    for bit in np.random.default_rng(0).integers(start * 8, len(content) * 8, size=50):
        overwrite_keeping_size_and_time(path, flipped(content, int(bit)))
        with pytest.raises(DataError, match=name):
            open_dataset(config, 16, verify=True)
        with pytest.raises(DataError, match=name):  # and it is not forgotten
            open_dataset(config, 16)
        overwrite_keeping_size_and_time(path, content)
    for verify in (False, True):  # the file that a backup brought back is welcome
        assert open_dataset(config, 16, verify=verify).digest == digest


@pytest.mark.fault
@pytest.mark.parametrize("name", FILES)
def test_a_dataset_that_was_damaged_before_its_first_use_is_refused(
    folder: Path, name: str
) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(flipped(content, len(content) * 8 - 112))
    with pytest.raises(DataError, match=rf"{name}.*prepare the dataset again"):
        open_dataset(DataConfig(dataset=str(folder)), 16)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_flip_behind_a_raw_file_s_size_and_time_is_found_as_well(
    tmp_path: Path, name: str
) -> None:
    for split in ("train", "val"):
        zeros.tofile(tmp_path / f"{split}.bin")
    config = raw_config(tmp_path)
    digest = open_dataset(config, 16, verify=True).digest
    path = tmp_path / name
    overwrite_keeping_size_and_time(path, flipped(path.read_bytes(), 336))
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{name}.*bytes changed.*touch"):
            open_dataset(config, 16, verify=True)
    os.utime(path)  # nothing but the memory of the first check vouches for such a file
    assert open_dataset(config, 16, verify=True).digest != digest


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path) -> None:
    path = folder / "train.npy"
    np.save(path, np.zeros(16 << 20, dtype=np.uint16))
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            os.utime(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(DataError, match=r"train\.npy: changed while it was read"):
            open_dataset(DataConfig(dataset=str(folder)), 16)
    finally:
        done.set()
        writer.join()


@pytest.mark.fault
def test_a_damaged_memory_of_a_check_is_not_believed(folder: Path) -> None:
    """Raw files: nothing else vouches for their digest, or for their largest id."""
    for split in ("train", "val"):
        zeros.tofile(folder / f"{split}.bin")
    digest = open_dataset(raw_config(folder), 16).digest
    for record in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json"):
        content = record.read_bytes()
        for bit in range(0, len(content) * 8, 7):
            record.write_bytes(flipped(content, bit))
            assert open_dataset(raw_config(folder), 16).digest == digest
            assert record.read_bytes() == content


def test_two_commands_that_make_the_embedded_corpus_together_both_have_it(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one<|endoftext|>two<|endoftext|>three")
    corpus = TextFiles([tmp_path / "a.txt"])

    class Overtaken(TextFiles):
        def documents(self):
            if build.default_is_missing(DataConfig()):
                prepare(corpus, in_project(DataConfig().dataset))
            return super().documents()

    monkeypatch.setattr(build, "StandardLibrary", lambda: Overtaken([tmp_path / "a.txt"]))
    assert build.ensure_default(DataConfig()) is None
    assert DatasetMeta.read(in_project(DataConfig().dataset)).train_documents == 2
