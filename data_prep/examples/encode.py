"""Stage: documents and a tokenizer in, sentences of ids out. The ids of a document are its whole text, in order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from data_prep import schemas, shards
from data_prep.examples.sentences import split
from data_prep.shards import Made
from data_prep.tokenizer.base import META, Tokenizer
from data_prep.tokenizer.catalog import folder_of, load
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError
from infra.reuse import Shardwise
from infra.stage import Inputs, Stage

TOGETHER = 256  # documents encoded in one call: enough to fill the library's threads, little memory
MOST_TOKENS = 2**31 - 1  # of a shard: Arrow's list offsets are 32 bits


@dataclass(frozen=True)
class EncodeConfig:
    """How documents become ids, and which of them are kept for validation."""

    valid_share: float = 0.02
    by: str = "document"  # or "host": all pages of a site on one side
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.valid_share < 1:
            raise ConfigError(f"encode.valid_share {self.valid_share} is not within 0 and 1")
        if self.by not in ("document", "host"):
            raise ConfigError(f"encode.by {self.by!r} is neither document nor host")


def work(config: EncodeConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """The stage: fills `out`, gives the counts."""
    folder = folder_of(inputs["tokenizer"])
    counted = shards.each("encode", partial(encode, config, folder), inputs["documents"].shards, out, compute)
    keep_meta(folder / META, out)
    return shards.balance("encode", counted)


def keep_meta(source: Path, out: Path) -> None:
    """The tokenizer's description goes with the ids, so that a feed can refuse another tokenizer's."""
    draft = out / f"{META}.{os.getpid()}.part"
    shutil.copyfile(source, draft)
    os.replace(draft, out / META)


def encode(config: EncodeConfig, folder: Path, documents: pa.Table) -> Made:
    """One shard's sentences, with its documents beside them."""
    tokenizer = _tokenizer(folder)
    kind = schemas.token_type(tokenizer.vocab)
    parts = [_encode_some(tokenizer, kind, texts, languages) for texts, languages in _groups(documents)]
    lengths = _joined([length for length, _, _ in parts], np.dtype(np.int64))
    per_document = _joined([count for _, count, _ in parts], np.dtype(np.int64))
    values = _joined([ids for _, _, ids in parts], np.dtype(kind.to_pandas_dtype()))
    if len(values) > MOST_TOKENS:
        raise ArtifactError(f"encode: a shard of {len(values)} tokens is too large; make smaller document shards")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    rows = np.repeat(np.arange(len(per_document), dtype=np.uint32), per_document)
    tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind))
    table = pa.table([pa.array(rows), tokens], schema=schemas.sentences(tokenizer.vocab))
    side = describe(config, documents, per_document, offsets)
    return Made(table, _count(side, len(lengths), values, tokenizer), {"documents": side}, tokenizer.fingerprint)


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer:
    """Once in a process, not once a shard."""
    return load(folder)


def _groups(documents: pa.Table) -> Iterator[tuple[list[str], list[str]]]:
    for start in range(0, documents.num_rows, TOGETHER):
        part = documents.slice(start, TOGETHER)
        yield part["text"].to_pylist(), part["language"].to_pylist()


def _encode_some(
    tokenizer: Tokenizer, kind: pa.DataType, texts: list[str], languages: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths of the sentences, sentences of each document, ids. A sentence without ids (control characters) is no sentence."""
    cut = [split(text or "", language or "") for text, language in zip(texts, languages, strict=True)]
    ids = tokenizer.encode_batch([sentence for sentences in cut for sentence in sentences])
    owner = np.repeat(np.arange(len(cut)), [len(sentences) for sentences in cut])
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    flat = np.fromiter((number for row in ids for number in row), dtype=kind.to_pandas_dtype(), count=int(lengths.sum()))
    return lengths[lengths > 0], np.bincount(owner[lengths > 0], minlength=len(cut)), flat


def _joined(parts: list[np.ndarray], kind: np.dtype) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)


def side_of(config: EncodeConfig, key: str) -> str:
    """train or valid, by the hash of the document's id or host: the same in every run and shard."""
    drawn = xxhash.xxh3_64_intdigest(b"split %d " % config.seed + key.encode())
    return "valid" if drawn < config.valid_share * 2.0**64 else "train"


def describe(config: EncodeConfig, documents: pa.Table, per_document: np.ndarray, offsets: np.ndarray) -> pa.Table:
    """The documents side: where each document's sentences stand, and which split it belongs to."""
    ids, texts = documents["id"].to_pylist(), documents["text"].to_pylist()
    keys = ids if config.by == "document" else [host or key for host, key in zip(documents["host"].to_pylist(), ids, strict=True)]
    edges = np.concatenate([[0], np.cumsum(per_document)]).astype(np.int64)
    columns = {
        "id": ids,
        "url": documents["url"].to_pylist(),
        "split": [side_of(config, key) for key in keys],
        "first": edges[:-1].astype(np.uint32),
        "sentences": per_document.astype(np.uint32),
        "tokens": np.diff(offsets[edges]).astype(np.uint32),
        "bytes": np.array([len((text or "").encode()) for text in texts], dtype=np.uint32),
        "source": pc.replace_substring_regex(documents["source"], ":[0-9]+$", ""),  # without the line in the file
    }
    return pa.table(columns, schema=schemas.ENCODED)


def _count(side: pa.Table, sentences: int, values: np.ndarray, tokenizer: Tokenizer) -> Counts:
    tokens, size = side["tokens"].to_numpy().astype(np.int64), side["bytes"].to_numpy().astype(np.int64)
    valid = np.array(side["split"].to_pylist(), dtype=object) == "valid"
    kept = tokens > 0
    return {
        "read": side.num_rows,
        "kept": int(kept.sum()),
        "set_aside.empty": int((~kept).sum()),
        "sentences": sentences,
        "tokens": len(values),
        "bytes": int(size.sum()),
        "unknown": int((values == tokenizer.specials["unk"]).sum()) if "unk" in tokenizer.specials else 0,
        **{f"{name}_documents": int((kept & on).sum()) for name, on in (("train", ~valid), ("valid", valid))},
        **{f"{name}_tokens": int(tokens[on].sum()) for name, on in (("train", ~valid), ("valid", valid))},
        **{f"{name}_bytes": int(size[on & kept].sum()) for name, on in (("train", ~valid), ("valid", valid))},
    }


ENCODE = Stage(name="encode", version=2, work=work, shardwise=Shardwise("documents"))
