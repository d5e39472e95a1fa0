"""Stage: sentences in, blocks for the feed out: text as it runs, or whole sentences only.

Documents stand in the order of their sources, then of their rows, so that a block rarely holds text of two sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep import schemas, shards
from data_prep.shards import Made
from data_prep.tokenizer.base import META, Meta, keep_meta, read_meta
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError
from infra.reuse import Shardwise
from infra.stage import Inputs, Stage

TAILS = ("drop", "pad")
STREAM, FULL, DOC = MODES = ("stream", "full_sentences", "doc_sentences")
Ids = NDArray[np.integer]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class BlocksConfig:
    """mode: stream cuts the text every `length` tokens, documents closed by the end-of-text token. The others are those of Liu et
    al. 2019, section 4.2, and hold whole sentences, as many as fit: full_sentences runs on into the next document, after the
    end-of-text token; doc_sentences begins anew with each document. Sentences longer than a block fill blocks of their own.

    A shard's last tokens may be fewer than a block of a stream. drop: counted and left out. pad: filled up with end-of-text, which
    the feed does not ask the model to predict. Training drops (one block in a shard at most), validation misses nothing.
    """

    length: int = 512
    tail: str = "drop"
    valid_tail: str = "pad"
    mode: str = STREAM

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ConfigError(f"blocks.length {self.length}: a block has at least 2 tokens")
        if self.tail not in TAILS or self.valid_tail not in TAILS:
            raise ConfigError(f"blocks.tail {self.tail!r} and valid_tail {self.valid_tail!r} are drop or pad")
        if self.mode not in MODES:
            raise ConfigError(f"blocks.mode {self.mode!r} is none of {', '.join(MODES)}")


def work(config: BlocksConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """The stage: fills `out`, gives the counts."""
    source = inputs["sentences"]
    meta = read_meta(source.file(META))
    counted = shards.each_path("blocks", partial(cut, config, meta), source.shards, out, compute)
    keep_meta(source.file(META), out)
    return shards.balance("blocks", counted)


def cut(config: BlocksConfig, meta: Meta, shard: Path, out: Path) -> Made:
    """One shard's blocks, both splits. The ledger counts documents; tokens are counted beside it."""
    side, sentences = shards.read(shard.parent / "documents" / shard.name), shards.read(shard)
    values, starts = flat(sentences, side)
    tables: dict[str, pa.Table] = {}
    counted: Counts = {"read": side.num_rows, "set_aside.empty": int((starts[1:] == starts[:-1]).sum())}
    counted["kept"] = counted["read"] - counted["set_aside.empty"]
    lengths = pc.list_value_length(sentences["tokens"]).to_numpy().astype(np.int64)
    for name, tail in (("train", config.tail), ("valid", config.valid_tail)):
        chosen = in_order(side, name)
        stream, owner = join(values, starts, chosen, meta.separator if separated(config.mode) else None)
        if config.mode == STREAM:
            tables[name], numbers = into_blocks(stream, owner, config.length, tail, meta)
        else:
            units = sentence_units(side, lengths, chosen, config)
            tables[name], numbers = into_sentence_blocks(stream, owner, units, config, meta)
        counted |= {key if name == "train" else f"valid_{key}": number for key, number in numbers.items()}
    return Made(tables["train"], counted, {"valid": tables["valid"]}, meta.fingerprint)


def separated(mode: str) -> bool:
    """Whether a separator follows each document."""
    return mode != DOC


def in_order(side: pa.Table, split: str) -> I64:
    """The rows of a split's documents that have tokens, as they stand in the blocks: by source, then by row."""
    here = (side["split"].to_numpy() == split) & (side["tokens"].to_numpy() > 0)
    rows = np.flatnonzero(here)
    sources = pc.fill_null(side["source"], "").to_numpy()[rows]
    ordered: I64 = rows[np.argsort(np.unique(sources, return_inverse=True)[1], kind="stable")] if len(rows) else rows
    return ordered


def flat(sentences: pa.Table, side: pa.Table) -> tuple[Ids, I64]:
    """All ids of a shard, and where each document begins (one edge more than documents)."""
    chunks = [chunk.flatten() for chunk in sentences["tokens"].chunks]
    kind = sentences.schema.field("tokens").type.value_type
    values = chunks[0].to_numpy() if len(chunks) == 1 else pa.chunked_array(chunks, type=kind).to_numpy()
    starts = np.concatenate([[0], np.cumsum(side["tokens"].to_numpy().astype(np.int64))])
    return values, starts


