"""Where texts say the same n words as the items of tasks, however they are wrapped, cased or punctuated.

A word is a run of letters and digits (Brown et al. 2020, appendix C: lower case, no punctuation); a character of a script
without spaces is one. "doesn't" and the tokenised "does n't" of many task files are the same word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from data_prep.corpus.minhash import rolled
from data_prep.corpus.words import UNSPACED, Hashes, Ints

# Vowel signs and accents: no letters to Python, but inside words.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_RUN = f"[^\\W_{UNSPACED}]+"
_WORD = re.compile(f"{_RUN}(?:[{_MARKS}]+(?:{_RUN})?)*|[{UNSPACED}]")
_DROPPED = frozenset({"n", "t"})  # what is left of "n't", cut off or not
_STEMS = {f"{verb}n": verb for verb in "do does did is are was were has have had would could should must need might".split()}  # noqa: SIM905
_STEMS |= {"ca": "can", "wo": "won", "ain": "ai", "sha": "shan"}


@dataclass(frozen=True)
class Grams:
    """values[starts[d]:starts[d + 1]] are the n-grams of text d: one for each word that n - 1 others follow."""

    values: Hashes
    starts: Ints


@dataclass(frozen=True)
class Index:
    """The n-grams of all items, sorted; gram i comes in items[firsts[i]:firsts[i + 1]]."""

    grams: Hashes
    firsts: Ints
    items: Ints

    def hits(self, grams: Hashes) -> tuple[Ints, Ints]:
        """(places in `grams`, numbers of our grams) of those that we hold."""
        if not len(self.grams):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        place = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        held = np.flatnonzero(self.grams[place] == grams)
        return held, place[held]

    def items_of(self, numbers: Iterable[int]) -> Ints:
        """The items that hold any of these grams, each once, in order."""
        parts = [self.items[self.firsts[number] : self.firsts[number + 1]] for number in numbers]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))


def index_of(grams: Hashes, items: Ints) -> Index:
    """grams[i] comes in item items[i]."""
    order = np.lexsort((items, grams))
    grams, items = grams[order], items[order]
    new = np.concatenate(([True], grams[1:] != grams[:-1])) if len(grams) else np.zeros(0, np.bool_)
    firsts = np.flatnonzero(new)
    return Index(grams[firsts], np.append(firsts, len(grams)), items)


def form(word: str) -> str:
    """What of a word is compared; "" for one that does not count."""
    lower = word.lower()
    return "" if lower in _DROPPED else _STEMS.get(lower, lower)


def spans(text: str) -> Ints:
    """(begin, end) in characters of every word that counts."""
    found = [match.span() for match in _WORD.finditer(text) if form(match[0])]
    return np.array(found, np.int64).reshape(-1, 2)


def count(text: str) -> int:
    """How many words of the text count."""
    return sum(1 for word in _WORD.findall(text) if form(word))


def grams(texts: Sequence[str], n: int) -> Grams:
    """The n-grams of each text, by the places of their first words."""
    found = [_WORD.findall(text) for text in texts]
    starts = np.concatenate(([0], np.cumsum([len(words) for words in found], dtype=np.int64)))
    coded = pa.array([word for words in found for word in words], pa.string()).dictionary_encode()
    vocabulary = [form(word) for word in coded.dictionary.to_pylist()]
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(w.encode()) if w else 0 for w in vocabulary), np.uint64, len(vocabulary))
    values = hashes[coded.indices.to_numpy()]
    counts = np.concatenate(([0], np.cumsum(values != 0)))[starts]
    values = values[values != 0]
    fits = np.maximum(np.diff(counts) - n + 1, 0)
    firsts = np.concatenate(([0], np.cumsum(fits)))
    places = np.repeat(counts[:-1] - firsts[:-1], fits) + np.arange(firsts[-1])
    return Grams(rolled(values, n)[places] if len(values) else values, firsts)
