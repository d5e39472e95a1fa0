"""A step's examples depend on (seed, step) alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.tasks.classify import Encoded
from training.tasks.feed import TaskFeed


def feed(examples: int = 10, batch_size: int = 4, shuffle: bool = True, seed: int = 3) -> TaskFeed:
    """Example i is i + 1 tokens of value i + 1, so a row tells which example it is."""
    encoded = [Encoded([i + 1] * (i + 1), [0] * i + [1]) for i in range(examples)]
    return TaskFeed(
        encoded, [i % 3 for i in range(examples)], batch_size=batch_size, length=64, pad=0, segments=True, seed=seed, shuffle=shuffle
    )


@given(st.integers(0, 12), st.integers(1, 4), st.integers(2, 23))
@settings(max_examples=40, deadline=None)
def test_the_ranks_rows_are_the_one_global_batch(step: int, world: int, examples: int) -> None:
    whole = feed(examples).slice(step, 0, 1)
    parts = [feed(examples).slice(step, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat([p.tokens_BL for p in parts]), whole.tokens_BL)
    assert torch.equal(torch.cat([p.labels["class"] for p in parts]), whole.labels["class"])


def test_every_epoch_shows_every_example_once_in_another_order() -> None:
    stream = [row for step in range(5) for row in feed().rows(step).tolist()]
    first, second = stream[:10], stream[10:20]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert stream != [row for step in range(5) for row in feed(seed=4).rows(step).tolist()]


def test_dev_comes_in_the_order_of_the_file_and_ends_with_a_partial_batch() -> None:
    dev = feed(shuffle=False)
    assert [dev.rows(step).tolist() for step in range(dev.steps_per_epoch)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_rows_carry_their_label_their_segments_and_a_mask_of_what_is_real() -> None:
    batch = feed(shuffle=False).slice(1, 0, 1)
    assert batch.tokens_BL.shape == (4, 8)
    assert batch.keep_BL.sum(1).tolist() == [5, 6, 7, 8]
    assert (batch.tokens_BL[~batch.keep_BL] == 0).all()
    assert batch.labels["class"].tolist() == [1, 2, 0, 1]
    assert batch.segments_BL[0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


def test_an_empty_feed_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be fed"):
        feed(examples=0)
