"""Stage: documents in, a tokenizer out. The same documents give the same vocabulary, in whatever order the shards come."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from data_prep import shards
from data_prep.tokenizer import byte_bpe, published
from data_prep.tokenizer.base import Meta, read_meta, save_meta
from data_prep.tokenizer.catalog import FOLDER, LOADERS, load, trainer
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
    lowercase: bool = False  # WordPiece strips accents too, as BERT does
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
        if (self.kind == published.KIND) != bool(self.files):
            raise ConfigError(f"tokenizer.files belong to kind {published.KIND!r}, and it needs them; this is {self.kind!r}")
        object.__setattr__(self, "files", tuple(_source(file) for file in self.files))
        if self.kind == "byte_bpe" and self.vocab < (least := byte_bpe.smallest(self.specials)):
            raise ConfigError(f"tokenizer.vocab {self.vocab}: byte-level BPE needs {least} (256 bytes and its special tokens)")
        if self.vocab < 8 or self.sample_bytes < 1 or self.alphabet < 1:
            raise ConfigError(f"tokenizer: vocab {self.vocab}, sample_bytes {self.sample_bytes} and alphabet {self.alphabet} are too small")
        if not 0.9 <= self.coverage <= 1:
            raise ConfigError(f"tokenizer.coverage {self.coverage} is not within 0.9 and 1")


def _source(file: SourceFile | str) -> SourceFile:
    """A path as a recipe gives it."""
    try:
        return file if isinstance(file, SourceFile) else SourceFile.of(file)
    except ArtifactError as error:
        raise ConfigError(f"tokenizer.files: {error}") from error


def work(config: TokenizerConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """The stage: trains as one task, wherever compute runs it. A published vocabulary needs no documents, and does not change with them."""
    if not (out / FOLDER).exists():
        try:
            if config.kind == published.KIND:
                compute.map("tokenizer", partial(adopt, config), [out])
            else:
                compute.map("tokenizer", partial(make, config, out), [inputs["documents"].shards])
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
    os.replace(draft, out / FOLDER)


def make(config: TokenizerConfig, out: Path, paths: list[Path]) -> None:
    """Train in a draft folder and rename it whole."""
    draft = out / f".{FOLDER}.{os.getpid()}"  # a leading dot: never committed, should this try be killed
    shutil.rmtree(draft, ignore_errors=True)
    texts, counted = sample(paths, config.sample_bytes)
    if not texts:
        raise ConfigError("tokenizer: there is no text to train on; look at what the filters removed")
    meta = learn(config, texts, draft)
    save_meta(draft, replace(meta, counts={**counted, "vocab": meta.vocab, "vocab_asked": config.vocab, **measure(draft, texts)}))
    os.replace(draft, out / FOLDER)


def learn(config: TokenizerConfig, texts: list[str], folder: Path) -> Meta:
    """A vocabulary of these texts."""
    train = trainer(config.kind, config.min_frequency, config.alphabet, config.coverage, config.specials)
    return train(texts, folder, vocab=config.vocab, lowercase=config.lowercase)


def sample(paths: list[Path], limit: int) -> tuple[list[str], Counts]:
    """Documents in the order of their ids: all, or those with the smallest hashes until `limit` bytes are reached."""
    tables = [shards.read(path).select(["id", "text"]) for path in paths]
    hashes = [np.array([_hash(key.as_py()) for key in table["id"]], dtype=np.uint64) for table in tables]
    sizes = [pc.binary_length(table["text"].cast(pa.binary())).to_numpy().astype(np.int64) for table in tables]
    bound = _bound(np.concatenate([np.empty(0, np.uint64), *hashes]), np.concatenate([np.empty(0, np.int64), *sizes]), limit)
    chosen: list[tuple[str, str]] = []
    for table, hashed in zip(tables, hashes, strict=True):
        part = table.filter(pa.array(hashed <= bound))
        chosen += zip(part["id"].to_pylist(), part["text"].to_pylist(), strict=True)
    texts = [text for _, text in sorted(chosen)]
    counted = {
        "documents": sum(len(h) for h in hashes),
        "bytes": int(sum(s.sum() for s in sizes)),
        "sampled_documents": len(texts),
        "sampled_bytes": sum(len(text.encode()) for text in texts),
    }
    return texts, counted


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


TOKENIZER = Stage(name="tokenizer", version=2, work=work)
