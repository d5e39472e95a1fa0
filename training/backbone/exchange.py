"""Weights and sizes under the names of the transformers library, in files that hold no code (safetensors, JSON)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infra.errors import ArtifactError, ConfigError
from training.backbone import hub_fields
from training.backbone.config import BackboneConfig
from training.backbone.tensor_file import read_entries, read_tensors, write_tensors

if TYPE_CHECKING:  # the tower stands on this room; its name is needed here for readers only
    from training.objectives.tower import Tower

ACTIVATION_WORDS = {  # their name -> ours; the first name of several is written
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "quick_gelu": "quick_gelu",
}
UNUSED = re.compile(r"(^|\.)(position_ids|token_type_ids)$|\.attn\.(masked_)?bias$")  # buffers of older files that follow from the sizes
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # checkpoints turned from TensorFlow
WEIGHTS, SETTINGS = "model.safetensors", "config.json"
LANGUAGE = ("next", "mlm")  # heads that score the vocabulary
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
    output: str = "lm_head"  # their module that scores the vocabulary
    transposed: bool = False  # linear weights of blocks lie [in, out]
    groups: bool = False  # they have layer sharing of their own, counted in groups
    activations: Mapping[str, str] = field(default_factory=lambda: ACTIVATION_WORDS)

    @property
    def all_fields(self) -> dict[str, tuple[str, ...]]:
        """The family's own fields and those that every configuration class has."""
        return {**self.fields, "tied": ("tie_word_embeddings",), "init_std": ("initializer_range",)}


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
            if id(parameter) == tied:  # written once, as the embedding
                continue
            own = ours == "scores.weight" and head.name in LANGUAGE
            yield Pair(f"heads.{index}.{ours}", (f"{layout.output}.weight" if own else _find(ours, layout.heads[head.name]),), False)


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
    if not tower.config.tied and (bias := _bias_of_output(layout)) in out:  # transformers reads the module's, older versions both
        out[f"{layout.output}.bias"] = out[bias]
    return out


@torch.no_grad()
def from_theirs(weights: Mapping[str, Tensor], tower: Tower, layout: Layout) -> list[str]:
    """Fill the tower; return the names that belong to heads which its architecture lacks.

    Raises ArtifactError that names the tensors which are missing, unknown, of another shape, or hold NaN or infinity.
    """
    theirs = output_once(modern(weights, layout), tower.config, layout)
    state, wrong = dict(tower.named_parameters(remove_duplicate=False)), []
    used: set[str] = set()
    for pair in pairs(tower, layout):
        used.update(pair.theirs)
        missing = [name for name in pair.theirs if name not in theirs]
        if missing:
            wrong.append(f"{missing[0]} is missing")
            continue
        parts = [theirs[name].t() if pair.transposed else theirs[name] for name in pair.theirs]
        wrong += [f"{name} {why}" for name in pair.theirs if (why := _unfit(theirs[name]))]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if whole.shape != state[pair.ours].shape:
            wrong.append(f"{pair.theirs[0]} is {list(whole.shape)}, the config asks for {list(state[pair.ours].shape)}")
            continue
        state[pair.ours].copy_(whole)
    unused = sorted(set(theirs) - used)
    wrong += [f"{name} has no place in it" for name in unused if not of_other_head(name, layout) and not UNUSED.search(name)]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ArtifactError(f"these weights do not fit a {layout.model_type} model: {'; '.join(wrong[:4])}{more}")
    return [name for name in unused if not UNUSED.search(name)]


def _unfit(tensor: Tensor) -> str:
    """What makes a tensor's numbers unusable, or ""."""
    if not tensor.is_floating_point():
        return f"holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point numbers"
    return "" if bool(tensor.isfinite().all()) else "holds NaN or infinity"


def of_other_head(name: str, layout: Layout) -> bool:
    """Whether a tensor is of a pooler or of any head that models of this type may have."""
    known = {module for head in layout.heads.values() for module in head.values()} | {f"{layout.prefix}pooler", layout.output}
    return any(name == module or name.startswith(f"{module}.") for module in known)


def _bias_of_output(layout: Layout) -> str:
    return layout.heads.get("mlm", {}).get("scores.bias", "")


