"""What transformers load of an export is the same model, tokenizer and text."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainable.checkpoint.export import export_model, load_model
from trainable.checkpoint.hugging_face import export_hugging_face, read_origin
from trainable.common.errors import CheckpointError
from trainable.config.trial import ModelConfig, TrialConfig
from trainable.data.tokenizer import byte_tokenizer, load_tokenizer, train_bpe
from trainable.generate import generate
from trainable.model.transformer import Transformer

FILES = {
    *("config.json", "generation_config.json", "lm_sweep.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
}
SIZES = {
    "plain": {"d_model": 32, "n_layers": 2, "head_dim": 16, "context_length": 24},
    "tied": {"d_model": 48, "n_layers": 1, "head_dim": 16, "tie_embeddings": True},
    "odd": {
        **{"d_model": 42, "n_layers": 3, "head_dim": 14, "d_ff": 37, "context_length": 19},
        **{"rope_theta": 543.2, "norm_eps": 1e-3},
    },
    "one head": {"d_model": 6, "n_layers": 1, "head_dim": 6, "d_ff": 1, "context_length": 16},
}
TEXT = "def été(x):\n\treturn x  # 漢字 🙂\n"


@pytest.fixture(scope="module")
def auto():
    """transformers' AutoModelForCausalLM and AutoTokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, tiny_documents) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {"byte": byte_tokenizer(), "bpe": train_bpe(tiny_documents, 300)}
    for kind, tokenizer in made.items():
        tokenizer.save(str(folder / f"{kind}.json"))
    return {kind: folder / f"{kind}.json" for kind in made}


def model_of(size: str, vocab_size: int) -> tuple[Transformer, TrialConfig]:
    config = TrialConfig(model=ModelConfig(**SIZES[size]))
    model = Transformer(config.model, vocab_size, seed=1)
    rng = torch.Generator().manual_seed(2)
    for parameter in model.parameters():  # gains that are all one would hide a mistake
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=rng)
    return model, config


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_tokens_are_ours(tmp_path, auto, tokenizers, size, kind) -> None:
    tokenizer = load_tokenizer(tokenizers[kind])
    model, config = model_of(size, tokenizer.get_vocab_size())
    export_hugging_face(tmp_path / "hf", model, config, tokenizers[kind], {})
    theirs = auto[0].from_pretrained(tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert written["rope_theta"] == config.model.rope_theta  # all that transformers 4 reads of it
    length = config.model.context_length
    tokens = torch.randint(
        model.vocab_size, (3, length), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=1e-5, atol=1e-5)
    reader = auto[1].from_pretrained(tmp_path / "hf")
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert reader(TEXT)["input_ids"] == ids
    assert reader.decode(ids) == TEXT
    assert reader("<|endoftext|>")["input_ids"] == [reader.eos_token_id]
    assert reader.eos_token_id == reader.bos_token_id == theirs.config.eos_token_id
    assert reader.eos_token_id == tokenizer.token_to_id("<|endoftext|>")
    assert theirs.config.max_position_embeddings == reader.model_max_length == length
    assert theirs.config.tie_word_embeddings == config.model.tie_embeddings


def test_greedy_text_is_ours(tmp_path, auto, tokenizers) -> None:
    """To the end of the context that was trained on, or to <|endoftext|>."""
    model, config = model_of("plain", 257)
    ended = 0
    for seed in range(10):
        with torch.no_grad():
            torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(seed))
            model.head.weight[256] *= 2  # <|endoftext|>
        export_hugging_face(tmp_path / "hf", model, config, tokenizers["byte"], {})
        theirs = auto[0].from_pretrained(tmp_path / "hf")
        prompt = torch.tensor(list(b"def "))
        room = config.model.context_length - len(prompt)
        ours = generate(model, prompt, room, temperature=0, stop=256)
        said = theirs.generate(prompt[None], do_sample=False)[0, len(prompt) :].tolist()
        assert said[: len(ours)] == ours
        assert said[len(ours) :] == ([256] if len(ours) < room else [])
        ended += len(ours) < room
    assert 0 < ended < 10


def test_without_a_tokenizer_the_model_loads(tmp_path, auto) -> None:
    model, config = model_of("plain", 50)
    export_hugging_face(tmp_path / "hf", model, config, tmp_path / "none.json", {"trial": "t003"})
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {
        name for name in FILES if not name.startswith("tokenizer")
    }
    theirs = auto[0].from_pretrained(tmp_path / "hf")
    assert theirs.config.eos_token_id is None
    assert theirs.generate(torch.tensor([[1, 2, 3]])).shape == (1, 24)
    assert read_origin(tmp_path / "hf").facts == {"trial": "t003"}


def test_theirs_can_be_trained_on_and_saved(tmp_path, auto, tokenizers) -> None:
    model, config = model_of("tied", 257)
    export_hugging_face(tmp_path / "hf", model, config, tokenizers["byte"], {})
    theirs = auto[0].from_pretrained(tmp_path / "hf")
    x = torch.arange(32)[None]
    loss = theirs(x, labels=x).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in theirs.parameters())
    theirs.save_pretrained(tmp_path / "again")
    mine, again = (load_file(tmp_path / p / "model.safetensors") for p in ("hf", "again"))
    assert mine.keys() == again.keys()
    assert all(torch.equal(mine[name], again[name]) for name in mine)


@pytest.fixture
def exported(tmp_path, tokenizers) -> Path:
    model, config = model_of("plain", 257)
    export_hugging_face(tmp_path / "hf", model, config, tokenizers["byte"], {"step": 1})
    return tmp_path / "hf"


@pytest.mark.fault
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_or_missing_file_is_found(exported: Path, name: str) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    content = bytearray((exported / name).read_bytes())
    content[len(content) // 2] ^= 1
    (exported / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}.*--format hf"):
        read_origin(exported)
    (exported / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}.*--format hf"):
        read_origin(exported)


def test_one_kind_of_export_never_takes_the_place_of_another(exported, tokenizers) -> None:
    model, config = model_of("plain", 257)
    with pytest.raises(CheckpointError, match=r"Hugging Face.*--out"):
        export_model(exported, model, config, tokenizers["byte"], {})
    with pytest.raises(CheckpointError, match=r"Hugging Face.*without --format hf"):
        load_model(exported)
    read_origin(exported)
    native = exported.parent / "native"
    export_model(native, model, config, tokenizers["byte"], {})
    with pytest.raises(CheckpointError, match=r"another model.*--out"):
        export_hugging_face(native, model, config, tokenizers["byte"], {})
    load_model(native)


def test_a_newer_export_takes_the_place_of_the_older(exported: Path, tokenizers) -> None:
    model, config = model_of("plain", 257)
    (exported / ".exporting").mkdir()  # of an export that was killed
    export_hugging_face(exported, model, config, tokenizers["byte"], {"step": 2})
    assert {path.name for path in exported.iterdir()} == FILES
    assert read_origin(exported).facts == {"step": 2}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (exported, *exported.iterdir()))
