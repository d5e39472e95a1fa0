"""Words of many documents at once: split once, numbered, and shared by every rule and by MinHash.

A word is what stands between white space. Scripts that are written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) give one word
per character. Korean has words as written (eojeol), however long; for MinHash alone a run of Hangul too long to be one word, as in Korean
typed without spaces, gives one word per syllable, so that such texts have shingles to compare.
All work on characters is done once for each *different* word of a batch; everything by position is numpy.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

BATCH_BYTES = 8 << 20  # of text: some 60 MB of arrays
HANGUL_RUN = 13  # longer than any ordinary Korean word with its particles
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_CROWDED = re.compile(f"[{UNSPACED}]")
_CROWDED_OR_RUN = re.compile(f"[{UNSPACED}]|[\uac00-\ud7a3]{{{HANGUL_RUN},}}")
_RARE_SPACES = "\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_NEEDS_PYTHON = f"[{UNSPACED}{_RARE_SPACES}]|[\uac00-\ud7a3]{{{HANGUL_RUN},}}"
_NOT_LETTERS = re.compile(r"[\W_]+")
_LETTER = re.compile(r"[^\W\d_]")

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Words:
    """ids[starts[d]:starts[d + 1]] are document d's words, as numbers into the vocabulary."""

    ids: Ints
    starts: Ints
    vocabulary: list[str]

    @property
    def documents(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> Ints:
        return np.diff(self.starts)

    @cached_property
    def document(self) -> Ints:
        """The document of each position."""
        return np.repeat(np.arange(self.documents), self.counts)

    @cached_property
    def lengths(self) -> Ints:
        """Characters of each word of the vocabulary."""
        return np.fromiter(map(len, self.vocabulary), np.int64, len(self.vocabulary))

    @cached_property
    def alphabetic(self) -> NDArray[np.bool_]:
        """Whether a word of the vocabulary holds a letter of any script, or is a letter's mark (a Thai vowel sign) by itself."""
        return np.fromiter((_LETTER.search(w) is not None or _is_mark(w) for w in self.vocabulary), np.bool_, len(self.vocabulary))

    @cached_property
    def crowded(self) -> Flags:
        """Whether a word of the vocabulary is a character by itself, of a script without spaces."""
        return np.fromiter((len(w) == 1 and not w.isascii() and spaced(w) != w for w in self.vocabulary), np.bool_, len(self.vocabulary))

    @cached_property
    def before(self) -> Ints:
        """Characters of all words before each position, and of all words at the end."""
        return np.concatenate(([0], np.cumsum(self.lengths[self.ids])))

    @cached_property
    def characters(self) -> Ints:
        """Characters of all words, by document."""
        return np.diff(self.before[self.starts])

    def sums(self, by_position: NDArray[Any]) -> NDArray[Any]:
        """The sum over each document of a value that every position has."""
        running = np.concatenate(([0], np.cumsum(by_position, dtype=np.int64)))
        return running[self.starts[1:]] - running[self.starts[:-1]]

    def hashes(self, form: Callable[[str], str]) -> Hashes:
        """xxh3_64 of the form of each word of the vocabulary; 0 for a word that has none."""
        formed = (form(word) for word in self.vocabulary)
        return np.fromiter((xxhash.xxh3_64_intdigest(f.encode()) if f else 0 for f in formed), np.uint64, len(self.vocabulary))


def _is_mark(word: str) -> bool:
    return len(word) == 1 and unicodedata.category(word).startswith("M")


def lowered(word: str) -> str:
    """The word without regard to case."""
    return word.lower()


def bare(word: str) -> str:
    """The letters and digits alone, in lower case: what near duplicates are compared by."""
    return word.lower() if word.isalnum() else _NOT_LETTERS.sub("", word.lower())


def spaced(text: str, hangul_runs: bool = True) -> str:
    """The text with spaces around every character that is a word by itself; hangul_runs: those of long runs of Hangul too."""
    return (_CROWDED_OR_RUN if hangul_runs else _CROWDED).sub(lambda run: " " + " ".join(run[0]) + " ", text)


def split(texts: pa.Array, hangul_runs: bool = True) -> Words:
    """Split every text of one Arrow string array; a null counts as an empty text. hangul_runs: long runs of Hangul by syllable."""
    texts = _with_spaces(pc.fill_null(texts, ""), hangul_runs)
    # Not utf8_split_whitespace: it reads a character past the end of its buffer, and what lies there decides (pyarrow 26.0.1).
    lists = pc.ascii_split_whitespace(texts)
    coded = lists.flatten().dictionary_encode()
    vocabulary = coded.dictionary.to_pylist()
    ids = coded.indices.to_numpy().astype(np.int64)
    starts = lists.offsets.to_numpy().astype(np.int64) - (lists.offsets[0].as_py() if len(lists) else 0)
    return _without_empty(ids, starts, vocabulary)


def split_texts(texts: Sequence[str], hangul_runs: bool = True) -> Words:
    """As split, of Python strings."""
    return split(pa.array(texts, pa.string()), hangul_runs)


def batches(texts: pa.ChunkedArray, limit: int = BATCH_BYTES) -> Iterator[pa.Array]:
    """The column in runs of rows of about `limit` bytes, in order; views, not copies."""
    for chunk in texts.chunks:
        if len(chunk) == 0:
            continue
        ends = np.cumsum(pc.fill_null(pc.binary_length(chunk), 0).to_numpy().astype(np.int64))
        start = 0
        while start < len(chunk):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
            yield chunk.slice(start, stop - start)
            start = stop


def _with_spaces(texts: pa.Array, hangul_runs: bool) -> pa.Array:
    """Every space an ASCII one. RE2 finds the few texts that need Python's slower look."""
    special = pc.match_substring_regex(texts, _NEEDS_PYTHON)
    if not pc.any(special).as_py():
        return texts
    pairs = zip(texts.to_pylist(), special.to_pylist(), strict=True)
    return pa.array([" ".join(spaced(text, hangul_runs).split()) if needs else text for text, needs in pairs], pa.string())


def _without_empty(ids: Ints, starts: Ints, vocabulary: list[str]) -> Words:
    """Arrow reports white space at an end of a text as an empty word; we know no empty words."""
    if "" not in vocabulary:
        return Words(ids, starts, vocabulary)
    real = ids != vocabulary.index("")
    kept = np.concatenate(([0], np.cumsum(real)))
    return Words(ids[real], kept[starts], vocabulary)
