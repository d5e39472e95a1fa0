"""A gradient that is not finite in one parameter group alone is noticed under every stage, and no weight moves."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from pathlib import Path

import torch

from infra.compute import LocalCompute
from tests.training.engine.trial import Numbers, gpt
from training.engine.rank import here
from training.engine.zero import Engine, ZeroConfig, join


def spoil(name: str, zero: int, precision: str, folder: Path) -> str:
    """One good step, then one whose gradient of `name` holds a NaN; what went wrong, in words."""
    join(here())
    tower = gpt()
    parameter = dict(tower.named_parameters())[name]
    spoilt = [False]
    parameter.register_hook(
        lambda gradient: torch.where(torch.arange(gradient.numel()) == 1, math.nan, gradient) if spoilt[0] else gradient
    )
    engine = Engine(tower, ZeroConfig(zero, precision), here(), 10)
    batch = Numbers("gpt").whole(0)
    engine.backward(engine.forward(batch).total)
    if not math.isfinite(engine.step(1e-3)):
        return "the first step is not finite"
    before, spoilt[0] = engine.weights(folder), True
    engine.backward(engine.forward(batch).total)
    try:
        return f"norm {engine.step(1e-3)}"
    except FloatingPointError:
        after = engine.weights(folder)
    assert before is not None and after is not None
    return "" if all(torch.equal(before[key], after[key]) for key in before) else "weights moved"


def all_of_them(folder: Path) -> list[tuple[tuple[int, str], str]]:
    torch.set_num_threads(1)
    return [
        ((zero, precision), spoil("backbone.norm.bias", zero, precision, folder))
        for zero, precision in product((0, 1, 2, 3), ("fp32", "bf16"))
    ]


def test_one_bad_number_among_the_biases_is_enough(tmp_path: Path) -> None:
    for case, wrong in LocalCompute(1, 0).gang("trial", partial(all_of_them, tmp_path))[0]:
        assert not wrong, f"{case}: {wrong}"