def join(values: Ids, starts: I64, chosen: I64, separator: int | None) -> tuple[Ids, NDArray[np.uint32]]:
    """The chosen documents' ids, each followed by the separator if there is one; and for every place the document it belongs to."""
    after = int(separator is not None)
    lengths = starts[chosen + 1] - starts[chosen] + after
    stream = np.full(int(lengths.sum()), separator or 0, dtype=values.dtype)
    at = 0
    for document, length in zip(chosen.tolist(), lengths.tolist(), strict=True):
        stream[at : at + length - after] = values[starts[document] : starts[document + 1]]
        at += length
    return stream, np.repeat(chosen.astype(np.uint32), lengths)


def into_blocks(stream: Ids, owner: NDArray[np.uint32], length: int, tail: str, meta: Meta) -> tuple[pa.Table, Counts]:
    """Counts: blocks; tokens in them (separators included); tokens dropped or padding added at the end."""
    left = len(stream) % length
    padding = length - left if left and tail == "pad" else 0
    dropped = left if tail == "drop" else 0
    stream = np.concatenate([stream[: len(stream) - dropped], np.full(padding, meta.separator, stream.dtype)])
    schema = schemas.blocks(meta.vocab, length)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(stream, schema.field("tokens").type.value_type), length)
    table = pa.table([tokens, pa.array(owner[: len(stream)][::length])], schema=schema)
    return table, {"blocks": len(table), "tokens": len(stream) - padding, "dropped_tokens": dropped, "padded_tokens": padding}


@dataclass(frozen=True)
class Units:
    """What is not parted: lengths of sentences in the stream's order (the last of a document with its separator), cut to a block at
    most; last: for each the number of units up to the end of its document; cut: how many sentences had to be cut."""

    lengths: I64
    last: I64
    cut: int


def sentence_units(side: pa.Table, lengths: I64, chosen: I64, config: BlocksConfig) -> Units:
    """The sentences of the chosen documents."""
    first, count = (side[name].to_numpy().astype(np.int64)[chosen] for name in ("first", "sentences"))
    ends = np.cumsum(count)
    whole = lengths[np.repeat(first - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)].copy()
    if separated(config.mode):
        whole[ends - 1] += 1
    pieces = -(-whole // config.length)
    units = np.full(int(pieces.sum()), config.length, np.int64)
    units[np.cumsum(pieces) - 1] = whole - (pieces - 1) * config.length
    unit_ends = np.cumsum(pieces)[ends - 1] if len(ends) else ends
    return Units(units, np.repeat(unit_ends, np.diff(unit_ends, prepend=0)), int((pieces > 1).sum()))


def into_sentence_blocks(stream: Ids, owner: NDArray[np.uint32], units: Units, config: BlocksConfig, meta: Meta) -> tuple[pa.Table, Counts]:
    """Counts: blocks; tokens in them (separators included); sentences that had to be cut."""
    if len(stream) > schemas.MOST_TOKENS:
        raise ArtifactError(f"blocks: a shard of {len(stream)} tokens is too large; make smaller document shards")
    edges = np.array([0, *sentence_edges(units, config)], np.int64)
    schema = schemas.blocks(meta.vocab, -1)
    values = pa.array(stream, schema.field("tokens").type.value_type)
    table = pa.table([pa.ListArray.from_arrays(pa.array(edges.astype(np.int32)), values), pa.array(owner[edges[:-1]])], schema=schema)
    return table, {"blocks": len(table), "tokens": len(stream), "cut_sentences": units.cut}


def sentence_edges(units: Units, config: BlocksConfig) -> Iterator[int]:
    """Where each block ends in the stream: after the last unit that fits; doc_sentences: and not beyond the document."""
    places = np.concatenate([[0], np.cumsum(units.lengths)])
    at, total = 0, len(units.lengths)
    while at < total:
        end = int(np.searchsorted(places, places[at] + config.length, side="right")) - 1
        at = min(end, int(units.last[at])) if config.mode == DOC else end
        yield int(places[at])


BLOCKS = Stage(name="blocks", version=2, work=work, shardwise=Shardwise("sentences", ("documents",)))
