"""The label of a pair cannot be read off its shape: boosted trees on lengths, counts, positions and document length stay at chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.store import Store
from tests.training.feed import leak, leak_texts
from training.feed.balance import evened
from training.feed.random import fold

VIEWS = {"nsp": ("lengths", "counts", "a", "b"), "sop": ("lengths", "counts", "pair")}


@pytest.mark.parametrize("task", ["nsp", "sop"])
@pytest.mark.parametrize("length", [64, 128])
def test_trees_learn_nothing_from_the_shape_of_a_pair(make_toy: Any, task: str, length: int) -> None:
    toy = make_toy(documents=400, per_shard=130, most=40, seed=7, name=f"leak{length}")
    source = toy.feed(toy.pairs(length), batch_size=8, length=length, objective=f"mlm+{task}").source
    fitted, scored = leak.shapes(source, 1, 2), leak.shapes(source, 2)
    found = {view: leak.leak(fitted, scored, leak.VIEWS[view]) for view in VIEWS[task]}
    assert all(abs(one.auc - 0.5) <= 3 * one.error for one in found.values()), found


def test_real_text_shows_nothing(store: Store, data: Path) -> None:
    """421 film reviews at 128 tokens, within two standard errors; all sizes and lengths are in prove_leak.py."""
    source = leak_texts.source(store, "small", 128, "nsp", data)
    fitted, scored = leak.shapes(source, 1, 7), leak.shapes(source, 2)
    found = {view: leak.leak(fitted, scored, leak.VIEWS[view]) for view in VIEWS["nsp"]}
    assert all(one.holds for one in found.values()), found


def test_the_lengths_and_counts_of_a_pair_do_not_depend_on_its_label(make_toy: Any) -> None:
    """One epoch under ten keys: the labels differ, the tokens and sentences of A and B never do."""
    toy = make_toy(documents=90, longest=50, name="exact")
    source = toy.feed(toy.pairs(64), batch_size=8, length=64, objective="mlm+nsp").source
    index = np.arange(source.examples)
    epoch = fold(3, np.ones(len(index)))
    plans = [source.plan(index, fold(key, index), epoch) for key in range(10)]
    seen = [leak._shape(source, plan) for plan in plans]
    for name in leak.COUNTS:
        assert all(np.array_equal(one[name], seen[0][name]) for one in seen), name
    assert len({plan["pair"].tobytes() for plan in plans}) == 10


def test_as_many_pairs_have_the_longer_side_first_as_second() -> None:
    """Documents that open with a short sentence, and a tile that is all alike: evening leaves equally many of both orders."""
    rng = np.random.default_rng(0)
    first, pairs = rng.random(4000) < 0.7, 4000
    tokens = np.where(first, 20, 40), np.where(first, 40, 20)
    even = evened((np.full(pairs, 2), np.full(pairs, 2)), tokens, np.zeros(pairs, np.int64))
    assert (even[~first] <= 1e-6).mean() > 0.95, "pairs of the rarer order stay as they are"
    left = (1 - even)[first].sum(), (1 - even)[~first].sum()
    assert left[0] == pytest.approx(left[1], rel=0.02)


def test_pairs_that_are_evened_show_equal_sides(make_toy: Any) -> None:
    toy = make_toy(documents=200, longest=30, name="evened")
    source = toy.feed(toy.pairs(64), batch_size=8, length=64, objective="mlm+sop").source
    source._evened[:] = 1.0
    index = np.arange(source.examples)
    shape = leak._shape(source, source.plan(index, fold(1, index), fold(3, np.ones(len(index)))))
    assert np.array_equal(shape["a_tokens"], shape["b_tokens"]) and np.array_equal(shape["a_sentences"], shape["b_sentences"])
    assert len(np.unique(shape["a_tokens"])) > 10 and shape["a_sentences"].max() > 1


def test_the_trees_find_a_leak_that_is_there(make_toy: Any) -> None:
    """The same trees on a label that a length gives away, one pair in five."""
    toy = make_toy(documents=400, per_shard=130, most=40, seed=7, name="leak64")
    source = toy.feed(toy.pairs(64), batch_size=8, length=64, objective="mlm+nsp").source
    seen = []
    for seed in (1, 2):
        shape, label = leak.shapes(source, seed)
        shape["b_tokens"] = shape["b_tokens"] + 40 * (label * (shape["a_tokens"] % 5 == 0))
        seen.append((shape, label))
    assert not leak.leak(seen[0], seen[1], leak.VIEWS["lengths"]).holds
