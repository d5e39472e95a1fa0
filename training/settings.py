"""What a pretraining config means: model, feed, optimiser and loop, each as the family's paper has it but for what the config says.

Nothing here imports torch before it is asked: recipes and plans are made from this file too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError
from training.pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from training.backbone.config import BackboneConfig
    from training.engine.guard import GuardConfig
    from training.engine.loop import LoopConfig
    from training.engine.optim import OptimConfig
    from training.families.family import Family
    from training.feed.loader import FeedConfig

MICRO_TOKENS = 8192  # of a micro-batch nobody has set: with 8192 pieces the logits of a GPT then take 256 MiB


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


def masked_as(config: PretrainConfig, family: Family) -> Family:
    """The family with the config's share of masked tokens, for what is counted of it."""
    settings = feed_config(config)
    if family.masking is None:
        return family
    rate = settings.mask_rate if settings.mask_rate is not None else settings.masking.rate
    return replace(family, masking=replace(family.masking, rate=rate))


def optim_config(config: PretrainConfig) -> OptimConfig:
    """The family's recipe, but for what the config says otherwise."""
    from training.engine.optim import FALLING, OptimConfig
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
    kept = {name: getattr(preset, name) for name in ("betas", "eps", "bias_correction", "hold")}
    if config.decay is not None:
        if chosen["schedule"] not in FALLING:
            raise ConfigError(
                f"pretrain.decay is for the schedules {', '.join(FALLING)}, and the schedule is {chosen['schedule']}; take decay out, "
                "or set pretrain.schedule"
            )
        kept["decay"] = config.decay
    return OptimConfig(optimiser=optimiser, **kept, **chosen)


def loop_config(config: PretrainConfig) -> LoopConfig:
    """What the one loop is told."""
    from training.engine.checkpoint import Keep
    from training.engine.loop import LoopConfig
    from training.families import catalog

    clip = catalog.family(config.family).preset(config.size).clip if config.clip is None else config.clip
    loop = LoopConfig(
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
        patience=config.patience,
        clip=clip,
        guard=guard_config(config),
        keep=Keep(config.keep, config.keep_best, config.keep_every),
        save_seconds=config.save_seconds,
        background=config.save_in_background,
        stall_seconds=config.stall_seconds,
        recompute=config.activation_checkpointing,
        offload=config.offload,
        compile=config.compile,
        ramp=config.ramp if config.batch_ramp else None,
        profile=config.profile_window(),
    )
    return replace(loop, keep=replace(loop.keep, pinned=branch(loop))) if config.keep_state else loop


def branch(loop: LoopConfig) -> int:
    """How many steps a longer training takes over: those before the rate's final fall, else all. Raises ConfigError where it is none."""
    from training.engine.optim import falls_at

    falls = falls_at(loop.optimiser, loop.steps)
    step = bisect_left(range(loop.steps), float(falls), key=loop.done)
    if not step:
        raise ConfigError(
            f"pretrain.keep_state: of these {loop.steps} steps there is none before the rate falls, so there is no state to go on from; "
            "raise tokens"
        )
    return step


def guard_config(config: PretrainConfig) -> GuardConfig:
    """What watches the training's numbers."""
    from training.engine.guard import GuardConfig

    check_names("guard", config.guard, GuardConfig)
    said: dict[str, Any] = dict(config.guard)
    try:
        return GuardConfig(**said)
    except TypeError as error:
        raise ConfigError(f"pretrain.guard {config.guard}: a value has the wrong type ({error})") from error
