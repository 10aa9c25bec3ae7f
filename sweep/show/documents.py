"""A sweep, the list of sweeps, a restored trial as JSON documents: what programs read."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from sweep.analysis.findings import findings
from sweep.analysis.rows import trial_rows
from sweep.analysis.sizes import size_fields
from sweep.analysis.study import Study
from sweep.record.folder import SweepFile
from sweep.record.results import Outcome, SavedCheckpoint, SweepRecord, TrialRecord
from sweep.record.retention import needed
from sweep.record.state import State
from trainable.common.document import Document


class BestDocument(Document):
    """The trial with the lowest validation loss, among those whose losses count."""

    trial: str
    params: dict[str, Any]
    """Searched fields by dotted name."""
    step: int
    """Of the evaluation, in optimizer steps."""
    val_loss: float
    """Nats per token."""
    val_bpb: float | None
    """The same in bits per byte of text; null where the text is not known."""


class CheckpointDocument(Document):
    """A checkpoint that is kept."""

    step: int
    val_loss: float
    path: str
    """Where it lies, relative to the place of the sweep's checkpoints."""


class TrialDocument(Document):
    """One trial: a row of trial_rows, its settings, evaluations and checkpoints."""

    trial: str
    rank: int
    """From 1, the best; trials whose losses do not count come last."""
    outcome: Outcome | Literal["running"]
    rung: int | None
    """Step of the rung that stopped it."""
    reason: str | None
    """Why it diverged, failed or ran out of memory."""
    params: dict[str, Any]
    """Searched fields by dotted name."""
    size: str
    """As people say it, e.g. 128x4."""
    parameters: int | None
    """All that are trained."""
    val_loss: float | None
    """Lowest validation loss, nats per token; null where it does not count."""
    val_bpb: float | None
    """The same evaluation in bits per byte of text."""
    best_step: int | None
    """Step of that evaluation."""
    last_val_loss: float | None
    """The last one that was told, whether it counts or not."""
    step: int
    """Last reported optimizer step."""
    full_steps: int
    """Of the trial in full: the sweep's, or at equal FLOPs its own."""
    tokens: int | None
    """Trained on so far."""
    flops: float | None
    """Spent on them."""
    seconds: float | None
    """Spent on training so far."""
    restarts: int
    """Times it went on from a checkpoint after its worker died."""
    started: float
    """Unix time, seconds."""
    ended: float | None
    """Unix time of the outcome, seconds."""
    evaluations: list[dict[str, int | float]]
    """Reported metrics by ascending step: step, tokens, flops, seconds, val_loss and so on."""
    checkpoints: list[CheckpointDocument]


class SizeDocument(Document):
    """What a fit to all learning curves says of one model size."""

    size: dict[str, Any]
    """The size's searched fields."""
    best: dict[str, Any]
    """Best values of the other searched fields."""
    rates: tuple[float, float] | None
    """Interval that holds the best learning rate with 80 %; null if no rate is searched."""
    loss: float | None
    """Final loss to expect there, nats per token; null while no trial came to its end."""
    deviation: float
    """Standard deviation of that, nats."""
    known_by: Literal["finished", "predicted"] | None
    """finished: a trial of this size came to its end within `rates`."""
    flops: float | None
    """Of a full trial."""
    trials: int
    finished: int


class FindingDocument(Document):
    """What was found, in words."""

    kind: str
    text: str
    numbers: dict[str, Any]
    rule: str


class PlannedCostDocument(Document):
    """What the plan of the first session expected."""

    seconds: float | None
    steps: float
    disk_bytes: int
    standard_error: float | None
    """Of a difference of two losses on the validation windows, nats."""


class SweepDocument(Document):
    """One sweep: `run.py --json`, `status.py NAME --json`."""

    format: Literal["lm-sweep.sweep/1"] = "lm-sweep.sweep/1"
    name: str
    folder: str
    state: State
    sessions: int
    seconds: float
    """Wall-clock time of all sessions."""
    num_samples: int
    """Trials asked for."""
    steps: int
    """Optimizer steps of a full trial; at equal FLOPs those from which the budget follows."""
    counts: dict[str, int]
    """Trials by outcome, and those running; no zeros."""
    plan: PlannedCostDocument | None
    best: BestDocument | None
    findings: list[FindingDocument]
    sizes: list[SizeDocument]
    trials: list[TrialDocument]
    """In the order of suggestion."""
    config: dict[str, Any]
    """Every setting, as in YAML."""
    warm_start: dict[str, int]
    """Trials of older sweeps that the search began with, by sweep."""
    identity: dict[str, Any]
    """Digests of data and code, versions of libraries, git commit."""


