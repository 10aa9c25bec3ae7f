"""Resources of a trial that depend on its size: conditions on its fields, and what each gives."""

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from sweep.config.space import Domain, nearest_field, value_of
from trainable.config.section import Section
from trainable.config.trial import TrialConfig

_PATTERN = r"\s*([a-z_0-9]+(?:\.[a-z_0-9]+)+)\s*(>=|<=|>|<)\s*(\S+)\s*"

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_NEGATED = {">=": "<", "<": ">=", "<=": ">", ">": "<="}


class Share(NamedTuple):
    """What one trial takes while it runs."""

    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """CPU threads of the trial."""
        return max(1, int(self.cpus))

    @property
    def words(self) -> str:
        """The same for people."""
        return f"{self.cpus:g} CPU and {self.gpus:g} GPU"


Fits = Callable[[Collection[Share], Share], bool]
"""Says whether a trial may begin beside running ones, by what each takes."""


class Resources(Section):
    """What trials take that meet a condition; what is left out is as for all others."""

    cpus: float | None = Field(default=None, ge=0.1, le=4_096)
    """CPU cores, as in cpus_per_trial."""
    gpus: float | None = Field(default=None, ge=0, le=1_024)
    """GPUs, as in gpus_per_trial."""

    @model_validator(mode="after")
    def _whole_or_part_of_one(self) -> Self:
        if self.cpus is None and self.gpus is None:
            raise ValueError("says neither cpus nor gpus: name one of them, e.g. {gpus: 1}")
        for name in ("cpus", "gpus"):
            require_whole(name, getattr(self, name) or 0.0)
        return self


def require_whole(name: str, value: float) -> None:
    """Refuse a share of more than one core or GPU that is not of whole ones.

    Raises:
        ValueError: it is such a share.
    """
    if value > 1 and value != int(value):
        raise ValueError(f"{name} {value}: above 1 it must be whole; take {round(value)}")


@dataclass(frozen=True)
class Condition:
    """A comparison of one field of a trial with a number."""

    field: str
    """Dotted name."""
    sign: str
    """One of >=, >, <= and <."""
    number: float

    @classmethod
    def read(cls, text: str) -> "Condition":
        """Return the condition in a text like "model.d_model >= 512".

        Raises:
            ValueError: it is none.
        """
        parts = re.fullmatch(_PATTERN, text)
        try:
            if parts is None:
                raise ValueError(text)
            number = float(parts[3])
            if not math.isfinite(number):
                raise ValueError(text)
        except ValueError:
            raise ValueError(
                f"resources {text!r:.80}: must be a field, one of >=, >, <= and <, and a number, "
                "e.g. model.d_model >= 512"
            ) from None
        return cls(parts[1], parts[2], number)

    @property
    def negated(self) -> "Condition":
        """The condition that holds where this one does not."""
        return Condition(self.field, _NEGATED[self.sign], self.number)

    def holds(self, value: float) -> bool:
        """Say whether it holds for a value of its field."""
        return _HOLDS[self.sign](value, self.number)

    def narrowed(self, domain: Domain) -> Domain | None:
        """Return the part of its field's domain for which it holds; None: it is empty."""
        if domain.choice is not None:
            kept = [value for value in domain.choice if self.holds(float(value))]
            return Domain(choice=kept) if kept else None
        low, high = domain.values
        rises = self.sign in (">=", ">")
        if not self.holds(high if rises else low):
            return None
        end = self._next_whole() if domain.integers else self.number
        ends = [max(low, end), high] if rises else [low, min(high, end)]
        return Domain.model_validate({domain.kind: ends})

    def _next_whole(self) -> int:
        """Return the whole number for which it just holds."""
        down, up = math.floor(self.number), math.ceil(self.number)
        return {">=": up, ">": down + 1, "<=": down, "<": up - 1}[self.sign]


def check_resources(
    resources: Mapping[str, Resources], space: Mapping[str, Domain], trial: TrialConfig
) -> None:
    """Refuse conditions that cannot be meant.

    Raises:
        ValueError: one cannot be read, its field does not exist or holds no number, or is searched
            and no trial meets it, or none that those before it have left.
    """
    fields = trial.model_dump()
    left = dict(space)
    for text in resources:
        condition = Condition.read(text)
        field = condition.field
        section, _, name = field.partition(".")
        if name not in fields.get(section, {}):
            raise ValueError(f"resources {text!r}: {nearest_field(field, trial)}")
        domain = space.get(field)
        for value in domain.extremes() if domain else [fields[section][name]]:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(
                    f"resources {text!r}: {field} is {value!r}, and only numbers are compared; "
                    "take another field, or give it a number under trial"
                )
        if domain is None:
            continue  # a flag may have fixed it: then the condition holds for all or for none
        if condition.narrowed(domain) is None:
            raise ValueError(
                f"resources {text!r}: no trial meets it, {field} is searched in {domain.kind} "
                f"{domain.values}; take the condition out, or another number"
            )
        rest = left.get(field)
        if rest is None or condition.narrowed(rest) is None:
            raise ValueError(
                f"resources {text!r}: no trial is left for it, those before take all that meet it; "
                "the first that holds counts, so move it up or take it out"
            )
        beyond = condition.negated.narrowed(rest)
        left = {**left, field: beyond} if beyond else {}


def share_of(resources: Mapping[str, Resources], others: Share, trial: TrialConfig) -> Share:
    """Return what a trial takes: by the first condition that it meets, else what all others do.

    Args:
        resources: the conditions, in order.
        others: what trials take that meet none, and what a condition leaves out.
        trial: whose fields are compared.
    """
    for text, given in resources.items():
        condition = Condition.read(text)
        if condition.holds(value_of(trial, condition.field)):
            return given_share(given, others)
    return others


def given_share(given: Resources, others: Share) -> Share:
    """Return what trials take that meet a condition."""
    return Share(
        others.cpus if given.cpus is None else given.cpus,
        others.gpus if given.gpus is None else given.gpus,
    )
