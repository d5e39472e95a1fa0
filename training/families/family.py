"""What a family is: sizes, objective, recipe and foreign names, as data; and what all families can do with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from data_prep.tokenizer import frame as framing
from data_prep.tokenizer.frame import Frame
from infra import log
from infra.artifact import Artifact
from infra.errors import ConfigError
from training.backbone import exchange
from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.backbone.transformer import Backbone, count_parameters, shapes_only
from training.families.remote_code import banded_settings, copy_code
from training.families.tokenizer_files import Usage, complete, copy_tokenizer, is_complete, special_ids
from training.feed.masking import Masking
from training.objectives.language import LanguageHead
from training.objectives.rtd import DoubtHead
from training.objectives.sequence import Pool, SequenceHead
from training.objectives.tower import Head, Tower

ONLY_FOR_TRAINING = {  # the same model without
    "init_std",
    "truncated_init",
    "residual_init",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "generator",
}


@dataclass(frozen=True)
class Use:
    """What an export says of a model's use. None or empty: the family's own frame, the model's positions, nothing retained.

    retained: fields of config.json that an import passes on; tokenizer: the same of tokenizer_config.json.
    """

    frame: Frame | None = None
    length: int = 0
    retained: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


OURS = "a preset of textmill for CPUs, in no paper"


@dataclass(frozen=True)
class Preset:
    """How the paper pretrained: optimiser, schedule, batch. Clipping is of the global norm; 0 is none."""

    lr: float
    steps: int
    batch: int  # sequences
    length: int
    warmup: int  # steps, linear
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "wsd", "trapezoid", "wsd_sqrt"] = "linear"
    min_ratio: float = 0.0  # the last rate as a share of the highest
    optimiser: Literal["adamw", "lamb"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01  # on matrices and embeddings, not on biases and layer norms
    clip: float = 1.0
    bias_correction: bool = True
    mask_rate: float | None = None  # where it is not the family's
    hold: float = 0.0  # the share of the steps, at the end, that stays at the last rate (GPT-3)
    opening: tuple[float, int] | None = None  # this share of the steps on sequences of this length, before `length` (BERT)
    source: str = ""  # where the numbers are from, if the family's paper does not name all of them

    @property
    def tokens(self) -> float:
        """Tokens of the whole pretraining, padding included."""
        share, length = self.opening or (0.0, 0)
        return self.steps * self.batch * (share * length + (1 - share) * self.length)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Families derive from one another with dataclasses.replace; a new one is a file of data and a line in the catalog."""

    name: str
    paper: str
    sizes: Mapping[str, BackboneConfig]
    tokenizer: str  # kind
    examples: Literal["blocks", "pairs"]
    objective: Literal["next", "mlm", "mlm+nsp", "mlm+sop"]  # what the feed labels
    heads: tuple[str, ...]  # what is pretrained: "next", "mlm", "pair", "rtd"
    layout: Layout
    presets: Mapping[str, Preset]  # by size; "" for every other
    masking: Masking | None = None
    blocks: Literal["stream", "full_sentences", "doc_sentences"] = "stream"  # how text is cut for those that read blocks
    pool: Pool = "tanh"  # of the head for one class a sequence
    position: int = 0  # which token that head reads
    class_dropout: float = 0.1
    separators: int = 1  # between the two texts of a pair
    segment_ids: bool = True  # whether the second text of a pair has segment 1, where the model has segments
    extra: Mapping[str, Any] = field(default_factory=dict)  # keys of config.json that only this family writes

    def backbone(self, size: str, vocab: int | None = None, positions: int | None = None) -> BackboneConfig:
        """A size of the paper, with the vocabulary of a tokenizer of one's own and another longest sequence where given."""
        if size not in self.sizes:
            raise ConfigError(f"{self.name} has no size `{size}`; its sizes are {', '.join(self.sizes)}")
        found = self.sizes[size]
        return replace(found, vocab=vocab or found.vocab, positions=positions or found.positions)

    def preset(self, size: str) -> Preset:
        return self.presets.get(size) or self.presets[""]

    def curriculum(self, size: str, length: int) -> tuple[dict[str, float], ...]:
        """The paper's shorter sequences before those of `length`, as pretrain.curriculum has them; in proportion where that is another.

        Raises ConfigError where the paper trained on one length, or the proportion is not whole.
        """
        preset = self.preset(size) if self.preset(size).opening else self.presets[""]
        if preset.opening is None:
            raise ConfigError(f"{self.name} was trained on sequences of one length; take pretrain.curriculum out")
        share, short = preset.opening
        if length * short % preset.length:
            raise ConfigError(
                f"pretrain.length is {length}, and curriculum: paper wants {short / preset.length:g} of it first ({self.name}: {short} "
                f"of {preset.length}), which is not whole"
            )
        return {"share": share, "length": length * short // preset.length}, {"share": round(1 - share, 9), "length": length}

    def build(self, backbone: BackboneConfig, seed: int | None = None) -> Tower:
        """A fresh tower with its pretraining heads. With a seed the weights depend on it alone, else on torch's own state."""
        with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
            if seed is not None:
                torch.manual_seed(seed)
            return self._assemble(backbone)

    def _assemble(self, backbone: BackboneConfig) -> Tower:
        body = Backbone(backbone)
        return Tower(body, [self.head(name, body) for name in self.heads])

    def head(self, name: str, backbone: Backbone, classes: int = 2) -> Head:
        """A fresh head of this family on `backbone`."""
        c = backbone.config
        if name in ("next", "mlm"):
            return LanguageHead(name, backbone)
        if name == "rtd":
            return DoubtHead(name, c)
        if name == "pair":
            return SequenceHead(name, c, 2)
        return SequenceHead(name, c, classes, position=self.position, pool=self.pool, dropout=self.class_dropout)

    def task_tower(self, tower: Tower, classes: int, name: str = "class") -> Tower:
        """The pretrained body under a fresh classification head; a pooler that pretraining made is kept (BERT, section 3.2)."""
        head = self.head(name, tower.backbone, classes)
        for pretrained in tower.heads:
            if isinstance(pretrained, SequenceHead) and isinstance(head, SequenceHead) and pretrained.name == "pair":
                head.take_pooler(pretrained)
        return Tower(tower.backbone, [head])

    def parameters(self, backbone: BackboneConfig) -> int:
        """Exact count of the model that is kept, with its pretraining heads, tied tensors once; nothing is allocated."""
        with shapes_only():
            return count_parameters(self.build(backbone))

    def trained_parameters(self, backbone: BackboneConfig) -> int:
        """What the optimiser holds: more than `parameters` where pretraining needs a second model (ELECTRA)."""
        return self.parameters(backbone)

    def check_export(self, backbone: BackboneConfig, specials: Mapping[str, int]) -> None:
        """Raises ConfigError when a model of this shape could be trained and then not written; nothing is allocated."""
        with shapes_only():
            tower = self.build(backbone)
        for part in self.parts(tower).values():
            self.settings(self.counted_from(part.config, specials), part, specials)

    def parts(self, tower: Tower) -> dict[str, Tower]:
        """The models of an export by sub-folder; "" is the folder itself."""
        return {"": tower}

    def frame(self, config: BackboneConfig, specials: Mapping[str, int]) -> Frame:
        """The special tokens around one text and a pair; specials: role -> id."""
        segments = self.segment_ids and config.segments > 1
        return framing.around(specials, causal=config.causal, separators=self.separators, segments=segments)

    # ---- files -------------------------------------------------------------------------------------------------------

    def export(self, tower: Tower, folder: Path, tokenizer: Artifact | Path | None = None, use: Use | None = None) -> None:
        """Write config.json, model.safetensors and the tokenizer's files; `transformers` loads the folder.

        tokenizer: an artifact, its folder, or the folder with the tokenizer's files.
        """
        use = use or Use()
        tokenizer = tokenizer.path if isinstance(tokenizer, Artifact) else tokenizer
        specials = special_ids(tokenizer)
        config, weights = self.shift_positions(tower, specials)
        settings = self.settings(config, tower, specials, use.retained)
        exchange.write(Path(folder), settings, weights)
        copy_code(settings, Path(folder))
        if tokenizer is not None:
            copy_tokenizer(Path(tokenizer), Path(folder))
        if tokenizer is not None and is_complete(Path(folder)):
            frame = use.frame or self.frame(config, specials)
            length = min(use.length or config.positions, config.positions)
            complete(Path(folder), Usage(frame, settings.get("pad_token_id"), length, use.tokenizer))

    def settings(
        self, config: BackboneConfig, tower: Tower, specials: Mapping[str, int], retained: Mapping[str, Any] = MappingProxyType({})
    ) -> dict[str, Any]:
        """config.json: sizes, class, token ids. Refuses a config which the library's model cannot have."""
        names = tuple(sorted(h.name for h in tower.heads))
        if names not in self.layout.architectures:
            known = [list(heads) for heads in self.layout.architectures]
            raise ConfigError(f"{self.layout.model_type} has no model with the heads {list(names)}; it has {known}")
        settings = {**self.extra, **retained, **exchange.describe(config, self.layout)}
        settings |= token_ids(specials, retained.get("pad_token_id"))
        settings |= {"architectures": [self.layout.architectures[names]], "dtype": "float32", "initializer_range": config.init_std}
        own = {"family": self.name, "share": config.share, "band": config.band}
        settings["textmill"] = {**own, **({"vocab": config.vocab} if config.padded_vocab else {})}
        for head in tower.heads:
            if isinstance(head, SequenceHead) and head.name == "class" and len(settings.get("id2label", ())) != head.classes:
                settings |= labels(head.classes)
        self._check_round_trip(config, settings)
        if config.band:  # no class of the library computes it: the export carries its own
            settings |= banded_settings(config.band)
        return settings

    def _check_round_trip(self, config: BackboneConfig, settings: Mapping[str, Any]) -> None:
        again, wanted = (asdict(c) | {"head_activation": c.head_activation or c.activation} for c in (self.read_config(settings), config))
        for name, value in wanted.items():
            if name not in ONLY_FOR_TRAINING and again[name] != value:
                kind = self.layout.model_type
                raise ConfigError(f"a {kind} model always has {name} {again[name]}, not {value}; it cannot be exported so")

    def read_config(self, settings: Mapping[str, Any], vocab: int = 0) -> BackboneConfig:
        """What config.json says, with the library's defaults, and for the rest what this family always has.

        vocab: the tokenizer's, where it is known; rows of the table beyond it are padding. Raises ConfigError that names a field of
        config.json which is unknown, or has a value that textmill does not compute.
        """
        usual = replace(next(iter(self.sizes.values())), generator=0.0)  # a second model stands in a folder of its own
        found, own = exchange.sizes(settings, self.layout), settings.get("textmill", {})
        found |= {k: v for k, v in own.items() if k in ("share", "band")}
        if usual.position_offset:
            found["position_offset"] = int(settings.get("pad_token_id", usual.position_offset - 1)) + 1
            found["positions"] = found["positions"] - found["position_offset"]
        if "embedding_width" not in self.layout.fields:
            found["embedding_width"] = 0
        tokens = vocab or own.get("vocab", 0)
        if tokens and tokens < found["vocab"]:
            found |= {"vocab": tokens, "padded_vocab": found["vocab"]}
        try:
            return replace(usual, **found)
        except (ConfigError, TypeError) as error:
            keys = self.layout.all_fields.get(str(error).partition(" ")[0], ())
            raise ConfigError(f"config.json{f' ({keys[0]}: {settings.get(keys[0])!r})' if keys else ''}: {error}") from error

    def shift_positions(self, tower: Tower, specials: Mapping[str, int]) -> tuple[BackboneConfig, dict[str, torch.Tensor]]:
        """The library counts RoBERTa's positions from the padding id on: rows move where a tokenizer pads with another id than 1."""
        config, weights = self.counted_from(tower.config, specials), exchange.to_theirs(tower, self.layout)
        if config.position_offset != tower.config.position_offset:
            name = f"{self.layout.modules['embedding.position']}.weight"
            rows = weights[name][tower.config.position_offset - 1 :]
            weights[name] = torch.cat([rows.new_zeros(config.position_offset - 1, rows.shape[1]), rows])
        return config, weights

    def counted_from(self, config: BackboneConfig, specials: Mapping[str, int]) -> BackboneConfig:
        """The config with the position of a first token as the library derives it from the padding id."""
        if not config.position_offset or not specials:
            return config
        if "pad" not in specials:
            raise ConfigError(f"{self.name} counts positions of real tokens; give it a tokenizer that has a padding token")
        return replace(config, position_offset=specials["pad"] + 1)

    def load(self, folder: Path, vocab: int = 0) -> Tower:
        """A tower from our own export or from a folder that transformers saved. vocab: as read_config has it."""
        settings = exchange.read_settings(Path(folder))
        names = self.heads_in(settings)  # first: a model that cannot be read is refused before memory is taken for it
        config = self.read_config(settings, vocab)
        if "pair" in names and self.layout.heads["pair"]["scores"].startswith("sop") and class_count(settings) != 2:
            raise ConfigError(f"config.json says id2label: {settings['id2label']}; the sentence-order head has 2 classes")
        exchange.check_size(config, Path(folder))
        body = Backbone(config)
        tower = Tower(body, [self.head(name, body, class_count(settings)) for name in names])
        unused = exchange.from_theirs(exchange.read_weights(Path(folder)), tower, self.layout)
        if unused:
            log.event(
                "note", message=f"{folder}: {len(unused)} tensors of heads that its architecture lacks are not read, such as {unused[0]}"
            )
        return tower

    def heads_in(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """In the family's own order; the class says which."""
        named = (settings.get("architectures") or [None])[0]
        for heads, architecture in self.layout.architectures.items():
            if architecture == named:
                return tuple(sorted(heads, key=lambda n: self.heads.index(n) if n in self.heads else len(self.heads)))
        raise ConfigError(f"architecture {named!r} cannot be read as {self.name}; known: {', '.join(self.layout.architectures.values())}")


def token_ids(specials: Mapping[str, int], pad: int | None = None) -> dict[str, int]:
    """The ids that config.json repeats from the tokenizer. Where that has no padding: `pad`, else the end of a text, as GPTs are padded."""
    found = {f"{role}_token_id": specials[role] for role in ("pad", "bos", "eos") if role in specials}
    if "pad" not in specials and specials:
        end = specials.get("eos", specials.get("sep"))
        padding = end if pad is None else pad
        found |= {} if padding is None else {"pad_token_id": padding}
    return found


def labels(classes: int) -> dict[str, Any]:
    """Names of classes as the library writes them before anybody gives better ones."""
    names = {i: f"LABEL_{i}" for i in range(classes)}
    return {"id2label": {str(i): n for i, n in names.items()}, "label2id": {n: i for i, n in names.items()}}


def class_count(settings: Mapping[str, Any]) -> int:
    """How many classes a config.json names; two where it names none."""
    return len(settings.get("id2label") or {}) or 2


def prepare_folder(folder: Path) -> Path:
    """An empty place for a second model beside the first."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
