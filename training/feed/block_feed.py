"""Blocks of text as batches: predict the next token, or masked ones.

Letters: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from data_prep import shards
from training.feed.batch import IGNORE, Batch
from training.feed.masking import Masker
from training.feed.order import I64, Plan
from training.feed.random import U64
from training.feed.views import Shards


class BlockSource:
    """frame: ids to put before and after each block ([CLS], [SEP]); masker: None to predict the next token."""

    def __init__(
        self,
        paths: Sequence[Path],
        documents: Shards,
        split: str,
        specials: Mapping[str, int],
        masker: Masker | None,
        frame: tuple[int, ...],
    ) -> None:
        self.shards, self._documents, self._split = Shards(paths), documents, split
        self._rows = self.shards.blocks("tokens")
        self._masker, self._frame = masker, frame
        self._specials = np.array(sorted(set(specials.values())), dtype=np.int64)
        self.examples = len(self.shards)
        self.block = int(self.shards.table(0)["tokens"].type.list_size) if paths else 0
        self._padding = self._read_padding()
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

    def plan(self, index: I64, key: U64) -> Plan:
        padding = np.array([self._padding.get(row, 0) for row in index.tolist()], np.int64) if self._padding else np.zeros_like(index)
        return {"index": index, "key": key, "padding": padding}

    def assemble(self, plan: Plan) -> Batch:
        return self._next(plan) if self._masker is None else self._masked(plan, self._masker)

    def _next(self, plan: Plan) -> Batch:
        tokens_BL = np.empty((len(plan["index"]), self.block), np.int64)
        self._rows.gather(plan["index"], tokens_BL)
        labels_BL = np.empty_like(tokens_BL)
        labels_BL[:, :-1] = tokens_BL[:, 1:]
        labels_BL[:, -1] = IGNORE
        for row in np.flatnonzero(plan["padding"]).tolist():
            labels_BL[row, self.block - 1 - plan["padding"][row] :] = IGNORE  # padding stands at the end: no real token sees it
        return Batch(torch.from_numpy(tokens_BL), labels={"next": torch.from_numpy(labels_BL)})

    def _masked(self, plan: Plan, masker: Masker) -> Batch:
        edge = len(self._frame) // 2
        length = self.block + 2 * edge
        tokens_BL = np.full((len(plan["index"]), length), self._frame[1] if edge else 0, np.int64)
        self._rows.gather(plan["index"], tokens_BL[:, edge : edge + self.block])
        real_B = length - plan["padding"]
        if edge:
            tokens_BL[:, 0] = self._frame[0]
            tokens_BL[np.arange(len(tokens_BL)), real_B - 1] = self._frame[1]
        keep_BL = np.arange(length) < real_B[:, None]
        special_BL = np.isin(tokens_BL, self._specials)
        labels_BL = masker(tokens_BL, keep_BL & ~special_BL, real_B, plan["key"])
        keep = torch.from_numpy(keep_BL) if self._padding else None  # in all batches or in none, whichever rows a rank has
        return Batch(torch.from_numpy(tokens_BL), None, keep, {"mlm": torch.from_numpy(labels_BL)})

    def documents(self, plan: Plan) -> list[tuple[str, int]]:
        """Exactly the documents with a token (or their end-of-text) in these blocks: found again from the documents' lengths."""
        found: set[tuple[str, int]] = set()
        for row in plan["index"].tolist():
            number = int(self.shards.shard_of(np.array([row]))[0])
            rows, ends = self._span(number)
            start = (row - int(self.shards.starts[number])) * self.block
            first = int(np.searchsorted(ends, start, side="right"))
            last = int(np.searchsorted(ends, start + self.block, side="left"))
            found |= {(self.shards.names[number], document) for document in rows[first : last + 1].tolist()}
        return sorted(found)

    def _span(self, number: int) -> tuple[I64, I64]:
        """The split's documents of a shard, and where each ends in the shard's stream of tokens."""
        if number not in self._spans:
            side = self._documents.table(self._documents.names.index(self.shards.names[number]))
            tokens = side["tokens"].to_numpy().astype(np.int64)
            rows = np.flatnonzero((np.array(side["split"].to_pylist(), dtype=object) == self._split) & (tokens > 0))
            self._spans[number] = rows, np.cumsum(tokens[rows] + 1)
        return self._spans[number]
