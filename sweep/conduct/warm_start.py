"""What a new sweep takes over of older ones: their trials, as data that its search begins with.

It is copied into the new sweep's record before anything else, so that a resume knows the same
whatever has become of the older ones. Not taken over: failed trials, which say nothing; what older
sweeps had themselves taken over; words that are no choice here, for of those no distance is known.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sweep.common.errors import SweepError
from sweep.config.space import value_of
from sweep.config.sweep import SweepConfig
from sweep.record.folder import find_sweep, read_sweep
from sweep.record.lines import Event
from sweep.record.results import SweepRecord, TrialRecord
from trainable.common.errors import ConfigError
from trainable.config.trial import TrialConfig

Older = tuple[str, SweepConfig, SweepRecord]
"""An older sweep: its name, settings and record."""

MOST_LOST = 100
"""Diverged and out-of-memory trials that are taken over, of more an even choice."""
MAY_DIFFER = {
    *("train.seed", "train.device", "train.threads", "train.grad_accumulation"),
    *("train.precision", "train.attention", "train.compile"),
}
"""Settings that older trials may have otherwise, beside the searched: noise and low-order bits,
for which each older sweep has an offset. The dataset is compared by its digest."""


def warm_started(config: SweepConfig, dataset_digest: str) -> tuple[SweepConfig, list[TrialRecord]]:
    """Return a new sweep's settings, and the older trials that it takes over (see taken_over).

    Raises:
        ConfigError: an older sweep trained on other tokens, or with other settings.
        SweepError: it is unknown or damaged, or none of its trials is of use.
    """
    if not config.search.warm_start:
        return config, []
    folders = list(dict.fromkeys(find_sweep(name) for name in config.search.warm_start))
    older: list[Older] = []
    for folder in folders:
        stored = read_sweep(folder)
        if stored.identity.dataset_digest != dataset_digest:
            raise ConfigError(
                f"search.warm_start {folder.name}: its dataset {stored.config.trial.data.dataset} "
                f"is {stored.identity.dataset_digest}, that of this sweep {dataset_digest}: losses "
                "on other tokens say nothing; leave it out"
            )
        older.append((folder.name, stored.config, SweepRecord.read(folder)))
    search = config.search.model_copy(update={"warm_start": [folder.name for folder in folders]})
    return taken_over(config.model_copy(update={"search": search}), older)


def taken_over(
    config: SweepConfig, older: Sequence[Older]
) -> tuple[SweepConfig, list[TrialRecord]]:
    """Return a sweep's settings, and what it takes over of older ones on the same tokens.

    A start point that one of their trials has tried is no longer one: what came of it is known.

    Raises:
        ConfigError: an older sweep has other settings.
        SweepError: none of its trials is of use.
    """
    sound: list[TrialRecord] = []
    lost: list[TrialRecord] = []
    for name, its_config, record in older:
        _require_same(name, its_config, config)
        taken = _taken(name, its_config, config, record)
        if not taken:
            raise SweepError(
                f"search.warm_start {name}: no trial of it has ended that this search could learn "
                "from; leave it out"
            )
        sound += [trial for trial in taken if trial.is_comparable]
        lost += [trial for trial in taken if not trial.is_comparable]
    trials = _most_telling(sound) + [lost[n] for n in _even(len(lost), MOST_LOST)]
    points = [p for p in config.start_points if not any(_tried(p, t) for t in trials)]
    return config.model_copy(update={"start_points": points}), trials


def older_events(older: Sequence[TrialRecord]) -> list[Event]:
    """Return the trials as events of the new sweep's record."""
    now = round(time.time(), 3)
    return [
        {
            **{"event": "older_trial", "time": now, "sweep": trial.sweep, "older": trial.name},
            **{"params": trial.params, "outcome": trial.outcome},
            "curve": [[int(e["step"]), e["val_loss"]] for e in trial.evaluations],
        }
        for trial in older
    ]


def _require_same(name: str, older: SweepConfig, config: SweepConfig) -> None:
    """Refuse trials with other settings, outside of what either sweep searches."""
    plans = [_plan(older), _plan(config)]
    if plans[0] != plans[1]:
        raise ConfigError(
            f"search.warm_start {name}: its trials are compared at {plans[0]}, here at {plans[1]}; "
            "losses of unlike plans say nothing of each other: compare as there, or leave it out"
        )
    free = {*MAY_DIFFER, *older.space, *config.space}
    differences = [
        f"{field} {value_of(older.trial, field)} there, {value_of(config.trial, field)} here"
        for field in _fields(config.trial)
        if field not in free and value_of(older.trial, field) != value_of(config.trial, field)
    ]
    if differences:
        raise ConfigError(
            f"search.warm_start {name}: its trials have other settings ({'; '.join(differences)}): "
            "set or search them as there, or leave it out"
        )


def _plan(config: SweepConfig) -> str:
    flops = config.search.flops
    return f"equal FLOPs, search.flops {flops}" if config.by_flops else "equal steps"


def _fields(trial: TrialConfig) -> list[str]:
    tree = trial.model_dump(exclude={"data"})
    return [f"{section}.{field}" for section, fields in tree.items() for field in fields]


def _taken(
    name: str, older: SweepConfig, config: SweepConfig, record: SweepRecord
) -> list[TrialRecord]:
    """Return the trials of an older sweep that tell something, with values for this one's model."""
    also = [field for field in older.space if field not in config.space]
    taken = []
    for trial in sorted(record.trials.values(), key=lambda trial: trial.number):
        whole = older.trial_config(trial.params)
        params = {field: value_of(whole, field) for field in (*config.space, *also)}
        tells = trial.outcome in ("diverged", "out_of_memory") or (
            trial.outcome in ("finished", "stopped") and trial.step > 0
        )
        if tells and _are_inputs(params, config):
            sound = trial.is_comparable
            kept = trial.evaluations if sound else []
            taken.append(replace(trial, params=params, evaluations=kept, sweep=name))
    constant = [
        field
        for field in also
        if all(t.params[field] == value_of(config.trial, field) for t in taken)
    ]
    for trial in taken:
        for field in constant:
            del trial.params[field]
    return taken


def _are_inputs(params: Mapping[str, Any], config: SweepConfig) -> bool:
    """Say whether the model can place a trial: by numbers, and by words that are a choice here."""
    for field, value in params.items():
        domain = config.space.get(field)
        if value is None or (domain is None and value_of(config.trial, field) is None):
            return False
        if domain is not None and isinstance(value, str) and not domain.contains(value):
            return False
    return True


def _most_telling(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials, and of each the evaluations, that a search by gp would reckon with."""
    from sweep.search.gp_model import MOST_ROWS, thinned  # scipy takes a while to import

    kept: dict[tuple[str | None, int], TrialRecord] = {}
    for trial, evaluation in thinned(trials, MOST_ROWS):
        key = (trial.sweep, trial.number)
        kept.setdefault(key, replace(trial, evaluations=[])).evaluations.append(evaluation)
    keys = ((trial.sweep, trial.number) for trial in trials)
    return [kept[key] for key in keys if key in kept]


def _even(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [int(n) for n in np.linspace(0, count - 1, most)]


def _tried(point: Mapping[str, Any], trial: TrialRecord) -> bool:
    return all(trial.params[name] == value for name, value in point.items())
