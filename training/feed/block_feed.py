"""Blocks of text as batches: predict the next token, or masked ones.

Letters: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from data_prep import shards
from data_prep.examples.blocks import STREAM, in_order, separated
from training.feed.batch import IGNORE, Batch
from training.feed.masking import Masker
from training.feed.order import Plan
from training.feed.random import U64
from training.feed.views import BOOL, I64, Shards


@dataclass(frozen=True)
class Cut:
    """How the blocks were cut: their mode (data_prep.examples.blocks), the most tokens of one, the id that ends a document."""

    mode: str
    length: int
    separator: int


class BlockSource:
    """frame: ids to put before and after each block ([CLS], [SEP]); masker: None to predict the next token.

    apart: a token sees those of its own document only (the separator is the document's last); restart: and counts from its start.
    """

    def __init__(
        self,
        blocks: Shards,
        documents: Shards,
        split: str,
        specials: Mapping[str, int],
        masker: Masker | None,
        frame: tuple[int, ...],
        cut: Cut,
        *,
        apart: bool = False,
        restart: bool = False,
    ) -> None:
        self.shards, self._documents, self._split, self._cut = blocks, documents, split, cut
        self._rows = blocks.blocks("tokens") if cut.mode == STREAM else None
        self._lists = None if cut.mode == STREAM else blocks.lists("tokens")
        self._masker, self._frame, self._apart, self._restart = masker, frame, apart, restart
        self._specials = np.array(sorted(set(specials.values())), dtype=np.int64)
        self.examples, self.block, self.pad = len(blocks), cut.length, specials.get("pad", cut.separator)
        self._padding = self._read_padding() if cut.mode == STREAM else {}
        self._ragged = bool(self._padding) or cut.mode != STREAM  # in all batches or in none, whichever rows a rank has
        self._spans: dict[int, tuple[I64, I64]] = {}

    def _read_padding(self) -> dict[int, int]:
        """How many places at the end of a shard's last block hold no text."""
        found = {}
        for number, path in enumerate(self.shards.paths):
            side = "valid_padded_tokens" if self._split == "valid" else "padded_tokens"
            main = path.parent.parent / path.name if self._split == "valid" else path
            if padded := shards.counts(main).get(side, 0):
                found[int(self.shards.starts[number + 1]) - 1] = padded
        return found

    def plan(self, index: I64, key: U64, epoch: U64) -> Plan:
        """Where the blocks stand, and how many places at their end hold no text."""
        if self._lists is not None:
            start, stop = self._lists.places(index), self._lists.places(index + 1)
            return {"index": index, "key": key, "start": start, "padding": self.block - (stop - start)}
        padding = np.array([self._padding.get(row, 0) for row in index.tolist()], np.int64) if self._padding else np.zeros_like(index)
        return {"index": index, "key": key, "padding": padding}

    def lengths(self, plan: Plan) -> I64:
        lengths: I64 = self.block + 2 * (len(self._frame) // 2) - plan["padding"]
        return lengths

    def assemble(self, plan: Plan) -> Batch:
        return self._next(plan) if self._masker is None else self._masked(plan, self._masker)

    def _read(self, plan: Plan, into: I64, edge: int) -> None:
        """The blocks' ids, from column `edge` on; what is beyond a block's end stays as it is."""
        if self._rows is not None:
            self._rows.gather(plan["index"], into[:, edge : edge + self.block])
        elif self._lists is not None:
            at = np.arange(len(into)) * into.shape[1] + edge
            self._lists.scatter(plan["start"], self.block - plan["padding"], into.reshape(-1), at)

    def _next(self, plan: Plan) -> Batch:
        shape = (len(plan["index"]), self.block)
        tokens_BL = np.full(shape, self.pad, np.int64) if self._lists is not None else np.empty(shape, np.int64)
        self._read(plan, tokens_BL, 0)
        labels_BL = np.empty_like(tokens_BL)
        labels_BL[:, :-1] = tokens_BL[:, 1:]
        labels_BL[:, -1] = IGNORE
        if self._ragged:  # padding stands at the end: no real token sees it
            labels_BL[np.arange(self.block) >= self.block - 1 - plan["padding"][:, None]] = IGNORE
        batch = Batch(torch.from_numpy(tokens_BL), labels={"next": torch.from_numpy(labels_BL)})
        return self._parted(batch, tokens_BL, None) if self._apart else batch

    def _masked(self, plan: Plan, masker: Masker) -> Batch:
        edge, real_B = len(self._frame) // 2, self.lengths(plan)
        length = self.block + 2 * edge
        tokens_BL = np.full((len(plan["index"]), length), self._frame[1] if edge else self.pad, np.int64)
        self._read(plan, tokens_BL, edge)
        if edge:
            tokens_BL[:, 0] = self._frame[0]
            tokens_BL[np.arange(len(tokens_BL)), real_B - 1] = self._frame[1]
        keep_BL = np.arange(length) < real_B[:, None]
        special_BL = np.isin(tokens_BL, self._specials)
        whole_BL = tokens_BL.copy() if self._apart else tokens_BL
        labels_BL = masker(tokens_BL, keep_BL & ~special_BL, real_B, plan["key"])
        keep = torch.from_numpy(keep_BL) if self._ragged else None
        batch = Batch(torch.from_numpy(tokens_BL), None, keep, {"mlm": torch.from_numpy(labels_BL)})
        return self._parted(batch, whole_BL, keep_BL) if self._apart else batch

    def _parted(self, batch: Batch, tokens_BL: I64, keep_BL: BOOL | None) -> Batch:
        """Each document of a row by itself: one ends with its separator."""
        first_BL = np.zeros(tokens_BL.shape, bool)
        first_BL[:, 1:] = tokens_BL[:, :-1] == self._cut.separator
        parts_BL = np.cumsum(first_BL, 1)
        if keep_BL is not None:
            parts_BL[~keep_BL] = -1
        batch.parts_BL = torch.from_numpy(parts_BL)
        if self._restart:
            places_L = np.arange(tokens_BL.shape[1])
            begins_BL = np.maximum.accumulate(np.where(first_BL, places_L, 0), 1)
            batch.places_BL = torch.from_numpy(places_L - begins_BL)
        return batch

    def documents(self, plan: Plan) -> list[tuple[str, int]]:
        """Exactly the documents with a token (or their end-of-text) in these blocks: found again from the documents' lengths."""
        found: set[tuple[str, int]] = set()
        starts, lengths = self._places(plan)
        numbers = self.shards.shard_of(plan["index"]).tolist()
        for number, start, length in zip(numbers, starts.tolist(), lengths.tolist(), strict=True):
            rows, ends = self._span(number)
            first = int(np.searchsorted(ends, start, side="right"))
            last = int(np.searchsorted(ends, start + length, side="left"))
            found |= {(self.shards.names[number], document) for document in rows[first : last + 1].tolist()}
        return sorted(found)

    def _places(self, plan: Plan) -> tuple[I64, I64]:
        """Where each block begins in its shard's stream of tokens, and how long it is there."""
        bases = self.shards.starts[self.shards.shard_of(plan["index"])]
        if self._lists is None:
            return (plan["index"] - bases) * self.block, np.full(len(bases), self.block)
        return plan["start"] - self._lists.places(bases), self.block - plan["padding"]

    def _span(self, number: int) -> tuple[I64, I64]:
        """The split's documents of a shard, and where each ends in the shard's stream of tokens."""
        if number not in self._spans:
            side = self._documents.table(self._documents.names.index(self.shards.names[number]))
            rows = in_order(side, self._split)
            tokens = side["tokens"].to_numpy().astype(np.int64)
            self._spans[number] = rows, np.cumsum(tokens[rows] + int(separated(self._cut.mode)))
        return self._spans[number]
