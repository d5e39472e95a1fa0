"""One installed package becomes the pages of its documentation; the child process of the demo's website.

Started as `python -m pipelines.site_render JOB.json`, never imported for its work by the driver: importing every module of a package
may print, hang, load a gigabyte or end the process. What is public is decided as pydoc does; the pages, unlike pydoc's,
are plain prose HTML (headings, paragraphs, lists), because they are to be read as articles and not as tables of attributes.
"""

from __future__ import annotations

import html
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep import shards
from pipelines.site_markup import Markup

STDLIB = "stdlib"
# These act when they are imported (open a browser or a window, print, end the process), or are the language's own tests.
ACTING = {
    "antigravity",
    "this",
    "idlelib",
    "turtledemo",
    "test",
    "tests",
    "testing",
    "lib2to3",
    "__main__",
    "tkinter",
    "turtle",
    "pydoc_data",
    "conftest",
    "benchmarks",
    "f2py",
    "distutils",
    "ensurepip",
    "msilib",
    "nt",
    "setup",
    "cuda",
    "_vendor",
    "vendored",
}
OLD_NAMES = {"numpy.core", "numpy.matlib"}  # each repeats a thousand pages of numpy
ADDRESS = re.compile(r"( at| object at)? 0x[0-9a-fA-F]{4,}|<[^<>]*\bfile '[^']*'")
PAGE = pa.schema(
    [
        ("host", pa.string()),
        ("path", pa.string()),
        ("title", pa.string()),
        ("html", pa.binary()),
        ("links", pa.list_(pa.string())),
        ("characters", pa.int32()),
    ]
)
SENTENCE = pa.schema([("name", pa.string()), ("text", pa.string())])


def host_of(package: str) -> str:
    """numpy.test, torch.test ...; the standard library, whole or by the module, is python.test."""
    top = package.partition(".")[0]
    return f"{'python' if package == STDLIB or top in sys.stdlib_module_names else top}.test"


@dataclass
class Entry:
    """Something that gets a page of its own."""

    name: str
    thing: Any
    module: str
    kind: str  # module | class | function
    members: dict[str, Any] = field(default_factory=dict)


def is_left_out(name: str) -> bool:
    """Private, a test, an old name of something else, or something that acts when imported."""
    return name in OLD_NAMES or any(part in ACTING or part.startswith("_") or part.startswith("test_") for part in name.split("."))


def module_names(package: str) -> list[str]:
    """The public modules to import, parents before children."""
    if package == STDLIB:
        return sorted(name for name in sys.stdlib_module_names if not is_left_out(name))
    return [package]


def import_modules(package: str) -> tuple[dict[str, types.ModuleType], list[str]]:
    """Every module that can be imported, and the names of those that cannot; sorted, so neither depends on what is imported when."""
    found: dict[str, types.ModuleType] = {}
    failed: list[str] = []
    waiting = module_names(package)[::-1]
    while waiting:
        name = waiting.pop()
        try:
            module = importlib.import_module(name)
        except BaseException:  # a module may raise anything at all, SystemExit too; the names are reported and counted
            failed.append(name)
            continue
        found[name] = module
        inner = [f"{name}.{each.name}" for each in pkgutil.iter_modules(getattr(module, "__path__", []))]
        waiting.extend(sorted((child for child in inner if not is_left_out(child)), reverse=True))
    return dict(sorted(found.items())), sorted(failed)


def documentation(thing: Any) -> str:
    """The docstring as pydoc prints it, without this machine's addresses and paths.

    Unlike pydoc's, not the comments above an undocumented thing: looking for them parses whole files, again for each name.
    """
    try:
        text = inspect.cleandoc(thing.__doc__ or "") if inspect.isclass(thing) or inspect.ismodule(thing) else inspect.getdoc(thing) or ""
    except Exception:  # a property of a foreign class may raise anything; it then has no documentation
        return ""
    return _scrubbed(text).strip()


def _scrubbed(text: str) -> str:
    home = str(Path.home()) + "/"
    return ADDRESS.sub("", text).replace(sys.prefix, "/usr").replace(sys.base_prefix, "/usr").replace(home, "/home/user/")


def signature(thing: Any) -> str:
    """(a, b=1) -> c, as pydoc shows it; very long ones are cut short."""
    try:
        text = str(inspect.signature(thing))
    except Exception:  # builtins have none, and foreign descriptors raise what they like
        return "(...)" if callable(thing) else ""
    text = _scrubbed(text)
    return text if len(text) <= 400 else "(...)"


def is_own(value: Any, module: types.ModuleType) -> bool:
    """Without `__all__`, a module documents what was defined in it, as pydoc does."""
    return getattr(value, "__module__", None) == module.__name__ or (inspect.isbuiltin(value) and inspect.getmodule(value) is module)


def public_members(module: types.ModuleType) -> dict[str, Any]:
    """The classes and functions that the module offers, by name."""
    listed = getattr(module, "__all__", None)
    names = sorted({str(name) for name in listed} if listed is not None else {name for name in vars(module) if not name.startswith("_")})
    members: dict[str, Any] = {}
    for name in names:
        value = getattr(module, name, None)
        if value is None or inspect.ismodule(value) or not callable(value) or (listed is None and not is_own(value, module)):
            continue
        members[name] = value
    return members


