"""One page a run: what became of the links, what it cost, what the models learnt. Complete in one file, without any network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from infra.store import Store, write_whole
from pipelines import report_data, report_plots

PAGE, FIGURES = "report.html", "report.json"
MARKS = re.compile(r"[|<>\[\]`*&\\\n]|(?<!\w)_|_(?!\w)")  # what Markdown would act on; a _ inside a word it leaves alone
MARKDOWN_LIMIT = 200_000  # bytes: Prefect keeps and shows an artifact this large without trouble
PIVOT_MODELS = 6  # more columns than this do not fit a page; the long table stays
Row = dict[str, Any]


def build(run_dir: Path, store: Store) -> Path:
    """Write report.json and report.html into the run's folder; returns the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    figures = report_data.gather(run_dir, store)
    write_whole(run_dir / FIGURES, json.dumps(figures, indent=1, ensure_ascii=False))
    # The page shows text that strangers wrote: every value is escaped, none is marked safe.
    environment = Environment(
        loader=PackageLoader("pipelines", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "seconds": seconds, "percent": percent, "size": size, "measure": measure}
    plots = [
        {
            "label": curve["label"],
            "image": report_plots.loss_curve(curve),
            "more": report_plots.training_curves(curve),
            "speed": speeds(curve["points"]),
            "profile": curve["profile"],
        }
        for curve in figures["curves"]
        if curve["points"]
    ]
    shown = {
        **figures,
        "plots": plots,
        "students": [_shown(student) for student in figures["students"]],
        "compared": pivot(figures["scores"]),
        "verdicts": verdicts(figures),
        "widest": _widest(figures),
    }
    page = environment.get_template("report.html.j2").render(shown)
    write_whole(run_dir / PAGE, page)
    return run_dir / PAGE


def markdown(run_dir: Path, store: Store | None = None) -> str:
    """The page's tables and curves as Markdown of limited size; report.json is made first when it is not there."""
    if not (run_dir / FIGURES).exists():
        build(run_dir, store or Store(run_dir.parent.parent / "artifacts"))
    figures = report_data.read_json(run_dir / FIGURES)
    parts = [f"# {_cell(figures['run']['id'])}", *(f"- {_cell(text)}" for text in verdicts(figures))]
    parts += ["## Funnel", _table(figures["funnel"], ("stage", "read", "kept", "removed", "set_aside", "tokens"))]
    parts += ["## Removed", _table(figures["removed"], ("stage", "kind", "rule", "count", "share"))]
    if archives := figures.get("archives"):
        parts += ["## Archives", _table(archives, tuple(archives[0]))]
    if figures.get("tasks"):
        parts += ["## Tasks in the corpus", _table(figures["tasks"], tuple(name for name in figures["tasks"][0] if name != "examples"))]
    if compared := pivot(figures["scores"]):
        parts += ["## Scores", _table(compared["rows"], ("measure", *compared["models"]))]
    if figures["task_files"]:
        parts += ["## Task files", _table(figures["task_files"], tuple(figures["task_files"][0]))]
    parts += ["## Time", _table(figures["timing"], ("label", "state", "seconds", "fingerprint"))]
    text = "\n\n".join(parts)
    for curve in figures["curves"]:
        picture = f"\n\n## {_cell(curve['label'])}\n\n![losses]({report_plots.loss_curve(curve, 'png')})" if curve["points"] else ""
        if len(text.encode()) + len(picture) < MARKDOWN_LIMIT:
            text += picture
    return text.encode()[:MARKDOWN_LIMIT].decode(errors="ignore")


def _shown(student: Row) -> Row:
    """The comparison with its numbers as text, and how much of the teacher the student kept."""
    rows = []
    for row in student["rows"]:
        cells = {role: row.get(role) for role in student["columns"]}
        values = {role: cell.get("value") if isinstance(cell, dict) else cell for role, cell in cells.items()}
        texts = {
            role: "–" if values[role] is None else measure(cell if isinstance(cell, dict) else {"value": cell})
            for role, cell in cells.items()
        }
        mine, theirs = values.get("student"), values.get("teacher")
        rows.append(
            {"measure": row["measure"], **texts, "student / teacher": percent(mine / theirs) if mine is not None and theirs else "–"}
        )
    minus = [{"measure": row["measure"], "text": measure(row)} for row in student["minus_control"]]
    return {**student, "rows": rows, "minus_control": minus, "columns": [*student["columns"], "student / teacher"]}


def verdicts(figures: Row) -> list[str]:
    """The run in a few sentences, for readers who stop there."""
    told = []
    corpus = [row for row in figures["funnel"] if row["read"]]
    if corpus:
        first, last = corpus[0], corpus[-1]
        tokens = max((row["tokens"] or 0 for row in corpus), default=0)
        became = f" and {number(tokens)} tokens" if tokens else ""
        told.append(
            f"{number(first['read'])} {first['stage']} became {number(last['kept'] if not tokens else last['read'])} documents{became}."
        )
    scored = {row["model"]: row["value"] for row in figures["scores"] if row["measure"] == "loss"}
    for curve in figures["curves"]:  # the evaluation's loss is of the whole held-out side, as the unigram line is; the curve's of a part
        valid, unigram = scored.get(curve["label"], report_plots.last_valid(curve)), curve["unigram"]
        if valid is not None and unigram:
            far = f"{abs(unigram - valid):.3f} nats {'below' if valid < unigram else 'ABOVE'}"
            told.append(f"{curve['label']}: held-out loss {valid:.3f}, {far} the unigram baseline of {unigram:.3f}.")
    return told


def speeds(points: list[Row]) -> str:
    """What the last told steps reached, in a sentence; empty when nobody measured."""
    told: Row = next((point["speed"] for point in reversed(points) if point.get("speed")), {})
    if not told:
        return ""
    parts = [f"{told['real_tokens_per_s']:,.0f} tokens a second without padding, {told['computed_tokens_per_s']:,.0f} with it"]
    if "mfu" in told:
        parts.append(f"{percent(told['mfu'])} of a ceiling of {told['ceiling_flops']:.3g} flop/s ({told['ceiling']})")
    parts.append(f"{percent(told['data_wait'])} of the time waits for data")
    if "communication" in told:
        parts.append(f"{percent(told['communication'])} for other ranks")
    return "; ".join([*parts, f"the fullest rank held {size(told['peak_bytes'])}"]) + "."


def pivot(scores: list[Row]) -> Row:
    """Measures down, models across; empty when nothing was scored."""
    models = list(dict.fromkeys(row["model"] for row in scores))
    if not 1 <= len(models) <= PIVOT_MODELS:
        return {}
    cells: dict[str, Row] = {}
    for row in scores:
        cells.setdefault(row["measure"], {"measure": row["measure"]})[row["model"]] = measure(row)
    return {"models": models, "rows": [dict.fromkeys(models, "") | row for row in cells.values()]}


def measure(row: Row) -> str:
    """0.912 [0.90, 0.93]"""
    told = f"{row['value']:,}" if isinstance(row["value"], int) else f"{row['value']:.4g}"
    return f"{told} [{row['low']:.3g}, {row['high']:.3g}]" if "low" in row and "high" in row else told


def number(value: float | None) -> str:
    """1,234,567, or a dash for nothing."""
    return "–" if value is None else f"{value:,}"


def seconds(value: float | None) -> str:
    """0.3 s, 12 s, 3 min 20 s."""
    if value is None:
        return "–"
    return f"{int(value) // 60} min {int(value) % 60:02d} s" if value >= 60 else f"{value:.1f} s"


def percent(value: float | None) -> str:
    """12.3 %; a share that is only nearly nothing is not told as nothing."""
    if value is None:
        return "–"
    return "< 0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def size(value: float | None) -> str:
    """12.3 MB"""
    if value is None:
        return "–"
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value:.0f} B"


def _widest(figures: Row) -> Row:
    """What the longest bar of each chart stands for."""
    return {
        "funnel": max((row["read"] for row in figures["funnel"]), default=0) or 1,
        "seconds": max((row["seconds"] or 0 for row in figures["timing"]), default=0) or 1,
        "outcomes": max((row["count"] for row in figures["crawl"].get("outcomes", [])), default=0) or 1,
    }


def _table(rows: list[Row], columns: tuple[str, ...]) -> str:
    head = ["| " + " | ".join(_cell(name) for name in columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(head + ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows])


def _cell(value: Any) -> str:
    """Text that cannot break out of a Markdown table, nor become a tag or a link."""
    if value is None:
        return ""
    text = f"{value:,}" if isinstance(value, int | float) else str(value)
    return MARKS.sub(lambda mark: f"&#{ord(mark[0])};", text)
