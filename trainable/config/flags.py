"""Settings from the command line, laid over those of a file."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, cast, get_origin

from pydantic import BaseModel

from trainable.common.errors import ConfigError
from trainable.common.output import Output
from trainable.common.parse import parse
from trainable.config.explain import T, validate


def parse_flags(model: type[T], default: T, argv: Sequence[str], prog: str, about: str) -> T:
    """Return `default` with the command line's flags laid over it (tyro: `--section.field value`).

    Every field that holds one value is a flag; mappings and lists are set in YAML only.

    Raises:
        ConfigError: a value breaks a rule, or a flag is not known: the nearest one is told.
    """
    # The parser fills plain dataclasses, so that refusals are worded here and not by the parser.
    made = _flags_class(model)
    flags = parse(made, argv, prog, default=_filled(made, default), description=about)
    return validate(model, _laid_over(default.model_dump(by_alias=True), flags), "flags")


def _flags_class(model: type[BaseModel]) -> type[Any]:
    """Return a dataclass with the fields of `model` that flags can set."""
    import tyro

    fields: list[tuple[str, Any, Any]] = []
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields.append((name, _flags_class(kind), dataclasses.field()))
        elif get_origin(kind) not in (dict, list):
            described = Annotated[kind, tyro.conf.arg(help=field.description)]
            fields.append((name, described, dataclasses.field()))
    made = dataclasses.make_dataclass(model.__name__, fields, kw_only=True)
    made.__doc__ = model.__doc__
    return made


def _filled(made: type[Any], values: BaseModel) -> Any:
    """Return an instance of a flags class with the values of the model it was made from."""
    given = {}
    for field in dataclasses.fields(made):
        value = getattr(values, field.name)
        nested = isinstance(value, BaseModel)
        given[field.name] = _filled(cast("type[Any]", field.type), value) if nested else value
    return made(**given)


def _laid_over(tree: dict[str, Any], flags: Any) -> dict[str, Any]:
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        tree[field.name] = (
            _laid_over(tree[field.name], value) if dataclasses.is_dataclass(value) else value
        )
    return tree


def pop_option(argv: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Return the value of `--name VALUE` (or `--name=VALUE`), and the other arguments.

    Raises:
        ConfigError: the option stands last, without its value, or twice.
    """
    rest: list[str] = []
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith(f"{name}="):
            found.append(word.partition("=")[2])
        elif word == name:
            value = next(words, None)
            if value is None:
                raise ConfigError(f"{name}: a value must follow")
            found.append(value)
        else:
            rest.append(word)
    if len(found) > 1:
        raise ConfigError(f"{name}: given {len(found)} times; give it once")
    return (found[0] if found else None), rest


def pop_output(argv: Sequence[str]) -> tuple[Output, list[str]]:
    """Return where to print, by `--json` and `--quiet`, and the other arguments."""
    output = Output(json="--json" in argv, quiet="--quiet" in argv)
    return output, [word for word in argv if word not in ("--json", "--quiet")]
