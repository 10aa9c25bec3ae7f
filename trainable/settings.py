"""Read settings: YAML safely, flags by tyro; a mistake is told with the nearest name."""

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from trainable.errors import ConfigError, UserError

MAX_YAML_BYTES = 1_000_000

T = TypeVar("T", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that reads `1e-4` as a number and refuses duplicate keys and anchors.

    YAML 1.1, which PyYAML follows, calls `1e-4` text. Aliases are refused because a few lines of
    them can expand to billions of nodes.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not allowed; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain name", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key_node.value!r} stands twice; keep one",
                    key_node.start_mark,
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file is missing, too large, not UTF-8, not YAML, or not a mapping of
            names, or holds duplicate keys, aliases or tags that would build objects.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"config file {path}: no such file")
        size = path.stat().st_size
        if size > MAX_YAML_BYTES:
            raise ConfigError(
                f"config file {path}: {size} bytes is more than the {MAX_YAML_BYTES} allowed; "
                "is this the right file?"
            )
        text = path.read_text(encoding="utf-8")
        tree = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a safe loader
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path}: not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"config file {path}: not valid YAML: {text}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"config file {path}: holds a {type(tree).__name__}; it must hold `name: value` lines"
        )
    return tree


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


def parse_flags(model: type[T], default: T, argv: Sequence[str], prog: str, about: str) -> T:
    """Return `default` with the command line's flags laid over it (tyro: `--section.field value`).

    Every field that holds one value is a flag; mappings and lists are set in YAML only. A
    misspelt flag prints the nearest one and exits 2.

    Raises:
        ConfigError: a value breaks a rule.
    """
    import tyro  # it costs a quarter of a second: only commands that have such flags pay it

    # The parser fills plain dataclasses, so that refusals are worded here and not by the parser.
    made = _flags_class(model)
    flags = tyro.cli(
        made, default=_filled(made, default), args=[*argv], prog=prog, description=about
    )
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


def run_command(command: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's main and exit: 2 after a user's mistake (one message), 130 after Ctrl-C."""
    try:
        status = command(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader went away, as `| head` does: nothing is wrong
        sys.stderr.close()
        status = 141
    sys.exit(status)
