"""Stage 10: examples become a model, from random or imported weights, by the one loop on as many ranks as the compute gives.

Nothing here imports torch before a check or a rank runs: recipes and plans are made from this file too.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.base import Meta
from infra.artifact import Artifact, Counts, how
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage
from training.card import CARD, MODEL, read_card, write_json
from training.imported import begin, same_shape, tell_fresh

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.backbone.config import BackboneConfig
    from training.engine.loop import LoopConfig, Trained
    from training.engine.optim import OptimConfig
    from training.families.family import Family
    from training.feed.loader import Feed, FeedConfig
    from training.feed.order import StepFeed
    from training.objectives.tower import Tower

MICRO_TOKENS = 8192  # of a micro-batch nobody has set: with 8192 pieces the logits of a GPT then take 256 MiB
MASKED = ("mask", "pad", "cls", "sep")  # the specials that learning by masks needs
HELD_OUT = "valid/"  # the side of an examples artifact that is never trained on


@dataclass(frozen=True)
class PretrainConfig:
    """What stands at None is as the family's paper has it; warm-up is kept as a share of the run.

    overrides: fields of BackboneConfig that differ from the size's, such as {"layers": 3, "dropout": 0.0}; masking: of Masking,
    such as {"unit": "word"} or {"static_copies": 10}.

    packed: short sequences share a row, so that less is computed for padding; the batches hold the same. curriculum: parts such as
    ({"share": 0.9, "length": 128}, {"share": 0.1, "length": 512}), each for its share of the steps, the last at `length`; a step's
    tokens stay the same. mixture: weights of sources by patterns of their files' names, such as {"wiki*": 2, "*": 1}; exhausted: what
    a source does whose examples are used up, repeat or stop. documents_apart: the documents in a block do not see each other;
    restart_positions: positions begin anew with each.
    """

    family: str
    size: str
    tokens: int = 1_000_000  # the whole budget, padding included
    batch_tokens: int = 16_384  # of one step, over all ranks
    length: int = 128
    zero: int = 1
    precision: str = "fp32"
    lr: float | None = None
    schedule: str | None = None
    warmup: float | None = None  # below 1: share of all steps; from 1 on: steps
    min_ratio: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    mask_rate: float | None = None
    seed: int = 1
    overrides: dict[str, int | float | str | bool] = field(default_factory=dict)
    micro_batch: int = 0  # sequences a rank puts through the model at once; 0: as many as make 8192 tokens
    log_every: int = 10
    save_every: int = how(200)
    valid_every: int = 0  # 0: only at the end
    valid_batches: int = 8  # 0: all that is held out
    optimiser: str | None = None  # adamw or lamb
    masking: dict[str, int | float | str | bool] = field(default_factory=dict)
    packed: bool = False
    curriculum: tuple[dict[str, float], ...] = ()
    mixture: dict[str, float] = field(default_factory=dict)
    exhausted: str = "repeat"
    documents_apart: bool = False
    restart_positions: bool = False
    feed_workers: int | None = how(None)  # threads that make the next batches; None: 1 beside a GPU, else 0

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens", "length", "log_every", "save_every"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("micro_batch", "valid_every", "valid_batches", "feed_workers"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; it must be 0 or more")
        if self.batch_tokens % self.length:
            near = max(1, round(self.batch_tokens / self.length)) * self.length
            raise ConfigError(f"pretrain.batch_tokens {self.batch_tokens} is not a multiple of length {self.length}; {near} would be")
        if self.tokens < self.batch_tokens:
            raise ConfigError(f"pretrain.tokens {self.tokens} is less than one step of batch_tokens {self.batch_tokens}; raise it")
        if self.zero not in (0, 1, 2, 3):
            raise ConfigError(f"pretrain.zero is {self.zero}; ZeRO has the stages 0, 1, 2 and 3")
        if self.precision not in ("fp32", "bf16", "auto"):
            raise ConfigError(f"pretrain.precision is {self.precision!r}; choose fp32, bf16 or auto")
        self._check_curriculum()

    def _check_curriculum(self) -> None:
        for part in self.curriculum:
            if set(part) != {"share", "length"} or part["length"] != int(part["length"]) or not (part["share"] > 0 < part["length"]):
                raise ConfigError(f"pretrain.curriculum: a part is like {{share: 0.9, length: 128}}, not {part}")
            if self.batch_tokens % int(part["length"]):
                raise ConfigError(
                    f"pretrain.batch_tokens {self.batch_tokens} is not a multiple of the curriculum's length {int(part['length'])}"
                )
        if self.curriculum and abs(sum(part["share"] for part in self.curriculum) - 1) > 1e-6:
            raise ConfigError(f"pretrain.curriculum: the shares add up to {sum(part['share'] for part in self.curriculum):g}, not to 1")
        if self.curriculum and self.lengths[-1] != self.length:
            raise ConfigError(f"pretrain.length is {self.length}, the curriculum ends at {self.lengths[-1]}; set both alike")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The length of each part of the training; `length` is the last's."""
        return tuple(int(part["length"]) for part in self.curriculum) or (self.length,)

    @property
    def batch_size(self) -> int:
        """Sequences of a step, over all ranks."""
        return self.batch_tokens // self.length

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / self.batch_tokens))


