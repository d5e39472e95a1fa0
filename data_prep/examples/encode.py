"""Stage: documents and a tokenizer in, sentences of ids out. The ids of a document are its whole text, in order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

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

TOGETHER = 1 << 21  # bytes of text encoded in one call: enough that words repeat, little memory
Numbers = NDArray[np.int64]
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
    counted = shards.each_path("encode", partial(encode, config, folder), inputs["documents"].shards, out, compute)
    keep_meta(folder / META, out)
    return shards.balance("encode", counted)


def keep_meta(source: Path, out: Path) -> None:
    """The tokenizer's description goes with the ids, so that a feed can refuse another tokenizer's."""
    draft = out / f"{META}.{os.getpid()}.part"
    shutil.copyfile(source, draft)
    os.replace(draft, out / META)


def encode(config: EncodeConfig, folder: Path, shard: Path, out: Path) -> Made:
    """One shard's sentences, with its documents and its languages beside them.

    The ids go to a file of their own as they are made and are read from there as views: the memory this takes depends on the
    size of a group, not of the shard.
    """
    tokenizer, documents = _tokenizer(folder), shards.read(shard)
    draft = out / f".{shard.name}.{os.getpid()}"  # a leading dot: never committed, should this try be killed
    with draft.open("wb") as file, pa.ipc.new_file(file, schemas.sentences(tokenizer.vocab)) as writer:
        parts = [_write_some(tokenizer, rows, first, writer) for first, rows in _groups(documents)]
    per_document = _Lengths(*(np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*parts, strict=True))) if parts else EMPTY
    table = shards.read(draft)
    draft.unlink()  # the views keep it
    if per_document.tokens.sum() > MOST_TOKENS:
        raise ArtifactError(f"encode: a shard of {per_document.tokens.sum()} tokens is too large; make smaller document shards")
    side = describe(config, documents, per_document)
    return Made(
        table, _count(side, per_document), {"documents": side, "languages": _languages(documents, per_document)}, tokenizer.fingerprint
    )


class _Lengths(NamedTuple):
    """What each document of a shard or group has of each; [documents]."""

    sentences: Numbers
    words: Numbers
    letters: Numbers
    bytes: Numbers
    tokens: Numbers
    unknown: Numbers


EMPTY = _Lengths(*(np.empty(0, np.int64) for _ in range(6)))


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer:
    """Once in a process, not once a shard."""
    return load(folder)


def _groups(documents: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """(number of the first, documents): as many as have TOGETHER bytes of text, or one that has more."""
    ends = np.cumsum(_sizes(documents))
    first = 0
    while first < len(ends):
        reached = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, reached + TOGETHER, side="right")))
        yield first, documents.slice(first, last - first)
        first = last


def _sizes(documents: pa.Table) -> Numbers:
    """UTF-8 bytes of each text; a missing one has none."""
    lengths = pc.fill_null(pc.binary_length(documents["text"]), 0)
    return np.asarray(lengths.to_numpy(), np.int64)


def _write_some(tokenizer: Tokenizer, documents: pa.Table, first: int, writer: pa.RecordBatchWriter) -> _Lengths:
    """Sentences to the writer; what each document has. A sentence without ids (control characters) is no sentence."""
    texts = [text or "" for text in documents["text"].to_pylist()]
    cut = [split(text, language or "") for text, language in zip(texts, documents["language"].to_pylist(), strict=True)]
    owner = np.repeat(np.arange(len(cut)), np.fromiter(map(len, cut), np.int64, len(cut)))
    ids, lengths = tokenizer.encode_flat([sentence for sentences in cut for sentence in sentences])
    known = tokenizer.specials.get("unk", -1)
    strange = np.bincount(np.repeat(owner, lengths)[ids == known], minlength=len(cut)) if known >= 0 else np.zeros(len(cut), np.int64)
    tokens = np.bincount(owner, weights=lengths, minlength=len(cut)).astype(np.int64)
    owner, lengths = owner[lengths > 0], lengths[lengths > 0]
    if len(owner):
        kind = schemas.token_type(tokenizer.vocab)
        values = pa.array(ids.astype(kind.to_pandas_dtype()), kind)
        lists = pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32)), values)
        table = pa.table([pa.array((owner + first).astype(np.uint32)), lists], schema=schemas.sentences(tokenizer.vocab))
        writer.write_table(table, max_chunksize=shards.BATCH_ROWS)
    words = np.fromiter((len(text.split()) for text in texts), np.int64, len(texts))
    letters = np.fromiter(map(len, texts), np.int64, len(texts))
    return _Lengths(np.bincount(owner, minlength=len(cut)), words, letters, _sizes(documents), tokens, strange)


def side_of(config: EncodeConfig, key: str) -> str:
    """train or valid, by the hash of the document's id or host: the same in every run and shard."""
    drawn = xxhash.xxh3_64_intdigest(b"split %d " % config.seed + key.encode())
    return "valid" if drawn < config.valid_share * 2.0**64 else "train"


