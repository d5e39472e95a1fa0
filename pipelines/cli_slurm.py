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
    warn: Annotated[int, typer.Option(metavar="SECONDS", help="How long before the limit the ranks are told to save.")] = 120,
    partition: str = "",
    account: str = "",
    qos: str = "",
    mem: Annotated[str, typer.Option(help="Memory of each node, such as 64G.")] = "",
    module: Annotated[list[str] | None, typer.Option(metavar="NAME", help="`module load NAME` before the ranks; repeatable.")] = None,
    setup: Annotated[list[str] | None, typer.Option(metavar="LINE", help="A line of bash before the ranks; repeatable.")] = None,
    container: Annotated[str, typer.Option(metavar="IMAGE", help="The ranks run in this image, with its python3.")] = "",
    container_runtime: Annotated[str, typer.Option(help="apptainer or pyxis.")] = "apptainer",
    restarts: Annotated[int, typer.Option(help="Crashed ranks in a job before it ends.")] = 2,
    requeues: Annotated[int, typer.Option(help="How often the job is queued again; then it ends and keeps its checkpoint.")] = 100,
    sbatch: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="Any option of sbatch; repeatable.")] = None,
) -> None:
    """Write a batch job for every training of the recipe whose data is made; `run` goes on from what the job makes."""
    import shlex

    from pipelines import slurm as jobs
    from pipelines.runner import Order, check

    lines = (*(f"module load {shlex.quote(name)}" for name in module or ()), *(setup or ()))
    job = jobs.Job(
        nodes, per_node, gpus, cpus, time, partition, warn, restarts, requeues, account, qos, mem, lines, container, container_runtime,
        tuple(sbatch or ()),
    )  # fmt: skip
    loaded = check(Order(recipe, workspace, tuple(settings or ())))
    for one in jobs.write(loaded.recipe, workspace.absolute(), job):
        typer.echo(f"sbatch {shlex.quote(str(one.script))}  # {one.label}")
