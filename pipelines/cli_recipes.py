"""`textmill recipes`: the recipes that come with textmill, the size of their models, and what their training costs."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli_options import AsJson, console, print_json

HOUR = 3600.0


def recipes(
    on: Annotated[str, typer.Option(metavar="GPU", help="The GPU whose hours are counted, such as A100.")] = "H100",
    as_json: AsJson = False,
) -> None:
    """The recipes that come with textmill: their models' parameters and tokens, and GPU hours as `plan` computes them."""
    from pipelines.console import table
    from pipelines.recipe import builtin_recipes

    found = [listed(name, path, on) for name, path in builtin_recipes().items()]
    if as_json:
        return print_json(found)
    rows = [row for one in found for row in _rows(one)]
    console().print(table("", rows, tuple(rows[0])))
    keys = sorted({key for one in found for key in one["missing"]})
    typer.echo(f"hours are those of one {on}, added up over the GPUs, as `textmill plan NAME --on {on}` assumes its speed")
    if keys:
        typer.echo(f"recipes of your own texts need {', '.join(keys)}: textmill plan gpt2-124m --set {keys[0]}='texts/*.jsonl'")
    return None


def listed(name: str, path: Path, on: str) -> dict[str, Any]:
    """A recipe with what it makes. gpu_hours: of all GPUs together; missing: keys that name files which do not exist.

    Raises ConfigError for a GPU nobody knows.
    """
    from pipelines.plan_recipe import costs, student_costs
    from pipelines.recipe import without_files
    from pipelines.recipe_shapes import CONTROL

    recipe, missing = without_files(path)
    gpus, models = recipe.resources.ranks, []
    for model, cost in costs(recipe, on).items():
        said = recipe.models[model]
        models.append({"name": model, "family": said.family, "size": said.size, **_figures(cost, gpus), "fits": cost["fits"]})
    taught = student_costs(recipe, on)
    for student, taught_by in recipe.students.items():
        both = [taught[name] for name in (student, f"{student}{CONTROL}") if name in taught]  # a control is counted with its student
        cost = both[0] | {"seconds": sum(one["seconds"] for one in both)}
        models.append({"name": student, "family": cost["family"], "teacher": taught_by.teacher, **_figures(cost, gpus)})
    hours = sum(model["gpu_hours"] for model in models)
    return {"name": name, "about": about(path), "gpu": on, "gpus": gpus, "gpu_hours": hours, "models": models, "missing": missing}


def about(path: Path) -> list[str]:
    """The comment at a recipe's head, a sentence or more a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]


def _figures(cost: dict[str, Any], gpus: int) -> dict[str, Any]:
    return {"parameters": cost["parameters"], "tokens": cost["tokens"], "gpu_hours": cost["seconds"] * gpus / HOUR}


def _rows(one: dict[str, Any]) -> list[dict[str, str]]:
    """A row a model; the recipe's name in its first."""
    from pipelines.plan_model import span

    rows = []
    for index, model in enumerate(one["models"]):
        kind = f"{model['family']}/{model['size']}" if "size" in model else f"{model['family']}, taught by {model['teacher']}"
        hours = model["gpu_hours"]
        rows.append(
            {
                "recipe": "" if index else one["name"],
                "model": kind,
                "parameters": f"{model['parameters']:,}",
                "tokens": f"{model['tokens']:,}",
                "GPUs": f"{one['gpus']} x {one['gpu']}",
                "GPU hours": f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}",
                "time": span(hours * HOUR / one["gpus"]),
                "memory": "" if model.get("fits", True) else "does not fit",
            }
        )
    return rows
