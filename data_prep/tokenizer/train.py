"""Stage: documents in, a tokenizer out. The same documents give the same vocabulary, in whatever order the shards come."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from data_prep import shards
from data_prep.tokenizer import byte_bpe, published
from data_prep.tokenizer.base import Meta, read_meta, save_meta
from data_prep.tokenizer.catalog import FOLDER, LOADERS, load, trainer
from infra import finished
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError, StageFailed
from infra.stage import Inputs, Stage

MEASURED_BYTES = 2_000_000  # of the sample, for the tokens-per-byte report


@dataclass(frozen=True)
class TokenizerConfig:
    """What kind of tokenizer, how large, from how much text."""

    kind: str = "byte_bpe"  # or "import": the published vocabulary of `files`
    vocab: int = 8192  # at most; a small corpus may reach less, which is recorded
    lowercase: bool = False  # WordPiece strips accents too, as BERT does, unless strip_accents says otherwise
    strip_accents: bool | None = None  # wordpiece; None: as lowercase, but never where filter.languages names Korean
    sample_bytes: int = 60_000_000  # of text; documents are chosen by the hash of their id
    min_frequency: int = 2  # byte_bpe, bpe_eow, wordpiece: a pair seen less often is not merged
    alphabet: int = 1000  # bpe_eow, wordpiece: letters kept at most
    coverage: float = 0.9995  # sentencepiece: share of letters kept
    specials: str = "gpt"  # byte_bpe: "gpt" (one end of text) or "roberta" (<s> <pad> </s> <unk> <mask>)
    files: tuple[SourceFile | str, ...] = ()  # import: tokenizer.json, vocab.txt, spiece.model, or encoder.json and vocab.bpe

    def __post_init__(self) -> None:
        if self.kind not in (*LOADERS, published.KIND):
            raise ConfigError(f"tokenizer.kind {self.kind!r} is none of {', '.join(LOADERS)}, {published.KIND}")
        if self.specials not in byte_bpe.SETS:
            raise ConfigError(f"tokenizer.specials {self.specials!r} is none of {', '.join(byte_bpe.SETS)}")
        if self.strip_accents is not None and self.kind != "wordpiece":
            raise ConfigError(f"tokenizer.strip_accents is for kind 'wordpiece'; this is {self.kind!r}")
        if (self.kind == published.KIND) != bool(self.files):
            raise ConfigError(f"tokenizer.files belong to kind {published.KIND!r}, and it needs them; this is {self.kind!r}")
        object.__setattr__(self, "files", tuple(_source(file) for file in self.files))
        if self.kind == "byte_bpe" and self.vocab < (least := byte_bpe.smallest(self.specials)):
            raise ConfigError(f"tokenizer.vocab {self.vocab}: byte-level BPE needs {least} (256 bytes and its special tokens)")
        if self.vocab < 8 or self.sample_bytes < 1 or self.alphabet < 1:
            raise ConfigError(f"tokenizer: vocab {self.vocab}, sample_bytes {self.sample_bytes} and alphabet {self.alphabet} are too small")
        if not 0.9 <= self.coverage <= 1:
            raise ConfigError(f"tokenizer.coverage {self.coverage} is not within 0.9 and 1")


def for_languages(config: TokenizerConfig, languages: Collection[str]) -> TokenizerConfig:
    """The same, with Hangul syllables left whole by a WordPiece tokenizer of a corpus that has Korean among its languages."""
    if config.kind == "wordpiece" and config.strip_accents is None and "ko" in languages:
        return replace(config, strip_accents=False)
    return config


def _source(file: SourceFile | str) -> SourceFile:
    """A path as a recipe gives it."""
    try:
        return file if isinstance(file, SourceFile) else SourceFile.of(file)
    except ArtifactError as error:
        raise ConfigError(f"tokenizer.files: {error}") from error


def work(config: TokenizerConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """The stage: the workers take the sample, shard by shard, and one of them trains. A published vocabulary needs no documents, and
    does not change with them.
    """
    if not finished.is_recorded(out / FOLDER):
        try:
            if config.kind == published.KIND:
                compute.map("tokenizer", partial(adopt, config), [out])
            else:
                paths, scratch = inputs["documents"].shards, out / ".sample"
                counted = sample(paths, config.sample_bytes, scratch, compute)
                compute.map("tokenizer", partial(make, config, out, counted), [[scratch / path.name for path in paths]])
        except StageFailed as failed:
            for cause in failed.failures.values():
                if isinstance(cause, ConfigError):  # an impossible size shows only once the letters are counted
                    raise cause from failed
            raise
    return read_meta(out / FOLDER).counts


def adopt(config: TokenizerConfig, out: Path) -> None:
    """Bring in the vocabulary of the files, as it was published."""
    draft = out / f".{FOLDER}.{os.getpid()}"  # a leading dot: never committed, should this try be killed
    shutil.rmtree(draft, ignore_errors=True)
    meta = published.read([Path(_source(file).path) for file in config.files], draft, config.lowercase)
    save_meta(draft, replace(meta, counts={"vocab": meta.vocab}))
    _publish(draft, out)


def make(config: TokenizerConfig, out: Path, counted: Counts, paths: list[Path]) -> None:
    """Train on the sampled rows in a draft folder and rename it whole."""
    draft = out / f".{FOLDER}.{os.getpid()}"  # a leading dot: never committed, should this try be killed
    shutil.rmtree(draft, ignore_errors=True)
    texts = sampled(paths)
    if not texts:
        raise ConfigError("tokenizer: there is no text to train on; look at what the filters removed")
    meta = learn(config, texts, draft)
    save_meta(draft, replace(meta, counts={**counted, "vocab": meta.vocab, "vocab_asked": config.vocab, **measure(draft, texts)}))
    _publish(draft, out)


def _publish(draft: Path, out: Path) -> None:
    """The directory appears under its name when it is complete, and is recorded."""
    for path in draft.rglob("*"):
        finished.sync(path)
    os.replace(draft, out / FOLDER)
    finished.record(out / FOLDER)


def learn(config: TokenizerConfig, texts: list[str], folder: Path) -> Meta:
    """A vocabulary of these texts."""
    train = trainer(config.kind, config.min_frequency, config.alphabet, config.coverage, config.specials, config.strip_accents)
    return train(texts, folder, vocab=config.vocab, lowercase=config.lowercase)


def sample(paths: list[Path], limit: int, scratch: Path, compute: Compute) -> Counts:
    """Write the rows to train on, of each shard under its name in scratch: all documents, or those with the smallest hashes until
    `limit` bytes are reached.
    """
    weighed = compute.map("tokenizer sample", partial(weigh, limit), paths)
    hashes = np.concatenate([np.empty(0, np.uint64), *(shard.hashes for shard in weighed)])
    bound = _bound(hashes, np.concatenate([np.empty(0, np.int64), *(shard.sizes for shard in weighed)]), limit)
    taken = compute.map("tokenizer sample", partial(take, int(bound), scratch), paths)
    return {
        "documents": sum(shard.documents for shard in weighed),
        "bytes": sum(shard.bytes for shard in weighed),
        **{name: sum(part[name] for part in taken) for name in ("sampled_documents", "sampled_bytes")},
    }


class Weighed(NamedTuple):
    """hashes, sizes: of the documents of a shard that can be of the sample, the smallest hash first. documents, bytes: of all."""

    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    documents: int
    bytes: int


def weigh(limit: int, path: Path) -> Weighed:
    """What a shard has to offer: no document whose shard has `limit` bytes of smaller hashes can be chosen."""
    with shards.passing(path) as (table, _):
        hashes = _hashes(table)
        sizes = np.asarray(pc.fill_null(pc.binary_length(table["text"]), 0).to_numpy(), np.int64)
    order = np.argsort(hashes, kind="stable")
    count = int(np.searchsorted(np.cumsum(sizes[order]), limit)) + 1
    return Weighed(hashes[order[:count]], sizes[order[:count]], len(hashes), int(sizes.sum()))


def take(bound: int, scratch: Path, path: Path) -> Counts:
    """Write the documents of a shard whose hash is at most the bound."""
    target = scratch / path.name
    if not target.exists():
        with shards.passing(path) as (table, _):
            chosen = table.select(["id", "text"]).filter(pa.array(_hashes(table) <= np.uint64(bound)))
        size = pc.sum(pc.binary_length(chosen["text"])).as_py() or 0
        shards.write(chosen, target, {"sampled_documents": chosen.num_rows, "sampled_bytes": size})
    return shards.counts(target)


def sampled(paths: list[Path]) -> list[str]:
    """The texts of the sample in the order of their documents' ids, whatever shards they stand in."""
    tables = [shards.read(path) for path in paths]
    rows = [row for table in tables for row in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)]
    return [text for _, text in sorted(rows)]


