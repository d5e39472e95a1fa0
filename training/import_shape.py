"""The shape of a model in a folder, from its config.json and the headers of its weights, before anything is imported."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from training.backbone import exchange
from training.backbone.config import BackboneConfig
from training.families import catalog
from training.families.family import Family
from training.imported import GENERATOR, files_of

UNSET = ("vocab", "init_std", "truncated_init", "residual_init")  # the tokenizer's, and what only random weights need


def shape_in(folder: Path, family: str) -> tuple[Family, BackboneConfig]:
    """The family and shape that an import of this folder has. Raises ConfigError or ArtifactError for what cannot be imported."""
    files_of(folder)
    found, wanted = catalog.family_of(folder), catalog.family(family)
    if found.layout.model_type != wanted.layout.model_type:
        raise ConfigError(f"{folder} holds a {found.name} model, not {wanted.name}; set family: {found.name}")
    settings = exchange.read_settings(folder)
    wanted.heads_in(settings)
    shape = wanted.read_config(settings)
    exchange.check_size(shape, folder)
    second = folder / GENERATOR
    if (second / exchange.SETTINGS).is_file():
        shape = replace(shape, generator=wanted.read_config(exchange.read_settings(second)).width / shape.width)
    return wanted, shape


def closest(family: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The family's size whose body has the most similar number of parameters, and the overrides that make it the folder's shape."""
    wanted, shape = shape_in(folder, family)
    size = min(wanted.sizes, key=lambda name: (abs(math.log(_body(wanted.sizes[name]) / _body(shape))), name))
    usual, given = asdict(wanted.backbone(size)), asdict(shape)
    differing = {name: value for name, value in given.items() if name not in UNSET and value != usual[name] and value is not None}
    if "width" in differing:  # an override of the width would recompute these
        differing |= {"ffn": shape.ffn, "embedding_width": shape.embedding_width}
    return size, differing


def readable(family: str, folder: Path, usual: int) -> dict[str, int]:
    """Settings of the sequences that a model reads which stays as it is: of the usual length, or as long as its positions reach."""
    positions = shape_in(folder, family)[1].positions
    return {} if positions >= usual else {"length": positions, "batch_tokens": positions}


def _body(c: BackboneConfig) -> int:
    """Numbers of the layers' matrices, about."""
    return (1 if c.share == "all" else c.layers) * (4 * c.width**2 + 2 * c.width * c.ffn)
