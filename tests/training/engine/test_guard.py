"""A poisoned batch is noticed, named and, if the recipe says so, left out: the weights are then those of data without it."""

from __future__ import annotations

import math
import statistics
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.compute import LocalCompute
from infra.errors import ConfigError, StageFailed
from infra.log import attach
from tests.training.engine.trial import Seen, Trial, poisonable, run_all, settings
from training.engine.guard import FLOOR, NORMAL, Guard, GuardConfig, Spike, Watch, batch_of, threshold

STEPS, BAD = 20, 13
REWIND = GuardConfig("rewind", window=8, deviations=30.0, rewind_steps=5)
WRONG = {"nan": "loss is nan", "loud": "the loss is", "steep": "the gradient norm is"}


def go(trials: list[Trial], ranks: int = 2, restarts: int = 0) -> tuple[list[Seen], list[str]]:
    told: list[dict] = []
    detach = attach(told.append)
    try:
        seen = LocalCompute(ranks, restarts).gang("trial", partial(run_all, trials))[0]
    finally:
        detach()
    assert seen is not None
    return seen, [e["message"] for e in told if e["kind"] == "warning"]


def trial(out: Path, wrong: str, zero: int = 1, guard: GuardConfig = REWIND, **feed: object) -> Trial:
    config = settings(steps=STEPS, zero=zero, micro_batch=3, guard=guard)
    return Trial(out, config, "gpt", feed={"poison_at": BAD, **feed}, make=partial(poisonable, wrong, 0.1))


def same(one: Seen, other: Seen) -> bool:
    return one.losses == other.losses and all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], list[Seen]]:
    """By the batches that do not exist: a plain run under every stage of ZeRO."""
    root = tmp_path_factory.mktemp("without")
    cases = [(BAD,), (BAD - 1, BAD)]
    trials = [trial(root / f"{z}-{len(c)}", "nan", z, GuardConfig(), left_out=c, poison_at=-1) for c in cases for z in range(4)]
    seen, _ = go(trials)
    return {case: seen[4 * n : 4 * n + 4] for n, case in enumerate(cases)}


@pytest.mark.slow
def test_rewound_and_skipped_the_weights_are_those_of_data_without_the_batch(tmp_path: Path, without: dict) -> None:
    cases = [("nan", 0), ("nan", 1), ("nan", 2), ("nan", 3), ("loud", 0), ("loud", 3), ("steep", 0), ("steep", 2)]
    seen, warnings = go([trial(tmp_path / f"{wrong}-{z}", wrong, z) for wrong, z in cases])
    for (wrong, zero), one in zip(cases, seen, strict=True):
        assert same(one, without[BAD,][zero]), (wrong, zero)
        assert [line["step"] for line in one.lines] == list(range(STEPS))
        assert one.lines[-1]["left_out"] == [BAD] and "left_out" not in one.lines[5]
    backs = [text for text in warnings if "back to step 10" in text]
    assert len(backs) == len(cases)
    for (wrong, _), text in zip(cases, backs, strict=True):
        assert WRONG[wrong] in text and f"at step {BAD}" in text and f"00000.arrow row {BAD}" in text


@pytest.mark.slow
def test_killed_after_going_back_the_run_leaves_out_the_same(tmp_path: Path, without: dict) -> None:
    """The blow falls when batch 16 is asked for, which is after going back; nothing has been saved since then but what was before."""
    guard = GuardConfig("rewind", window=8, deviations=30.0, rewind_steps=5, skip=2)
    killed = trial(tmp_path / "run", "loud", 2, guard, kill_at=16, mark=str(tmp_path / "mark"))
    killed = Trial(
        killed.out, settings(steps=STEPS, zero=2, micro_batch=3, guard=guard, save_every=99), "gpt", feed=killed.feed, make=killed.make
    )
    seen, warnings = go([killed], restarts=1)
    assert same(seen[0], without[BAD - 1, BAD][2])
    assert (tmp_path / "mark").exists() and sum("back to step 10" in text for text in warnings) == 2


@pytest.mark.prove
def test_a_batch_that_is_bad_wherever_it_is_left_out_ends_the_training(tmp_path: Path) -> None:
    """max_rewinds 0: stop, as policy stop does; the default only tells of a finite spike and ends with what is not finite."""
    none = GuardConfig("rewind", window=8, deviations=30.0, rewind_steps=5, max_rewinds=0)
    with pytest.raises(StageFailed, match=rf"the loss is .* at step {BAD}; the state before it is saved.*00000.arrow row {BAD}"):
        go([trial(tmp_path / "a", "loud", guard=none)])
    seen, warnings = go([trial(tmp_path / "b", "loud", guard=GuardConfig(window=8, deviations=30.0))])
    assert len(seen[0].losses) == STEPS
    assert [text for text in warnings if "the loss is" in text and f"step {BAD}" in text and f"row {BAD}" in text]


values = st.floats(0.1, 10.0)


@given(st.lists(values, max_size=20), st.integers(4, 16))
def test_the_threshold_is_median_and_deviations(seen: list[float], window: int) -> None:
    limit = threshold(seen, window, 6.0)
    if 2 * len(seen) < window:
        assert limit == math.inf
        return
    middle = statistics.median(seen)
    mad = NORMAL * statistics.median([abs(x - middle) for x in seen])
    assert limit == pytest.approx(middle + 6 * max(mad, FLOOR * middle))


def test_a_spike_in_the_window_does_not_hide_the_next() -> None:
    guard = Guard(GuardConfig("stop", window=16), Watch())
    for step in range(16):
        guard.passed(100.0 if step == 9 else 2.0 + 0.01 * (step % 3), 1.0)
    assert guard.look("loss", 2.05) == ""
    with pytest.raises(Spike, match="the loss is 100"):
        guard.look("loss", 100.0)


@given(st.sets(st.integers(0, 30)), st.integers(0, 30))
def test_the_batch_of_a_step_is_the_next_of_those_not_left_out(left_out: set[int], step: int) -> None:
    assert batch_of(step, left_out) == [n for n in range(100) if n not in left_out][step]


@given(st.integers(0, 2000), st.integers(1, 200))
def test_going_back_is_by_half_to_one_and_a_half_of_what_was_asked(step: int, back: int) -> None:
    target = GuardConfig("rewind", rewind_steps=back).target(step)
    assert target % back == 0 and (target == 0 or back // 2 <= step - target < 2 * back - back // 2)
    assert target or step < back + back // 2


def test_what_a_guard_knows_survives_its_json() -> None:
    watch = Watch((3, 4), 1, (1.5, 0.1), (2.0,))
    assert Watch.of({"left_out": [3, 4], "rewinds": 1, "losses": [1.5, 0.1], "norms": [2.0]}) == watch
    assert Watch.of({}) == Watch() and Guard(GuardConfig(), watch).watch == watch


@pytest.mark.parametrize(
    "wrong",
    [{"on_spike": "skip"}, {"window": 3}, {"deviations": 0.0}, {"rewind_steps": 0}, {"skip": 0}, {"max_rewinds": -1}, {"skip": 1.5}],
)
def test_a_guard_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        GuardConfig(**wrong)