def class_members(thing: type) -> dict[str, Any]:
    """Methods and properties written in this class itself, with a docstring of their own."""
    members = {}
    for name, value in sorted(vars(thing).items()):
        if name.startswith("_") or inspect.isclass(value):
            continue
        own = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if isinstance(getattr(own, "__doc__", None), str) and (inspect.isroutine(own) or isinstance(own, property)):
            members[name] = own
    return members


def entries_of(modules: dict[str, types.ModuleType], own_page: int, longest: int) -> Iterator[Entry]:
    """A page for each module, and for each class, function and method that has enough to say; the rest is told on its parent's page."""
    for module_name, module in modules.items():
        members = public_members(module)
        yield Entry(module_name, module, module_name, "module", members)
        for name, value in members.items():
            full = f"{module_name}.{name}"
            if inspect.isclass(value):
                inside = class_members(value)
                told = len(documentation(value)) + sum(len(documentation(member)) for member in inside.values())
                if told >= own_page:
                    yield Entry(full, value, module_name, "class", inside)
                    yield from (
                        Entry(f"{full}.{key}", member, module_name, "function")
                        for key, member in inside.items()
                        if len(documentation(member)) >= longest
                    )
            elif len(documentation(value)) >= own_page:
                yield Entry(full, value, module_name, "function")


def chosen(entries: list[Entry], most: int) -> dict[str, Entry]:
    """At most so many pages: shallow names first, so that what is left out is the deepest and least linked."""
    if len(entries) > most:
        entries = sorted(entries, key=lambda entry: (entry.kind != "module", entry.name.count("."), entry.name))[:most]
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}


def page_row(host: str, path: str, title: str, body: list[str]) -> dict[str, Any]:
    """A row of the page table; its links are read back from the finished HTML, so that they are what a reader finds."""
    head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title></head>\n<body>\n'
    text = head + "\n".join(part for part in body if part) + "\n</body></html>\n"
    links = sorted({html.unescape(link) for link in re.findall(r'href="([^"#]+)"', text)})
    absolute = [link if link.startswith("http") else f"http://{host}{link}" for link in links]
    return {
        "host": host,
        "path": path,
        "title": title,
        "html": text.encode("utf-8", "replace"),
        "links": absolute,
        "characters": len(re.sub(r"<[^>]*>", "", text)),
    }


class Renderer:
    """Writes pages that link to each other."""

    def __init__(self, package: str, pages: dict[str, Entry]) -> None:
        self.host = host_of(package)
        self.pages = pages
        self.names = list(pages)
        self.position = {name: index for index, name in enumerate(self.names)}
        self.markup = Markup(frozenset(pages), frozenset(module_names(STDLIB)) if self.host != "python.test" else frozenset())

    def page(self, entry: Entry) -> dict[str, Any]:
        body = [
            self._navigation(entry),
            f"<main><article><h1>{html.escape(entry.name)}</h1>",
            self._head(entry),
            self._text(entry.thing, entry),
        ]
        body += self._contents(entry) if entry.kind == "module" else self._methods(entry)
        body.append("</article></main>" + self._footer(entry))
        return self._row(f"/{entry.name}.html", f"{entry.name} - documentation", body)

    def _row(self, path: str, title: str, body: list[str]) -> dict[str, Any]:
        return page_row(self.host, path, title, body)

    def alphabet(self, package: str) -> list[dict[str, Any]]:
        """Pages that list everything by its first letter, as Sphinx has them; each gives every page one more link."""
        letters: dict[str, list[str]] = {}
        for name in self.names:
            letters.setdefault(name.rpartition(".")[2][0].lower(), []).append(name)
        rows = []
        for letter, names in sorted(letters.items()):
            items = "".join(f"<li>{self._link(name)}</li>" for name in names)
            body = f'<nav><a href="/">All packages</a></nav><h1>Index of {html.escape(package)}: {html.escape(letter)}</h1><ul>{items}</ul>'
            rows.append(self._row(f"/index-{package}-{letter}.html", f"Index of {package}: {letter}", [body]))
        return rows

    def _text(self, thing: Any, entry: Entry) -> str:
        return self.markup.blocks(documentation(thing), entry.name if entry.kind != "function" else entry.module)

    def _link(self, name: str, text: str | None = None) -> str:
        return self.markup.anchor(name, text or name)

    def _navigation(self, entry: Entry) -> str:
        parents = [name for name in _parents(entry.name) if name in self.pages]
        return '<nav><a href="/">All packages</a> ' + " ".join(self._link(name) for name in parents) + "</nav>"

    def _footer(self, entry: Entry) -> str:
        """The next page of the same parent, as a book has it."""
        after = self.position[entry.name] + 1
        following = self.names[after] if after < len(self.names) else None
        same = following is not None and following.rpartition(".")[0] == entry.name.rpartition(".")[0]
        return f"<footer>Next: {self._link(following)}</footer>" if following and same else ""

    def _head(self, entry: Entry) -> str:
        if entry.kind == "module":
            return ""
        line = f"<p><code>{html.escape(entry.name.rpartition('.')[2] + signature(entry.thing))}</code></p>"
        bases = [f"{base.__module__}.{base.__qualname__}" for base in getattr(entry.thing, "__bases__", ()) if base is not object]
        return line + (f"<p>Bases: {', '.join(self._link(base) for base in bases)}</p>" if entry.kind == "class" and bases else "")

    def _contents(self, entry: Entry) -> list[str]:
        below = [name for name in self.names if name.rpartition(".")[0] == entry.name and self.pages[name].kind == "module"]
        rows = [f"<li>{self._link(name)} {self._synopsis(self.pages[name].thing)}</li>" for name in below]
        parts = ["<h2>Package contents</h2><ul>", *rows, "</ul>"] if rows else []
        for heading, wanted in (("Classes", True), ("Functions", False)):
            members = {name: value for name, value in entry.members.items() if inspect.isclass(value) is wanted}
            parts += [f"<h2>{heading}</h2>"] if members else []
            parts += [self._member(entry, name, value) for name, value in members.items()]
        return parts

    def _methods(self, entry: Entry) -> list[str]:
        if entry.kind != "class":
            return []
        rows = [self._member(entry, name, value) for name, value in entry.members.items()]
        inherited = [base for base in inspect.getmro(entry.thing)[1:] if f"{base.__module__}.{base.__qualname__}" in self.pages]
        told = "".join(
            f"<p>Further methods are inherited from {self._link(f'{base.__module__}.{base.__qualname__}')}.</p>" for base in inherited
        )
        return (["<h2>Methods</h2>", *rows] if rows else []) + ([told] if told else [])

    def _member(self, entry: Entry, name: str, value: Any) -> str:
        full = f"{entry.name}.{name}"
        if full in self.pages:
            return f"<p>{self._link(full, name)}: {self._synopsis(value)}</p>"
        heading = f"<h3>{html.escape(name + ('' if isinstance(value, property) else signature(value)))}</h3>"
        return heading + self._text(value, entry)

    def _synopsis(self, thing: Any) -> str:
        return html.escape(first_sentence(documentation(thing)))


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:size]) for size in range(1, len(parts))]


