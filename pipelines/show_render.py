"""The answer of show() on a terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipelines.report import number, size

Row = dict[str, Any]
MANY = 12  # rows of a long list shown; --json has all of them


def render(found: Row, console: Console) -> None:
    """Tables for people; text of strangers is printed as text, without markup or control characters."""
    if "steps" in found:
        return _provenance(found, console)
    name = f" ({found['label']})" if found.get("label") else ""
    console.print(Text(f"{found['stage']}/{found['fingerprint']}{name}", style="bold"))
    console.print(Text(f"{found['path']}\nmade {found['created']}, version {found['version']}"), soft_wrap=True)
    _pairs(console, "counts", {key: number(value) for key, value in (found["counts"] or {}).items()})
    _pairs(console, "config", found["config"] or {})
    _rows(console, "made from", found["lineage"], ("depth", "of", "input", "stage", "fingerprint"))
    total = sum(entry["bytes"] for entry in found["files"])
    console.print(Text(f"{len(found['files'])} files, {size(total)}"))
    _look(found, console)
    return None


def _look(found: Row, console: Console) -> None:
    for key in ("outcomes", "card", "meta"):
        if found.get(key):
            _pairs(console, key, found[key])
    for key in ("rejected", "set_aside", "items"):
        for rule, rows in found.get(key, {}).items():
            _rows(console, f"{key.replace('_', ' ')}: {rule}", rows)
    if clusters := found.get("clusters"):
        _rows(console, f"clusters ({len(clusters)})", [{"survivor": ids[0], "others": " ".join(ids[1:])} for ids in clusters])
    _rows(console, "paragraphs cut", found.get("paragraphs", []))
    _rows(console, "by language", found.get("languages", []))
    if found.get("scores"):
        console.print(Text(json.dumps(found["scores"], indent=1, ensure_ascii=False)))
    for line in found.get("metrics", []):
        console.print(plain(line))
    if found["samples"] and not found.get("clusters"):
        for row in found["samples"]:
            _pairs(console, "sample", row)


def _provenance(found: Row, console: Console) -> None:
    console.print(Text.assemble((found["url"], "bold"), f" in run {found['run']}"))
    _pairs(console, "", found["origin"])
    for step in found["steps"]:
        more = "  ".join(f"{key}={value}" for key, value in step.items() if key not in ("stage", "status", "outcome"))
        console.print(Text.assemble((f"{step['stage']:<16}", "cyan"), (f"{step['status']:<12}", "bold"), plain(more)), soft_wrap=True)


def _pairs(console: Console, title: str, pairs: Row) -> None:
    _rows(console, title, [{"name": key, "value": value} for key, value in pairs.items()], ("name", "value"), header=False)


def _rows(console: Console, title: str, rows: list[Row], columns: tuple[str, ...] = (), *, header: bool = True) -> None:
    if not rows:
        return
    shown = columns or tuple(dict.fromkeys(key for row in rows for key in row if any(each.get(key) not in ("", None) for each in rows)))
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", show_header=header, header_style="dim", box=None, pad_edge=False
    )
    for column in shown:
        table.add_column(escape(column), overflow="fold", max_width=90)
    for row in rows[:MANY]:
        table.add_row(*(plain(row.get(column)) for column in shown))
    console.print(table)
    if len(rows) > MANY:
        console.print(Text(f"and {len(rows) - MANY} more", style="dim"))


def plain(value: Any) -> Text:
    """Any value as text that cannot steer the terminal."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return Text("".join(character if character.isprintable() else " " for character in text))
