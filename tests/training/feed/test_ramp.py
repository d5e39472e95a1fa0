"""Growing steps: linear in the tokens seen, whole sequences, no example left out or taken twice, and every step by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError, Preempted
from infra.stage import run
from infra.store import Store
from tests.training.small import Here, prepared
from training.engine import loop
from training.engine.measure import read
from training.feed.curriculum import Curriculum
from training.feed.order import sequences
from training.feed.prefetch import Prefetched
from training.feed.ramp import Ramp
from training.pretrain import PRETRAIN, check, make_feed
from training.pretrain_config import PretrainConfig

GPT3 = Ramp(3_200_000 // 2048 * 2048, 32_768, 4_000_000_000, 2048)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3000), st.integers(1, 5), st.integers(0, 200))
def test_a_step_is_as_large_as_the_tokens_before_it_say(one: int, two: int, over: int, unit: int, step: int) -> None:
    start, full = sorted((one * unit, two * unit))
    ramp, seen = Ramp(full, start, over, unit), 0
    for number in range(step + 1):
        wanted = full if seen >= over else (start + (full - start) * seen / over) // unit * unit
        assert abs(ramp.tokens(number) - wanted) <= (unit if seen < over else 0) and ramp.tokens(number) % unit == 0
        assert ramp.before(number) == seen
        assert start <= ramp.tokens(number) <= full
        seen += ramp.tokens(number)


@given(st.integers(1, 9), st.integers(9, 30), st.integers(0, 500), st.integers(1, 2000))
def test_the_steps_of_a_budget_end_nearest_to_it(start: int, full: int, over: int, tokens: int) -> None:
    ramp = Ramp(full, start, over)
    steps = ramp.steps(tokens)
    assert all(abs(ramp.before(steps) - tokens) <= abs(ramp.before(other) - tokens) for other in (max(1, steps - 1), steps + 1))


def test_the_figures_of_gpt3() -> None:
    assert GPT3.tokens(0) == 32_768 and GPT3.tokens(10_000) == GPT3.full
    half = int(np.searchsorted(GPT3.firsts, 2e9))
    assert GPT3.tokens(half) == pytest.approx((32_768 + GPT3.full) / 2, rel=0.01)
    assert GPT3.before(GPT3.steps(300_000_000_000)) == pytest.approx(300e9, rel=1e-5)


def test_without_a_ramp_nothing_changes() -> None:
    plain = Ramp(256)
    assert [plain.before(step) for step in range(3)] == [0, 256, 512]
    assert [plain.steps(tokens) for tokens in (1, 256, 300, 2560, 2700)] == [1, 1, 1, 10, 11]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return prepared(Store(tmp_path_factory.mktemp("store")), False, length=32)


def config_of(**changes: Any) -> PretrainConfig:
    said = {"tokens": 4096, "batch_tokens": 512, "length": 32, "lr": 3e-3, "micro_batch": 6, "log_every": 1}
    said |= {"overrides": {"width": 16, "heads": 2, "layers": 1, "positions": 32}, "batch_ramp": {"start": 128, "tokens": 2048}}
    return PretrainConfig(family="bert", size="tiny", **{**said, **changes})


@pytest.mark.parametrize("packed", [False, True])
def test_a_growing_feed_is_the_plain_stream_cut_otherwise(inputs: dict[str, Artifact], packed: bool) -> None:
    config = config_of(packed=packed)
    feed, plain = make_feed(config, inputs, "train"), make_feed(config_of(batch_ramp={}, batch_tokens=32, tokens=4096), inputs, "train")
    sizes = [sequences(feed, step) for step in range(config.steps)]
    assert sizes[0] == 4 and sizes[-1] == 16 == feed.batch_size and sizes == sorted(sizes) and len(set(sizes)) > 3
    assert [config.ramp.tokens(step) // 32 for step in range(config.steps)] == sizes
    place = 0
    for step, size in enumerate(sizes):
        singles = [plain.slice(place + n, 0, 1) for n in range(size)]
        shares = [feed.slice(step, rank, 2) for rank in range(2)]
        assert sum(share.count("mlm") for share in shares) == sum(one.count("mlm") for one in singles)
        if not packed:
            rows = np.concatenate([share.tokens_BL.numpy() for share in shares])
            assert np.array_equal(rows, np.concatenate([one.tokens_BL.numpy() for one in singles])), step
        assert sorted(set(feed.trace(step))) == sorted({found for n in range(size) for found in plain.trace(place + n)})
        place += size
    assert sequences(Prefetched(feed, 1), 0) == 4


def test_with_a_curriculum_each_part_begins_its_own_stream(inputs: dict[str, Artifact]) -> None:
    parts = ({"share": 0.4, "length": 16}, {"share": 0.6, "length": 32})
    config = config_of(curriculum=parts)
    border = round(0.4 * config.steps)
    made = [make_feed(config_of(), inputs, "train").grow(config.ramp.places(first, 32)) for first in (0, border)]
    feed = Curriculum(made, [0, border])
    assert [made[1].sequences(step) for step in range(3)] == [config.ramp.tokens(border + step) // 32 for step in range(3)]
    assert made[1].bounds(0)[0] == 0 and feed.sequences(border) == made[1].sequences(0)


def test_a_training_that_grows_its_steps_goes_on_as_if_it_had_not_stopped(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is on; stopped within the ramp; each step makes no more micro-batches than its own sequences need."""
    config, save, begun = config_of(), loop._Run._save, []
    monkeypatch.setattr(loop.Engine, "begin", lambda self, last, begin=loop.Engine.begin: (begun.append(last), begin(self, last))[1])
    whole = run(PRETRAIN, config, inputs, Store(tmp_path / "whole"), Here())
    sizes = [config.ramp.tokens(step) // 32 for step in range(config.steps)]
    assert begun == [n == -(-size // 6) - 1 for size in sizes for n in range(-(-size // 6))]
    monkeypatch.setattr(loop._Run, "_save", lambda self, wish, verdict: save(self, wish._replace(stop=self.point.step == 3), verdict))
    with pytest.raises(Preempted):
        run(PRETRAIN, config, inputs, Store(tmp_path / "other"), Here())
    monkeypatch.setattr(loop._Run, "_save", save)
    again = run(PRETRAIN, config, inputs, Store(tmp_path / "other"), Here())
    assert again.file("model/model.safetensors").read_bytes() == whole.file("model/model.safetensors").read_bytes()
    lines = read(whole.file("metrics.jsonl"))
    assert len(lines) == config.steps and lines[-1]["loss"] < lines[0]["loss"]
    assert PRETRAIN.key(config, inputs) != PRETRAIN.key(replace(config, batch_ramp={}), inputs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": 128}, "is like"),
        ({"start": 128, "tokens": 0}, "is like"),
        ({"start": 128.0, "tokens": 9}, "is like"),
        ({"start": 31, "tokens": 2048}, "choose from 32"),
        ({"start": 1024, "tokens": 2048}, "up to batch_tokens 512"),
        ({"start": 128, "tokens": 9999}, "more than the 4096 of the whole run"),
    ],
)
def test_a_ramp_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(batch_ramp=wrong)


def test_first_steps_too_small_for_the_ranks_are_refused_before_any_starts(inputs: dict[str, Artifact]) -> None:
    check(config_of(), inputs, 4)
    with pytest.raises(ConfigError, match=r"pretrain.batch_ramp.start 128 makes 4 sequences a step, too few for 5 ranks"):
        check(config_of(), inputs, 5)
    assert LocalCompute(4).ranks == 4
