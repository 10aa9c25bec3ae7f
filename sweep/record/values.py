"""What an event may hold: a value of another kind makes it a damaged one."""

import math
import re
from typing import Any, TypeVar

T = TypeVar("T")


def of_kind(kind: type[T], value: Any) -> T:
    """Return a value of just this kind.

    Raises:
        TypeError: it is of another.
    """
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def trial_name(value: Any) -> str:
    """Return a trial's name.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not re.fullmatch(r"t\d+", of_kind(str, value), re.ASCII):
        raise ValueError(f"{value!r} is no trial's name")
    return str(value)


def trial_number(name: str) -> int:
    """Return a trial's place in the order of suggestions, from 0, by its name."""
    return int(name[1:])


def finite(value: Any) -> float:
    """Return a finite number.

    Raises:
        TypeError, OverflowError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no finite number")
    return value


def finite_or_none(value: Any) -> float | None:
    """Return a finite number, or None. Raises as `finite` does."""
    return None if value is None else finite(value)


def parameters(value: Any) -> dict[str, Any]:
    """Return a suggestion: words, switches and finite numbers.

    Raises:
        TypeError, OverflowError: it is none.
    """
    for one in of_kind(dict, value).values():
        if not isinstance(one, (bool, str)):
            finite(one)
    return dict(value)
