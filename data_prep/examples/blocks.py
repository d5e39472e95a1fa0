"""Stage: sentences in, blocks of equal length out. Documents stand one after another, each closed by the end-of-text token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import schemas, shards
from data_prep.examples.encode import keep_meta
from data_prep.shards import Made
from data_prep.tokenizer.base import META, Meta, read_meta
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ConfigError
from infra.reuse import Shardwise
from infra.stage import Inputs, Stage

TAILS = ("drop", "pad")


@dataclass(frozen=True)
class BlocksConfig:
    """A shard's last tokens may be fewer than a block. drop: counted and left out. pad: filled up with end-of-text, which
    the feed does not ask the model to predict. Training drops (one block in a shard at most), validation misses nothing.
    """

    length: int = 512
    tail: str = "drop"
    valid_tail: str = "pad"

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ConfigError(f"blocks.length {self.length}: a block has at least 2 tokens")
        if self.tail not in TAILS or self.valid_tail not in TAILS:
            raise ConfigError(f"blocks.tail {self.tail!r} and valid_tail {self.valid_tail!r} are drop or pad")


def work(config: BlocksConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """The stage: fills `out`, gives the counts."""
    source = inputs["sentences"]
    meta = read_meta(source.file(META))
    counted = shards.each_path("blocks", partial(cut, config, meta), source.shards, out, compute)
    keep_meta(source.file(META), out)
    return shards.balance("blocks", counted)


def cut(config: BlocksConfig, meta: Meta, shard: Path, out: Path) -> Made:
    """One shard's blocks, both splits. The ledger counts documents; tokens are counted beside it."""
    side = shards.read(shard.parent / "documents" / shard.name)
    values, starts = flat(shards.read(shard), side)
    split = np.array(side["split"].to_pylist(), dtype=object)
    tables: dict[str, pa.Table] = {}
    counted: Counts = {"read": side.num_rows, "set_aside.empty": int((starts[1:] == starts[:-1]).sum())}
    counted["kept"] = counted["read"] - counted["set_aside.empty"]
    for name, tail in (("train", config.tail), ("valid", config.valid_tail)):
        chosen = np.flatnonzero((split == name) & (starts[1:] > starts[:-1]))
        stream, owner = join(values, starts, chosen, meta.separator)
        tables[name], numbers = into_blocks(stream, owner, config.length, tail, meta)
        counted |= {key if name == "train" else f"valid_{key}": number for key, number in numbers.items()}
    return Made(tables["train"], counted, {"valid": tables["valid"]})


def flat(sentences: pa.Table, side: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """All ids of a shard, and where each document begins (one edge more than documents)."""
    chunks = [chunk.flatten() for chunk in sentences["tokens"].chunks]
    kind = sentences.schema.field("tokens").type.value_type
    values = chunks[0].to_numpy() if len(chunks) == 1 else pa.chunked_array(chunks, type=kind).to_numpy()
    starts = np.concatenate([[0], np.cumsum(side["tokens"].to_numpy().astype(np.int64))])
    return values, starts


def join(values: np.ndarray, starts: np.ndarray, chosen: np.ndarray, separator: int) -> tuple[np.ndarray, np.ndarray]:
    """The chosen documents' ids, each followed by the separator; and for every place the document it belongs to."""
    lengths = starts[chosen + 1] - starts[chosen] + 1
    stream = np.full(int(lengths.sum()), separator, dtype=values.dtype)
    at = 0
    for document, length in zip(chosen.tolist(), lengths.tolist(), strict=True):
        stream[at : at + length - 1] = values[starts[document] : starts[document + 1]]
        at += length
    return stream, np.repeat(chosen.astype(np.uint32), lengths)


def into_blocks(stream: np.ndarray, owner: np.ndarray, length: int, tail: str, meta: Meta) -> tuple[pa.Table, Counts]:
    """Counts: blocks; tokens in them (separators included); tokens dropped or padding added at the end."""
    left = len(stream) % length
    padding = length - left if left and tail == "pad" else 0
    dropped = left if tail == "drop" else 0
    stream = np.concatenate([stream[: len(stream) - dropped], np.full(padding, meta.separator, stream.dtype)])
    schema = schemas.blocks(meta.vocab, length)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(stream, schema.field("tokens").type.value_type), length)
    table = pa.table([tokens, pa.array(owner[: len(stream)][::length])], schema=schema)
    return table, {"blocks": len(table), "tokens": len(stream) - padding, "dropped_tokens": dropped, "padded_tokens": padding}


BLOCKS = Stage(name="blocks", version=1, work=work, shardwise=Shardwise("sentences", ("documents",)))