def output_once(theirs: dict[str, Tensor], config: BackboneConfig, layout: Layout) -> dict[str, Tensor]:
    """The output matrix and its bias under one name each. Raises ArtifactError for two that should be one and differ."""
    out, bias = dict(theirs), _bias_of_output(layout)
    copies = [(f"{layout.output}.weight", f"{layout.modules['embedding.token']}.weight")] if config.tied else []
    copies += [(f"{layout.output}.bias", bias)] if bias and bias != f"{layout.output}.bias" else []
    for copy, name in copies:
        if copy not in out:
            continue
        given = out.pop(copy)
        if not config.tied or name not in out:
            out[name] = given  # of two biases the module's own is the one that is used
        elif not torch.equal(given, out[name]):
            raise ArtifactError(
                f"{copy} is another tensor than {name}, and config.json says tie_word_embeddings: true, under which they are one; "
                "set it to false if the matrix is to be used"
            )
    return out


def modern(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Old spellings made new; a model saved without heads gets its prefix."""
    out = {}
    bare = not any(name.startswith(layout.prefix) for name in weights)
    for written, tensor in weights.items():
        name = written
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        name = layout.prefix + name if bare else name
        if name in out:
            raise ArtifactError(f"the weights hold {name} twice, under an older name too ({written}); remove one")
        out[name] = tensor
    return out


# ---- sizes ---------------------------------------------------------------------------------------------------------------


def describe(config: BackboneConfig, layout: Layout) -> dict[str, Any]:
    """The sizes as they write them in config.json."""
    if layout.groups and config.embedding_width == config.width:
        raise ConfigError(f"{layout.model_type} models always project their embedding; set embedding_width below the width {config.width}")
    values: dict[str, Any] = {name: getattr(config, name) for name in layout.all_fields if name != "groups"}
    values["vocab"] = config.vocab_rows
    values["activation"] = next((theirs for theirs, ours in layout.activations.items() if ours == config.activation), None)
    values |= {"attention_dropout": config.attention_rate, "embedding_dropout": config.embedding_rate}
    values["positions"] = config.positions + config.position_offset
    values["groups"] = 1 if config.share == "all" else config.layers
    out = dict(layout.fixed)
    for name, keys in layout.all_fields.items():
        out.update(dict.fromkeys(keys, values[name]))
    return out | {"model_type": layout.model_type}


def sizes(settings: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Our fields from a config.json, with the library's defaults for those that it lacks.

    Raises ConfigError that names a field which is unknown or has a value that textmill does not compute.
    """
    own = layout.model_type not in hub_fields.FIELDS  # a family that transformers does not have
    theirs = settings if own else hub_fields.checked(settings, layout.model_type)
    found = {name: theirs[keys[0]] for name, keys in layout.all_fields.items() if keys[0] in theirs}
    for rate in ("attention_dropout", "embedding_dropout"):
        if found.get(rate) == found.get("dropout"):
            found[rate] = None  # ours for: as `dropout`
    found["ffn"] = found.get("ffn") or 0
    if found["activation"] not in layout.activations:
        key, known = layout.fields["activation"][0], ", ".join(layout.activations)
        raise ConfigError(f"config.json says {key}: {found['activation']!r}, an activation that textmill does not have; known: {known}")
    found["activation"] = layout.activations[found["activation"]]
    if layout.groups:
        groups, layers = found.pop("groups"), found["layers"]
        if groups not in (1, layers):
            raise ConfigError(
                f"config.json says {layout.fields['groups'][0]}: {groups} for {layers} layers; textmill shares one group among all or none"
            )
        if theirs["embedding_size"] == theirs["hidden_size"]:
            raise ConfigError(
                f"config.json says embedding_size: {theirs['embedding_size']}, the same as hidden_size; textmill has no projection between "
                "equal widths, which this model applies"
            )
        found["share"] = "all" if groups == 1 else "none"
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
    asked = (c.vocab_rows + c.positions) * c.embedding_width + layers * (3 * c.width**2 if c.share != "ffn" else 2 * c.width * c.ffn)
    if asked > held or c.layers > MOST_LAYERS:
        raise ArtifactError(
            f"{folder}: {SETTINGS} describes {c.layers} layers, {c.width} wide, with {c.vocab_rows} pieces, which is more than the "
            f"{held:,} numbers of its weights: they do not belong together"
        )
