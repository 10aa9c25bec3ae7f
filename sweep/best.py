"""The best trial, restored and checked: `python sweep/best.py NAME`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro

from trainable.common.command import run_command
from trainable.common.output import Output
from trainable.common.parse import parse


@dataclass(frozen=True)
class Arguments:
    """Restore the best trial's checkpoint, evaluate it again, and export it."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the sweep."""
    out: str | None = None
    """Folder for weights (safetensors), config and tokenizer; unset: results/NAME/best, or best-hf
    for Hugging Face."""
    format: Literal["native", "hf"] = "native"
    """native: for generate.py and load_model. hf: for transformers' AutoModelForCausalLM and
    AutoTokenizer, as a Llama."""
    log_model: bool = False
    """Also log the export in MLflow, as a model of the runs of the trial and of the sweep."""
    register: str | None = None
    """Also register the model under this name in MLflow's registry, with the alias champion."""
    json: bool = False
    """Print one JSON document to standard output, messages to standard error."""
    quiet: bool = False
    """Print only the folder that was written, and errors."""


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "best.py")
    from sweep.evidence.restore import restore_best  # torch takes seconds to import: not for --help

    out = Path(arguments.out).expanduser().resolve() if arguments.out else None
    output = Output(json=arguments.json, quiet=arguments.quiet)
    register, log = arguments.register, arguments.log_model
    return restore_best(arguments.name, out, arguments.format, register, log=log, output=output)


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
