"""Weights and sizes under the names of the transformers library, in files that hold no code (safetensors, JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infra.errors import ArtifactError, ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.tensor_file import read_entries, read_tensors, write_tensors

if TYPE_CHECKING:  # the tower stands on this room; its name is needed here for readers only
    from training.objectives.tower import Tower

ACTIVATION_WORDS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}  # theirs -> ours
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # checkpoints turned from TensorFlow
WEIGHTS, SETTINGS = "model.safetensors", "config.json"
MOST_LAYERS = 1000  # of a model from outside; the deepest of the catalog has 96


@dataclass(frozen=True)
class Layout:
    """How the library names one kind of model. In block names `{i}` is the layer."""

    model_type: str
    prefix: str  # of the encoder inside a model with heads: "bert."
    fields: Mapping[str, tuple[str, ...]]  # our field -> their keys in config.json
    modules: Mapping[str, str]  # ours, below `backbone` -> theirs
    block: Mapping[str, str]  # ours, below `backbone.blocks.{i}` -> theirs
    qkv: tuple[str, ...]  # their module of query, key, value: one fused, or three
    heads: Mapping[str, Mapping[str, str]]  # head -> ours below it (a module, or one tensor) -> theirs
    architectures: Mapping[tuple[str, ...], str]  # names of the heads, sorted -> their class
    fixed: Mapping[str, Any] = field(default_factory=dict)  # further keys of config.json
    transposed: bool = False  # linear weights of blocks lie [in, out]
    groups: bool = False  # they have layer sharing of their own, counted in groups
    activations: Mapping[str, str] = field(default_factory=lambda: ACTIVATION_WORDS)


@dataclass(frozen=True)
class Pair:
    """One tensor of ours and where it stands in theirs; three names for a fused query, key, value."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool


# ---- tensors -------------------------------------------------------------------------------------------------------------


def pairs(tower: Tower, layout: Layout) -> Iterator[Pair]:
    """Every tensor that is written; a tensor that layers share once for each of them."""
    tied = id(tower.backbone.embedding.token.weight)
    for ours, parameter in tower.backbone.named_parameters(remove_duplicate=False):
        theirs, in_block = _backbone_names(ours, layout, tower.config)
        yield Pair(f"backbone.{ours}", theirs, layout.transposed and in_block and parameter.dim() == 2)
    for index, head in enumerate(tower.heads):
        if head.name not in layout.heads:
            known = ", ".join(sorted(layout.heads))
            raise ConfigError(f"the head `{head.name}` has no name in {layout.model_type} models; those are: {known}")
        for ours, parameter in head.named_parameters():
            if id(parameter) != tied:  # written once, as the embedding
                yield Pair(f"heads.{index}.{ours}", (_find(ours, layout.heads[head.name]),), False)


def _backbone_names(ours: str, layout: Layout, config: BackboneConfig) -> tuple[tuple[str, ...], bool]:
    if not ours.startswith("blocks."):
        return (_find(ours, layout.modules),), False
    _, number, path = ours.split(".", 2)
    layer = 0 if layout.groups and config.share == "all" else int(number)
    module, _, kind = path.rpartition(".")
    names = tuple(f"{m}.{kind}" for m in layout.qkv) if module == "attention.qkv" else (_find(path, layout.block),)
    return tuple(name.format(i=layer) for name in names), True


def _find(path: str, names: Mapping[str, str]) -> str:
    """A name of the tensor itself, else of its module."""
    if path in names:
        return names[path]
    module, _, kind = path.rpartition(".")
    if module not in names:
        raise ConfigError(f"`{module}` has no name in the library's model, whose parts are {', '.join(names)}; it cannot be exported so")
    return f"{names[module]}.{kind}"


def to_theirs(tower: Tower, layout: Layout) -> dict[str, Tensor]:
    """The tower's tensors under their names, in float32; tied tensors once. Views of the tower's own where they can be."""
    state, out = dict(tower.named_parameters(remove_duplicate=False)), {}
    for pair in pairs(tower, layout):
        tensor = state[pair.ours].detach().float()
        for name, part in zip(pair.theirs, tensor.chunk(len(pair.theirs)), strict=True):
            out[name] = part.t() if pair.transposed else part
    return out


