"""Short sequences first: which part a step is of, and what it holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.engine.measure import cut, micros
from training.feed.curriculum import Curriculum, borders
from training.feed.prefetch import Prefetched


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 2000))
def test_shares_of_the_steps_are_kept_to_the_nearest_step(weights: list[int], steps: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    found = borders(shares, steps)
    assert found[0] == 0 and found[-1] == steps and sorted(found) == found
    assert all(abs(end - steps * sum(shares[: number + 1])) <= 0.5 + 1e-9 for number, end in enumerate(found[1:]))


def parts(toy: Any) -> tuple[Any, Any]:
    return tuple(  # type: ignore[return-value]
        toy.feed(toy.pairs(length), batch_size=768 // length, length=length, objective="mlm+nsp", seed=4) for length in (24, 48)
    )


def test_each_step_is_that_of_its_part_with_as_many_tokens(toy: Any) -> None:
    short, long = parts(toy)
    feed = Curriculum([short, long], [0, 9])
    for step in range(14):
        own = short.slice(step, 0, 1) if step < 9 else long.slice(step - 9, 0, 1)
        batch = Curriculum(parts(toy), [0, 9]).slice(step, 0, 1)  # a fresh one: resumed at this very step
        assert batch.tokens_BL.equal(own.tokens_BL) and batch.labels["mlm"].equal(own.labels["mlm"])
        assert batch.tokens_BL.numel() == 768
        assert feed.trace(step) == (short.trace(step) if step < 9 else long.trace(step - 9))
        assert feed.about(step)["sequences"] == (32 if step < 9 else 16)
        pieces = cut(batch, micros(feed.batch_size, 1, 8))
        assert {piece.tokens_BL.numel() for piece in pieces} == {768 // 4}  # memory stays the same across the border


@pytest.mark.parametrize("workers", [1, 4])
def test_threads_that_work_ahead_change_nothing(toy: Any, workers: int) -> None:
    plain, threaded = Curriculum(parts(toy), [0, 9]), Prefetched(Curriculum(parts(toy), [0, 9]), workers)
    for step in (*range(14), 3, 100, 9, 8):  # in order, and not
        for rank in range(2):
            one, two = plain.slice(step, rank, 2), threaded.slice(step, rank, 2)
            assert one.tokens_BL.equal(two.tokens_BL) and one.labels["pair"].equal(two.labels["pair"])
    assert threaded.trace(5) == plain.trace(5) and threaded.batch_size == 32
    assert len(threaded._coming) <= workers + 1  # what is not wanted any more is let go


def test_an_error_in_a_thread_is_told_where_its_batch_is_asked_for(toy: Any) -> None:
    class Broken:
        batch_size = examples = steps_per_epoch = 1

        def slice(self, step: int, rank: int, world: int) -> Any:
            raise ValueError(f"step {step}")

        def trace(self, step: int) -> list[tuple[str, int]]:
            return []

    with pytest.raises(ValueError, match="step 3"):
        Prefetched(Broken(), 2).slice(3, 0, 1)
