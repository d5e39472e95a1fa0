"""`textmill deploy` and `textmill schedule`: recipes that run by the clock."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import HERE, AsJson, RecipeArgument, Settings, Workspace

schedule = typer.Typer(name="schedule", help="The schedules that `textmill deploy` created.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="As `textmill schedule list` shows it.")]


class Overlap(StrEnum):
    """What happens to a run that is due while the one before still runs."""

    skip = "skip"
    allow = "allow"


def deploy(
    recipe: RecipeArgument,
    cron: Annotated[
        list[str] | None, typer.Option(help="When, as five cron fields: '0 3 * * *' is every night at three; repeatable.")
    ] = None,
    interval: Annotated[list[str] | None, typer.Option(help="How often, counted from now: 30m, 6h, 1d; repeatable.")] = None,
    timezone: Annotated[str, typer.Option(help="Whose three o'clock, such as Asia/Seoul; the date of a run is that zone's too.")] = "UTC",
    name: Annotated[str, typer.Option(help="Of the schedule; the recipe's when left out. The same name again replaces it.")] = "",
    overlap: Annotated[
        Overlap, typer.Option(help="A run that is due while the last one still runs: skip it, or allow both.")
    ] = Overlap.skip,
    settings: Settings = None,
    workspace: Workspace = HERE,
    plain: Annotated[bool, typer.Option("--no-ray", help="Scheduled runs do without Ray.")] = False,
) -> None:
    """Schedule a recipe on the Prefect server; every run crawls again. A worker on this machine runs it."""
    from pipelines import prefect_server
    from pipelines.runner import Order, check
    from pipelines.schedules import Timetable

    timetable = Timetable(tuple(cron or ()), tuple(interval or ()), timezone, overlap is Overlap.allow)
    loaded = check(Order(recipe, workspace, tuple(settings or ())))
    api = prefect_server.connect()
    from pipelines import flows, schedules

    path = recipe if loaded.builtin else str(Path(recipe).absolute())
    parameters = {"recipe": path, "workspace": str(workspace.absolute()), "settings": list(settings or ()), "plain": plain}
    made = schedules.deploy(flows.textmill, name or loaded.recipe.name, timetable, parameters)
    worker = prefect_server.worker(api)
    when = ", ".join([*(f"'{one}'" for one in timetable.crons), *(f"every {one}" for one in timetable.intervals)])
    typer.echo(f"{made} runs at {when} ({timezone}); worker {worker}, pages at {prefect_server.ui(api)}/deployments")


@schedule.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every schedule: when it runs next (UTC), what waits, and what became of its last run."""
    from pipelines import prefect_server, schedules
    from pipelines.console import table
    from pipelines.prefect_api import Api

    found = schedules.rows(Api(prefect_server.connect()))
    if as_json:
        return typer.echo(json.dumps(found, ensure_ascii=False))
    if not found:
        return typer.echo("no schedules; `textmill deploy RECIPE --cron '0 3 * * *'` creates one")
    from rich.console import Console

    columns = ("name", "runs at", "timezone", "next", "late", "last run", "overlap", "recipe")
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160).print(table("", found, columns))


@schedule.command("pause")
def pause(name: Name) -> None:
    """No further runs; those that wait, late ones too, are deleted. A run that has started goes on."""
    from pipelines import prefect_server, schedules
    from pipelines.prefect_api import Api

    waiting = schedules.pause(Api(prefect_server.connect()), name)
    typer.echo(f"{name} is paused; {waiting} waiting runs are deleted")


@schedule.command("resume")
def resume(name: Name) -> None:
    """Runs from now on; what was missed meanwhile is not made up for."""
    from pipelines import prefect_server, schedules
    from pipelines.prefect_api import Api

    schedules.resume(Api(api := prefect_server.connect()), name)
    typer.echo(f"{name} is resumed; worker {prefect_server.worker(api)}")


@schedule.command("remove")
def remove(name: Name) -> None:
    """Delete the schedule and its waiting runs. Finished runs and their artifacts stay."""
    from pipelines import prefect_server, schedules
    from pipelines.prefect_api import Api

    waiting = schedules.remove(Api(prefect_server.connect()), name)
    typer.echo(f"{name} is removed, with {waiting} waiting runs")