def work(config: PretrainConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Inputs: examples (blocks or pairs), sentences, tokenizer; examples_LENGTH for every other length of a curriculum; init, an imported
    model to begin from, where there is one.
    """
    check(config, inputs, compute.ranks)
    return compute.gang("pretrain", partial(train_rank, config, dict(inputs), out))[0]


PRETRAIN = Stage(name="pretrain", version=2, work=work)


def examples_name(config: PretrainConfig, length: int) -> str:
    """The input that holds the examples of a length."""
    return "examples" if length == config.length else f"examples_{length}"


def check(config: PretrainConfig, inputs: Inputs, ranks: int) -> None:
    """Raises ConfigError before any rank is started: everything that can be known to be impossible is told here."""
    meta = tokenizers.meta(inputs["tokenizer"])
    family, backbone = model_of(config, meta.vocab)
    loop_config(config)
    feed_config(config)
    check_specials(family, meta)
    family.check_export(backbone, meta.specials)
    if "init" in inputs:
        same_shape(asdict(backbone), read_card(inputs["init"])["backbone"])
    for length in config.lengths:
        if inputs[examples_name(config, length)].stage != family.examples:
            raise ConfigError(f"{family.name} learns from {family.examples}, it was given {inputs[examples_name(config, length)].stage}")
    longest = max(config.lengths)
    if longest > backbone.positions:
        raise ConfigError(
            f"pretrain.length {longest} is more than {family.name}/{config.size}'s {backbone.positions} positions; "
            f"lower it or set overrides.positions"
        )
    if config.batch_tokens // longest < ranks:
        raise ConfigError(
            f"pretrain.batch_tokens {config.batch_tokens} makes {config.batch_tokens // longest} sequences a step, too few for {ranks} "
            f"ranks; raise it to at least {ranks * longest}"
        )


def model_of(config: PretrainConfig, vocab: int) -> tuple[Family, BackboneConfig]:
    """Family and shape. Raises ConfigError for names and sizes that cannot be."""
    from training.backbone.config import BackboneConfig
    from training.families import catalog

    family = catalog.family(config.family)
    check_names("overrides", config.overrides, BackboneConfig)
    backbone = family.backbone(config.size, vocab)
    overrides: dict[str, Any] = dict(config.overrides)
    if "width" in overrides:  # what was worked out from the size's own width is worked out anew
        overrides = {"ffn": 0, "embedding_width": 0, **overrides}
    try:
        return family, replace(backbone, **overrides)
    except TypeError as error:
        raise ConfigError(f"pretrain.overrides {config.overrides}: a value has the wrong type ({error})") from error


def check_names(section: str, said: Mapping[str, Any], kind: type) -> None:
    """Raises ConfigError when a dataclass has no field of a given name."""
    known = [f.name for f in fields(kind)]
    for name in said:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ConfigError(
                f"pretrain.{section} has no field `{name}`; " + (f"did you mean `{near[0]}`?" if near else f"fields: {', '.join(known)}")
            )


def check_specials(family: Family, meta: Meta) -> None:
    """Raises ConfigError when the tokenizer lacks the control tokens that the family's objective needs."""
    if missing := [role for role in MASKED if role not in meta.specials] if "mlm" in family.objective else []:
        raise ConfigError(
            f"{family.name} learns by masks and needs the specials {', '.join(missing)}, which the {meta.kind} tokenizer lacks; "
            + ("give it specials: roberta" if meta.kind == "byte_bpe" else f"use kind: {family.tokenizer}")
        )


def train_rank(config: PretrainConfig, inputs: dict[str, Artifact], out: Path) -> Counts:
    """One rank of the gang; the first writes the model."""
    from training.engine.loop import train

    def feed() -> Feed:
        return ahead(config, make_feed(config, inputs, "train"))

    held = sum(file["rows"] or 0 for file in inputs["examples"].files if file["name"].startswith(HELD_OUT))
    valid = partial(make_feed, config, inputs, "valid") if held else None
    trained = train(partial(make_tower, config, inputs), feed, valid, loop_config(config), out, "pretrain", "init" in inputs)
    if trained.weights is None:
        return {}
    return publish(config, inputs, out, trained, trained.weights)


def make_tower(config: PretrainConfig, inputs: dict[str, Artifact]) -> nn.Module:
    """Random weights that depend on the seed alone; the imported model's over them, where there is one."""
    family, backbone = model_of(config, tokenizers.meta(inputs["tokenizer"]).vocab)
    tower = family.build(backbone, seed=config.seed)
    if "init" in inputs:
        tell_fresh(config.family, begin(tower, inputs["init"].path / MODEL))
    return tower


def make_feed(config: PretrainConfig, inputs: dict[str, Artifact], split: str) -> Feed:
    """The batches, as the family's objective labels them. Held-out examples are those of the last length."""
    from training.feed.curriculum import Curriculum, borders
    from training.feed.loader import open_feed

    def opened(length: int) -> StepFeed:
        examples = inputs[examples_name(config, length)]
        return open_feed(examples, inputs["sentences"], inputs["tokenizer"], feed_config(config, length), split)

    if split == "valid" or not config.curriculum:
        return opened(config.length)
    firsts = borders([part["share"] for part in config.curriculum], config.steps)
    return Curriculum([opened(length) for length in config.lengths], firsts[:-1])


def ahead(config: PretrainConfig, feed: Feed) -> Feed:
    """The feed with its next batches made beside the model's work, where that is asked for or a GPU waits for them."""
    import torch

    from training.feed.prefetch import Prefetched

    workers = int(torch.cuda.is_available()) if config.feed_workers is None else config.feed_workers
    return Prefetched(feed, workers) if workers else feed


def feed_config(config: PretrainConfig, length: int = 0) -> FeedConfig:
    """What the feed is told: the family's objective, and its masks where it has any. length 0: the config's."""
    from training.families import catalog
    from training.feed.loader import FeedConfig, Masking, Mixing

    family, length = catalog.family(config.family), length or config.length
    settings = FeedConfig(
        config.batch_tokens // length,
        length,
        config.seed,
        family.objective,
        packed=config.packed,
        apart=config.documents_apart,
        restart=config.restart_positions,
        mixing=Mixing(config.mixture, config.exhausted),
    )
    if family.examples == "pairs" and config.documents_apart:
        raise ConfigError(f"pretrain.documents_apart is for blocks; {config.family} reads pairs, which hold their own documents only")
    check_names("masking", config.masking, Masking)
    if family.masking is None:
        if config.masking or config.mask_rate is not None:
            raise ConfigError(f"{config.family} predicts the next token and masks none; take pretrain.masking and mask_rate out")
        return settings
    try:
        changed: dict[str, Any] = dict(config.masking)
        rate = family.preset(config.size).mask_rate if config.mask_rate is None and "rate" not in changed else config.mask_rate
        return replace(settings, masking=replace(family.masking, **changed), mask_rate=rate)
    except TypeError as error:
        raise ConfigError(f"pretrain.masking {config.masking}: a value has the wrong type ({error})") from error


def optim_config(config: PretrainConfig) -> OptimConfig:
    """The family's recipe, but for what the config says otherwise."""
    from training.engine.optim import OptimConfig
    from training.families import catalog

    preset = catalog.family(config.family).preset(config.size)
    optimiser = config.optimiser or preset.optimiser
    if optimiser != preset.optimiser and config.lr is None:
        raise ConfigError(
            f"{config.family}/{config.size} was trained with {preset.optimiser}, whose rate does not fit {optimiser}; set pretrain.lr"
        )
    said = {name: getattr(config, name) for name in ("lr", "schedule", "min_ratio", "weight_decay", "warmup")}
    usual = {name: getattr(preset, name) for name in ("lr", "schedule", "min_ratio", "weight_decay")} | {
        "warmup": preset.warmup / preset.steps
    }
    chosen = {name: usual[name] if value is None else value for name, value in said.items()}
    return OptimConfig(betas=preset.betas, eps=preset.eps, optimiser=optimiser, bias_correction=preset.bias_correction, **chosen)


def loop_config(config: PretrainConfig) -> LoopConfig:
    """What the one loop is told."""
    from training.engine.loop import LoopConfig
    from training.families import catalog

    clip = catalog.family(config.family).preset(config.size).clip if config.clip is None else config.clip
    return LoopConfig(
        steps=config.steps,
        micro_batch=config.micro_batch or max(1, MICRO_TOKENS // config.length),
        zero=config.zero,
        precision=config.precision,
        optimiser=optim_config(config),
        seed=config.seed,
        log_every=config.log_every,
        save_every=config.save_every,
        valid_every=config.valid_every,
        valid_batches=config.valid_batches,
        clip=clip,
    )


def publish(config: PretrainConfig, inputs: dict[str, Artifact], out: Path, trained: Trained, weights: dict[str, Tensor]) -> Counts:
    """model/ in Hugging Face's format, and the card."""
    from training.backbone.transformer import count_parameters

    meta = tokenizers.meta(inputs["tokenizer"])
    family, backbone = model_of(config, meta.vocab)
    tower = family.build(backbone)
    tower.load_state_dict(weights)
    part = out / f".{MODEL}"
    for stale in (part, out / MODEL):
        shutil.rmtree(stale, ignore_errors=True)
    family.export(tower, part, inputs["tokenizer"].path)
    part.rename(out / MODEL)
    parameters = count_parameters(tower)
    write_json(out / CARD, card_of(config, tower, trained, tokenizer=meta.fingerprint, parameters=parameters))
    return {"steps": trained.steps, "tokens": trained.tokens, "parameters": parameters}


def card_of(config: PretrainConfig, tower: Tower, trained: Trained, *, tokenizer: str, parameters: int) -> dict[str, Any]:
    """What the model says of itself."""
    return {
        "family": config.family,
        "size": config.size,
        "backbone": asdict(tower.config),
        "heads": [head.name for head in tower.heads],
        "tokenizer_fingerprint": tokenizer,
        "parameters": parameters,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "length": config.length,
        "seed": config.seed,
        "loss": trained.loss,
        "parts": trained.parts,
        "valid_loss": trained.valid.loss if trained.valid else None,
        "valid_parts": trained.valid.parts if trained.valid else {},
        "valid_accuracy": trained.valid.accuracy if trained.valid else {},
    }
