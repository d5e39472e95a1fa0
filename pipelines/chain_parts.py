"""What the chain asks of a recipe's sections: how a model's text is cut, and the config of the demo's own web."""

from __future__ import annotations

from pipelines.recipe import Model, Recipe
from pipelines.site import SiteConfig


def site_config(recipe: Recipe) -> SiteConfig:
    """The config of the demo's own web; its versions are those of the packages installed here."""
    assert recipe.site is not None
    return SiteConfig.of(**recipe.site.said("kind"))


def framed(family: str) -> int:
    """How many tokens the feed sets around a block: <s> and </s> where masked words are guessed in it (RoBERTa, section 4.2)."""
    from training.families.catalog import family as find

    found = find(family)
    return 2 if found.examples == "blocks" and found.objective == "mlm" else 0


def blocks_mode(model: Model) -> str:
    """As the recipe says, else as the family's paper cut its text."""
    from training.families.catalog import family as find

    return str(model.blocks.mode) if "mode" in model.blocks.model_fields_set else find(model.family).blocks


def examples_kind(family: str) -> str:
    """`blocks` or `pairs`."""
    from training.families.catalog import family as find

    return find(family).examples