@torch.no_grad()
def from_theirs(weights: Mapping[str, Tensor], tower: Tower, layout: Layout) -> list[str]:
    """Fill the tower; returns the names nobody wanted. A missing or misshapen tensor is an ArtifactError that lists all."""
    theirs = modern(weights, layout)
    state, wrong = dict(tower.named_parameters(remove_duplicate=False)), []
    used: set[str] = set()
    for pair in pairs(tower, layout):
        used.update(pair.theirs)
        missing = [name for name in pair.theirs if name not in theirs]
        if missing:
            wrong.append(f"{missing[0]} is missing")
            continue
        parts = [theirs[name].t() if pair.transposed else theirs[name] for name in pair.theirs]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if whole.shape != state[pair.ours].shape:
            wrong.append(f"{pair.theirs[0]} is {list(whole.shape)}, the config asks for {list(state[pair.ours].shape)}")
            continue
        state[pair.ours].copy_(whole)
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ArtifactError(f"these weights do not fit a {layout.model_type} model: {'; '.join(wrong[:4])}{more}")
    return sorted(set(theirs) - used)


def modern(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Old spellings made new; a model saved without heads gets its prefix."""
    out = {}
    bare = not any(name.startswith(layout.prefix) for name in weights)
    for written, tensor in weights.items():
        name = written
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        out[layout.prefix + name if bare else name] = tensor
    return out


# ---- sizes ---------------------------------------------------------------------------------------------------------------


def describe(config: BackboneConfig, layout: Layout) -> dict[str, Any]:
    """The sizes as they write them in config.json."""
    if layout.groups and config.embedding_width == config.width:
        raise ConfigError(f"{layout.model_type} models always project their embedding; set embedding_width below the width {config.width}")
    values = {name: getattr(config, name) for name in layout.fields if name != "groups"}
    values["activation"] = next((theirs for theirs, ours in layout.activations.items() if ours == config.activation), None)
    values["attention_dropout"] = config.attention_rate
    values["positions"] = config.positions + config.position_offset
    values["groups"] = 1 if config.share == "all" else config.layers
    out = dict(layout.fixed)
    for name, keys in layout.fields.items():
        out.update(dict.fromkeys(keys, values[name]))
    return out | {"model_type": layout.model_type}


def sizes(settings: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Our fields from a config.json; a key that is missing there is missing here."""
    found: dict[str, Any] = {}
    for name, keys in layout.fields.items():
        present = [settings[key] for key in keys if settings.get(key) is not None]
        if present:
            found[name] = present[0]
    if found.get("attention_dropout") == found.get("dropout"):
        found["attention_dropout"] = None  # ours for: as `dropout`
    if "activation" in found:
        if found["activation"] not in layout.activations:
            raise ConfigError(f"activation {found['activation']!r} cannot be read; known: {', '.join(layout.activations)}")
        found["activation"] = layout.activations[found["activation"]]
    groups, layers = found.pop("groups", None), found.get("layers")
    if layout.groups:
        if groups not in (None, 1, layers):
            raise ConfigError(f"{groups} groups for {layers} layers cannot be read: textmill shares one group among all layers, or none")
        found["share"] = "all" if groups in (None, 1) else "none"
    return found


# ---- files ---------------------------------------------------------------------------------------------------------------


def write(folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Each file under a temporary name first, so that none is ever half written."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{WEIGHTS}.part"
    write_tensors(part, weights)
    part.replace(folder / WEIGHTS)
    part = folder / f"{SETTINGS}.part"
    part.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    part.replace(folder / SETTINGS)


def read_settings(folder: Path) -> dict[str, Any]:
    """The folder's config.json; ArtifactError when there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} holds no readable {SETTINGS} ({error}); give the folder of an exported model") from error
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """One file, or the parts that an index names."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights.update(read_tensors(path))
    return weights


def weight_files(folder: Path) -> list[Path]:
    """Raises ArtifactError for an index that cannot be read or names anything but safetensors of this folder."""
    index = folder / f"{WEIGHTS}.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [WEIGHTS]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{index}: no index of weights that can be read ({type(error).__name__}: {error})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ArtifactError(f"{index} names {name!r}, which is no safetensors file of its folder")
        if not (folder / name).exists():
            raise ArtifactError(f"{folder} has no {name}; only safetensors are read (a pickled model could run code): save it in that form")
    return [folder / name for name in names]


def check_size(config: BackboneConfig, folder: Path) -> None:
    """Raises ArtifactError when config.json asks for more numbers than the files hold: told before memory is taken for them."""
    held = sum(math.prod(entry.shape) for path in weight_files(folder) for entry in read_entries(path).values())
    c = config
    layers = c.layers if c.share == "none" else 1
    asked = (c.vocab + c.positions) * c.embedding_width + layers * (3 * c.width**2 if c.share != "ffn" else 2 * c.width * c.ffn)
    if asked > held or c.layers > MOST_LAYERS:
        raise ArtifactError(
            f"{folder}: {SETTINGS} describes {c.layers} layers, {c.width} wide, with {c.vocab} pieces, which is more than the "
            f"{held:,} numbers of its weights: they do not belong together"
        )
