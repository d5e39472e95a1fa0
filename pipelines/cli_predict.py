"""`textmill predict`: labels and scores of the rows of a file, as JSON lines."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import HERE, Workspace


def predict(
    model: Annotated[str, typer.Argument(help="A fine-tuned model of the newest run (its label), or a directory that holds one.")],
    file: Annotated[Path, typer.Argument(help="Rows in .tsv, .csv or .jsonl, or one text per line in .txt; .gz too.")],
    text: Annotated[str, typer.Option(metavar="COLUMN", help="The column of the text; the task's own when left out, or `text`.")] = "",
    pair: Annotated[str, typer.Option(metavar="COLUMN", help="The column of the second text; the task's own when left out.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the JSON lines here; to the terminal when left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts in one forward pass.")] = 32,
    length: Annotated[int, typer.Option(min=0, help="Truncate to this many tokens; 0: as the model was fine-tuned.")] = 0,
    workspace: Workspace = HERE,
) -> None:
    """Classify the rows of a file: one JSON object per row with its label, its score and every label's score."""
    from pipelines.models import Inputs, predict_rows

    skipped = 0
    with open(out, "w", encoding="utf-8") if out else nullcontext(sys.stdout) as target:
        for row in predict_rows(workspace.absolute(), model, Inputs(file, text, pair, batch, length)):
            skipped += "error" in row
            target.write(json.dumps(row, ensure_ascii=False) + "\n")
    if skipped:
        typer.echo(f"textmill: {skipped} rows have no prediction; each has its reason under `error`", err=True)
