"""One finding: a sentence about a sweep, its numbers, and the rule that made it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHOWN_NAMES = 3
"""Names that a sentence lists; of more it gives the number."""


@dataclass(frozen=True)
class Finding:
    """A sentence that a person can act on."""

    kind: str
    """Which rule made it, in a word; a sweep has at most one finding of a kind."""
    text: str
    """The sentence, without a full stop."""
    numbers: dict[str, Any]
    """What the sentence says, as numbers, names and lists of them: JSON without NaN."""
    rule: str
    """When there is such a finding, and how its numbers are found."""


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: "a", "a and b", "a, b, c and 4 more"."""
    shown = list(names[:SHOWN_NAMES])
    if len(names) > SHOWN_NAMES:
        shown.append(f"{len(names) - SHOWN_NAMES} more")
    *first, last = shown
    return f"{', '.join(first)} and {last}" if first else last
