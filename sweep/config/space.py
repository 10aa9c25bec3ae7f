"""The search space: domains over a trial's fields, checked against what the trial accepts."""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from trainable.common.errors import ConfigError
from trainable.config.explain import explain
from trainable.config.section import Section
from trainable.config.trial import TrialConfig

RATE = "optim.lr"
"""The field of the learning rate: a space mostly has it."""

Value = bool | int | float | str

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]

JOINED = (
    ("model.d_model", "model.head_dim"),
    ("model.parametrization", "model.tie_embeddings"),
    ("optim.schedule", "optim.warmup_fraction", "optim.decay_fraction"),
    ("train.batch_size", "train.grad_accumulation", "train.steps", "train.eval_every"),
)
"""Fields that one rule of the trial joins; all other fields are valid or not by themselves."""

MAX_COMBINATIONS = 20_000
"""Combinations of joined fields that are tried against the trial's rules: a few seconds' worth."""


class Domain(Section):
    """The values one field may take: exactly one of these kinds."""

    loguniform: Pair | None = None
    """[low, high]: uniform in the logarithm, as learning rates want."""
    uniform: Pair | None = None
    """[low, high]: uniform."""
    integers: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        default=None, alias="int"
    )
    """Written `int: [low, high]`: whole numbers, both ends included."""
    choice: Annotated[list[Value], Field(min_length=1)] | None = None
    """Any of these values."""

    @property
    def kind(self) -> str:
        """Name of the kind that is set, as it is written."""
        return next(iter(self.model_dump(by_alias=True, exclude_none=True)))

    @property
    def values(self) -> list[Any]:
        """The two ends, or the choices."""
        values: list[Any] = self.model_dump(by_alias=True)[self.kind]
        return values

    @property
    def is_fixed(self) -> bool:
        """Whether it has one value only."""
        return len(set(self.values)) == 1

    def extremes(self) -> list[Value]:
        """Return the values whose validity stands for the whole domain's."""
        if self.integers:
            low, high = self.integers
            return [*range(low, min(high, low + 63) + 1), *([high] if high > low + 63 else [])]
        return list(self.values)

    def contains(self, value: Any) -> bool:
        """Say whether `value` can be drawn."""
        if self.choice is not None:
            return any(value == c and type(value) is type(c) for c in self.choice)
        if isinstance(value, bool) or not isinstance(value, int if self.integers else (int, float)):
            return False
        low, high = self.values
        return bool(low <= value <= high)

    @model_validator(mode="after")
    def _one_sound_kind(self) -> Self:
        kinds = list(self.model_dump(by_alias=True, exclude_none=True))
        if len(kinds) != 1:
            raise ValueError(
                "a domain has exactly one of loguniform, uniform, int, choice; "
                f"this one has {', '.join(kinds) or 'none'}"
            )
        if self.choice is None:
            low, high = self.values
            if low > high:
                raise ValueError(f"the range [{low}, {high}] is reversed: write [{high}, {low}]")
            if self.loguniform and low <= 0:
                raise ValueError(f"loguniform from {low}: a logarithm needs a lower end above 0")
        elif len({(type(c), c) for c in self.choice}) != len(self.choice):
            raise ValueError(f"choice {self.choice}: a value stands twice; keep one")
        return self


def check_space(
    space: Mapping[str, Domain], start_points: list[dict[str, Any]], trial: TrialConfig
) -> None:
    """Refuse a space that could suggest an invalid trial, and start points outside it.

    Rules of the trial are bounds, sums and divisors: a domain's ends and first whole numbers stand
    for all of it, and only the fields that a rule joins are combined.

    Raises:
        ConfigError: a field does not exist, a value or combination of values is refused by the
            trial, or a start point names an unknown field or a value outside its domain.
    """
    known = list(searchable_fields(trial))
    for name, domain in space.items():
        if name not in known:
            raise ConfigError(f"space.{name}: {nearest_field(name, trial)}")
        partners = [field for group in JOINED if name in group for field in group if field in space]
        for value in domain.extremes():
            _require_valid(trial, {name: value}, f"space.{name}", joined=len(partners) > 1)
    for group in JOINED:
        extremes = {name: space[name].extremes() for name in group if name in space}
        combinations = math.prod(map(len, extremes.values()))
        if combinations > MAX_COMBINATIONS:
            raise ConfigError(
                f"space: {' x '.join(extremes)} have {combinations:,} combinations; a rule joins "
                f"them, so each is tried; give fewer choices, at most {MAX_COMBINATIONS:,} in all"
            )
        for values in itertools.product(*extremes.values()):
            _require_valid(trial, dict(zip(extremes, values, strict=True)), "space")
    for number, point in enumerate(start_points):
        for name, value in point.items():
            if name not in space:
                raise ConfigError(
                    f"start_points[{number}].{name}: not in the space; it has {', '.join(space)}"
                )
            if not space[name].contains(value):
                raise ConfigError(
                    f"start_points[{number}].{name} = {value!r}: outside its domain "
                    f"{space[name].kind} {space[name].values}"
                )


def searchable_fields(trial: TrialConfig) -> Iterator[str]:
    """Yield the dotted names of the trial's fields, e.g. "optim.lr"."""
    for section, fields in trial.model_dump().items():
        for field in fields:
            yield f"{section}.{field}"


def value_of(trial: TrialConfig, name: str) -> Any:
    """Return the value of a trial's field, by its dotted name."""
    section, _, field = name.partition(".")
    return getattr(getattr(trial, section), field)


def is_within(space: Mapping[str, Domain], trial: TrialConfig, params: Mapping[str, Any]) -> bool:
    """Say whether a sweep could suggest an older one's trial, by what either searched."""
    return all(
        space[name].contains(value) if name in space else value == value_of(trial, name)
        for name, value in params.items()
    )


def nearest_field(name: str, trial: TrialConfig) -> str:
    """Return what to say of a field that the trial does not have, with the nearest one."""
    known = list(searchable_fields(trial))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"the trial has no such field; {hint}"


def _require_valid(
    trial: TrialConfig, values: dict[str, Any], where: str, *, joined: bool = False
) -> None:
    """Refuse values that the trial refuses.

    With `joined`, they may break a rule between fields: another searched field can mend that.
    """
    try:
        trial.with_values(values)
    except ValidationError as error:
        if joined and all(problem["type"] == "value_error" for problem in error.errors()):
            return
        raise ConfigError(f"{where}: {refused(values, error)}") from error


def refused(values: Mapping[str, Any], error: ValidationError) -> str:
    """Return why the trial refuses values, in one line."""
    shown = ", ".join(f"{name} = {value!r}" for name, value in values.items())
    return f"{shown} is refused: {'; '.join(explain(error, TrialConfig))}"
