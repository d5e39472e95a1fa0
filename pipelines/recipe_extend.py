"""Checks of models that extend another's training, and how much of theirs is new. They import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.errors import ConfigError, PipelineError
from pipelines.recipe import Model, Recipe
from pipelines.recipe_shapes import configured
from pipelines.recipe_yaml import Path


def extensions(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Trainings that can be gone on with, by those that go on with them; states that there are to keep."""
    for name, model in recipe.models.items():
        try:
            if model.extend:
                _check(recipe, name, model)
            elif model.pretrain.keep_state:
                _keeps(recipe, model)
        except PipelineError as error:
            yield ("models", name), f"models.{name}: {error}"


def taken(recipe: Recipe, model: Model) -> int:
    """The first steps of a model's training, which are those of the model that it extends. Raises ConfigError."""
    from training.settings import branch, loop_config

    return branch(loop_config(recipe.models[model.extend].training(recipe.seed))) if model.extend else 0


def _keeps(recipe: Recipe, model: Model) -> None:
    from training.settings import loop_config

    if config := configured(recipe, model):
        loop_config(config)


def _check(recipe: Recipe, name: str, model: Model) -> None:
    from training.extension import check

    base = recipe.models[model.extend]
    if not base.trained:
        raise ConfigError(
            f"extend: {model.extend} is imported and not trained, so there is no training to go on with; give models.{name} "
            f"`init: {base.init}` in place of extend"
        )
    was, now = configured(recipe, base), configured(recipe, model)
    if was is None or now is None:
        return
    told: dict[str, tuple[Any, Any]] = {"tokenizer": (base.tokenizer, model.tokenizer), "init": (base.init, model.init)}
    told["blocks"] = (base.blocks.model_dump(), model.blocks.model_dump())
    for key, (old, new) in told.items():
        if old != new:
            raise ConfigError(
                f"{key} must be as in {model.extend}, whose steps are taken over: it is {new!r} and was {old!r}; leave it out"
            )
    check(was, now, model.extend)
