from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.feed.batch import Batch
from training.feed.order import WINDOW, FeedConfig, Plan, StepFeed
from training.feed.random import draws


class Numbers:
    """Examples that are their own number, with one draw each."""

    def __init__(self, examples: int) -> None:
        self.examples = examples

    def plan(self, index: np.ndarray, key: np.ndarray, epoch: np.ndarray) -> Plan:
        return {"index": index, "draw": draws(key, 1)[:, 0] >> np.uint64(2)}

    def assemble(self, plan: Plan) -> Batch:
        return Batch(torch.from_numpy(np.stack([plan["index"], plan["draw"].astype(np.int64)], 1)))

    def documents(self, plan: Plan) -> list[tuple[str, int]]:
        return [("", int(i)) for i in plan["index"]]


def rows(feed: StepFeed, step: int, world: int = 1) -> list[tuple[int, ...]]:
    return [tuple(row) for rank in range(world) for row in feed.slice(step, rank, world).tokens_BL.tolist()]


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 10**6), st.integers(0, 50))
def test_every_world_size_sees_the_same_global_batch(examples: int, batch: int, seed: int, step: int) -> None:
    feed = StepFeed(Numbers(examples), batch, seed, shuffled=True)
    whole = rows(feed, step)
    assert len(whole) == batch
    assert all(rows(feed, step, world) == whole for world in (2, 3, 4, 8))


@given(st.integers(1, 300), st.integers(1, 40), st.booleans())
def test_every_epoch_holds_every_example_once(examples: int, batch: int, shuffled: bool) -> None:
    feed = StepFeed(Numbers(examples), batch, 3, shuffled)
    if not shuffled:
        seen = [index for step in range(feed.steps_per_epoch) for index, _ in rows(feed, step)]
        assert seen == list(range(examples))
        return
    epochs = 3
    stream = [index for step in range(-(-epochs * examples // batch)) for index, _ in rows(feed, step)]
    for epoch in range(epochs):
        assert sorted(stream[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


def test_any_step_can_be_asked_for_first() -> None:
    """Resume: a fresh feed at step s gives what an undisturbed one gives; steps in any order, across planning windows."""
    steady = StepFeed(Numbers(1000), 96, 5, shuffled=True)
    stream = {step: rows(steady, step) for step in range(3 * WINDOW // 96)}
    for step in (100, 0, 42, 43, 86, 127, 1):
        assert rows(StepFeed(Numbers(1000), 96, 5, shuffled=True), step) == stream[step]
    backwards = StepFeed(Numbers(1000), 96, 5, shuffled=True)
    assert all(rows(backwards, step) == stream[step] for step in reversed(range(128)))


def test_epochs_differ_in_order_and_draws_and_seeds_differ() -> None:
    feed = StepFeed(Numbers(512), 512, 5, shuffled=True)
    first, second = dict(rows(feed, 0)), dict(rows(feed, 1))
    assert list(first) != list(second) and not set(first.values()) & set(second.values())
    assert rows(StepFeed(Numbers(512), 512, 6, shuffled=True), 0) != rows(feed, 0)


def test_a_valid_feed_repeats_itself_and_ends_with_a_partial_batch() -> None:
    feed = StepFeed(Numbers(10), 4, 5, shuffled=False)
    assert [len(rows(feed, s)) for s in range(4)] == [4, 4, 2, 4] and rows(feed, 0) == rows(feed, 3)
    assert [len(feed.slice(2, rank, 4)) for rank in range(4)] == [0, 1, 0, 1]
    assert [len(StepFeed(Numbers(4096), 4096, 5, False).slice(0, rank, 1)) for rank in (0,)] == [4096]
    assert Counter(i for _, i in feed.trace(2)) == {8: 1, 9: 1}


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"objective": "mlm+nps"}, {"batch_size": 0}, {"length": 1}, {"mask_rate": 0.0}):
        with pytest.raises(ConfigError):
            FeedConfig(**{"batch_size": 4, "length": 8, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no rank 2 of 2"):
        StepFeed(Numbers(4), 2, 0, True).slice(0, 2, 2)