def first_sentence(text: str) -> str:
    """The first sentence of the first paragraph that is prose; builtins open with their signature, which is not."""
    for block in re.split(r"\n\s*\n", text.strip()):
        line = re.sub(r"\s+", " ", block).strip()
        if line and not re.match(r"[\w.]+\(|.*->|[-=~>.]{2,}|:\w+:|.*(?:-{4}|={4})", line):
            return re.split(r"(?<=[.!?])\s(?=[A-Z`*])", line, maxsplit=1)[0]
    return ""


def sentences_of(pages: dict[str, Entry]) -> dict[str, str]:
    """First sentences by name of everything documented on these pages."""
    found: dict[str, str] = {}
    for entry in pages.values():
        things = {entry.name: entry.thing, **{f"{entry.name}.{name}": value for name, value in entry.members.items()}}
        for name, thing in things.items():
            if sentence := first_sentence(documentation(thing)):
                found[name] = sentence
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Job:
    """What the parent asks for; SiteConfig says what the numbers mean."""

    package: str
    out: str
    name: str
    own_page: int
    longest: int
    most: int


def render(job: Job) -> dict[str, int]:
    """Write the package's pages to out/name and its first sentences to out/sentences/name."""
    package, out, name = job.package, Path(job.out), job.name
    modules, failed = import_modules(package)
    every = {entry.name: entry for entry in entries_of(modules, job.own_page, job.longest)}
    pages = chosen(list(every.values()), job.most)
    renderer = Renderer(package, pages)
    rows = [renderer.page(entry) for entry in pages.values()] + renderer.alphabet(package)
    told = sentences_of(pages)
    counts = {
        "modules": len(modules),
        "modules_failed": len(failed),
        "pages": len(rows),
        "pages_over_limit": len(every) - len(pages),
        "html_bytes": sum(len(row["html"]) for row in rows),
        "characters": sum(row["characters"] for row in rows),
    }
    (out / "sentences").mkdir(exist_ok=True)
    table = pa.table({"name": list(told), "text": list(told.values())}, schema=SENTENCE)
    shards.write(table, out / "sentences" / name)
    shards.write(pa.Table.from_pylist(rows, schema=PAGE), out / name, counts, needs=[out / "sentences" / name])
    return counts


def main(job: str) -> None:
    """One line of JSON says what to render; whatever the imported modules print goes nowhere, our own failure to stderr."""
    wish = Job(**json.loads(job))
    silence, spoken = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        render(wish)
    except BaseException:  # told in full to the parent, which raises it
        os.write(spoken, traceback.format_exc().encode("utf-8", "replace"))
        os._exit(1)
    os._exit(0)  # imported packages leave threads and exit hooks behind that may hang


if __name__ == "__main__":
    main(sys.argv[1])
