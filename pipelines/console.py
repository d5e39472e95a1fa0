"""What a run says on the terminal: bars on a screen, one plain line for each change elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.log import Event, attach

PLAIN_EVERY_S = 10.0
MARKS = {"cached": "[cyan]cached[/]", "done": "[green]done[/]", "failed": "[red]failed[/]", "running": "[bold]running[/]"}


def watching(console: Console) -> AbstractContextManager[Any]:
    """Show events until the block ends, in the way this console can."""
    return Bars(console) if console.is_terminal and not console.no_color else Lines(console)


class Lines:
    """One line when a stage starts or ends, and at most one of progress in ten seconds."""

    def __init__(self, console: Console) -> None:
        self.console, self._label, self._last = console, "", 0.0
        self._begun = time.monotonic()

    def __enter__(self) -> Lines:
        self._detach = attach(self.tell)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._detach()

    def tell(self, told: Event) -> None:
        kind = told["kind"]
        if kind == "stage":
            self._label, self._last = told["label"], time.monotonic()
            self._say(f"{told['label']:<24} {stage_words(told)}")
        elif kind in ("note", "warning"):
            self._say(f"{'warning: ' if kind == 'warning' else ''}{told['message']}")
        elif kind in ("progress", "train") and time.monotonic() - self._last > PLAIN_EVERY_S:
            self._last = time.monotonic()
            self._say(f"{self._label:<24} {progress_words(told)}")

    def _say(self, text: str) -> None:
        since = time.monotonic() - self._begun
        self.console.print(f"{since:7.1f}s  {text}", markup=False, highlight=False, soft_wrap=True)


class Bars:
    """One bar for the stage that runs; finished stages stand above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (TextColumn("{task.description:<24}"), BarColumn(bar_width=30), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, transient=True)
        self._bar: TaskID | None = None

    def __enter__(self) -> Bars:
        self.progress.start()
        self._detach = attach(self.tell)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._detach()
        self.progress.stop()

    def tell(self, told: Event) -> None:
        kind = told["kind"]
        if kind == "stage":
            self._drop()
            if told["state"] == "running":
                self._bar = self.progress.add_task(told["label"], total=None, words="")
            else:
                self.console.print(f"{told['label']:<24} {MARKS[told['state']]} {stage_words(told).partition(' ')[2]}", highlight=False)
        elif kind in ("note", "warning"):
            mark = "[yellow]warning:[/] " if kind == "warning" else ""
            self.console.print(mark, end="")
            self.console.print(told["message"], markup=False, highlight=False)
        elif kind in ("progress", "train") and self._bar is not None:
            done = told.get("done", told.get("step", 0))
            self.progress.update(self._bar, total=told.get("total"), completed=done, words=progress_words(told))

    def _drop(self) -> None:
        if self._bar is not None:
            self.progress.remove_task(self._bar)
            self._bar = None


def stage_words(told: Event) -> str:
    """`done 12.3 s  read 120, kept 80`."""
    counts = told.get("counts") or {}
    some = ", ".join(f"{name} {counts[name]:,}" for name in ("read", "kept", "tokens", "steps") if name in counts)
    seconds = f" {told['seconds']:.1f} s" if told.get("seconds") else ""
    return f"{told['state']}{seconds}{'  ' + some if some else ''}"


def progress_words(told: Event) -> str:
    """`12 of 80 pages, loss 4.123`."""
    done, total = told.get("done", told.get("step", 0)), told.get("total")
    words = f"{done:,} of {total:,} {told.get('unit', 'steps')}" if total else f"{done:,} {told.get('unit', '')}"
    loss = told.get("loss")
    speed = told.get("tokens_per_s")
    return words + (f", loss {loss:.3f}" if isinstance(loss, float) else "") + (f", {speed:,.0f} tokens/s" if speed else "")


def table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    """A borderless table; numbers stand on the right."""
    made = Table(title=title or None, box=None, title_justify="left", header_style="bold", pad_edge=False)
    for name in columns:
        numbers = all(isinstance(row.get(name, 0), int | float) for row in rows) and bool(rows)
        made.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(row.get(name)) for name in columns))
    return made


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escape(str(value))
