"""The parts of a sweep whose trials take the same: by the conditions of its `resources`."""

import math
from dataclasses import dataclass

from sweep.config.resources import Condition, Share, given_share
from sweep.config.space import Domain, value_of
from sweep.config.sweep import SweepConfig


@dataclass(frozen=True)
class Part:
    """The trials that one condition gives their resources, or those that meet none."""

    condition: str | None
    """As it is written; None: trials that meet none."""
    config: SweepConfig
    """A sweep of these trials alone: its space is theirs, and all take the same."""
    weight: float
    """Share of the space, and so about that of the trials."""

    @property
    def share(self) -> Share:
        """What each of them takes."""
        return self.config.share

    @property
    def words(self) -> str:
        """Which trials these are, for people."""
        others = "all other trials" if self.weight < 1 else "trials"
        return f"trials with {self.condition}" if self.condition else others


def parts_of(config: SweepConfig) -> list[Part]:
    """Return the parts of a sweep, in the order of its conditions; the rest, if any, is the last.

    One comparison each splits a field's domain in two, so each part is a space like the whole one.
    """
    if not config.resources:
        return [Part(None, config, 1.0)]
    parts = []
    left = dict(config.space)
    for text, given in config.resources.items():
        condition = Condition.read(text)
        domain = left.get(condition.field) or _fixed(config, condition.field)
        met, beyond = condition.narrowed(domain), condition.negated.narrowed(domain)
        if met is not None:
            space = _with(config, left, condition.field, met)
            parts.append(_part(config, text, space, given_share(given, config.share)))
        if beyond is None:
            return parts
        left = _with(config, left, condition.field, beyond)
    return [*parts, _part(config, None, left, config.share)]


def _fixed(config: SweepConfig, field: str) -> Domain:
    """Return the one value of a field that is not searched, as a domain."""
    return Domain(choice=[value_of(config.trial, field)])


def _with(
    config: SweepConfig, space: dict[str, Domain], field: str, domain: Domain
) -> dict[str, Domain]:
    return {**space, field: domain} if field in config.space else space


def _part(
    config: SweepConfig, condition: str | None, space: dict[str, Domain], share: Share
) -> Part:
    takes = {"cpus_per_trial": share.cpus, "gpus_per_trial": share.gpus}
    own = config.model_copy(update={"resources": {}, "space": space, **takes})
    weight = math.prod(_extent(space[n]) / _extent(d) for n, d in config.space.items())
    return Part(condition, own, weight)


def _extent(domain: Domain) -> float:
    """Return how much there is to draw from a domain; never 0."""
    if domain.choice is not None:
        return len(domain.choice)
    low, high = domain.values
    if domain.integers:
        return float(high - low + 1)
    length: float = math.log(high / low) if domain.loguniform else high - low
    return length or 1e-300  # a range of one value: what is divided by it is the same
