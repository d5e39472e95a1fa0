"""`textmill slurm`: trainings as batch jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli_options import HERE, RecipeArgument, Settings, Workspace


def slurm(
    recipe: RecipeArgument,
    settings: Settings = None,
    workspace: Workspace = HERE,
    nodes: int = 1,
    per_node: Annotated[int, typer.Option(help="Ranks on each node; with --gpus as many GPUs.")] = 1,
    gpus: Annotated[bool, typer.Option("--gpus", help="A GPU for every rank.")] = False,
    cpus: Annotated[int, typer.Option(help="CPUs of each rank.")] = 1,
    time: Annotated[str, typer.Option(help="The job's limit; it saves before, and is queued again.")] = "24:00:00",
    partition: str = "",
    restarts: Annotated[int, typer.Option(help="Dead ranks in a job before it ends.")] = 2,
    sbatch: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="Any option of sbatch; repeatable.")] = None,
) -> None:
    """Write a batch job for every training of the recipe whose data is made; `run` goes on from what the job makes."""
    from pipelines import slurm as jobs
    from pipelines.runner import Order, check

    job = jobs.Job(nodes, per_node, gpus, cpus, time, partition, restarts=restarts, more=tuple(sbatch or ()))
    loaded = check(Order(recipe, workspace, tuple(settings or ())))
    for one in jobs.write(loaded.recipe, workspace.absolute(), job):
        typer.echo(f"sbatch {one.script}  # {one.label}")
