"""Pairs of segments as batches: masked tokens, and whether B follows A (NSP) or stands in the right order (SOP).

[CLS] A [SEP] B [SEP]. NSP: Devlin et al. 2019, section 3.1 and appendix A.2; SOP: Lan et al. 2020, section 3.1.
NSP: each epoch matches pairs of different documents and nearly equal shape (partners.py). A random B is the partner's. Whatever its label,
a pair keeps the sentences and then the tokens next to the border between A and B that its partner has too. So lengths do not depend on
the label, and two partners give the same shapes as written and with their Bs exchanged (the reference code takes sentences until the
target length, tries ten times for another document, and makes lone sentences random always).
What is too long loses words of the longer side; the part that stays is a window at a
uniformly random place (the reference flips a coin for each word).
Letters: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from infra.errors import ArtifactError, ConfigError
from training.feed.batch import Batch
from training.feed.masking import Masker
from training.feed.order import Plan
from training.feed.partners import Partners
from training.feed.random import U64, below, draws, fold
from training.feed.views import I64, Rows, Shards

SPECIALS = 3
COIN, CUT_A, CUT_B, DRAWS = 0, 1, 2, 3  # numbers of an example's draws, and how many
AT_ONCE = 1 << 20  # pairs whose documents are looked up together
PAIRING, MASKING = 1, 2  # streams under an example's key


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

    def plan(self, index: I64, key: U64, epoch: U64) -> Plan:
        """Token places of A and B after truncation, the label, and the sentence rows they come from."""
        draw = draws(fold(key, PAIRING), DRAWS)
        start, split, end = (self._rows(column, index) for column in (self._start, self._split, self._end))
        coin = draw[:, COIN] >> np.uint64(63) == 1
        b_row = split
        if self._partners is not None:
            other = self._partners.of(index, epoch)
            (a0, b0, random), a, b = self._matched((start, split, end), other)
            a1, b_row = a0 + a, np.where(coin, self._rows(self._split, other), split)
            b0 = np.where(coin, random, b0)
            b1 = b0 + b
        else:
            a0, a1, b1 = (self._tokens.places(rows) for rows in (start, split, end))
            b0 = a1
        if self._task == "sop":
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

    def _matched(self, rows: tuple[I64, I64, I64], other: I64) -> tuple[tuple[I64, I64, I64], I64, I64]:
        """Where A, the true B and the partner's B begin, and the tokens of A and of either B: what a pair and its partner both have."""
        start, split, end = rows
        start_2, split_2, end_2 = (self._rows(column, other) for column in (self._start, self._split, self._end))
        before, after = np.minimum(split - start, split_2 - start_2), np.minimum(end - split, end_2 - split_2)
        asked = np.concatenate([split - before, split, split + after, split_2 - before, split_2, split_2 + after])
        begin, middle, stop, begin_2, middle_2, stop_2 = self._tokens.places(asked).reshape(6, -1)
        a, b = np.minimum(middle - begin, middle_2 - begin_2), np.minimum(stop - middle, stop_2 - middle_2)
        return (middle - a, middle, middle_2), a, b

    def _match(self) -> Partners:
        """Partners by the sentences and tokens of A and B.

        Raises ConfigError when all pairs are of one document.
        """
        columns = []
        for first in range(0, self.examples, AT_ONCE):
            index = np.arange(first, min(first + AT_ONCE, self.examples))
            start, split, end = (self._rows(column, index) for column in (self._start, self._split, self._end))
            a0, a1, b1 = (self._tokens.places(rows) for rows in (start, split, end))
            columns.append(np.stack([split - start, end - split, a1 - a0, b1 - a1, self._document(start)]))
        *shape, document = np.concatenate(columns, axis=1)
        if document[0] == document[-1]:
            raise ConfigError("mlm+nsp needs two documents with pairs, here is one: take mlm+sop, or more text")
        return Partners(tuple(shape), document)

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
