"""What is computed once of a document's text: its exact key, its bands, and the facts that decide who stays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from data_prep import shards
from data_prep.corpus import minhash, words
from data_prep.corpus.deduping.config import DedupConfig
from data_prep.corpus.deduping.corpus import Corpus
from data_prep.corpus.words import Hashes

LINES = 100_000  # split at once


def sign(corpus: Corpus, shard: int) -> None:
    """Write the signatures of a new shard, and the keys of its paragraphs where they are asked for."""
    name, source = corpus.names[shard], corpus.new[shard - corpus.old]
    if (corpus.out / "signatures" / name).exists():
        return
    documents = shards.read(source)
    keys = [corpus.out / "paragraph_keys" / name] if corpus.config.paragraphs else []
    for path in keys:
        shards.write(paragraphs(corpus.config, documents["text"]), path)
    shards.write(signed(corpus.config, documents), corpus.out / "signatures" / name, {"read": documents.num_rows}, needs=keys)


def signed(config: DedupConfig, documents: pa.Table) -> pa.Table:
    """One row a document."""
    number, rows = config.bands
    exact, some, keys = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.bool_)], [np.zeros((0, number), np.uint64)]
    for batch in words.batches(documents["text"]):
        split = words.split(batch)
        exact.append(minhash.exact_keys(split, batch))
        if config.near:
            found = minhash.shingles(split, config.ngram)
            some.append(np.diff(found.starts) > 0)
            keys.append(minhash.band_keys(minhash.signatures(found, config.permutations), number, rows))
    texts = pc.fill_null(documents["text"], "")
    columns = {
        "high": np.concatenate(exact)[:, 0],
        "low": np.concatenate(exact)[:, 1],
        "id": documents["id"].cast(pa.string()),
        "id_key": hashed(documents["id"]),
        "text_key": hashed(texts),
        "length": pc.utf8_length(texts).cast(pa.int64()),
        "karma": documents["karma"].cast(pa.int64()),
    }
    if config.near:
        columns |= {"some": np.concatenate(some)}
        columns |= {f"band{band}": np.ascontiguousarray(np.concatenate(keys)[:, band]) for band in range(number)}
    return pa.table(columns)


def paragraphs(config: DedupConfig, texts: pa.ChunkedArray) -> pa.Table:
    """The row, the line and the exact key of every paragraph that is long enough to be compared."""
    made = {name: [np.zeros(0, kind)] for name, kind in (("row", np.int64), ("line", np.int64), ("high", np.uint64), ("low", np.uint64))}
    first = 0
    for batch in words.batches(texts):
        lists = pc.split_pattern(pc.fill_null(batch, ""), "\n")
        lines, offsets = lists.flatten(), lists.offsets.to_numpy().astype(np.int64)
        row = np.repeat(np.arange(len(lists)), np.diff(offsets))
        line = np.arange(len(lines)) - (offsets - offsets[0])[:-1][row]
        for start in range(0, len(lines), LINES):
            split = words.split(lines.slice(start, LINES))
            long = np.flatnonzero(split.counts >= config.paragraph_min_words)
            keys = minhash.exact_keys(split, lines.slice(start, LINES))[long]
            for name, values in (
                ("row", row[start + long] + first),
                ("line", line[start + long]),
                ("high", keys[:, 0]),
                ("low", keys[:, 1]),
            ):
                made[name].append(values)
        first += len(batch)
    return pa.table({name: np.concatenate(parts) for name, parts in made.items()})


def hashed(strings: pa.ChunkedArray) -> Hashes:
    """xxh3_64 of the bytes of every string."""
    found = [np.zeros(0, np.uint64)]
    for chunk in pc.fill_null(strings, "").chunks:
        ends = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        data = memoryview(chunk.buffers()[2] or b"")
        parts = (xxhash.xxh3_64_intdigest(data[a:b]) for a, b in pairwise(ends))
        found.append(np.fromiter(parts, np.uint64, len(chunk)))
    return np.concatenate(found)
