"""Read a YAML file as plain values: no objects, no aliases, no key twice."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from trainable.common.errors import ConfigError, UserError

MAX_YAML_BYTES = 1_000_000


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
