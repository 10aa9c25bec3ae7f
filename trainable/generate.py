"""Text from a checkpoint: `python trainable/generate.py CHECKPOINT --prompt "def "`."""

import io
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro

from trainable.common.command import run_command
from trainable.common.errors import ConfigError
from trainable.common.output import Output
from trainable.common.parse import parse

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from trainable.model.transformer import Transformer


@dataclass(frozen=True)
class Arguments:
    """Write text from a trained model."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Checkpoint folder of a trial, or a folder exported by sweep/best.py."""
    prompt: str = "def "
    """Text to go on from."""
    max_tokens: int = 256
    """Stop after so many new tokens, or at <|endoftext|>."""
    temperature: float = 0.8
    """Above 1: more random; 0: always the likeliest token."""
    top_p: float = 0.95
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Seed of the draws."""
    json: bool = False
    """Print one JSON document once the text has ended."""
    quiet: bool = False
    """Print only what follows the prompt, and errors."""


def generate(
    model: "Transformer",
    prompt: "torch.Tensor",
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Return up to max_tokens new token ids (CS336 assignment 1, section 6): see drawn_tokens."""
    drawn = drawn_tokens(model, prompt, temperature=temperature, top_p=top_p, stop=stop, seed=seed)
    return list(islice(drawn, max_tokens))


def drawn_tokens(
    model: "Transformer",
    prompt: "torch.Tensor",
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yield new token ids, one at a time, until `stop` is drawn.

    Args:
        model: in any mode; it sees the last context_length tokens.
        prompt: token ids (T,), T >= 1.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: nucleus sampling (Holtzman et al. 2020).
        stop: token id that ends the text, and is not yielded.
        seed: of the draws.
    """
    import torch

    rng = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    window = deque(prompt.tolist(), maxlen=model.config.context_length)
    while True:
        with torch.no_grad():
            logits = model(torch.tensor([list(window)], device=device))[0, -1].float().cpu()
        token = _draw(logits, temperature, top_p, rng)
        if token == stop:
            return
        window.append(token)
        yield token


def _draw(logits: "torch.Tensor", temperature: float, top_p: float, rng: "torch.Generator") -> int:
    import torch

    if temperature == 0:
        return int(logits.argmax())
    logits = (logits - logits.max()).double() / temperature  # a tiny temperature gives no NaN
    ranked, order = torch.softmax(logits, dim=-1).sort(descending=True)
    # Keep each token until those before it reach top_p: the first is always kept.
    ranked[ranked.cumsum(0) - ranked >= top_p] = 0
    return int(order[torch.multinomial(ranked, 1, generator=rng)])


def _check(arguments: Arguments) -> None:
    rules = {
        "--max-tokens": (arguments.max_tokens, arguments.max_tokens >= 1, "1 or more"),
        "--temperature": (
            arguments.temperature,
            0 <= arguments.temperature < float("inf"),
            "0 or more",
        ),
        "--top-p": (arguments.top_p, 0 < arguments.top_p <= 1, "above 0 and at most 1"),
        "--seed": (arguments.seed, 0 <= arguments.seed < 2**63, "0 or more"),
    }
    for name, (value, holds, rule) in rules.items():
        if not holds:
            raise ConfigError(f"{name} {value}: must be {rule}")
    try:
        arguments.prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"--prompt {arguments.prompt!a}: is not UTF-8 text at character {error.start}; "
            "convert it, for example with `iconv -t UTF-8`"
        ) from error


def main(argv: list[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "generate.py")
    _check(arguments)
    import torch

    from trainable.checkpoint.export import load_model
    from trainable.data.tokenizer import end_of_text_id, load_tokenizer, text_pieces

    model, tokenizer_file = load_model(Path(arguments.checkpoint).expanduser())
    tokenizer = load_tokenizer(tokenizer_file)
    end = end_of_text_id(tokenizer)
    ids = tokenizer.encode(arguments.prompt, add_special_tokens=False).ids
    if not ids and end is None:
        raise ConfigError("--prompt: empty, and the vocabulary has no <|endoftext|> to start from")
    # An empty prompt begins a document: the token before a document is <|endoftext|>.
    prompt = torch.tensor(ids or [end])
    drawn = drawn_tokens(
        model,
        prompt,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        stop=end,
        seed=arguments.seed,
    )
    if arguments.json:
        _print_document(arguments, islice(drawn, arguments.max_tokens), tokenizer)
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know few characters
        sys.stdout.reconfigure(errors="replace")
    print("" if arguments.quiet else arguments.prompt, end="", flush=True)
    for piece in text_pieces(tokenizer, islice(drawn, arguments.max_tokens)):
        print(piece, end="", flush=True)
    print()
    return 0


def _print_document(arguments: Arguments, drawn: Iterator[int], tokenizer: "Tokenizer") -> None:
    from trainable.data.tokenizer import text_pieces
    from trainable.training.documents import TextDocument

    ids = list(drawn)
    document = TextDocument(
        checkpoint=arguments.checkpoint,
        prompt=arguments.prompt,
        text="".join(text_pieces(tokenizer, iter(ids))),
        new_tokens=len(ids),
        seed=arguments.seed,
    )
    Output(json=True).result(document.text, lambda: document)


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
