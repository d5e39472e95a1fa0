"""Retained text blocks as plain text or as Markdown (CommonMark with the tables of GitHub Flavored Markdown).

Plain text: a block per line, list items after "- ", a table row per line with tabs between its cells, code as it is
written. Markdown: headings, nested and numbered lists, pipe tables, fenced code, block quotations, a blank line between blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby

from data_prep.corpus.blocks import HEADINGS, Block

FORMATS = ("text", "markdown")
LONG_CELL = 400  # characters of a cell, beyond which its table is taken for layout
MAX_COLUMNS = 100
_FENCE = re.compile(r"^\s*(`{3,})", re.MULTILINE)


def render(given: list[Block], form: str = "text") -> str:
    """The blocks in their order as one text."""
    return _markdown(given) if form == "markdown" else "\n".join(_plain(given))


def _plain(given: list[Block]) -> Iterator[str]:
    item = None
    for part in _parts(given):
        if isinstance(part, list):
            yield from ("\t".join(row) for row in part)
            item = None
            continue
        starts = part.item is not None and part.item is not item and part.kind not in HEADINGS and part.code is None
        item = part.item
        yield f"- {part.text}" if starts else part.text


def _markdown(given: list[Block]) -> str:
    written: list[tuple[str, bool]] = []  # text, and whether it follows the one before without a blank line
    item, group = None, None
    for part in _parts(given):
        if isinstance(part, list):
            written.append((_pipes(part), False))
            item = None
            continue
        lines = _as_markdown(part)
        if part.item is not None:
            indent = "    " * min(part.item.depth, 8)
            marker = f"{part.item.number}. " if part.item.number else "- "
            if part.item is not item:
                first, *rest = lines
                lines = [indent + marker + first, *(indent + " " * len(marker) + line if line else line for line in rest)]
                same = item is not None and (item.depth != part.item.depth or part.group is group)
                written.append(("\n".join(lines), same))
            else:
                written.append(("\n".join(indent + " " * len(marker) + line if line else line for line in lines), False))
        else:
            written.append(("\n".join(lines), False))
        item, group = part.item, part.group
    text = ""
    for piece, follows in written:
        text += ("\n" if follows else "\n\n" if text else "") + piece
    return text


def _as_markdown(block: Block) -> list[str]:
    lines = block.text.split("\n")
    if block.code is not None:
        longest = max((len(found) for found in _FENCE.findall(block.text)), default=2)
        fence = "`" * max(3, longest + 1)
        lines = [fence + block.code, *lines, fence]
    elif level := HEADINGS.get(block.kind, 0):
        lines = ["#" * level + " " + " ".join(lines)]
    else:
        lines = [line + "\\" for line in lines[:-1]] + lines[-1:]  # a line break that is meant
    return ["> " + line if line else ">" for line in lines] if block.quoted else lines


def _pipes(rows: list[list[str]]) -> str:
    width = max(map(len, rows))
    cells = [[cell.replace("|", "\\|") for cell in row] + [""] * (width - len(row)) for row in rows]
    cells.insert(1, ["---"] * width)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _parts(given: list[Block]) -> Iterator[Block | list[list[str]]]:
    """Blocks, and the rows of each table of data."""
    table_of: Callable[[Block], object] = lambda block: block.cell.table if block.cell and block.code is None else None  # noqa: E731
    for table, group in groupby(given, table_of):
        run = list(group)
        rows = _rows(run) if table is not None else None
        if rows is None:
            yield from run
        else:
            yield rows


def _rows(run: list[Block]) -> list[list[str]] | None:
    """The cells of a table's blocks by row; None for a table of layout: one column, long cells, or headings and lists in cells."""
    if any(block.kind in HEADINGS or block.item is not None for block in run):
        return None
    rows: dict[int, dict[int, str]] = {}
    for block in run:
        cell = block.cell
        assert cell is not None, "a run has the cells of one table"
        row = rows.setdefault(cell.row, {})
        row[cell.column] = f"{row[cell.column]} {block.text}" if cell.column in row else block.text
    texts = [text for row in rows.values() for text in row.values()]
    if max(map(len, texts)) > LONG_CELL or max(map(len, rows.values())) < 2:
        return None
    return [
        [" ".join(row.get(column, "").split()) for column in range(min(max(row), MAX_COLUMNS - 1) + 1)] for _, row in sorted(rows.items())
    ]
