"""Text as it is drawn: it appears at once, each character whole, and a closed pipe ends it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeConfig

import trainable.generate
from trainable.common.errors import ConfigError, DataError
from trainable.data.tokenizer import byte_tokenizer, text_pieces, train_bpe
from trainable.training.trainer import Trainer


@pytest.fixture
def checkpoint(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    trainer = Trainer(tiny_config({"optim.lr": 1e-2}))
    for _ in trainer.run():
        pass
    trainer.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), train_bpe(["été, 東京 🙂 !"] * 9, 270)])
def test_pieces_of_any_ids_are_the_text_of_all(tokenizer) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, tokenizer.get_vocab_size(), size=rng.integers(0, 60)).tolist()
        assert "".join(text_pieces(tokenizer, ids)) == tokenizer.decode(
            ids, skip_special_tokens=False
        )


def test_a_character_is_shown_with_its_last_byte() -> None:
    drawn = []

    def ids():
        for byte in "a€b".encode():
            drawn.append(byte)
            yield byte

    seen = [(piece, len(drawn)) for piece in text_pieces(byte_tokenizer(), ids())]
    assert seen == [("a", 1), ("€", 4), ("b", 5)]


@pytest.mark.slow
def test_endless_text_comes_at_once_and_a_closed_pipe_ends_it_quietly(checkpoint: Path) -> None:
    command = [sys.executable, trainable.generate.__file__, str(checkpoint)]
    with subprocess.Popen(
        [*command, "--max-tokens", "1000000000", "--temperature", "0"],  # it draws no end
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.read(300).startswith(b"def ")
            process.stdout.close()
            assert process.wait(timeout=60) == 141
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_a_prompt_that_is_not_utf_8_is_told(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"--prompt 'caf\\udce9': is not UTF-8 .* character 3"):
        trainable.generate.main([str(checkpoint), "--prompt", os.fsdecode(b"caf\xe9")])


@pytest.mark.fault
def test_text_with_a_damaged_tokenizer_is_refused(
    tiny_dataset: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """A checkpoint has its dataset's tokenizer, for which the dataset's meta.json vouches."""
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    Trainer(tiny_config({"data.dataset": str(dataset)})).save(tmp_path / "own")
    content = (dataset / "tokenizer.json").read_bytes()
    (dataset / "tokenizer.json").write_bytes(content.replace(b'"A": 65', b'"A": 66'))
    assert (dataset / "tokenizer.json").read_bytes() != content
    with pytest.raises(DataError, match=r"tokenizer\.json.*digest"):
        trainable.generate.main([str(tmp_path / "own")])
