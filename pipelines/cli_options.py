"""Arguments, options and output that several commands share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

RecipeArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that comes with textmill, such as demo.")]
Workspace = Annotated[Path, typer.Option("--workspace", "-w", help="Where artifacts and runs are kept.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the recipe; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
HERE = Path("workspace")


def console() -> Console:
    """As wide as the terminal, or 160 columns where there is none."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=width)


def print_json(value: Any) -> None:
    """To stdout, for programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))
