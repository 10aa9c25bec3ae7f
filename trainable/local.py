"""One trial on this machine, without Ray or MLflow: `python trainable/local.py --optim.lr 1e-3`.

The same loop as in a sweep; a breakpoint in it stops here.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the path starts at this folder, not the project
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

from pydantic import Field

from trainable.common.command import run_command
from trainable.common.errors import CheckpointError, ConfigError, DivergedError
from trainable.common.output import Output
from trainable.common.paths import config_file
from trainable.config.explain import validate
from trainable.config.flags import parse_flags, pop_option, pop_output
from trainable.config.trial import TrialConfig
from trainable.config.yaml_file import read_yaml

if TYPE_CHECKING:
    from trainable.training.evaluation import Evaluation
    from trainable.training.trainer import Trainer


class LocalConfig(TrialConfig):
    """A trial and what to do beside it."""

    checkpoint: str | None = Field(default=None, min_length=1)
    """Folder for the checkpoint, replaced at each evaluation; unset: none is kept."""
    resume: str | None = Field(default=None, min_length=1)
    """Checkpoint folder to go on from, with the same model and data. Other settings are those of
    the YAML file and the flags, not the checkpoint's; what differs is printed."""
    verify_data: bool = False
    """Read every byte of the token files, even if their size and time are as before."""
    overfit_one_batch: bool = False
    """Train on one batch for ever: a working model and optimizer bring its loss to nearly 0."""
    profile: str | None = Field(default=None, min_length=1)
    """Write a torch.profiler trace of the run to this file (open it in ui.perfetto.dev)."""


def train(config: LocalConfig, output: Output | None = None) -> int:
    """Train one trial, print a line per evaluation, and return the exit status."""
    output = output or Output()
    # torch takes seconds to import: not for --help
    from trainable.checkpoint.folder import read_manifest
    from trainable.data.batches import open_dataset
    from trainable.data.build import ensure_default
    from trainable.hardware.device import resolve_device
    from trainable.hardware.memory import available_bytes, least_bytes, require_memory
    from trainable.training.choice import as_chosen, resolve
    from trainable.training.trainer import Trainer

    made = ensure_default(config.data)
    if made:
        output.say(
            f"prepared {config.data.dataset}: {made.train_tokens:,} tokens of the {made.source}"
        )
    if config.resume:
        config = as_chosen(config, read_manifest(Path(config.resume).expanduser()).config.train)
    dataset = open_dataset(config.data, config.model.context_length, verify=config.verify_data)
    available = available_bytes(resolve_device(config.train))
    needed = least_bytes(config, dataset.vocab_size, copied=False)
    require_memory(config, dataset.vocab_size, needed, available)
    config = resolve(config, dataset)
    trainer = Trainer(config, dataset, overfit_one_batch=config.overfit_one_batch)
    checkpoint = _writable_folder(config.checkpoint) if config.checkpoint else None
    if config.resume:
        manifest = trainer.load(Path(config.resume).expanduser())
        changed = ", ".join(_changed(manifest.config, config))
        output.say(
            f"resumed from {config.resume} at step {manifest.iteration:,}"
            + (f"; changed since then: {changed}" if changed else "")
        )
        if manifest.threads != config.train.threads:
            print(
                f"warning: saved with {manifest.threads} threads, running with "
                f"{config.train.threads}: low-order bits will differ",
                file=sys.stderr,
            )
        if trainer.iteration >= config.train.steps:
            output.say(f"nothing to do: train.steps is {config.train.steps:,}; raise it to go on")
            _tell_result(config, trainer, [], None, output)
            return 0
    parameters = sum(p.numel() for p in trainer.model.parameters())
    output.say(
        f"{parameters:,} parameters, {config.train.steps:,} steps of "
        f"{config.tokens_per_step:,} tokens, lr {config.optim.lr:g}, {trainer.device}, "
        f"{config.train.threads} thread(s); {config.train.computed_in}"
    )
    started = time.perf_counter()
    evaluations: list[Evaluation] = []
    try:
        with _profiler(config.profile, output):
            for evaluation in trainer.run():
                train_loss = evaluation.train_loss
                output.say(
                    f"step {evaluation.step:>7,}  "
                    f"train {'   -  ' if train_loss is None else f'{train_loss:.4f}'}  "
                    f"val {evaluation.val_loss:.4f}  "
                    f"lr {evaluation.lr:.2e}  "
                    f"{evaluation.tokens_per_second or 0:>9,.0f} tokens/s  "
                    f"{time.perf_counter() - started:7.1f} s",
                )
                evaluations.append(evaluation)
                if checkpoint:
                    _save(trainer, checkpoint)
    except DivergedError as error:
        print(f"{error}; lower optim.lr", file=sys.stderr)
        _tell_result(config, trainer, evaluations, error, output)
        return 1
    if checkpoint:
        output.say(f"checkpoint in {checkpoint}")
    _tell_result(config, trainer, evaluations, None, output)
    return 0


def _tell_result(
    config: LocalConfig,
    trainer: "Trainer",
    evaluations: "list[Evaluation]",
    error: DivergedError | None,
    output: Output,
) -> None:
    from trainable.training.documents import TrialRunDocument

    best = min((e.val_loss for e in evaluations), default=None)
    output.result(
        "diverged" if error else "no evaluation" if best is None else f"val_loss {best:.4f}",
        lambda: TrialRunDocument(
            outcome="diverged" if error else "finished",
            reason=str(error) if error else None,
            parameters=sum(p.numel() for p in trainer.model.parameters()),
            device=str(trainer.device),
            evaluations=[evaluation.metrics() for evaluation in evaluations],
            checkpoint=config.checkpoint,
            config=config.model_dump(mode="json", by_alias=True),
        ),
    )


def _changed(before: TrialConfig, now: TrialConfig) -> Iterator[str]:
    """Yield each setting that is another now; the data are the same, and threads are told apart."""
    for name in ("model", "optim", "train"):
        section = getattr(now, name)
        for field, old in getattr(before, name):
            new = getattr(section, field)
            if new != old and field != "threads":
                yield f"{name}.{field} {old} -> {new}"


def _save(trainer: "Trainer", folder: Path) -> None:
    try:
        trainer.save(folder)
    except OSError as error:
        raise CheckpointError(
            f"--checkpoint {folder}: {error.strerror} at step {trainer.iteration:,}; what was "
            "saved before is whole"
        ) from error


def _writable_folder(name: str) -> Path:
    folder = Path(name).expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--checkpoint {folder}: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def _profiler(trace: str | None, output: Output) -> Iterator[None]:
    if trace is None:
        yield
        return
    import torch

    with torch.profiler.profile() as profile:
        yield
    profile.export_chrome_trace(trace)
    output.say(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def main(argv: list[str]) -> int:
    """Run the command."""
    output, flags = pop_output(argv)
    path, flags = pop_option(flags, "--config")
    source = config_file(path or "trial.yaml")
    default = validate(LocalConfig, read_yaml(source), str(source))
    about = (
        f"One trial, locally. --config FILE names another YAML file than {source.name}. --json: "
        "print one JSON document to standard output, messages to standard error. --quiet: print "
        "only the best loss and errors."
    )
    return train(parse_flags(LocalConfig, default, flags, "local.py", about), output)


def cli() -> None:
    """Run the command as a program."""
    run_command(main)


if __name__ == "__main__":
    cli()
