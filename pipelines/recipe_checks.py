"""Everything that is wrong with a recipe, at once, each with its line and the name that was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from infra.errors import ConfigError
from pipelines.inherit import bases
from pipelines.recipe_paths import SITE, SITE_FILES, expand
from pipelines.recipe_yaml import Document, Path

M = TypeVar("M", bound=BaseModel)
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def validated(model: type[M], document: Document, files: bool = True) -> M:
    """The document as this model; files: those it names must exist.

    Raises ConfigError with every problem of the recipe, in the order of its lines.
    """
    problems = [(document.place(()), text) for text in document.problems]
    found: M | None = None
    try:
        found = model.model_validate(document.value)
    except ValidationError as error:
        for one in error.errors():
            path = _real_path(one["loc"], document.value)
            problems.append((document.place(path), f"{document.place(path)}: {_say(one, path, model)}"))
    for path, text in references(document.value, files):
        problems.append((document.place(path), f"{document.place(path)}: {text}"))
    if problems or found is None:
        ordered = sorted(dict.fromkeys(problems), key=lambda p: _line(p[1]))
        raise ConfigError("\n".join(text for _, text in ordered))
    return found


def meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), 1, 0.5)
    return f"; did you mean `{near[0]}`?" if near else ""


def references(value: dict[str, Any], files: bool = True) -> Iterator[tuple[Path, str]]:
    """What only shows when sections are held against each other. Shapes that are wrong are told by the types."""
    tokenizers, models, students = (_mapping(value, name) for name in ("tokenizers", "models", "students"))
    yield from _models(tokenizers, models)
    yield from _students(models, students)
    for name, task in _mapping(value, "tasks").items():
        for index, model in enumerate(_list(task, "models")):
            there = [*models, *students, *_controls(students)]
            if model not in there:
                yield ("tasks", name, "models", index), f"tasks.{name} names no model of this recipe with `{model}`{_known(model, there)}"
    yield from _crawl(value)
    yield from _files(value) if files else ()
    yield from _ranks(value)


def missing_files(value: dict[str, Any]) -> list[Path]:
    """The keys of a recipe that name files which do not exist."""
    return [place for place, _ in _files(value)]


def _ranks(value: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    resources = _mapping(value, "resources")
    least, ranks = resources.get("min_ranks", 1), resources.get("ranks", 1)
    if isinstance(least, int) and isinstance(ranks, int) and least > ranks:
        yield (
            ("resources", "min_ranks"),
            f"resources.min_ranks {least} is more than resources.ranks {ranks}; raise ranks",
        )


def _crawl(value: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    corpus = _mapping(value, "corpus")
    kinds = {source.get("kind") for source in _list(corpus, "sources") if isinstance(source, dict)}
    if kinds & {"submissions", "urls", "sitemap", "feed", "site"} and "crawl" not in corpus:
        yield ("corpus",), "corpus.crawl is missing: say at least who crawls, `crawl: {contact: you@example.com}`"


def _models(tokenizers: dict[str, Any], models: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for name, model in models.items():
        wanted = model.get("tokenizer") if isinstance(model, dict) else None
        if isinstance(wanted, str) and wanted not in tokenizers:
            yield ("models", name, "tokenizer"), f"models.{name}.tokenizer: there is no tokenizer `{wanted}`{_known(wanted, tokenizers)}"
        yield from _extended(models, name, model if isinstance(model, dict) else {})
        yield from _size_or_init(name, model if isinstance(model, dict) else {})


def _extended(models: dict[str, Any], name: str, model: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    base = model.get("extend")
    if not isinstance(base, str) or not base:
        return
    place = ("models", name, "extend")
    if base not in models:
        yield place, f"models.{name}.extend: there is no model `{base}`{_known(base, [other for other in models if other != name])}"
    elif name in bases(models, name):
        yield place, f"models.{name}.extend: it would go on from itself ({' -> '.join([name, *bases(models, name)])}); take extend out"


def _size_or_init(name: str, model: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    init = model.get("init")
    if "size" not in model and not init:
        yield ("models", name), f"models.{name}.size is missing"
    if isinstance(init, str) and init and not FilePath(init, "config.json").is_file():
        yield ("models", name, "init"), f"models.{name}.init: {init} holds no config.json; give the folder of an exported model"


def _controls(students: dict[str, Any]) -> list[str]:
    """The names of the students' controls."""
    return [f"{name}-control" for name, student in students.items() if not isinstance(student, dict) or student.get("control", True)]


