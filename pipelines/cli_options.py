"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that comes with textmill, such as demo.")]
Workspace = Annotated[Path, typer.Option("--workspace", "-w", help="Where artifacts and runs are kept.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value of the recipe; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
HERE = Path("workspace")
