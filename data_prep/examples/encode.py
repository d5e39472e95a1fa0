"""Stage: documents and a tokenizer in, sentences of ids out. The ids of a document are its whole text, in order."""

from __future__ import annotations

import os
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
from data_prep.shards import Draft, Made
from data_prep.tokenizer.base import META, Tokenizer, keep_meta
from data_prep.tokenizer.catalog import folder_of, load
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError
from infra.reuse import Shardwise
from infra.stage import Inputs, Stage

TOGETHER = 1 << 21  # bytes of text encoded in one call: enough that words repeat, little memory
Numbers = NDArray[np.int64]


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


def encode(config: EncodeConfig, folder: Path, shard: Path, out: Path) -> Made:
    """One shard's sentences, with its documents and its languages beside them.

    Rows go to drafts as they are made and from there to the shard, and the pages of the documents read are given back: the memory
    this takes depends on the size of a group, not of the shard.
    """
    tokenizer, languages = _tokenizer(folder), _Languages()
    sentences = Draft(out / f".{shard.name}.{os.getpid()}", schemas.sentences(tokenizer.vocab))
    side = Draft(out / f".{shard.name}.{os.getpid()}.side", schemas.ENCODED, gather=True)
    with shards.passing(shard) as (documents, give_back), sentences, side:
        counts = _count(describe(config, documents.slice(0, 0), EMPTY, 0), EMPTY)
        for rows in _groups(documents):
            made = _write_some(tokenizer, rows, counts["read"], sentences)
            described = describe(config, rows, made, counts["sentences"])
            side.write(described)
            languages.add(rows, made)
            counts = shards.total([counts, _count(described, made)])
            give_back()
    if counts["tokens"] > schemas.MOST_TOKENS:
        raise ArtifactError(f"encode: a shard of {counts['tokens']} tokens is too large; make smaller document shards")
    return Made(sentences.read(), counts, {"documents": side.read(), "languages": languages.table()}, tokenizer.fingerprint)


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


def _groups(documents: pa.Table) -> Iterator[pa.Table]:
    """Documents in order: as many together as have TOGETHER bytes of text, at most a batch, or one that has more."""
    first = 0
    while first < documents.num_rows:
        ends = np.cumsum(_sizes(documents.slice(first, shards.BATCH_ROWS)))
        count = max(1, int(np.searchsorted(ends, TOGETHER, side="right")))
        yield documents.slice(first, count)
        first += count


def _sizes(documents: pa.Table) -> Numbers:
    """UTF-8 bytes of each text; a missing one has none."""
    lengths = pc.fill_null(pc.binary_length(documents["text"]), 0)
    return np.asarray(lengths.to_numpy(), np.int64)


def _write_some(tokenizer: Tokenizer, documents: pa.Table, first: int, draft: Draft) -> _Lengths:
    """Sentences to the draft; what each document has. first: the number of the first document in its shard.

    A sentence without ids (control characters) is no sentence.
    """
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
        draft.write(table)
    words = np.fromiter((len(text.split()) for text in texts), np.int64, len(texts))
    letters = np.fromiter(map(len, texts), np.int64, len(texts))
    return _Lengths(np.bincount(owner, minlength=len(cut)), words, letters, _sizes(documents), tokens, strange)


def side_of(config: EncodeConfig, key: str) -> str:
    """train or valid, by the hash of the document's id or host: the same in every run and shard."""
    drawn = xxhash.xxh3_64_intdigest(b"split %d " % config.seed + key.encode())
    return "valid" if drawn < config.valid_share * 2.0**64 else "train"


def describe(config: EncodeConfig, documents: pa.Table, per_document: _Lengths, before: int) -> pa.Table:
    """The documents side: where each document's sentences stand, and which split it belongs to. before: sentences of earlier ones."""
    ends = before + np.cumsum(per_document.sentences)
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


class _Languages:
    """The languages side: the sums over the documents of each language, in the order of their names."""

    def __init__(self) -> None:
        self._sums: dict[str, Numbers] = {}  # documents, then the fields of _Lengths

    def add(self, documents: pa.Table, per_document: _Lengths) -> None:
        coded = pc.fill_null(documents["language"], "").combine_chunks().dictionary_encode()
        sums = np.zeros((len(coded.dictionary), 1 + len(per_document)), np.int64)
        np.add.at(sums, coded.indices.to_numpy(), np.stack([np.ones(documents.num_rows, np.int64), *per_document], axis=1))
        for language, row in zip(coded.dictionary.to_pylist(), sums, strict=True):
            self._sums[language] = self._sums.get(language, 0) + row

    def table(self) -> pa.Table:
        names = sorted(self._sums)
        rows = np.array([self._sums[name] for name in names], np.int64).reshape(len(names), 1 + len(_Lengths._fields))
        columns = dict(zip(("documents", *_Lengths._fields), rows.T, strict=True))
        return pa.table({"language": names, **columns}).select(schemas.LANGUAGES.names).cast(schemas.LANGUAGES)


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


ENCODE = Stage(name="encode", version=3, work=work, shardwise=Shardwise("documents"))
