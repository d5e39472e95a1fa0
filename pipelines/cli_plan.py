"""`textmill plan`: what a run would do and cost, and what is wrong with it; or the cost of a model of the catalog."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import ConfigError
from pipelines.cli_options import HERE, AsJson, Settings, Workspace, console, print_json

if TYPE_CHECKING:
    from pipelines.plan import Step
    from pipelines.recipe import Recipe

COSTED = ("pretrain", "import", "distill")  # stages whose cost is computed


def plan(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that comes with textmill.")] = "",
    settings: Settings = None,
    workspace: Workspace = HERE,
    until: str = "",
    model: Annotated[str, typer.Option(metavar="FAMILY/SIZE", help="Instead of a recipe: what a model costs, such as gpt3/175b.")] = "",
    ranks: Annotated[int, typer.Option(help="With --model: ranks that share the memory.")] = 1,
    precision: Annotated[str, typer.Option(help="With --model: fp32, bf16 or fp16.")] = "fp32",
    length: Annotated[int, typer.Option(help="With --model: tokens of a sequence; its paper's when left out.")] = 0,
    micro_batch: Annotated[int, typer.Option(help="With --model: sequences a rank puts through at once.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="With --model: activations as a GPU keeps them.")] = False,
    on: Annotated[str, typer.Option(metavar="GPU", help="Time on so many of these as there are ranks, such as H100; else here.")] = "",
    mfu: Annotated[float | None, typer.Option(help="With --on: the share of the GPU's rate that training reaches; else by width.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Take some steps of each model on this machine; time and memory so.")] = False,
    activation_checkpointing: Annotated[int, typer.Option(help="With --model: every so many-th layer is computed again.")] = 0,
    offload: Annotated[str, typer.Option(help="With --model: optimizer or parameters in the host's memory.")] = "",
    as_json: AsJson = False,
) -> None:
    """What a run would do, stage by stage, and why, and what its training costs; or what a model would cost. Starts nothing of it."""
    if model:
        if measure:
            raise ConfigError("--measure takes steps of a recipe's models, whose vocabulary and batches it knows: name a recipe")
        from pipelines import plan_model

        more: dict[str, Any] = {"gpu": gpu, "on": on, "mfu": mfu, "activation_checkpointing": activation_checkpointing, "offload": offload}
        told = plan_model.plan_model(model, ranks=ranks, precision=precision, length=length, micro_batch=micro_batch, **more)
        return print_json(told) if as_json else _tell_cost(told)
    if not recipe:
        raise ConfigError("name a recipe (`textmill plan demo`) or a model (`textmill plan --model gpt2/124m`)")
    with _no_collection():
        return _plan_recipe(recipe, workspace, tuple(settings or ()), until, {"on": on, "mfu": mfu, "measure": measure}, as_json)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection: importing torch allocates so many objects that collecting them takes a tenth of its CPU time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _plan_recipe(recipe: str, workspace: Path, settings: tuple[str, ...], until: str, cluster: dict[str, Any], as_json: bool) -> None:
    from dataclasses import asdict

    from pipelines import plan as planning
    from pipelines import plan_checks, plan_recipe, recipe_tasks
    from pipelines.console import table
    from pipelines.runner import Order, check

    loaded = check(Order(recipe, workspace, settings, until))
    for warning in plan_checks.warnings(loaded):
        typer.echo(f"textmill: warning: {warning}", err=True)
    steps = planning.plan(loaded.recipe, workspace.absolute(), until)
    labels = {step.label for step in steps if step.stage in COSTED}
    costs = {name: one for name, one in _costs(loaded.recipe, **cluster).items() if name in labels} if labels else {}
    files = recipe_tasks.summary(loaded.recipe) if any(step.stage == "finetune" for step in steps) else []
    if as_json:
        return print_json([asdict(step) | _more(step, costs, files) for step in steps])
    rows = [{"stage": step.label, "action": step.action, "why": step.why, "fingerprint": step.fingerprint[:6]} for step in steps]
    console().print(table("", rows, ("stage", "action", "why", "fingerprint")))
    if costs:
        if line := plan_recipe.line(costs):
            typer.echo(line)
        console().print(table("", plan_recipe.rows(costs), max((tuple(row) for row in plan_recipe.rows(costs)), key=len)))
    for line in map(recipe_tasks.line, files):
        typer.echo(line)
    todo = sum(step.action != "reuse" for step in steps)
    return typer.echo(f"{todo} of {len(steps)} stages to run")


def _costs(recipe: Recipe, on: str, mfu: float | None, measure: bool) -> dict[str, dict[str, Any]]:
    """Of models and students, by name."""
    from pipelines import plan_recipe

    return plan_recipe.costs(recipe, on, mfu, measure) | plan_recipe.student_costs(recipe, on, mfu)


def _more(step: Step, costs: dict[str, Any], files: list[dict[str, Any]]) -> dict[str, Any]:
    """What a stage's JSON has in addition: a model's cost, a fine-tuning's files."""
    if step.stage in COSTED and step.label in costs:
        return {"cost": costs[step.label]}
    mine = [one for one in files if step.stage == "finetune" and step.label.startswith(f"{one['task']} ")]
    return {"files": mine} if mine else {}


def _tell_cost(told: dict[str, Any]) -> None:
    from pipelines import plan_model
    from pipelines.console import table

    for line in plan_model.lines(told):
        typer.echo(line)
    rows = plan_model.rows(told)
    console().print(table("", rows, tuple(rows[0])))
