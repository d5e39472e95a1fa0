"""Shards to batches: opens the feed of an examples artifact. The batch of step s is a pure function of (examples, seed, s)."""

from __future__ import annotations

from pyarrow import types

from data_prep.tokenizer.base import META, Meta, read_meta
from data_prep.tokenizer.catalog import load
from data_prep.tokenizer.catalog import meta as meta_of
from infra.artifact import Artifact
from infra.errors import ArtifactError, ConfigError
from training.feed.block_feed import BlockSource
from training.feed.masking import Masker, Masking
from training.feed.order import OBJECTIVES, Feed, FeedConfig, Source, StepFeed
from training.feed.pair_feed import PairSource
from training.feed.views import Shards

__all__ = ["OBJECTIVES", "Feed", "FeedConfig", "Masking", "open_feed"]

SPLITS = ("train", "valid")


def open_feed(examples: Artifact, sentences: Artifact, tokenizer: Artifact, config: FeedConfig, split: str = "train") -> Feed:
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
    shards = Shards(paths)
    if not len(shards):
        raise ConfigError(_nothing(examples, split))
    documents = Shards(sentences.side("documents"))
    source: Source
    if "split" in shards.table(0).column_names:
        words = Shards(sentences.shards)
        source = PairSource(paths, words, documents, config.length, meta.specials, *_pair_task(config, meta, tokenizer))
    else:
        source = BlockSource(paths, documents, split, meta.specials, *_block_task(config, meta, tokenizer, shards))
    return StepFeed(source, config.batch_size, config.seed, shuffled=split == "train", copies=config.masking.static_copies)


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
    word_start = None if config.masking.unit == "token" else load(tokenizer).word_start
    return Masker.of(meta.vocab, meta.specials, config.masking, word_start)


def _pair_task(config: FeedConfig, meta: Meta, tokenizer: Artifact) -> tuple[Masker, str]:
    if config.objective == "next":
        raise ConfigError("feed.objective 'next' reads blocks, these are pairs")
    if config.length < 5:
        raise ConfigError(f"feed.length {config.length} leaves no room for a pair")
    return _masker(config, meta, tokenizer), config.objective.partition("+")[2]


def _block_task(config: FeedConfig, meta: Meta, tokenizer: Artifact, shards: Shards) -> tuple[Masker | None, tuple[int, ...]]:
    kind = shards.table(0)["tokens"].type
    length = kind.list_size if types.is_fixed_size_list(kind) else 0
    if config.objective not in ("next", "mlm"):
        raise ConfigError(f"feed.objective {config.objective!r} reads pairs, these are blocks")
    if config.length == length:
        return (None if config.objective == "next" else _masker(config, meta, tokenizer)), ()
    if config.objective == "mlm" and config.length == length + 2:
        return _masker(config, meta, tokenizer), (meta.specials.get("cls", 0), meta.specials.get("sep", 0))
    raise ConfigError(
        f"feed.length {config.length} does not fit blocks of {length}" + (" (or 2 more, framed)" if config.objective == "mlm" else "")
    )
