"""Text cut into the pieces that a tokenizer encodes alone, a whole batch at once in arrays: GPT-2's words, or words with their spaces.

The `tokenizers` library cuts with a regular expression, one match at a time; that costs more than the merging. Here every letter
of a batch is classified by a table and all cuts are found by comparing neighbours. The classes are the library's own: a letter
that the table does not know yet is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Places = NDArray[np.int64]

LETTER, NUMBER, SPACE, OTHER, UNKNOWN = 0, 1, 2, 3, 255
CODE_POINTS = 0x110000
BLANK, APOSTROPHE = 0x20, 0x27
WHITE = (0x09, 0x0A, 0x0D, 0x20)  # what BERT's clean-up turns into a space, whatever stands around it
SHORT = (ord("s"), ord("t"), ord("m"), ord("d"))  # 's 't 'm 'd
LONG = ((ord("r"), ord("e")), (ord("v"), ord("e")), (ord("l"), ord("l")))  # 're 've 'll


@dataclass(frozen=True)
class Cut:
    """words: the pieces of all texts, one after another; up_to[t]: how many of them stand in texts[0..t]."""

    words: pa.StringArray
    up_to: Places


Cutter = Callable[[Sequence[str]], Cut]


class Letters:
    """A batch as code points [letters], with the places where its texts that are not empty begin and where each text ends."""

    def __init__(self, texts: Sequence[str]) -> None:
        whole = "".join(texts)
        self.data = whole.encode()
        self.points: NDArray[Any] = np.frombuffer(
            self.data if whole.isascii() else whole.encode("utf-32-le"), np.uint8 if whole.isascii() else np.dtype("<u4")
        )
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.ends = np.cumsum(lengths)
        self.firsts = (self.ends - lengths)[lengths > 0]

    def cut(self, starts: Flags) -> Cut:
        """The words that begin where starts says so."""
        starts[self.firsts] = True
        at = np.flatnonzero(starts)
        if len(self.data) == len(self.points):
            offsets = at
        else:
            sizes = np.ones(len(self.points), np.uint8)
            for least in (0x80, 0x800, 0x10000):  # UTF-8: 2, 3, 4 bytes from here on
                sizes += self.points >= least
            parts = np.add.reduceat(sizes, at, dtype=np.int64)
            offsets = np.cumsum(parts) - parts
        edges = np.append(offsets, len(self.data)).astype(np.int32)
        words = pa.StringArray.from_buffers(len(at), pa.py_buffer(edges), pa.py_buffer(self.data))
        return Cut(words, np.searchsorted(at, self.ends))


class Gpt2Words:
    r"""Cuts as GPT-2's expression does (Radford et al. 2019; encoder.py of the published code):

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    """

    def __init__(self, pieces_of: Callable[[str], Sequence[Any]]) -> None:
        """pieces_of: the library's own cutting of a text, asked about single letters."""
        self._pieces_of = pieces_of
        self._classes = np.full(CODE_POINTS, UNKNOWN, np.uint8)

    def __call__(self, texts: Sequence[str]) -> Cut:
        letters = Letters(texts)
        if not len(letters.points):
            return Cut(pa.array([], pa.string()), np.zeros(len(texts), np.int64))
        points, kinds = letters.points, self._classes_of(letters.points)
        starts = _changes(kinds, points, letters.ends)
        starts[letters.firsts] = True
        _contract(starts, points, letters.ends)
        return letters.cut(starts)

    def _classes_of(self, points: NDArray[Any]) -> NDArray[np.uint8]:
        kinds = self._classes[points]
        unknown = kinds == UNKNOWN
        if unknown.any():
            for point in np.unique(points[unknown]).tolist():
                self._classes[point] = self._ask(chr(point))
            kinds = self._classes[points]
        return kinds

    def _ask(self, letter: str) -> int:
        """A letter is of the class of that neighbour from which it is not cut; white space is cut from all of them."""
        for kind, neighbour in ((LETTER, "a"), (NUMBER, "0"), (OTHER, "!")):
            if len(self._pieces_of(neighbour + letter)) == 1:
                return kind
        return SPACE


def _changes(kinds: NDArray[np.uint8], points: NDArray[Any], ends: Places) -> Flags:
    """A word begins where the class changes. Of a run of white space the last letter is for what follows: a blank leads that
    word, another letter stands alone; where the text ends, the run is one word."""
    count = len(points)
    space = kinds == SPACE
    starts = np.zeros(count, bool)
    starts[1:] = kinds[1:] != kinds[:-1]
    starts[1:] &= ~((points[:-1] == BLANK) & ~space[1:])
    ended = np.zeros(count + 1, bool)
    ended[ends] = True
    starts[:-1] |= space[:-1] & ~space[1:] & ~ended[1:count]
    return starts


def _contract(starts: Flags, points: NDArray[Any], ends: Places) -> None:
    """An apostrophe that begins a word takes s, t, m, d, re, ve or ll with it, and a word begins after that. In place."""
    at = np.flatnonzero((points == APOSTROPHE) & starts)
    if not len(at):
        return
    left = ends[np.searchsorted(ends, at, side="right")] - at  # letters of the text from the apostrophe on
    last = len(points) - 1
    one, two = points[np.minimum(at + 1, last)], points[np.minimum(at + 2, last)]
    short = np.isin(one, SHORT) & (left > 1)
    long = np.zeros(len(at), bool)
    for first, second in LONG:
        long |= (one == first) & (two == second)
    long &= left > 2
    for taken, size in ((short, 2), (long, 3)):
        places = at[taken]
        starts[places + 1] = False
        after = places + size
        starts[after[after <= last]] = True


def spaced_words(texts: Sequence[str]) -> Cut:
    """Words with the white space before them: what BERT's and GPT-1's readers treat alone, as they cut at white space first."""
    letters = Letters(texts)
    if not len(letters.points):
        return Cut(pa.array([], pa.string()), np.zeros(len(texts), np.int64))
    white = np.zeros(len(letters.points), bool)
    for point in WHITE:
        white |= letters.points == point
    starts = white.copy()
    starts[1:] &= ~white[:-1]
    return letters.cut(starts)
