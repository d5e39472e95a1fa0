"""Stage 10: examples become a model, from random or imported weights, by the one loop on as many ranks as the compute gives.

Nothing here imports torch before a check or a rank runs: recipes and plans are made from this file too.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.base import Meta
from infra.artifact import Artifact, Counts
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage
from training import extension
from training.card import CARD, MODEL, read_card, write_json
from training.pretrain_config import PretrainConfig
from training.settings import feed_config, loop_config, masked_as, model_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.backbone.config import BackboneConfig
    from training.engine.loop import Trained
    from training.engine.see import Known
    from training.families.family import Family
    from training.feed.loader import Feed
    from training.feed.order import StepFeed
    from training.objectives.tower import Tower

MASKED = ("mask", "pad", "cls", "sep")  # the specials that learning by masks needs
RESUMED = (".checkpoints", "metrics.jsonl", "stalled-rank-*.txt", "profile")  # what a training checks itself when it resumes
HELD_OUT = "valid/"  # the side of an examples artifact that is never trained on


def work(config: PretrainConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Inputs: examples (blocks or pairs), sentences, tokenizer; examples_LENGTH for every other length of a curriculum; init, an imported
    model to begin from, and extended, a finished training to go on from, where there is one.
    """
    check(config, inputs, compute.ranks)
    return compute.gang("pretrain", partial(train_rank, config, dict(inputs), out))[0]


PRETRAIN = Stage(name="pretrain", version=8, work=work, own=RESUMED)


def shape_of(config: PretrainConfig, inputs: Inputs) -> tuple[Family, BackboneConfig]:
    """Family and shape of the model; its embedding table has the padding rows of the imported model, where there is one."""
    family, backbone = model_of(config, tokenizers.meta(inputs["tokenizer"]).vocab)
    if "init" in inputs:
        backbone = replace(backbone, padded_vocab=read_card(inputs["init"])["backbone"]["padded_vocab"])
    return family, backbone


def examples_name(config: PretrainConfig, length: int) -> str:
    """The input that holds the examples of a length."""
    return "examples" if length == config.length else f"examples_{length}"


