"""Rates against closed forms, AdamW against the paper's arithmetic, decay against the list of names."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from tests.training.engine.trial import bert, gpt
from training.engine.loop import LoopConfig
from training.engine.optim import SCHEDULES, OptimConfig, adamw, lamb, lr_at, make, parameter_groups
from training.feed.ramp import Ramp


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
    if schedule != "inverse_sqrt":  # which never ends
        assert lr_at(config, steps, steps) == pytest.approx(lr if schedule == "constant" else lr * ratio)


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.55), ("cosine", 0.55)])
def test_the_last_rate_may_stand_for_a_while(schedule: str, middle: float) -> None:
    config = OptimConfig(lr=1.0, schedule=schedule, warmup=0, min_ratio=0.1, hold=0.2)
    assert [lr_at(config, step, 100) for step in (0, 40, 80, 90, 99)] == pytest.approx([1.0, middle, 0.1, 0.1, 0.1])
    assert lr_at(config, 79, 100) > 0.1
    with pytest.raises(ConfigError, match="hold 1.0 is a share"):
        OptimConfig(hold=1.0)


def test_inverse_square_root_halves_in_four_times_the_steps() -> None:
    config = OptimConfig(lr=1.0, schedule="inverse_sqrt", warmup=100, min_ratio=0.0)
    assert [lr_at(config, step, 10_000) for step in (100, 400, 1600)] == pytest.approx([1.0, 0.5, 0.25])


def test_the_rooted_decay_falls_fast_first_and_slowly_last() -> None:
    config = OptimConfig(lr=1.0, schedule="wsd_sqrt", warmup=2, min_ratio=0.0, decay=0.25)
    wanted = [1.0, 1.0, 1.0, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)]
    assert [lr_at(config, step, 16) for step in (2, 11, 12, 13, 14, 15)] == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["wsd", "trapezoid"])
def test_warmup_stable_decay_holds_the_peak_and_falls_at_the_end(schedule: str) -> None:
    config = OptimConfig(lr=1.0, schedule=schedule, warmup=2, min_ratio=0.0, decay=0.25)
    assert [lr_at(config, step, 16) for step in (0, 1, 2, 11, 12, 13, 14, 15)] == pytest.approx(
        [1 / 3, 2 / 3, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    )


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


def test_three_steps_without_bias_correction_are_berts_released_arithmetic() -> None:
    """Devlin et al.'s code: m and v as they are, the decay inside the rate; the first step is 0.1 / sqrt(0.001) long."""
    config = OptimConfig(lr=0.01, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.1, bias_correction=False)
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    optimiser, x, m, v = adamw(module, config), 1.0, 0.0, 0.0
    for t, g in enumerate((0.5, -1.5, 0.25)):
        module.weight.grad = torch.full((1, 1), g)
        optimiser.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        moved = 0.01 * (m / (math.sqrt(v) + 1e-6) + 0.1 * x)
        assert t or moved == pytest.approx(0.01 * (0.1 / math.sqrt(0.001) + 0.1), rel=1e-4)
        x -= moved
        assert module.weight.item() == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize("corrected", [False, True])
def test_lamb_is_algorithm_two_in_numpy(corrected: bool) -> None:
    config = OptimConfig(lr=0.02, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1, optimiser="lamb", bias_correction=corrected)
    module = torch.nn.Linear(3, 4)
    rng = np.random.default_rng(0)
    x = {"weight": module.weight.detach().double().numpy().copy(), "bias": rng.normal(size=4)}
    module.bias.data.copy_(torch.from_numpy(x["bias"]))
    m, v = ({name: np.zeros_like(value) for name, value in x.items()} for _ in "mv")
    optimiser = make(module, config)
    for t in range(1, 4):
        for name, parameter in module.named_parameters():
            g = rng.normal(size=x[name].shape)
            parameter.grad = torch.from_numpy(g).float()
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.99 * v[name] + 0.01 * g**2
            mean, square = (m[name] / (1 - 0.9**t), v[name] / (1 - 0.99**t)) if corrected else (m[name], v[name])
            step = mean / (np.sqrt(square) + 1e-6) + (0.1 * x[name] if name == "weight" else 0)
            ratio = np.linalg.norm(x[name]) / np.linalg.norm(step) if name == "weight" else 1.0
            x[name] = x[name] - 0.02 * ratio * step
        optimiser.step()
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), x[name], rtol=1e-5, atol=1e-7)


def test_lamb_moves_weights_that_are_zero_by_adams_step() -> None:
    module = torch.nn.Linear(2, 2, bias=False)
    module.weight.data.zero_()
    module.weight.grad = torch.ones(2, 2)
    lamb(module, OptimConfig(lr=0.1, optimiser="lamb", weight_decay=0.0)).step()
    torch.testing.assert_close(module.weight.data, torch.full((2, 2), -0.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "cosin"},
        {"lr": 0.0},
        {"lr": math.nan},
        {"warmup": -1},
        {"min_ratio": 2},
        {"betas": (0.9, 1.0)},
        {"eps": 0.0},
        {"optimiser": "sgd"},
        {"decay": 0.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        OptimConfig(**wrong)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_growing_steps_the_rate_is_that_of_as_many_tokens(schedule: str) -> None:
    """GPT-3's warm-up and decay are in tokens (Brown et al. 2020, appendix B)."""
    ramp, full = Ramp(full=64, start=16, over=1600, unit=16), 100
    config = OptimConfig(lr=1.0, warmup=0.1, schedule=schedule)
    steps = ramp.steps(64 * full)
    loop = LoopConfig(steps=steps, micro_batch=1, optimiser=config, ramp=ramp)
    whole = ramp.before(steps)
    assert steps > full and whole == pytest.approx(64 * full, abs=32)
    for step in range(steps):
        share, warm = ramp.before(step) / whole, config.warmup_steps(steps) / steps
        if schedule == "linear" and share >= warm:
            assert loop.lr(step) == pytest.approx(0.1 + 0.9 * (1 - share) / (1 - warm), abs=2 / steps)
        if share < warm:
            assert loop.lr(step) == pytest.approx((share * steps + 1) / (warm * steps + 1))
    assert LoopConfig(steps=steps, micro_batch=1, optimiser=config).lr(7) == lr_at(config, 7, steps)
    assert loop.lr(1) < lr_at(config, 1, steps), "the first steps are small"