def _hashes(table: pa.Table) -> NDArray[np.uint64]:
    return np.array([_hash(key) for batch in table.select(["id"]).to_batches() for key in batch["id"].to_pylist()], np.uint64)


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(b"tokenizer sample " + key.encode())


def _bound(hashes: np.ndarray, sizes: np.ndarray, limit: int) -> np.uint64:
    """The largest hash still taken."""
    if not len(hashes):
        return np.uint64(0)
    order = np.argsort(hashes, kind="stable")
    last = min(int(np.searchsorted(np.cumsum(sizes[order]), limit)), len(hashes) - 1)
    return np.uint64(hashes[order[last]])


def measure(folder: Path, texts: list[str]) -> Counts:
    """Tokens, bytes and unknown tokens of a part of the sample."""
    part, size = [], 0
    for text in texts:
        part.append(text[:MEASURED_BYTES])
        size += len(part[-1].encode())
        if size >= MEASURED_BYTES:
            break
    tokenizer = load(folder)
    ids = tokenizer.encode_batch(part)
    unknown = tokenizer.specials.get("unk", -1)
    return {
        "measured_bytes": size,
        "measured_tokens": sum(map(len, ids)),
        "measured_unknown": sum(row.count(unknown) for row in ids),
        "measured_words": sum(len(text.split()) for text in part),
    }


TOKENIZER = Stage(name="tokenizer", version=4, work=work)
