"""Rates against closed forms, AdamW against the paper's arithmetic, decay against the list of names."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from tests.training.engine.trial import bert, gpt
from training.engine.optim import SCHEDULES, OptimConfig, adamw, lr_at, parameter_groups


def test_linear_rises_to_the_peak_and_falls_to_the_floor() -> None:
    config = OptimConfig(lr=1.0, schedule="linear", warmup=4, min_ratio=0.0)
    assert [lr_at(config, step, 14) for step in range(14)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    )


def test_cosine_is_half_way_between_peak_and_floor_in_the_middle() -> None:
    config = OptimConfig(lr=6e-4, schedule="cosine", warmup=0.1, min_ratio=0.1)
    assert lr_at(config, 100, 1000) == pytest.approx(6e-4)
    assert lr_at(config, 550, 1000) == pytest.approx((6e-4 + 6e-5) / 2)
    assert lr_at(config, 1000, 1000) == pytest.approx(6e-5)
    assert lr_at(config, 325, 1000) == pytest.approx(6e-5 + 5.4e-4 * (1 + math.cos(math.pi / 4)) / 2)


def test_constant_stays_after_warm_up() -> None:
    config = OptimConfig(lr=2.0, schedule="constant", warmup=1, min_ratio=0.5)
    assert [lr_at(config, step, 5) for step in range(5)] == [1.0, 2.0, 2.0, 2.0, 2.0]


@given(st.sampled_from(SCHEDULES), st.integers(1, 500), st.floats(0, 600, allow_nan=False), st.floats(0, 1), st.floats(1e-6, 1))
def test_no_update_is_wasted_and_none_exceeds_the_peak(schedule: str, steps: int, warmup: float, ratio: float, lr: float) -> None:
    config = OptimConfig(lr=lr, schedule=schedule, warmup=warmup, min_ratio=ratio)
    rates = [lr_at(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    assert max(rates) == pytest.approx(lr)
    assert lr_at(config, steps, steps) == pytest.approx(lr if schedule == "constant" else lr * ratio)


def test_biases_and_norms_do_not_decay_and_a_tied_matrix_is_listed_once() -> None:
    tower = bert()
    decayed, free = parameter_groups(tower, 0.1)
    names = {id(p): name for name, p in tower.named_parameters()}
    assert {names[id(p)] for p in free["params"]} == {n for n in names.values() if n.endswith("bias") or "norm" in n}
    assert free["weight_decay"] == 0.0 and decayed["weight_decay"] == 0.1
    listed = [id(p) for group in (decayed, free) for p in group["params"]]
    assert sorted(listed) == sorted(names) and len(set(listed)) == len(listed)
    assert id(tower.heads[0].scores.weight) == id(tower.backbone.embedding.token.weight)


def test_a_tower_that_is_frozen_whole_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        parameter_groups(gpt().requires_grad_(False), 0.1)


def test_three_steps_of_adamw_are_the_papers_arithmetic() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with Kingma and Ba's bias correction, on one number."""
    config = OptimConfig(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.2)
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    optimiser, x, m, v = adamw(module, config), 1.0, 0.0, 0.0
    for t, g in enumerate((0.5, -1.5, 0.25), start=1):
        module.weight.grad = torch.full((1, 1), g)
        optimiser.step()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        x = x - 0.1 * 0.2 * x - 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.99**t)) + 1e-8)
        assert module.weight.item() == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"schedule": "cosin"}, {"lr": 0.0}, {"lr": math.nan}, {"warmup": -1}, {"min_ratio": 2}, {"betas": (0.9, 1.0)}, {"eps": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        OptimConfig(**wrong)
