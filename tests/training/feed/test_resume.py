"""A stream that is stopped anywhere and gone on with by other ranks and workers loses nothing and repeats nothing.

The experiment of tests/benchmarks/bench_feed.py, where Hugging Face datasets loses 628 rows of 20,000 and repeats 128: here through
shuffling, mixing, packing and masking at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xxhash

from training.engine.measure import cut
from training.feed.batch import IGNORE
from training.feed.mixture import Mixing
from training.feed.prefetch import Prefetched

ROWS, STOP, BATCH, LENGTH = 20_000, 5001, 3, 24
FIRST = 10
GOLDEN = "b43e8e1e4d668927"  # of every batch before the last, on every machine and for ever


@pytest.fixture(scope="module")
def shapes() -> dict[str, int]:
    return {"documents": 12_500, "per_shard": 2500, "longest": 6, "most": 24, "files": 3}


def opened(toy: Any, examples: Any, **more: Any) -> Any:
    mixing = Mixing({"file0*": 2, "file1*": 1, "*": 1}, "stop")
    settings = {"batch_size": BATCH, "length": LENGTH, "objective": "mlm+sop", "seed": 5, "packed": True, "mixing": mixing}
    return toy.feed(examples, **{**settings, **more})


def pieces(feed: Any, step: int, world: int, accumulation: int) -> list[Any]:
    return [
        piece for rank in range(world) for piece in cut(feed.slice(step, rank, world), accumulation) if piece.tokens_BL.any()
    ]  # but blank ones


def whole(batch: Any) -> np.ndarray:
    found: np.ndarray = batch.labels["mlm"].where(batch.labels["mlm"] != IGNORE, batch.tokens_BL).numpy()
    return found


def rows_of(batch: Any) -> list[int]:
    """Every sequence by the lowest sentence in it, which is in no other pair's."""
    tokens, parts = whole(batch), batch.parts_BL.numpy()
    return [
        int(tokens[row][(parts[row] == part) & (tokens[row] >= FIRST)].min()) - FIRST
        for row in range(len(batch))
        for part in range(int(parts[row].max()) + 1)
        if (tokens[row][parts[row] == part] >= FIRST).any()
    ]


def test_twenty_thousand_rows_stopped_at_five_thousand_and_one(make_toy: Callable[..., Any], shapes: dict[str, int]) -> None:
    toy = make_toy(**shapes)
    pairs = toy.pairs(LENGTH, short_share=0.3)
    size = int(pairs.counts["pairs"])
    assert size >= ROWS
    steps = -(-size // BATCH)
    undisturbed, first = opened(toy, pairs), opened(toy, pairs)
    second = Prefetched(opened(toy, pairs), 2)  # as a process that has just been started, with two threads
    sentences: Counter[int] = Counter()
    state, stop = xxhash.xxh3_64(), STOP // BATCH
    for step in range(steps):
        made = pieces(first, step, 3, 1) if step < stop else pieces(second, step, 2, 2)
        expected = undisturbed.slice(step, 0, 1)
        joined = np.concatenate([piece.tokens_BL.numpy() for piece in made])
        assert np.array_equal(joined, expected.tokens_BL.numpy())  # masks and all
        if step == steps - 1:
            break  # the last batch runs on into the next epoch
        sentences.update(rows_of(expected))
        state.update(joined.astype("<i8").tobytes())
    assert max(sentences.values()) == 1  # nothing repeated
    assert size - len(sentences) <= BATCH  # and nothing lost: the rest is in the last batch
    assert state.hexdigest() == GOLDEN


@pytest.mark.parametrize("exhausted", ["repeat", "stop"])
def test_every_world_accumulation_and_number_of_workers_sees_the_same_global_batches(make_toy: Callable[..., Any], exhausted: str) -> None:
    toy = make_toy(documents=300, per_shard=100, longest=6, files=3)
    pairs = toy.pairs(LENGTH)
    mixing = Mixing({"file0*": 2, "*": 1}, exhausted)
    reference = opened(toy, pairs, batch_size=16, mixing=mixing)
    for step in (0, 7, 8, 300):
        expected = reference.slice(step, 0, 1)
        for world in (1, 2, 3, 4, 8):
            for accumulation, workers in ((1, 0), (3, 1), (4, 3)):
                fresh = opened(toy, pairs, batch_size=16, mixing=mixing)
                made = pieces(Prefetched(fresh, workers) if workers else fresh, step, world, accumulation)
                for name in ("tokens_BL", "parts_BL", "places_BL", "segments_BL"):
                    joined = np.concatenate([getattr(piece, name).numpy() for piece in made])
                    assert np.array_equal(joined, getattr(expected, name).numpy()), (step, world, accumulation, workers)
                for name, label in expected.labels.items():
                    assert np.array_equal(np.concatenate([piece.labels[name].numpy() for piece in made]), label.numpy())
