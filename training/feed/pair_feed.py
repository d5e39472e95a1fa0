"""Pairs of segments as batches: masked tokens, and whether B follows A (NSP) or stands in the right order (SOP).

[CLS] A [SEP] B [SEP]. NSP: Devlin et al. 2019, section 3.1 and appendix A.2; SOP: Lan et al. 2020, section 3.1.
NSP: each epoch matches pairs of different documents and nearly equal shape (partners.py). A random B is the partner's. Whatever its label,
a pair keeps what its partner has too next to the border between A and B: as many tokens, of as many sentences. So lengths and counts do
not depend on the label, and two partners give the same ones as written and with their Bs exchanged (the reference code takes sentences
until the target length, tries ten times for another document, and makes lone sentences random always).
SOP: where the longer side is more often the first one, or the second one, so many of those pairs are evened (balance.py): they keep of
either side equal numbers of sentences and tokens next to the border.
What is too long loses words of the longer side; in pairs that are not matched the part that stays is a window at a uniformly random
position (the reference flips a coin for each word).
Letters: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from infra.errors import ArtifactError, ConfigError
from training.feed.balance import evened
from training.feed.batch import Batch
from training.feed.masking import Masker
from training.feed.order import Plan
from training.feed.partners import Partners
from training.feed.random import U64, below, draws, fold, unit
from training.feed.views import BOOL, I64, Rows, Shards

SPECIALS = 3
COIN, CUT_A, CUT_B, EVEN, DRAWS = 0, 1, 2, 3, 4  # numbers of an example's draws, and how many
LOWER = np.arange(4)[:, None]  # counts of sentences that are tried at once, below the largest
AT_ONCE = 1 << 20  # pairs whose documents are looked up together
PAIRING, MASKING = 1, 2  # streams under an example's key


def _largest(extents: I64, count: I64, cap: I64) -> tuple[I64, BOOL]:
    """The tokens of the first of some counts, one lower each, of which both sides can show equally many; whether there is one."""
    kept = np.minimum(extents[:-1].min(1), cap)
    fits = (extents[1:].max(1) < kept) | (count - LOWER[:-1] <= 1)
    first = fits.argmax(0)[None]
    return np.take_along_axis(kept, first, 0)[0], fits.any(0)


class _Sides(NamedTuple):
    """Sides that are to show equal shapes, two by two: [2, sides] each. border: the sentence row after the border; place: its first token;
    way: 1 where the side is after the border, -1 where before."""

    border: I64
    place: I64
    way: I64

    def of(self, some: I64) -> _Sides:
        """Some of them."""
        return _Sides(self.border[:, some], self.place[:, some], self.way[:, some])


class PairSource:
    """task: "nsp", "sop", or "" for masked tokens alone."""

    def __init__(
        self,
        pairs: Shards,
        sentences: Shards,
        documents: Shards,
        length: int,
        specials: Mapping[str, int],
        masker: Masker,
        task: str,
    ) -> None:
        self._pairs, self._sentences, self._documents = pairs, sentences, documents
        if self._pairs.names != sentences.names or documents.names != sentences.names:
            raise ArtifactError("the pairs and the sentences have different shards; they were not made from each other")
        self._start, self._split, self._end = (self._pairs.numbers(name) for name in ("start", "split", "end"))
        self._tokens, self._owner = sentences.lists("tokens"), sentences.numbers("document")
        self._length, self._specials, self._masker, self._task = length, specials, masker, task
        self.examples, self.pad = len(self._pairs), specials["pad"]
        self._partners = self._match() if task == "nsp" and self.examples else None
        self._evened = self._balance() if task == "sop" else None

    def plan(self, index: I64, key: U64, epoch: U64) -> Plan:
        """Token places of A and B after truncation, the label, and the sentence rows they come from."""
        draw = draws(fold(key, PAIRING), DRAWS)
        rows = start, split, _ = self._chunk(index)
        coin, b_row = draw[:, COIN] >> np.uint64(63) == 1, split
        if self._partners is not None:
            other = self._chunk(self._partners.of(index, epoch))
            a0, a1, b0, b1 = self._matched(rows, other, coin)
            b_row = np.where(coin, other[1], split)
        else:
            a0, a1, b0, b1 = self._as_written(rows, index, draw)
        if self._task == "sop":
            a0, b0 = np.where(coin, b0, a0), np.where(coin, a0, b0)
            a1, b1 = np.where(coin, b1, a1), np.where(coin, a1, b1)
        if self._partners is None:
            a0, a1, b0, b1 = self._truncate(a0, a1, b0, b1, draw)
        places = {"a0": a0, "a1": a1, "b0": b0, "b1": b1}
        return {**places, "pair": coin.astype(np.int64), "key": fold(key, MASKING), "row": start, "b_row": b_row}

    def owners(self, number: int) -> I64:
        """Of every pair in a shard, the row of its document in the shard."""
        start = self._pairs.table(number)["start"].to_numpy().astype(np.int64)
        return self._owner.at(start + self._sentences.starts[number])

    def _rows(self, column: Rows, index: I64) -> I64:
        """Sentence rows, numbered through all shards, of the pairs' column."""
        return column.at(index) + self._sentences.starts[self._pairs.shard_of(index)]

    def _document(self, rows: I64) -> I64:
        return self._owner.at(rows) + self._documents.starts[self._sentences.shard_of(rows)]

    def _chunk(self, index: I64) -> tuple[I64, I64, I64]:
        """Sentence rows of pairs: A is [start, split), B [split, end)."""
        start, split, end = (self._rows(column, index) for column in (self._start, self._split, self._end))
        return start, split, end

    def _as_written(self, rows: tuple[I64, I64, I64], index: I64, draw: U64) -> tuple[I64, I64, I64, I64]:
        """Token places of A and B; of pairs that are evened those next to the border."""
        a0, border, b1 = (self._tokens.places(row) for row in rows)
        if self._evened is None:
            return a0, border, border, b1
        some = np.flatnonzero(unit(draw[:, EVEN]) < self._evened[index])
        start, split, end = (row[some] for row in rows)
        sides = _Sides(np.tile(split, (2, 1)), np.tile(border[some], (2, 1)), np.repeat([[-1], [1]], len(some), axis=1))
        cap = np.full(len(some), (self._length - SPECIALS) // 2)
        kept = self._agreed(sides, np.minimum(split - start, end - split), lambda _: cap)
        a0[some], b1[some] = border[some] - kept, border[some] + kept
        return a0, border, border, b1

    def _matched(self, rows: tuple[I64, I64, I64], other: tuple[I64, I64, I64], random: BOOL) -> tuple[I64, I64, I64, I64]:
        """Token places of A and B, where both have what a pair and its partner have; a random B is the partner's."""
        (start, split, end), (start_2, split_2, end_2) = rows, other
        place, place_2 = np.split(self._tokens.places(np.concatenate([split, split_2])), 2)
        counts = np.minimum(split - start, split_2 - start_2), np.minimum(end - split, end_2 - split_2)
        way = np.broadcast_to(np.repeat([-1, 1], len(split)), (2, 2 * len(split)))
        sides = _Sides(np.stack([np.tile(split, 2), np.tile(split_2, 2)]), np.stack([np.tile(place, 2), np.tile(place_2, 2)]), way)
        a, b = np.split(self._agreed(sides, np.concatenate(counts), self._caps), 2)
        b0 = np.where(random, place_2, place)
        return place - a, place, b0, b0 + b

    def _caps(self, kept: I64) -> I64:
        """The most tokens of every A, then of every B: only the longer one loses some."""
        room = self._length - SPECIALS
        return np.maximum(room - np.roll(kept, len(kept) // 2), room // 2)

    def _agreed(self, sides: _Sides, count: I64, caps: Callable[[I64], I64]) -> I64:
        """The most tokens next to the borders that are of equally many sentences, at most `count`, at both; caps: of tokens, the most."""
        extents = self._extents(sides, np.maximum(count - LOWER, 0))
        cap = caps(extents[0].min(0))
        kept, done = _largest(extents, count, cap)
        some = np.flatnonzero(~done)
        while len(some):
            count[some] -= len(LOWER) - 1
            extents = self._extents(sides.of(some), np.maximum(count[some] - LOWER, 0))
            kept[some], done = _largest(extents, count[some], cap[some])
            some = some[~done]
        return kept

    def _extents(self, sides: _Sides, count: I64) -> I64:
        """Tokens of the `count` sentences next to each border: [counts, 2, sides]."""
        rows = sides.border + sides.way * count[:, None]
        return np.abs(self._tokens.places(rows.reshape(-1)).reshape(rows.shape) - sides.place)

    def _match(self) -> Partners:
        """Partners by the sentences and tokens of A and B.

        Raises ConfigError when all pairs are of one document.
        """
        *shape, document, _ = self._shapes()
        if document[0] == document[-1]:
            raise ConfigError("mlm+nsp needs two documents with pairs, here is one: take mlm+sop, or more text")
        return Partners(tuple(shape), document)

    def _balance(self) -> NDArray[np.float32]:
        """The probability of each pair to be evened."""
        a_count, b_count, a, b, _, edge = self._shapes()
        return evened((a_count, b_count), (a, b), edge)

    def _shapes(self) -> I64:
        """Of every pair: sentences of A and B, tokens of A and B, document, and which chunk of the document it is."""
        columns = [np.empty((6, 0), np.int64)]
        for first in range(0, self.examples, AT_ONCE):
            start, split, end = self._chunk(np.arange(first, min(first + AT_ONCE, self.examples)))
            a0, a1, b1 = (self._tokens.places(rows) for rows in (start, split, end))
            document = self._document(start)
            columns.append(np.stack([split - start, end - split, a1 - a0, b1 - a1, document, self._kind(start, end, document, b1 - a0)]))
        return np.concatenate(columns, axis=1)

    def _kind(self, start: I64, end: I64, document: I64, tokens: I64) -> I64:
        """Whether pairs are the first (1) or the last (2) of their documents, or both (3), and whether they fill a sequence (4)."""
        first, sentences = (self._documents.numbers(name).at(document) for name in ("first", "sentences"))
        begin = first + self._sentences.starts[self._sentences.shard_of(start)]
        return (start == begin) + 2 * (end == begin + sentences) + 4 * (tokens >= self._length - SPECIALS)

    def _truncate(self, a0: I64, a1: I64, b0: I64, b1: I64, draw: U64) -> tuple[I64, I64, I64, I64]:
        """The lengths that taking one word at a time from the longer side would leave."""
        room = self._length - SPECIALS
        a, b = a1 - a0, b1 - b0
        b_kept = np.minimum(b, np.maximum(room - a, room // 2))
        a_kept = np.minimum(a, room - b_kept)
        a0 = a0 + below(draw[:, CUT_A], a - a_kept + 1)
        b0 = b0 + below(draw[:, CUT_B], b - b_kept + 1)
        return a0, a0 + a_kept, b0, b0 + b_kept

    def lengths(self, plan: Plan) -> I64:
        lengths: I64 = plan["a1"] - plan["a0"] + plan["b1"] - plan["b0"] + SPECIALS
        return lengths

    def assemble(self, plan: Plan) -> Batch:
        batch, length, ids = len(plan["a0"]), self._length, self._specials
        tokens_BL = np.full((batch, length), ids["pad"], np.int64)
        row, a_length, b_length = np.arange(batch), plan["a1"] - plan["a0"], plan["b1"] - plan["b0"]
        a_sep, real_B = a_length + 1, a_length + b_length + SPECIALS
        begins = np.concatenate([row * length + 1, row * length + a_sep + 1])
        starts, lengths = np.concatenate([plan["a0"], plan["b0"]]), np.concatenate([a_length, b_length])
        self._tokens.scatter(starts, lengths, tokens_BL.reshape(-1), begins)
        tokens_BL[:, 0] = ids["cls"]
        tokens_BL[row, a_sep] = tokens_BL[row, real_B - 1] = ids["sep"]
        place = np.arange(length)
        keep_BL = place < real_B[:, None]
        segments_BL = (place > a_sep[:, None]) & keep_BL
        maskable_BL = keep_BL & (tokens_BL != ids["unk"])
        maskable_BL[:, 0] = maskable_BL[row, a_sep] = maskable_BL[row, real_B - 1] = False
        labels = {"mlm": torch.from_numpy(self._masker(tokens_BL, maskable_BL, real_B, plan["key"]))}
        if self._task:
            labels["pair"] = torch.from_numpy(plan["pair"].copy())
        return Batch(torch.from_numpy(tokens_BL), torch.from_numpy(segments_BL.astype(np.int64)), torch.from_numpy(keep_BL), labels)

    def documents(self, plan: Plan) -> list[tuple[str, int]]:
        rows = np.unique(np.concatenate([plan["row"], plan["b_row"]]))
        shard, document = self._sentences.shard_of(rows), self._owner.at(rows)
        return sorted({(self._sentences.names[s], d) for s, d in zip(shard.tolist(), document.tolist(), strict=True)})
