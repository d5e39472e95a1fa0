"""Shards to batches: opens the feed of an examples artifact. The batch of step s is a pure function of (examples, seed, s)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data_prep.examples.blocks import STREAM
from data_prep.tokenizer.base import META, Meta, read_meta
from data_prep.tokenizer.catalog import folder_of
from data_prep.tokenizer.catalog import meta as meta_of
from data_prep.tokenizer.pieces import word_start_of
from infra.artifact import Artifact
from infra.errors import ArtifactError, ConfigError
from training.feed.block_feed import BlockSource, Cut
from training.feed.masking import Masker, Masking
from training.feed.mixture import Mixing
from training.feed.order import OBJECTIVES, Feed, FeedConfig, Source, StepFeed
from training.feed.origins import column, mix
from training.feed.pair_feed import PairSource
from training.feed.views import Shards

__all__ = ["OBJECTIVES", "Feed", "FeedConfig", "Masking", "Mixing", "open_feed"]

SPLITS = ("train", "valid")


def open_feed(examples: Artifact, sentences: Artifact, tokenizer: Artifact, config: FeedConfig, split: str = "train") -> StepFeed:
    """train: shuffled anew each epoch, masked anew each time. valid: fixed order, fixed masks, last partial batch included.

    Raises ConfigError when objective, length, examples and tokenizer do not fit together, ArtifactError when the
    artifacts were not made from each other.
    """
    if split not in SPLITS:
        raise ConfigError(f"feed: split {split!r} is neither train nor valid")
    meta = meta_of(tokenizer)
    for artifact in (examples, sentences):
        _check_tokenizer(meta, artifact)
    paths = examples.shards if split == "train" else examples.side("valid")
    if not paths:
        raise ArtifactError(f"{examples.stage}/{examples.fingerprint} has no {split} shards")
    shards = Shards(opened(examples, paths), meta.fingerprint)
    if not len(shards):
        raise ConfigError(_nothing(examples, split))
    documents = Shards(opened(sentences, sentences.side("documents")), meta.fingerprint)
    mixing = config.mixing if split == "train" and config.mixing.weights else None
    source: Source
    if "split" in shards.table(0).column_names:
        words = Shards(opened(sentences, sentences.shards), meta.fingerprint)
        source = pairs = PairSource(shards, words, documents, config.length, meta.specials, *_pair_task(config, meta, tokenizer))
        mixture = mix(mixing, shards, documents, pairs.owners, config.seed) if mixing else None
    else:
        cut = Cut(examples.config.get("mode", STREAM), int(examples.config["length"]), meta.separator)
        task = _block_task(config, meta, tokenizer, cut.length)
        source = BlockSource(shards, documents, split, meta.specials, *task, cut, apart=config.apart, restart=config.restart)
        mixture = mix(mixing, shards, documents, partial(column, shards), config.seed) if mixing else None
    return StepFeed(
        source,
        config.batch_size,
        config.seed,
        shuffled=split == "train",
        copies=config.masking.static_copies,
        mixture=mixture,
        packed=config.length if config.packed else 0,
    )


def opened(artifact: Artifact, paths: list[Path]) -> list[Path]:
    """The paths, if each file is as long as the artifact's manifest says. Raises ArtifactError naming one that is not."""
    sizes = {artifact.path / entry["name"]: entry["bytes"] for entry in artifact.files}
    for path in paths:
        there = path.stat().st_size if path.exists() else -1
        if there != sizes[path]:
            found = f"{there} bytes" if there >= 0 else "gone"
            raise ArtifactError(f"{path}: is {found}, its manifest says {sizes[path]}; run `textmill verify`, then run again")
    return paths


def _nothing(examples: Artifact, split: str) -> str:
    if split == "valid":
        return f"{examples.stage}/{examples.fingerprint} holds no valid examples: raise encode.valid_share or give more text"
    return f"{examples.stage}/{examples.fingerprint} holds no examples: give more text, or a smaller length"


def _check_tokenizer(meta: Meta, artifact: Artifact) -> None:
    theirs = read_meta(artifact.file(META)).fingerprint
    if theirs != meta.fingerprint:
        raise ArtifactError(
            f"{artifact.stage}/{artifact.fingerprint} was encoded with tokenizer {theirs[:12]}, "
            f"not with {meta.fingerprint[:12]}: its ids mean other pieces"
        )


def _masker(config: FeedConfig, meta: Meta, tokenizer: Artifact) -> Masker:
    if missing := {"mask", "pad", "cls", "sep"} - set(meta.specials):
        raise ConfigError(
            f"feed.objective {config.objective!r} needs the specials {', '.join(sorted(missing))}, which a {meta.kind} tokenizer lacks"
        )
    word_start = None if config.masking.unit == "token" else word_start_of(folder_of(tokenizer), meta)
    return Masker.of(meta.vocab, meta.specials, config.masking, word_start)


def _pair_task(config: FeedConfig, meta: Meta, tokenizer: Artifact) -> tuple[Masker, str]:
    if config.objective == "next":
        raise ConfigError("feed.objective 'next' reads blocks, these are pairs")
    if config.apart:
        raise ConfigError("feed.apart parts the documents of blocks; a pair is of its own documents only")
    if config.length < 5:
        raise ConfigError(f"feed.length {config.length} leaves no room for a pair")
    return _masker(config, meta, tokenizer), config.objective.partition("+")[2]


def _block_task(config: FeedConfig, meta: Meta, tokenizer: Artifact, length: int) -> tuple[Masker | None, tuple[int, ...]]:
    if config.objective not in ("next", "mlm"):
        raise ConfigError(f"feed.objective {config.objective!r} reads pairs, these are blocks")
    if config.length == length:
        return (None if config.objective == "next" else _masker(config, meta, tokenizer)), ()
    if config.objective == "mlm" and config.length == length + 2:
        return _masker(config, meta, tokenizer), (meta.specials.get("cls", 0), meta.specials.get("sep", 0))
    raise ConfigError(
        f"feed.length {config.length} does not fit blocks of {length}" + (" (or 2 more, framed)" if config.objective == "mlm" else "")
    )
