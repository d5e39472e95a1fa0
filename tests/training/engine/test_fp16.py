"""float16 and its loss scaling: the curve of float32, steps that overflow move nothing, and the factor is part of the state."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.compute import LocalCompute
from infra.errors import ConfigError
from tests.training.engine.trial import Seen, Trial, plain, poisonable, run_all, settings
from training.engine import scaling
from training.engine.optim import OptimConfig
from training.engine.rank import here
from training.engine.scaling import check_fp16
from training.engine.zero import join, loss_scale

STEPS, BAD = 12, (2, 4)  # the batches whose gradients are a thousand times too large
LEVEL = OptimConfig(lr=3e-3, warmup=0, schedule="constant")


def program(root: Path) -> list[list[Seen]] | None:
    """On a CPU torch computes float16 as well as any other type, only slowly, whatever it says of its speed: so it is asked to."""
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    scaling.cpu_multiplies_fp16 = lambda: True
    CPU_Accelerator.is_fp16_supported = lambda self: True
    found = []
    for zero in range(4):
        config = settings(steps=STEPS, zero=zero, precision="fp16", micro_batch=3, background=False)
        feed = {"poison_at": BAD[0], "poison_also": BAD[1]}
        whole = Trial(root / f"{zero}-whole", config, make=partial(poisonable, "steep", 0.1), feed=feed)
        broken = replace(whole, out=root / f"{zero}-broken", feed={**feed, "fail_at": 8})
        with pytest.raises(ValueError, match="disk"):
            run_all([broken])
        short = Trial(root / f"{zero}-short", replace(config, steps=2, optimiser=LEVEL), make=partial(poisonable, "steep"))
        longer = replace(short, out=root / f"{zero}-longer", config=replace(short.config, steps=3), feed={"poison_at": 2})
        trials = [Trial(root / f"{zero}-bert", config, "bert"), whole, replace(broken, feed=feed), short, longer]
        found.append(run_all(trials))
    return found if os.environ["RANK"] == "0" else None


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[list[Seen]]:
    return LocalCompute(2).gang("fp16", partial(program, tmp_path_factory.mktemp("fp16")))[0]


@pytest.mark.parametrize("zero", range(4))
def test_the_curve_is_float32s(zero: int, seen: list[list[Seen]]) -> None:
    """The first factor is as large as it can be: a step or two may overflow, and does not in one process."""
    found = seen[zero][0]
    idle = [line["step"] for line in found.lines if "norm" not in line]
    assert len(idle) < 3
    losses, norms, weights = plain("bert", settings(steps=STEPS), idle)
    assert found.losses == pytest.approx(losses, abs=0.005) and found.losses != pytest.approx(losses, abs=1e-6)
    told = {line["step"]: line["norm"] for line in found.lines if "norm" in line}
    assert told == pytest.approx({step: norms[step] for step in told}, rel=0.01), "told in its true size"
    name = "backbone.blocks.0.ffn.up.weight"
    assert found.arrays[name].dtype == np.float32
    assert not torch.equal(found.weights[name].half().float(), found.weights[name]), "the master weights, not their float16 copy"
    torch.testing.assert_close(found.weights[name], weights[name], atol=5e-3, rtol=0.05)


@pytest.mark.parametrize("zero", range(4))
def test_steps_that_overflow_are_counted_and_the_second_halves_the_factor(zero: int, seen: list[list[Seen]]) -> None:
    lines = seen[zero][1].lines
    assert [line["step"] for line in lines if "norm" not in line] == list(BAD)
    assert [line["loss_scale"] for line in lines] == [2.0**16] * BAD[1] + [2.0**15] * (STEPS - BAD[1])


@pytest.mark.parametrize("zero", range(4))
def test_a_step_that_overflows_moves_no_weight(zero: int, seen: list[list[Seen]]) -> None:
    short, longer = seen[zero][3:]
    assert "norm" not in longer.lines[-1] and longer.losses[:2] == short.losses
    assert all(np.array_equal(value, longer.arrays[name]) for name, value in short.arrays.items())


@pytest.mark.parametrize("zero", range(4))
def test_a_resumed_run_has_the_same_factor_and_the_same_bits(zero: int, seen: list[list[Seen]]) -> None:
    whole, again = seen[zero][1:3]
    keys = ("step", "loss", "loss_scale")
    assert [[line[key] for key in keys] for line in again.lines] == [[line[key] for key in keys] for line in whole.lines]
    assert all(np.array_equal(value, again.arrays[name]) for name, value in whole.arrays.items())


def test_a_gradient_that_does_not_fit_even_unscaled_ends_it() -> None:
    join(here())  # the rule asks which rank may tell
    scale = loss_scale()
    with pytest.raises(FloatingPointError, match="even unscaled"):
        for _ in range(40):
            scale.passed(overflow=True)
    assert scale.factor == 1.0


def test_the_factor_doubles_after_a_thousand_good_steps_and_its_state_is_all_there_is() -> None:
    join(here())
    one, other = loss_scale(), loss_scale()
    for step in range(1500):
        one.passed(overflow=step in (3, 4))
        other.take(other.state)
        other.passed(overflow=step in (3, 4))
        assert one.factor == other.factor == (2.0**16 if step < 4 or step >= 1005 else 2.0**15), step
    layer = torch.nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    layer.weight.grad *= one.factor
    one.shrink(layer)
    assert torch.equal(layer.weight.grad, before)


def test_a_cpu_that_does_not_multiply_float16_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "cpu_multiplies_fp16", lambda: False)
    with pytest.raises(ConfigError, match="choose bf16, fp32 or auto"):
        check_fp16(torch.device("cpu"))
    check_fp16(torch.device("cuda"))
    monkeypatch.setattr(scaling, "cpu_multiplies_fp16", lambda: True)
    check_fp16(torch.device("cpu"))
