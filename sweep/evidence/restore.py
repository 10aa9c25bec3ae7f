"""From a sweep's record to a model in hand: find, verify, evaluate again, export, register."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweep.analysis.words import params_text
from sweep.common.errors import SweepError
from sweep.record.folder import find_sweep, read_sweep
from sweep.record.results import SavedCheckpoint, SweepRecord, TrialRecord
from sweep.record.retention import existing
from sweep.record.storage import store_of
from sweep.show.commands import command, shown_path
from sweep.show.documents import RestoredDocument
from trainable.checkpoint.export import export_model
from trainable.checkpoint.folder import Manifest, load_weights, read_manifest
from trainable.checkpoint.hugging_face import export_hugging_face
from trainable.common.errors import CheckpointError
from trainable.common.output import Output
from trainable.data.batches import open_dataset
from trainable.training.trainer import Trainer


@dataclass(frozen=True)
class Restored:
    """The best trial's best checkpoint, loaded and evaluated again."""

    trial: TrialRecord
    checkpoint: SavedCheckpoint
    manifest: Manifest
    trainer: Trainer
    val_loss: float
    """Validation loss found now, nats per token."""

    @property
    def exact(self) -> bool:
        """Whether the recorded loss came back to the last bit."""
        return self.val_loss == self.checkpoint.val_loss


def best_checkpoint(folder: Path, record: SweepRecord) -> tuple[TrialRecord, SavedCheckpoint]:
    """Return the best trial and the checkpoint of its best step, unverified.

    Raises:
        SweepError: no trial has a usable loss, or none became better by training.
        CheckpointError: the checkpoint is missing.
    """
    trial = record.best
    if trial is None or trial.best is None:
        raise SweepError(f"sweep {folder.name}: no trial has a usable loss yet")
    best_step = trial.best["step"]
    if best_step == 0:
        raise SweepError(
            f"sweep {folder.name}: its best loss, {trial.best['val_loss']:.4f}, is that of "
            f"{trial.name} before the first step, of which no checkpoint is made; training "
            "made every trial worse: search lower learning rates, or train longer"
        )
    checkpoint = next((c for c in existing(store_of(folder), trial) if c.step == best_step), None)
    if checkpoint is None:
        raise CheckpointError(
            f"sweep {folder.name}: the checkpoint of {trial.name} at step {best_step:,.0f} is "
            "gone, and --resume cannot bring it back; restore a backup, or train that trial again"
        )
    return trial, checkpoint


def load_best(folder: Path) -> Restored:
    """Restore and evaluate the best trial of a sweep.

    Every byte of checkpoint and dataset is read, and compared with its digest, once.

    Raises:
        SweepError: no trial has a usable loss, or none became better by training.
        CheckpointError: the trial's best checkpoint is missing or damaged.
        DataError: the dataset is missing or damaged.
    """
    trial, checkpoint = best_checkpoint(folder, SweepRecord.read(folder))
    with store_of(folder).reading(checkpoint.path) as place:
        return _restored(trial, checkpoint, place)


def _restored(trial: TrialRecord, checkpoint: SavedCheckpoint, place: Path) -> Restored:
    manifest = read_manifest(place)
    config = manifest.config
    dataset = open_dataset(config.data, config.model.context_length, verify=True)
    if manifest.dataset_digest != dataset.digest:
        raise CheckpointError(
            f"{trial.name}: trained on dataset {manifest.dataset_digest}, but "
            f"{dataset.folder} is {dataset.digest} now; bring the old one back"
        )
    trainer = Trainer(config, dataset)
    load_weights(place, trainer.model)
    return Restored(trial, checkpoint, manifest, trainer, trainer.evaluate())


def restore_best(
    name: str,
    out: Path | None,
    layout: Literal["native", "hf"],
    register: str | None,
    *,
    log: bool = False,
    output: Output,
) -> int:
    """Restore, check, export and, on request, log or register the best; return the exit status."""
    folder = find_sweep(name)
    name = folder.name  # of a path
    best = load_best(folder)
    trial, recorded = best.trial, best.checkpoint.val_loss
    output.say(f"best of {name}: {trial.name} {params_text(trial.params)}")
    place = store_of(folder).address(best.checkpoint.path)
    output.say(f"checkpoint {shown_path(place)}, verified")
    output.say(f"val_loss recorded {recorded!r}, evaluated now {best.val_loss!r}", end=": ")
    if best.exact:
        output.say("the same to the last bit")
    else:
        output.say(f"differs by {best.val_loss - recorded:.3g}")
        if abs(best.val_loss - recorded) > 1e-2 * abs(recorded):
            print("error: that is too much for another machine or thread count", file=sys.stderr)
            return 1
    target = out or folder / ("best" if layout == "native" else "best-hf")
    facts = {
        "sweep": name,
        "sweep_id": read_sweep(folder).identity.sweep_id,
        "trial": trial.name,
        "step": best.checkpoint.step,
        "val_loss": recorded,
    }
    trainer = best.trainer
    tokenizer = trainer.dataset.tokenizer_file
    export = export_model if layout == "native" else export_hugging_face
    export(target, trainer.model, best.manifest.config, tokenizer, facts)
    output.say(f"exported to {shown_path(target)}")
    logged = version = None
    if log:
        from sweep.tracking.registry import log_model  # MLflow takes seconds to import

        logged = f"models:/{log_model(target, folder, trial.name, best.checkpoint.step)}"
        output.say(f"logged in MLflow as {logged}")
    if register is not None:
        from sweep.tracking.registry import register_model  # MLflow takes seconds to import

        version = register_model(register, target, folder, trial.name, best.checkpoint.step)
        output.say(f"registered as {register} version {version}, alias champion")
    if layout == "hf":
        output.say(f'load it with  AutoModelForCausalLM.from_pretrained("{shown_path(target)}")')
    elif tokenizer.is_file():
        output.say(f'next  {command("trainable", "generate")} {shown_path(target)} --prompt "def "')
    output.result(
        shown_path(target),
        lambda: RestoredDocument(
            sweep=name,
            trial=trial.name,
            params=trial.params,
            checkpoint=str(place),
            step=best.checkpoint.step,
            recorded_val_loss=recorded,
            val_loss=best.val_loss,
            exact=best.exact,
            layout=layout,
            exported=str(target),
            logged=logged,
            registered=register,
            version=version,
        ),
    )
    return 0
