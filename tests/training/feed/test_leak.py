"""The label of a pair cannot be read off its shape: boosted trees on lengths, counts, positions and document length stay at chance."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.feed import leak

VIEWS = {"nsp": ("lengths", "counts", "a", "b"), "sop": ("lengths", "counts", "pair")}


@pytest.mark.parametrize("task", ["nsp", "sop"])
@pytest.mark.parametrize("length", [64, 128])
def test_trees_learn_nothing_from_the_shape_of_a_pair(make_toy: Any, task: str, length: int) -> None:
    toy = make_toy(documents=400, per_shard=130, most=40, seed=7, name=f"leak{length}")
    source = toy.feed(toy.pairs(length), batch_size=8, length=length, objective=f"mlm+{task}").source
    fitted, scored = leak.shapes(source, 1, 2), leak.shapes(source, 2)
    found = {view: leak.leak(fitted, scored, leak.VIEWS[view]) for view in VIEWS[task]}
    assert all(abs(one.auc - 0.5) <= 2.5 * one.error for one in found.values()), found


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
