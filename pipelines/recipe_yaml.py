"""YAML that keeps the line of every key, refuses duplicate keys, and reads numbers as people write them.

The rules are those of YAML 1.2 (its core schema): `6e-4` is a number, `no` and `on` are words, not booleans.
The nodes are read, not the values, because only nodes know their lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from infra.errors import ConfigError
from infra.mirror_url import redacted

Path = tuple[str | int, ...]
_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_BASED = re.compile(r"0x[0-9a-fA-F_]+|0o[0-7_]+")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WORDS |= {".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


MOST_CHARACTERS = 1 << 20
MOST_LEVELS = 100
MOST_VALUES = 100_000  # of one document, each alias counted as the copy that it is


@dataclass
class Document:
    """Plain values, and where each key of them stands in its file."""

    name: str
    value: dict[str, Any]
    places: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def place(self, path: Path) -> str:
        """`file.yaml:12` of the key, or of the nearest key above it."""
        for size in range(len(path), 0, -1):
            if path[:size] in self.places:
                return self.places[path[:size]]
        return self.name

    def put(self, path: Path, value: Any, place: str) -> None:
        """Set one value from the command line; sections on the way are made when they are not there."""
        at: Any = self.value
        for step in path[:-1]:
            if isinstance(at, list):
                at = at[_index(step, at, place)]
                continue
            if not isinstance(at.get(step), dict | list):
                at[step] = {}
            at = at[step]
        if isinstance(at, list):
            at[_index(path[-1], at, place)] = value
        else:
            at[path[-1]] = value
        for size in range(1, len(path) + 1):
            self.places.setdefault(_plain(path[:size]), place)
        self.places[_plain(path)] = place


def read(text: str, name: str) -> Document:
    """Read one document. Syntax errors end it at once; duplicate keys are gathered in `problems`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{name}: {len(text):,} characters are more than the {MOST_CHARACTERS:,} that a recipe may have")
    try:
        _check_depth(YAML(typ="safe", pure=True).parse(text), name)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: this is not YAML: {error.problem or error.context}") from error
    except YAMLError as error:
        raise ConfigError(f"{name}: this is not YAML: {' '.join(str(error).split())}") from error
    document = Document(name, {})
    if node is not None:
        _check_size(node, name)
    value = _value(node, (), document) if node is not None else {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name}:1: a recipe is a mapping (`name: ...`), this is a {_kind(value)}")
    document.value = value
    return document


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) word."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _BASED.fullmatch(text):
        return int(text.replace("_", ""), 0)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def setting(text: str) -> tuple[Path, Any]:
    """`corpus.filter.min_words=30` as a path and a value; the value may be any YAML on one line."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or any(not part.strip() for part in key.split(".")):
        raise ConfigError(f"--set {redacted(text)}: write it as a.key=value, such as corpus.filter.min_words=30")
    try:
        inner = read("value: " + value, f"--set {redacted(text)}")
    except ConfigError as error:
        raise ConfigError(f"--set {redacted(text)}: the value is not YAML; put quotes around it") from error
    return tuple(part.strip() for part in key.split(".")), inner.value["value"]


def _value(node: Any, path: Path, document: Document) -> Any:
    kind = type(node).__name__
    if kind == "MappingNode":
        return _mapping(node, path, document)
    if kind == "SequenceNode":
        for index, item in enumerate(node.value):
            document.places[(*path, index)] = _place(document, item)
        return [_value(item, (*path, index), document) for index, item in enumerate(node.value)]
    return scalar(node.value) if node.style is None else node.value


def _mapping(node: Any, path: Path, document: Document) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, place = str(key_node.value), _place(document, key_node)
        if key in found:
            first = document.places[(*path, key)].rpartition(":")[2]
            document.problems.append(f"{place}: `{key}` is given twice (first in line {first}); keep one of them")
            continue
        document.places[(*path, key)] = place
        found[key] = _value(value_node, (*path, key), document)
    return found


def _check_depth(events: Iterable[Any], name: str) -> None:
    """Raises ConfigError on lists within lists beyond measure, before anything is built of them."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > MOST_LEVELS:
            raise ConfigError(f"{name}:{event.start_mark.line + 1}: more than {MOST_LEVELS} levels of lists and mappings; write it flatter")


def _check_size(node: Any, name: str) -> None:
    """Raises ConfigError on a document that its aliases make too large, or that holds itself: each alias is a copy once it is read."""
    from ruamel.yaml.nodes import CollectionNode

    sizes: dict[int, int] = {}  # by node: values below it, itself included; 0 while it is being counted
    waiting = [(node, False)]
    while waiting:
        one, counted = waiting.pop()
        below = _below(one) if isinstance(one, CollectionNode) else []
        line = f"{name}:{one.start_mark.line + 1}"
        if counted:
            sizes[id(one)] = 1 + sum(sizes[id(child)] for child in below)
            if sizes[id(one)] > MOST_VALUES:
                raise ConfigError(f"{line}: with its aliases this has more than {MOST_VALUES:,} values; write fewer `*aliases` of aliases")
        elif id(one) not in sizes:
            sizes[id(one)] = 0
            waiting.append((one, True))
            for child in below:
                if sizes.get(id(child)) == 0:
                    raise ConfigError(f"{line}: an alias within `&{child.anchor}` names `&{child.anchor}` itself; remove it")
                waiting.append((child, False))


def _below(node: Any) -> list[Any]:
    """The nodes directly below a list or a mapping."""
    return [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]


def _place(document: Document, node: Any) -> str:
    return f"{document.name}:{node.start_mark.line + 1}"


def _index(step: str | int, at: list[Any], place: str) -> int:
    try:
        at[int(step)]
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{place}: `{step}` is not a place in a list of {len(at)}; count from 0") from error
    return int(step)


def _plain(path: Path) -> Path:
    return tuple(int(step) if isinstance(step, str) and step.isdigit() else step for step in path)


def _kind(value: Any) -> str:
    return {list: "list", str: "text", type(None): "blank"}.get(type(value), type(value).__name__)
