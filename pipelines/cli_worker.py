"""`textmill ui`, `textmill worker` and `textmill doctor`: the services of this machine."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from pipelines.cli_options import HERE, AsJson, Workspace


def ui(stop: Annotated[bool, typer.Option("--stop", help="End the server and the worker that textmill started.")] = False) -> None:
    """Start the Prefect server with its pages on this machine, if it does not run yet, and say where."""
    from pipelines import prefect_server

    if stop:
        ended = prefect_server.stop()
        return typer.echo(f"ended: {', '.join(ended)}" if ended else "nothing of ours was running")
    return typer.echo(prefect_server.ui(prefect_server.connect()))


def doctor(workspace: Workspace = HERE, as_json: AsJson = False) -> None:
    """What is missing or clashes on this machine, each with its fix."""
    from dataclasses import asdict

    from rich.console import Console

    from pipelines.console import table
    from pipelines.doctor import examine

    found = examine(workspace)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=1, ensure_ascii=False))
    else:
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
        Console(width=width).print(table("", [asdict(finding) for finding in found], ("what", "state", "found", "fix")))
    raise typer.Exit(2 if any(finding.state == "bad" for finding in found) else 0)
