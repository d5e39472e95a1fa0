"""Stage: sentences in, pairs of segments out, as row numbers into the sentence shards: no text is copied.

Chunks are taken as BERT's create_pretraining_data.py takes them (Devlin et al. 2019, appendix A.2): sentences of one
document up to a target length, which is the full length, or in one chunk of ten a random shorter one; then a random
sentence boundary parts A from B. Which pairs become random (NSP) or swapped (SOP) is drawn in the feed, anew each epoch.
Three things differ: a chunk always has two sentences or more (one long sentence takes the next along, a last single one
joins the chunk before it), so that no pair lacks a B; both tasks read the same pairs; and half of the documents are
chunked from their end backwards. The sentence that reaches the target is longer than others (it is more likely to be the
one that does): it completes its chunk or opens the next one, each half of the time, so that neither the order of A and B
(SOP) nor the direction shows in their lengths and counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from data_prep import schemas, shards
from data_prep.shards import Made
from data_prep.tokenizer.base import META, keep_meta, read_meta
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ConfigError
from infra.reuse import Shardwise
from infra.stage import Inputs, Stage

SPECIALS = 3  # [CLS] A [SEP] B [SEP]


@dataclass(frozen=True)
class PairsConfig:
    """How long a pair is."""

    length: int = 128  # of the sequence the model sees, specials included
    short_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < SPECIALS + 2:
            raise ConfigError(f"pairs.length {self.length}: three specials and two tokens need {SPECIALS + 2}")
        if not 0 <= self.short_share <= 1:
            raise ConfigError(f"pairs.short_share {self.short_share} is not within 0 and 1")


def work(config: PairsConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """The stage: fills `out`, gives the counts."""
    source = inputs["sentences"]
    tokenizer = read_meta(source.file(META)).fingerprint
    counted = shards.each_path("pairs", partial(pair, config, tokenizer), source.shards, out, compute)
    keep_meta(source.file(META), out)
    return shards.balance("pairs", counted)


def pair(config: PairsConfig, tokenizer: str, shard: Path, out: Path) -> Made:
    """One shard's pairs, both splits. The ledger counts documents."""
    lengths = pc.list_value_length(shards.read(shard)["tokens"]).to_numpy().astype(np.int64)
    side = shards.read(shard.parent / "documents" / shard.name).select(["id", "split", "first", "sentences"])
    triples: dict[str, list[tuple[int, int, int]]] = {"train": [], "valid": []}
    counted: Counts = {"read": side.num_rows, "kept": 0, "set_aside.empty": 0, "set_aside.single_sentence": 0}
    for key, split, first, sentences in zip(*(side[name].to_pylist() for name in side.column_names), strict=True):
        if sentences < 2:
            counted["set_aside.single_sentence" if sentences else "set_aside.empty"] += 1
            continue
        counted["kept"] += 1
        triples[split] += [(first + a, first + s, first + b) for a, s, b in chunks(lengths[first : first + sentences], config, key)]
    counted |= {"pairs": len(triples["train"]), "valid_pairs": len(triples["valid"])}
    return Made(_table(triples["train"]), counted, {"valid": _table(triples["valid"])}, tokenizer)


def chunks(lengths: np.ndarray, config: PairsConfig, key: str) -> Iterator[tuple[int, int, int]]:
    """(start, split, end) for a document of two sentences or more, ascending: every sentence is in exactly one chunk."""
    if draw(config.seed, key, 0, "direction", 2) == 0:
        yield from _forwards(lengths, config, key)
        return
    total = len(lengths)
    mirrored = [(total - end, total - split, total - start) for start, split, end in _forwards(lengths[::-1], config, key)]
    yield from reversed(mirrored)


def _forwards(lengths: np.ndarray, config: PairsConfig, key: str) -> Iterator[tuple[int, int, int]]:
    """Chunks from the first sentence on, each up to the sentence that reaches its target, with it or without."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    start, number, total = 0, 0, len(lengths)
    while start < total:
        target = _target(config, key, number)
        end = int(np.searchsorted(edges, edges[start] + target, side="left"))  # the first edge that reaches the target
        end = min(max(end - draw(config.seed, key, number, "without", 2), start + 2), total)
        if total - end == 1:
            end = total
        yield start, start + 1 + draw(config.seed, key, number, "split", end - start - 1), end
        start, number = end, number + 1


def _target(config: PairsConfig, key: str, number: int) -> int:
    full = config.length - SPECIALS
    if draw(config.seed, key, number, "short", 1 << 32) < config.short_share * 2**32:
        return 2 + draw(config.seed, key, number, "target", full - 1)
    return full


def draw(seed: int, key: str, number: int, what: str, bound: int) -> int:
    """An integer in [0, bound) that depends on its arguments only: not on the shard, nor on what was drawn before."""
    return xxhash.xxh3_64_intdigest(f"{seed} {number} {what} {key}".encode()) * bound >> 64


def _table(triples: list[tuple[int, int, int]]) -> pa.Table:
    array = np.array(triples, dtype=np.uint32).reshape(-1, 3)
    return pa.table([pa.array(np.ascontiguousarray(array[:, i])) for i in range(3)], schema=schemas.PAIRS)


PAIRS = Stage(name="pairs", version=4, work=work, shardwise=Shardwise("sentences", ("documents",)))
