"""A finished training that is gone on with: which longer trainings may take up the state that it kept. Nothing here imports torch first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from infra.artifact import Artifact
from infra.errors import ConfigError
from training.pretrain_config import PretrainConfig
from training.settings import branch, loop_config

if TYPE_CHECKING:
    from training.engine.loop import LoopConfig

# what changes nothing of the steps already taken, or is held to that below
FREE: tuple[str, ...] = (
    "tokens",
    "lr",
    "schedule",
    "warmup",
    "min_ratio",
    "decay",
    "curriculum",
    "log_every",
    "valid_every",
    "valid_batches",
)
FREE += ("keep_best", "patience", "keep_state", "guard")
COMPARED = 10_000  # steps whose rates are all compared; beyond, as many spread over the rest


def check(base: PretrainConfig, longer: PretrainConfig, name: str = "the training that is extended") -> int:
    """How many steps the longer training takes over from the base. Raises ConfigError, naming the base so, where it cannot."""
    if not base.keep_state:
        raise ConfigError(f"{name} keeps no state to go on from; set its pretrain.keep_state: true (it is then trained anew)")
    named = [one.name for one in fields(PretrainConfig) if not one.metadata.get("how") and one.name not in FREE]
    if differing := [key for key in named if getattr(base, key) != getattr(longer, key)]:
        key = differing[0]
        raise ConfigError(
            f"{', '.join(differing)} must be as in {name}, whose steps are taken over: {key} is {getattr(longer, key)!r} and was "
            f"{getattr(base, key)!r}; leave {'it' if len(differing) == 1 else 'them'} out"
        )
    if longer.steps <= base.steps:
        raise ConfigError(
            f"pretrain.tokens {longer.tokens:,} make {longer.steps:,} steps, and {name} has done {base.steps:,}; set more than its "
            f"{base.tokens:,} tokens"
        )
    before, after = loop_config(base), loop_config(longer)
    taken = branch(before)
    _check_lengths(base, longer, taken, name)
    _check_rates(before, after, taken, name)
    return taken


def _check_lengths(base: PretrainConfig, longer: PretrainConfig, taken: int, name: str) -> None:
    """The steps taken over had sequences of the same lengths: a curriculum's borders are shares of all steps."""
    was, now = (_firsts(config, taken) for config in (base, longer))
    if was != now or set(base.lengths) != set(longer.lengths):
        told = [", ".join(f"{length} from step {first}" for first, length in one) for one in (was, now)]
        raise ConfigError(
            f"curriculum: the first {taken:,} steps are taken over from {name}, with sequences of length {told[0]}, here {told[1]}: shares "
            f"are of all steps; give parts whose shares of {longer.steps:,} steps begin where those of {base.steps:,} began"
        )


def _firsts(config: PretrainConfig, taken: int) -> list[tuple[int, int]]:
    """Where each part of the steps taken over begins, and its length."""
    from training.feed.curriculum import borders

    firsts = borders([part["share"] for part in config.parts], config.steps)[:-1] if config.parts else [0]
    return [(first, length) for first, length in zip(firsts, config.lengths, strict=True) if first < taken]


def _check_rates(before: LoopConfig, after: LoopConfig, taken: int, name: str) -> None:
    """The steps taken over had the rates that the longer training gives them: then it is the training that was longer from the start."""
    step = next((one for one in _compared(taken) if before.lr(one) != after.lr(one)), None)
    if step is None:
        return
    old, new = (loop.optimiser for loop in (before, after))
    warm, longer_warm = old.warmup_steps(before.steps), new.warmup_steps(after.steps)
    if old.schedule in ("linear", "cosine"):
        what = (
            f"under {old.schedule} every rate depends on the number of all steps; to be able to extend {name} train it with schedule "
            "wsd, wsd_sqrt, trapezoid, constant or inverse_sqrt, or begin the longer training anew"
        )
    elif warm != longer_warm:
        what = f"its warm-up had {warm:,} steps, here it has {longer_warm:,}: set pretrain.warmup to {warm}"
    elif (old.lr, old.schedule, old.min_ratio, old.decay) != (new.lr, new.schedule, new.min_ratio, new.decay):
        what = (
            "leave lr, min_ratio, decay and schedule out, or raise tokens so that a schedule of another name falls only after these steps"
        )
    else:
        what = f"under batch_ramp a warm-up is a share of all tokens; train {name} without one of the two to be able to extend it"
    raise ConfigError(
        f"step {step:,} is one of the {taken:,} taken over from {name}, and had the rate {before.lr(step):.6g}, here {after.lr(step):.6g}: "
        f"{what}"
    )


def _compared(taken: int) -> list[int]:
    """Rates are straight or curved pieces of one formula: two that agree at so many places agree at all."""
    return sorted({*range(min(taken, COMPARED)), *range(0, taken, max(1, taken // COMPARED)), taken - 1})


def check_inputs(config: PretrainConfig, inputs: Mapping[str, Artifact]) -> None:
    """Raises ConfigError where the training of the input `extended` cannot be gone on with so, or read something else."""
    extended = inputs["extended"]
    name = f"{extended.stage}/{extended.fingerprint}"
    said: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in extended.config.items()}
    if strange := sorted(said.keys() - {one.name for one in fields(PretrainConfig)}):
        raise ConfigError(f"{name}: its config has {', '.join(strange)}, which this textmill does not know; train it anew")
    check(PretrainConfig(**said), config, name)
    read = extended.manifest["inputs"]
    mine = {role: made.fingerprint for role, made in inputs.items() if role != "extended"}
    theirs = {role: made["fingerprint"] for role, made in read.items() if role != "extended"}
    if differing := sorted(role for role in mine.keys() | theirs.keys() if mine.get(role) != theirs.get(role)):
        raise ConfigError(f"{name} read other {', '.join(differing)}; only a training on the same data can be gone on with")
