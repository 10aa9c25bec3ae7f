"""Text to a token dataset: `python trainable/prepare.py --input FILES --out DIR`.

The result is a folder with train.npy, val.npy, tokenizer.json and meta.json, complete or absent.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainable.common.command import run_command
from trainable.common.errors import ConfigError
from trainable.common.output import Output
from trainable.common.parse import parse
from trainable.common.paths import in_project
from trainable.config.trial import DataConfig
from trainable.data.build import prepare
from trainable.data.corpus import Corpus, StandardLibrary, TextFiles


@dataclass(frozen=True)
class Arguments:
    """Turn text into a memory-mappable token dataset."""

    input: tuple[str, ...] = ()
    """UTF-8 text files or folders of them; unset: the running Python's standard library."""
    out: str | None = None
    """Folder to make; a relative one starts at the project folder. Needed with --input."""
    tokenizer: Literal["byte", "bpe"] = "byte"
    """byte: 257 ids, the bytes and <|endoftext|>. bpe: trained on the training documents."""
    vocab_size: int | None = None
    """Number of ids; only for bpe."""
    json: bool = False
    """Print one JSON document to standard output."""
    quiet: bool = False
    """Print only the folder that was made, and errors."""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "prepare.py")
    given = any(word.partition("=")[0] == "--input" for word in argv)
    if (given and not arguments.input) or "" in arguments.input:
        raise ConfigError(
            "--input: a name is missing; name text files or folders, or leave the flag out for "
            "the standard library"
        )
    if arguments.input and arguments.out is None:
        raise ConfigError("--out: name the folder to make from --input")
    corpus: Corpus = (
        TextFiles([Path(name).resolve() for name in arguments.input])
        if arguments.input
        else StandardLibrary()
    )
    out = in_project(arguments.out or DataConfig().dataset)
    around = [name for name in arguments.input if out.is_relative_to(Path(name).resolve())]
    if around:
        raise ConfigError(f"--out {out}: lies inside --input {around[0]}; choose a place outside")
    meta = prepare(corpus, out, arguments.tokenizer, arguments.vocab_size)
    from trainable.training.documents import DatasetDocument

    output = Output(json=arguments.json, quiet=arguments.quiet)
    output.say(
        f"{out}: {meta.train_tokens:,} training and {meta.val_tokens:,} validation tokens, "
        f"{meta.train_documents:,} + {meta.val_documents:,} documents, "
        f"{meta.vocab_size:,} ids, {meta.dtype}"
    )
    output.result(
        str(out), lambda: DatasetDocument(folder=str(out), meta=meta.model_dump(mode="json"))
    )
    return 0


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