def check(config: PretrainConfig, inputs: Inputs, ranks: int) -> None:
    """Raises ConfigError before any rank is started: everything that can be known to be impossible is told here."""
    meta = tokenizers.meta(inputs["tokenizer"])
    family, backbone = shape_of(config, inputs)
    loop_config(config)
    feed_config(config)
    check_specials(family, meta)
    family.check_export(backbone, meta.specials)
    if "init" in inputs:
        from training.imported import same_shape  # here, not above: it reads vocabularies, which a machine that only trains cannot

        same_shape(asdict(backbone), read_card(inputs["init"])["backbone"])
    if "extended" in inputs:
        extension.check_inputs(config, inputs)
    if (config.keep_best or config.patience) and not held_rows(inputs):
        raise ConfigError(
            "pretrain.keep_best and patience compare validation losses, but no document is held out; raise encode.valid_share"
        )
    for length in config.lengths:
        if inputs[examples_name(config, length)].stage != family.examples:
            raise ConfigError(f"{family.name} learns from {family.examples}, it was given {inputs[examples_name(config, length)].stage}")
    longest = max(config.lengths)
    if longest > backbone.positions:
        raise ConfigError(
            f"pretrain.length {longest} is more than {family.name}/{config.size}'s {backbone.positions} positions; "
            f"lower it or set overrides.positions"
        )
    name, fewest = config.smallest
    if fewest // longest < ranks:
        raise ConfigError(
            f"pretrain.{name} {fewest} makes {fewest // longest} sequences a step, too few for {ranks} "
            f"ranks; raise it to at least {ranks * longest}"
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
    from training.engine.measure import METRICS, take_over_metrics
    from training.engine.rank import here

    def feed() -> Feed:
        return ahead(config, make_feed(config, inputs, "train"))

    extended = inputs["extended"].path if "extended" in inputs else None
    if extended and here().first:
        take_over_metrics(extended / METRICS, out / METRICS)
    valid = partial(make_feed, config, inputs, "valid") if held_rows(inputs) else None
    trained = train(
        partial(make_tower, config, inputs),
        feed,
        valid,
        loop_config(config),
        out,
        "pretrain",
        "init" in inputs,
        known(config, inputs),
        extended,
    )
    if trained.weights is None:
        return {}
    return publish(config, inputs, out, trained, trained.weights)


def held_rows(inputs: Inputs) -> int:
    """How many examples are kept for validation."""
    return sum(file["rows"] or 0 for file in inputs["examples"].files if file["name"].startswith(HELD_OUT))


def known(config: PretrainConfig, inputs: dict[str, Artifact]) -> Known:
    """Arithmetic of a token, as often masked as the config says, and tokens a byte of the text that is held out."""
    from training import cost
    from training.engine.see import Known
    from training.evaluation.language import tokens_per_byte

    family, backbone = shape_of(config, inputs)
    family, counts = masked_as(config, family), inputs["sentences"].counts
    held = tokens_per_byte(inputs["sentences"]) if "mlm" not in family.objective and counts.get("valid_bytes") else 0.0
    return Known(partial(cost.training_flops, family, cost.shape_of(family, backbone)), held)


def make_tower(config: PretrainConfig, inputs: dict[str, Artifact]) -> nn.Module:
    """Random weights that depend on the seed alone; the imported model's over them, where there is one."""
    family, backbone = shape_of(config, inputs)
    tower = family.build(backbone, seed=config.seed)
    if "init" in inputs:
        from training.imported import begin, tell_fresh

        tell_fresh(config.family, begin(tower, inputs["init"].path / MODEL))
    return tower


def make_feed(config: PretrainConfig, inputs: dict[str, Artifact], split: str) -> Feed:
    """The batches, as the family's objective labels them. Held-out examples are those of the last length."""
    from training.feed.curriculum import Curriculum, borders
    from training.feed.loader import open_feed

    def opened(length: int) -> StepFeed:
        examples = inputs[examples_name(config, length)]
        return open_feed(examples, inputs["sentences"], inputs["tokenizer"], feed_config(config, length), split)

    if split == "valid":
        return opened(config.length)
    if not config.parts:
        return opened(config.length).grow(config.ramp.places(0, config.length))
    firsts = borders([part["share"] for part in config.parts], config.steps)
    parts = [opened(length).grow(config.ramp.places(first, length)) for length, first in zip(config.lengths, firsts[:-1], strict=True)]
    return Curriculum(parts, firsts[:-1])


def ahead(config: PretrainConfig, feed: Feed) -> Feed:
    """The feed with its next batches made beside the model's work, where that is asked for or a GPU waits for them."""
    import torch

    from training.feed.prefetch import Prefetched

    workers = int(torch.cuda.is_available()) if config.feed_workers is None else config.feed_workers
    return Prefetched(feed, workers) if workers else feed


def publish(config: PretrainConfig, inputs: dict[str, Artifact], out: Path, trained: Trained, weights: dict[str, Tensor]) -> Counts:
    """model/ in Hugging Face's format, and the card."""
    from training.backbone.transformer import count_parameters

    meta = tokenizers.meta(inputs["tokenizer"])
    family, backbone = shape_of(config, inputs)
    tower = around(family, backbone, weights)
    part = out / f".{MODEL}"
    for stale in (part, out / MODEL):
        shutil.rmtree(stale, ignore_errors=True)
    family.export(tower, part, inputs["tokenizer"].path)
    part.rename(out / MODEL)
    if config.keep_state:
        keep_state(loop_config(config).keep.pinned, out)
    parameters = count_parameters(tower)
    write_json(out / CARD, card_of(config, tower, trained, tokenizer=meta.fingerprint, parameters=parameters))
    return {"steps": trained.steps, "tokens": trained.tokens, "parameters": parameters}


def keep_state(step: int, out: Path) -> None:
    """state/: the checkpoint of a step, for a longer training to go on from."""
    from training.engine.checkpoint import STATE, Checkpoints
    from training.engine.loop import CHECKPOINTS
    from training.engine.rank import here

    Checkpoints(out / CHECKPOINTS, here()).publish(step, out / STATE)


def around(family: Family, backbone: BackboneConfig, weights: dict[str, Tensor]) -> Tower:
    """A tower over these very tensors: nothing is copied, what is tied stays so."""
    import torch
    from torch import nn

    from training.backbone.transformer import shapes_only

    with shapes_only():
        tower = family.build(backbone)
    for name, parameter in tower.named_parameters():
        torch.utils.swap_tensors(parameter, nn.Parameter(weights[name]))
    return tower


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
        **({"best_step": trained.best.step, "last_valid_loss": trained.best.last_loss} if trained.best else {}),
        **({"left_out": list(trained.left_out)} if trained.left_out else {}),
    }