def _students(models: dict[str, Any], students: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for name, student in students.items():
        teacher = student.get("teacher") if isinstance(student, dict) else None
        if name in models:
            yield ("students", name), f"students.{name}: a model has this name already; choose another"
        if f"{name}-control" in models or f"{name}-control" in students:
            yield ("students", name), f"students.{name}: its control is called `{name}-control`, and that name is taken"
        if isinstance(teacher, str) and teacher not in models:
            yield ("students", name, "teacher"), f"students.{name}.teacher: there is no model `{teacher}`{_known(teacher, models)}"


def _files(value: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    places: list[Path] = [("corpus", "sources", index, "path") for index, _ in enumerate(_list(_mapping(value, "corpus"), "sources"))]
    places += [("tasks", name, key) for name in _mapping(value, "tasks") for key in ("train", "dev")]
    lists: list[Path] = [("corpus", "takedown"), ("corpus", "links", "exclude_hosts_file"), ("corpus", "links", "allow_hosts_file")]
    places += lists
    for place in places:
        text = _at(value, place)
        if not isinstance(text, str) or (place in lists and not text):
            continue
        name = ".".join(str(step) for step in place)
        if text.startswith(SITE):
            if not value.get("site"):
                yield place, f"{name}: {text} needs a `site` section"
            elif text.removeprefix(SITE) not in SITE_FILES:
                yield place, f"{name}: the site makes no {text.removeprefix(SITE)}; it makes {', '.join(SITE_FILES)}"
        elif not expand(text):
            yield place, f"{name}: there is no file {text}; set {name} to a file that exists (--set {name}=FILE)"


def _say(one: Any, path: Path, model: type[BaseModel]) -> str:
    name = ".".join(str(step) for step in path)
    if one["type"] in UNKNOWN:
        above, key = ".".join(str(step) for step in path[:-1]), str(path[-1])
        return f"{above or 'a recipe'} has no `{key}`{meant(key, _fields(model, path[:-1]))}"
    if one["type"] in ("missing", "missing_argument"):
        return f"{name} is missing"
    if one["type"].startswith("union_tag"):
        return f"{name}.kind must be one of submissions, urls, sitemap, feed, site, warc, documents"
    if one["type"] == "string_pattern_mismatch":
        return f"{name}: a name is made of lower-case letters, digits, `-`, `_` and `.`"
    message = one["msg"].removeprefix("Value error, ")
    given = "" if one["type"] == "value_error" or isinstance(one["input"], dict | list) else f", not {one['input']!r}"
    return f"{name}: {message.replace('Input should be', 'it must be')}{given}"


def _real_path(loc: tuple[str | int, ...], value: Any) -> Path:
    """pydantic's location without what it adds: the tag of a union, the mark of a key."""
    path: list[str | int] = []
    at = value
    for place, step in enumerate(loc):
        if step == "[key]":
            continue
        if isinstance(at, dict) and step not in at and place < len(loc) - 1 and at.get("kind") == step:
            continue
        path.append(step)
        at = (
            at.get(step)
            if isinstance(at, dict)
            else at[step]
            if isinstance(at, list) and isinstance(step, int) and step < len(at)
            else None
        )
    return tuple(path)


def _fields(model: Any, path: Path) -> list[str]:
    """The names that a section knows, found by walking the types along the path."""
    kinds = [model]
    for step in path:
        kinds = [inner for kind in kinds for inner in _step(kind, step)]
    return list(dict.fromkeys(name for kind in kinds for name in _hints(kind)))


def _step(kind: Any, step: str | int) -> list[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return [inner for option in arguments for inner in _step(option, step)]
    if hasattr(kind, "__metadata__"):
        return _step(arguments[0], step)
    if origin is dict:
        return _flat(arguments[1])
    if origin in (tuple, list):
        return _flat(arguments[0])
    return _flat(_hints(kind)[str(step)]) if str(step) in _hints(kind) else []


def _flat(kind: Any) -> list[Any]:
    if hasattr(kind, "__metadata__"):
        return _flat(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [inner for option in get_args(kind) for inner in _flat(option)]
    return [kind]


def _hints(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.rebuild_annotation() for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {}


def _known(name: str, there: Iterable[str]) -> str:
    names = list(there)
    return meant(name, names) or (f"; there is {', '.join(names)}" if names else "; there is none")


def _mapping(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _list(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _at(value: Any, path: Path) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _line(text: str) -> tuple[int, str]:
    where = text.split(": ", maxsplit=1)[0].rpartition(":")[2]
    return (int(where) if where.isdigit() else 0, text)