def describe(config: EncodeConfig, documents: pa.Table, per_document: _Lengths) -> pa.Table:
    """The documents side: where each document's sentences stand, and which split it belongs to."""
    ends = np.cumsum(per_document.sentences)
    columns = {
        "id": documents["id"],
        "url": documents["url"],
        "split": [side_of(config, key) for key in _keys(config, documents)],
        "first": (ends - per_document.sentences).astype(np.uint32),
        "sentences": per_document.sentences.astype(np.uint32),
        "tokens": per_document.tokens.astype(np.uint32),
        "bytes": per_document.bytes.astype(np.uint32),
        "source": pc.replace_substring_regex(documents["source"], ":[0-9]+$", ""),  # without the line in the file
    }
    return pa.table(columns, schema=schemas.ENCODED)


def _keys(config: EncodeConfig, documents: pa.Table) -> Iterator[str]:
    """What decides each document's split."""
    for batch in documents.select(["id", "host"]).to_batches(max_chunksize=shards.BATCH_ROWS):
        for key, host in zip(batch["id"].to_pylist(), batch["host"].to_pylist(), strict=True):
            yield host or key if config.by == "host" else key


def _languages(documents: pa.Table, per_document: _Lengths) -> pa.Table:
    """The languages side: the sums over the documents of each language, in the order of their names."""
    coded = pc.fill_null(documents["language"], "").combine_chunks().dictionary_encode()
    names, places = np.unique(np.array(coded.dictionary.to_pylist(), dtype=object), return_inverse=True)
    which = places[coded.indices.to_numpy()]
    sums = {field: np.zeros(len(names), np.int64) for field in per_document._fields}
    for field, values in per_document._asdict().items():
        np.add.at(sums[field], which, values)
    columns = {"language": names.tolist(), "documents": np.bincount(which, minlength=len(names)), **sums}
    return pa.table(columns, schema=schemas.LANGUAGES)


def _count(side: pa.Table, per_document: _Lengths) -> Counts:
    tokens, size = per_document.tokens, per_document.bytes
    valid = np.asarray(pc.equal(side["split"], "valid").to_numpy())
    kept = tokens > 0
    return {
        "read": side.num_rows,
        "kept": int(kept.sum()),
        "set_aside.empty": int((~kept).sum()),
        "sentences": int(per_document.sentences.sum()),
        "tokens": int(tokens.sum()),
        "bytes": int(size.sum()),
        "unknown": int(per_document.unknown.sum()),
        **{f"{name}_documents": int((kept & on).sum()) for name, on in (("train", ~valid), ("valid", valid))},
        **{f"{name}_tokens": int(tokens[on].sum()) for name, on in (("train", ~valid), ("valid", valid))},
        **{f"{name}_bytes": int(size[on & kept].sum()) for name, on in (("train", ~valid), ("valid", valid))},
    }


ENCODE = Stage(name="encode", version=2, work=work, shardwise=Shardwise("documents"))
