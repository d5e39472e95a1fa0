"""A section of a recipe: unknown keys are errors; some sections are made from a stage's own config class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator


class Section(BaseModel):
    """Unknown keys are errors, and a recipe does not change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def said(self, *leave: str) -> dict[str, Any]:
        """What the recipe gives of this section; everything else keeps the stage's own default."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set and name not in leave}


class Mirror(Section):
    """A section with the fields of a stage's config, but those that the chain fills in."""

    config: ClassVar[Any] = None
    filled: ClassVar[Mapping[str, Any]] = {}
    mirrors: ClassVar[tuple[str, ...]] = ()

    def build(self, **more: Any) -> Any:
        """The stage's config."""
        return self.config(**{name: getattr(self, name) for name in self.mirrors} | more)

    @model_validator(mode="after")
    def _buildable(self) -> Any:
        if self.config is not None:
            self.build(**self.filled)  # a ConfigError is a ValueError, and pydantic knows whose section it is
        return self


def mirrored(name: str, config: type[Any], base: type[Mirror], filled: Mapping[str, Any]) -> type[Mirror]:
    """base with the fields of config added, except `filled`: its values stand in when the section is checked."""
    hints = get_type_hints(config)
    fields: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        if one.name in filled or one.name in base.model_fields:
            continue
        default: Any = one.default if one.default is not dataclasses.MISSING else ...
        if one.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=one.default_factory)
        fields[one.name] = (hints[one.name], default)
    made = create_model(name, __base__=base, __doc__=config.__doc__, **fields)
    made.config, made.filled, made.mirrors = config, dict(filled), tuple(fields)
    return made
