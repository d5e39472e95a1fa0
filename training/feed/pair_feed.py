"""Pairs of segments as batches: masked tokens, and whether B follows A (NSP) or stands in the right order (SOP).

[CLS] A [SEP] B [SEP]. NSP: Devlin et al. 2019, section 3.1 and appendix A.2; SOP: Lan et al. 2020, section 3.1.
Here every random B is of another document that is like the pair's own (partners.py), starts at the position of the B it
replaces and takes as many whole sentences as come nearest to its length: neither lengths nor counts nor positions tell the
two classes apart (the reference code takes sentences until the target length, tries ten times for another document, and
makes lone sentences random always). What is too long loses words of the longer side; the part that stays is a window at a
uniformly random place (the reference flips a coin for each word).
Letters: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from infra.errors import ArtifactError, ConfigError
from training.feed.batch import Batch
from training.feed.masking import Masker
from training.feed.order import Plan
from training.feed.partners import Floats, Partners
from training.feed.random import U64, below, draws, fold
from training.feed.views import BOOL, I64, Rows, Shards

SPECIALS = 3
COIN, CUT_A, CUT_B, DRAWS = 0, 1, 2, 3  # numbers of an example's draws, and how many
AT_ONCE = 1 << 20  # pairs whose documents are looked up together
OFF = 0.05  # how far tokens, sentences and the document's sentences of a random B may lie from those it stands for, where there are such
PAIRING, MASKING, REPLACING = 1, 2, 3  # streams under an example's key


class Seat(NamedTuple):
    """Where Bs stand that are to be replaced; [pairs] each."""

    depth: I64  # sentences of the document before B
    before: I64  # and before A
    sentences: I64
    ends: BOOL  # whether B ends the document
    size: I64  # sentences of the document
    tokens: I64

    def at(self, positions: I64) -> Seat:
        return Seat._make(column[positions] for column in self)


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
        self._first, self._count = documents.numbers("first"), documents.numbers("sentences")
        self._length, self._specials, self._masker, self._task = length, specials, masker, task
        self.examples, self.pad = len(self._pairs), specials["pad"]
        self._partners = self._match() if task == "nsp" and self.examples else None

    def plan(self, index: I64, key: U64) -> Plan:
        """Token places of A and B after truncation, the label, and the sentence rows they come from."""
        draw = draws(fold(key, PAIRING), DRAWS)
        start, split, end = (self._rows(column, index) for column in (self._start, self._split, self._end))
        a0, a1, b1 = (self._tokens.places(rows) for rows in (start, split, end))
        b0, b_row = a1, split
        coin = draw[:, COIN] >> np.uint64(63) == 1
        if self._partners is not None:
            chosen = np.flatnonzero(coin)
            b_row, b0, b1 = b_row.copy(), b0.copy(), b1.copy()
            spans = (a1 - a0)[chosen], (b1 - a1)[chosen], (end - split)[chosen]
            b_row[chosen], b0[chosen], b1[chosen] = self._replaced(start[chosen], split[chosen], *spans, key[chosen])
        elif self._task == "sop":
            a0, b0 = np.where(coin, b0, a0), np.where(coin, a0, b0)
            a1, b1 = np.where(coin, b1, a1), np.where(coin, a1, b1)
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

    def _replaced(self, first_A: I64, split: I64, a: I64, b: I64, sentences: I64, key: U64) -> tuple[I64, I64, I64]:
        """A random B for each pair: its first row and token places. a, b: tokens of A and of the B it replaces; sentences: of that B."""
        assert self._partners is not None
        own, room = self._document(split), self._length - SPECIALS
        size, begin = self._count.at(own), self._begin(own)
        seat = Seat(split - begin, first_A - begin, sentences, split - begin + sentences == size, size, b)

        def cost(positions: I64, candidates: I64, word: U64) -> Floats:
            """A B that fills the sequence, or ends its document, or does not, is replaced by one of its kind; then comes the rest."""
            its = seat.at(positions)
            row, taken, first, last = self._like(candidates, its, word)
            count, of_a, depth = self._count.at(candidates), a[positions], row - self._begin(candidates)
            full = (of_a + its.tokens >= room) != (of_a + last - first >= room)
            ends = (depth + taken == count) != its.ends
            moved = np.where(its.before == 0, (depth != its.depth) * 10.0, np.abs(np.log((depth + 1.0) / (its.depth + 1.0))))
            off = np.abs(last - first - its.tokens) / its.tokens
            more = np.abs(taken - its.sentences) / its.sentences
            terms = ((off, 4.0), (more, 3.0), (moved, 1.5), (np.abs(np.log(count / its.size)), 2.0))
            unlike = sum(np.maximum(term - OFF, 0) * weight for term, weight in terms)
            cost: Floats = full * 100.0 + ends * 30.0 + unlike
            return cost

        document, word = self._partners.draw(own, draws(fold(key, REPLACING), self._partners.words), cost)
        row, _, first, last = self._like(document, seat, word)
        return row, first, last

    def _like(self, document: I64, seat: Seat, word: U64) -> tuple[I64, ...]:
        """Sentences of a document as near to the tokens of a B as whole ones come, from about its position on: row, how many, places.

        Exactly from its position where the pair begins its document (A's sentences come before B, no fewer); so that they end the
        document where B ends its own; in a document that ends too soon from the same share of its sentences on.
        """
        begin, count = self._begin(document), self._count.at(document)
        reach = np.minimum(seat.before, seat.depth // 10)
        depth = seat.depth - reach + below(word << np.uint64(32), 2 * reach + 1)
        depth = np.where(seat.ends & (seat.before > 0), np.maximum(count - seat.sentences, 0), depth)
        row = begin + np.where(depth < count, depth, seat.depth * count // seat.size)
        last, taken = self._tokens.nearest(row, seat.tokens, begin + count)
        return row, taken, self._tokens.places(row), last

    def _begin(self, document: I64) -> I64:
        """The row of a document's first sentence."""
        return self._first.at(document) + self._sentences.starts[self._documents.shard_of(document)]

    def _match(self) -> Partners:
        """The documents that pairs of this split are of, by sentences and tokens per sentence.

        Raises ConfigError when all pairs are of one document.
        """
        every = range(0, self.examples, AT_ONCE)
        found = [np.unique(self._document(self._rows(self._start, np.arange(i, min(i + AT_ONCE, self.examples))))) for i in every]
        documents = np.unique(np.concatenate(found))
        if len(documents) < 2:
            raise ConfigError("mlm+nsp needs two documents with pairs, here is one: take mlm+sop, or more text")
        count, begin = self._count.at(documents), self._begin(documents)
        tokens = self._tokens.places(begin + count) - self._tokens.places(begin)
        return Partners(documents, (count.astype(np.float64), tokens / count))

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
