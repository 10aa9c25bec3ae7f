"""Check values against a model of settings; a mistake is told with the nearest name."""

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trainable.common.errors import ConfigError

T = TypeVar("T", bound=BaseModel)


def validate(model: type[T], values: Any, source: str) -> T:
    """Return `values` as a validated `model`.

    Raises:
        ConfigError: names each wrong setting, its value and the rule, and for an unknown key the
            nearest known one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(explain(error, model))) from error


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each problem that pydantic found in values for `model`."""
    return [_explain_one(dict(problem), model) for problem in error.errors()]


def _explain_one(problem: dict[str, Any], model: type[BaseModel]) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    value = _short(problem["input"])
    if problem["type"] == "extra_forbidden":
        known = _names_at(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{name} = {value}: no such setting; {hint}"
    rule = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}: {rule}" if name else rule
    return f"{name} = {value}: {rule[0].lower()}{rule[1:]}"


def _names_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Return the field names known at a dotted place in `model`; mappings take any name."""
    kind: Any = model
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = field.annotation if field else None
        else:  # dict[str, X]: the part is a key of the user's
            kind = get_args(kind)[-1] if get_args(kind) else None
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [field.alias or name for name, field in kind.model_fields.items()]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
