"""The end of a run on the terminal: its stages, its funnel, its scores, from the same figures as the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.console import table

if TYPE_CHECKING:
    from pipelines.runner import Outcome

Rows = list[dict[str, Any]]
FUNNEL = ("stage", "read", "kept", "removed", "set_aside")
MEASURES = 8  # lines of scores shown; the report has them all


def tell(console: Console, outcome: Outcome) -> None:
    """Print it."""
    figures = json.loads((outcome.run.path / "report.json").read_text(encoding="utf-8")) if outcome.report else {}
    for title, rows in (("stages", stages(outcome)), ("funnel", funnel(figures)), ("scores", scores(figures))):
        if rows:
            console.print()
            console.print(table(title, rows, tuple(rows[0])))
    console.print()
    console.print(f"run     {outcome.run.id} in {outcome.seconds:.1f} s", highlight=False)
    console.print(f"report  {near(outcome.report)}", highlight=False, soft_wrap=True)
    if outcome.ui:
        console.print(f"UI      {outcome.ui}", highlight=False, soft_wrap=True)


def stages(outcome: Outcome) -> Rows:
    """Every stage with its state and seconds."""
    return [{"stage": row.label, "state": row.state, "seconds": f"{row.seconds:.1f}"} for row in outcome.run.rows]


def funnel(figures: dict[str, Any]) -> Rows:
    """What came into each stage of the corpus and what left it."""
    return [{name: row.get(name, 0) for name in FUNNEL if name in row} for row in figures.get("funnel", [])]


def scores(figures: dict[str, Any]) -> Rows:
    """Measures down, models across."""
    from pipelines.report import pivot

    pivoted = pivot(figures.get("scores", []))
    return [{"measure": row["measure"], **row} for row in pivoted.get("rows", [])[:MEASURES]]


def near(path: Path | None) -> str:
    """As seen from here when it lies below, else in full."""
    if path is None:
        return "-"
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
