"""`textmill deploy` and `textmill schedule`: recipes that run by the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import HERE, RecipeArgument, Settings, Workspace


def deploy(
    recipe: RecipeArgument,
    cron: Annotated[str, typer.Option(help="When, as five cron fields: '0 3 * * *' is every night at three.")],
    timezone: Annotated[str, typer.Option(help="Whose three o'clock, such as Asia/Seoul.")] = "UTC",
    settings: Settings = None,
    workspace: Workspace = HERE,
    plain: Annotated[bool, typer.Option("--no-ray", help="Scheduled runs do without Ray.")] = False,
) -> None:
    """Schedule a recipe on the Prefect server; every run crawls anew. A worker on this machine carries it out."""
    from pipelines import prefect_server
    from pipelines.runner import Order, check

    loaded = check(Order(recipe, workspace, tuple(settings or ())))
    api = prefect_server.connect()
    from pipelines import flows, schedules

    path = recipe if loaded.builtin else str(Path(recipe).absolute())
    given = tuple(settings or ())
    name = schedules.deploy(flows.textmill, path, workspace.absolute(), given, cron, timezone, loaded.recipe.name, plain=plain)
    worker = prefect_server.worker(api)
    typer.echo(f"{name} runs at '{cron}' ({timezone}); worker {worker}, pages at {prefect_server.ui(api)}/deployments")