class SweepLine(Document):
    """One sweep among others."""

    name: str
    state: State | Literal["damaged"]
    trials: int | None = None
    num_samples: int | None = None
    best_trial: str | None = None
    val_loss: float | None = None
    damage: str | None = None
    """What is damaged, and what to do."""


class SweepsDocument(Document):
    """All sweeps: `status.py --json`."""

    format: Literal["lm-sweep.sweeps/1"] = "lm-sweep.sweeps/1"
    folder: str
    sweeps: list[SweepLine]


class WrittenDocument(Document):
    """A file that was written of one sweep or of several: `report.py NAME --json`."""

    format: Literal["lm-sweep.written/1"] = "lm-sweep.written/1"
    kind: Literal["report", "comparison", "study"]
    sweeps: list[str]
    path: str


class RestoredDocument(Document):
    """The best trial, restored: `best.py NAME --json`."""

    format: Literal["lm-sweep.restored/1"] = "lm-sweep.restored/1"
    sweep: str
    trial: str
    params: dict[str, Any]
    """Searched fields by dotted name."""
    checkpoint: str
    """Where the weights came from, verified."""
    step: int
    """Of the checkpoint, in optimizer steps."""
    recorded_val_loss: float
    """Nats per token, as the sweep recorded it."""
    val_loss: float
    """The same, evaluated now."""
    exact: bool
    """Whether the two are equal to the last bit."""
    layout: Literal["native", "hf"]
    exported: str
    """Folder that was written."""
    logged: str | None
    """Address of the logged model in MLflow, if it was logged."""
    registered: str | None
    """Name in MLflow's registry, if it was registered."""
    version: int | None
    """Version there."""


def sweep_document(folder: Path, sweep: SweepFile, study: Study, state: State) -> SweepDocument:
    """Return a sweep as programs read it."""
    config, record = sweep.config, study.record
    return SweepDocument(
        name=folder.name,
        folder=str(folder),
        state=state,
        sessions=record.sessions,
        seconds=record.seconds,
        num_samples=record.num_samples,
        steps=config.trial.train.steps,
        counts=record.counts(),
        plan=PlannedCostDocument.model_validate(record.plan, from_attributes=True)
        if record.plan
        else None,
        best=_best(record),
        findings=[
            FindingDocument.model_validate(finding, from_attributes=True)
            for finding in findings(study)
        ],
        sizes=_sizes(study),
        trials=_trials(study),
        config=config.model_dump(mode="json", by_alias=True),
        warm_start=Counter(str(trial.sweep) for trial in record.older),
        identity=sweep.identity.model_dump(mode="json"),
    )


def _best(record: SweepRecord) -> BestDocument | None:
    trial = record.best
    if trial is None or trial.best is None:
        return None
    return BestDocument(
        trial=trial.name,
        params=trial.params,
        step=int(trial.best["step"]),
        val_loss=trial.best["val_loss"],
        val_bpb=trial.best.get("val_bpb"),
    )


def _sizes(study: Study) -> list[SizeDocument]:
    sizes, others = size_fields(study.config)
    return [
        SizeDocument(
            size=dict(zip(sizes, row.size, strict=True)),
            best=dict(zip(others, row.best, strict=True)),
            rates=row.rates,
            loss=row.loss,
            deviation=row.deviation,
            known_by=row.known_by,
            flops=row.flops,
            trials=row.trials,
            finished=row.finished,
        )
        for row in study.sizes
    ]


def _trials(study: Study) -> list[TrialDocument]:
    config, record = study.config, study.record
    kept = needed(record, config.keep_checkpoints)
    return [
        _trial(
            {name: value for name, value in row.items() if name not in config.space},
            record.trials[row["trial"]],
            kept.get(row["trial"], []),
        )
        for row in trial_rows(study)
    ]


def _trial(row: dict[str, Any], trial: TrialRecord, kept: list[SavedCheckpoint]) -> TrialDocument:
    return TrialDocument(
        **row,
        params=trial.params,
        evaluations=trial.evaluations,
        checkpoints=[
            CheckpointDocument.model_validate(checkpoint, from_attributes=True)
            for checkpoint in kept
        ],
    )
