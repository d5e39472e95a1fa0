"""Every stage of ZeRO takes over what any other saved: each weight, both moments, the counters, the scale, to the bit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from infra.errors import PipelineError
from tests.training.engine.trial import ALL_TOWERS, Numbers
from training.engine import scaling, universal
from training.engine.optim import OptimConfig
from training.engine.rank import here
from training.engine.zero import Engine, ZeroConfig, join
from training.feed.batch import Batch

OPTIMISERS = {
    "adamw": OptimConfig(lr=1e-3),
    "lamb": OptimConfig(lr=1e-2, optimiser="lamb", bias_correction=False),
    "muon": OptimConfig(lr=1e-3, optimiser="muon"),
}
CASES = [("electra", "adamw", "fp32"), ("albert", "lamb", "fp32"), ("bert", "muon", "fp32"), ("bert", "adamw", "bf16")]
FROZEN = "backbone.blocks.0.ffn.up.weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
DONE = 3  # updates before the change


class Counted(nn.Module):
    """A tower with a frozen matrix, and a buffer that counts its batches."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.tower = ALL_TOWERS[kind]()
        dict(self.tower.named_parameters())[FROZEN].requires_grad_(False)
        self.register_buffer("batches", torch.zeros(1))

    def forward(self, batch: Batch) -> Any:
        self.batches += 1
        return self.tower(batch)


@dataclass
class Held:
    """What an engine holds, by name."""

    weights: dict[str, Tensor]
    kept: dict[str, dict[str, Tensor]]
    fixed: dict[str, Tensor]
    steps: set[float]


def engine_of(kind: str, stage: int, precision: str = "fp32", optimiser: str = "adamw", seed: int = 0, offload: str = "") -> Engine:
    torch.manual_seed(seed)
    join(here())
    return Engine(Counted(kind), ZeroConfig(stage, precision, 1, 1.0, OPTIMISERS[optimiser], offload), here(), 10)


def learn(engine: Engine, *steps: int) -> list[float]:
    losses = []
    for step in steps:
        engine.begin(last=True)
        loss = engine.forward(replace(Numbers("bert").whole(step), draws=step)).total
        engine.backward(loss)
        engine.step(1e-3)
        losses.append(loss.item())
    return losses


def held(engine: Engine) -> Held:
    """As DeepSpeed's own functions tell it under ZeRO 1 to 3."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    stage, sharing = engine.stage, engine._engine.optimizer
    if stage in (1, 2):
        sharing._hp_optimizer_states_linked = False  # it links them once, and some not at all
        sharing._lazy_init_hp_params_optimizer_state()
    named = dict(engine.module.named_parameters())
    trained = {name: p for name, p in named.items() if p.requires_grad}
    weights = {name: (safe_get_full_fp32_param(p) if stage else p).detach().clone() for name, p in trained.items()}

    def moment(p: nn.Parameter, key: str) -> Tensor:
        value: Tensor = safe_get_full_optimizer_state(p, key) if stage else engine._optimiser.state[p][key]
        return value.clone()

    kept = {name: {key: moment(p, key) for key in MOMENTS} for name, p in trained.items()}
    fixed = {name: value.clone() for name, value in engine.module.named_buffers()}
    with GatheredParameters([p for p in named.values() if not p.requires_grad]) if stage == 3 else torch.no_grad():
        fixed |= {name: p.detach().clone() for name, p in named.items() if not p.requires_grad}
    return Held(weights, kept, fixed, {float(one["step"]) for one in engine._optimiser.state.values()})


def same(one: Held, other: Held) -> None:
    assert set(one.weights) == set(other.weights) and set(one.fixed) == set(other.fixed) and len(one.fixed) == 2
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name
        for key, moment in one.kept[name].items():
            assert moment.dtype == torch.float32 and torch.equal(moment, other.kept[name][key]), (name, key)
    for name, value in one.fixed.items():
        assert torch.equal(value.to(other.fixed[name].dtype), other.fixed[name]), name


def computed_with(engine: Engine, now: Held) -> list[tuple[Tensor, Tensor]]:
    """The weights of the forward pass, each beside the float32 one."""
    from deepspeed.runtime.zero import GatheredParameters

    named = dict(engine.module.named_parameters())
    with GatheredParameters(list(named.values())) if engine.stage == 3 else torch.no_grad():
        return [(named[name].detach().clone(), value) for name, value in now.weights.items()]


@pytest.mark.parametrize(("kind", "optimiser", "precision"), CASES)
def test_each_stage_goes_on_from_each_other_with_the_same_state(kind: str, optimiser: str, precision: str, tmp_path: Path) -> None:
    before, after = {}, {}
    for stage in range(4):
        engine = engine_of(kind, stage, precision, optimiser)
        learn(engine, *range(DONE))
        before[stage] = held(engine)
        assert before[stage].steps == {DONE} and any(bool(one["exp_avg"].any()) for one in before[stage].kept.values())
        engine.save(tmp_path / str(stage))()
        after[stage] = learn(engine, DONE, DONE + 1)
    for new in range(4):
        engine = engine_of(kind, new, precision, optimiser, seed=1)
        for old in range(4):  # the first time into an engine that has done nothing, then into one that has gone on
            engine.load(tmp_path / str(old), 1, old)
            now = held(engine)
            same(before[old], now)
            assert now.steps == {DONE} and all(torch.equal(value.to(p.dtype), p) for p, value in computed_with(engine, now))
            assert learn(engine, DONE, DONE + 1) == pytest.approx(after[old], abs=2e-6 if precision == "fp32" else 0.02), (old, new)


def test_what_the_host_holds_is_taken_over_and_given_up(tmp_path: Path) -> None:
    ways = [(0, ""), (1, "optimizer"), (2, ""), (3, "parameters"), (1, "")]
    before = None
    for number, (stage, offload) in enumerate(ways):
        engine = engine_of("bert", stage, seed=number, offload=offload)
        if before is None:
            learn(engine, *range(DONE))
        else:
            engine.load(tmp_path / str(number - 1), 1, ways[number - 1][0])
            same(before, held(engine))
        before = held(engine)
        engine.save(tmp_path / str(number))()


def test_before_the_first_update_there_are_weights_and_nothing_else(tmp_path: Path) -> None:
    curves = []
    for old, new in ((0, 2), (1, 3), (3, 0)):
        engine = engine_of("bert", old)
        engine.save(tmp_path / str(old))()
        other = engine_of("bert", new, seed=1)
        learn(other, 5)  # as one that a guard sends back to the start
        other.load(tmp_path / str(old), 1, old)
        assert not any(other._optimiser.state.values())
        curves += [learn(engine, 0, 1), learn(other, 0, 1)]
    assert all(curve == pytest.approx(curves[0], abs=2e-6) for curve in curves)


def test_the_scale_of_float16_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    monkeypatch.setattr(scaling, "cpu_multiplies_fp16", lambda: True)
    monkeypatch.setattr(CPU_Accelerator, "is_fp16_supported", lambda self: True)
    told = {"scale": 2.0**9, "steps": 7, "overflowed": 4, "left": 1}
    for number, (old, new) in enumerate(((0, 1), (1, 3), (3, 0), (2, 0))):
        engine, other = engine_of("bert", old, "fp16"), engine_of("bert", new, "fp16", seed=1)
        rule_of(engine).take(told)
        learn(engine, 0)
        engine.save(tmp_path / str(number))()
        other.load(tmp_path / str(number), 1, old)
        assert rule_of(other).state == rule_of(engine).state == {**told, "steps": 8} and other.scale == 2.0**9
        same(held(engine), held(other))


def rule_of(engine: Engine) -> scaling.Scale:
    return engine._scale or scaling.Scale(engine._engine.optimizer.loss_scaler)


def test_another_model_or_a_lost_share_is_told(tmp_path: Path) -> None:
    for old in (0, 1, 3):
        engine = engine_of("bert", old)
        learn(engine, 0)
        engine.save(tmp_path / str(old))()
        with pytest.raises(PipelineError, match="from another model"):
            engine_of("albert", 2).load(tmp_path / str(old), 1, old)
        with pytest.raises(PipelineError, match="is missing; delete"):
            engine_of("bert", 2).load(tmp_path / str(old), 2 if old else 1, old or 3)


@given(st.data())
def test_any_shares_are_made_of_any_others(data: st.DataObject) -> None:
    """Two parameters in one vector, cut anywhere for some ranks and anew for others."""
    sizes = {name: data.draw(st.integers(1, 20)) for name in "ab"}
    values = torch.arange(sum(sizes.values()), dtype=torch.float32)
    state = universal.State()
    for vector, parts in shares(data, values, sizes):
        state.add(vector, parts, {"step": 4.0, "exp_avg": -vector})
    for vector, parts in shares(data, values, sizes):
        mine = torch.zeros_like(vector)
        state.fill(mine, parts, "fp32")
        kept = state.kept(universal.Vector(mine, parts))
        assert torch.equal(mine, vector) and torch.equal(kept["exp_avg"], -vector) and kept["step"] == 4.0


def shares(data: st.DataObject, values: Tensor, sizes: dict[str, int]) -> list[tuple[Tensor, list[universal.Part]]]:
    """A rank's piece of all numbers, and what of each parameter is in it."""
    cuts = sorted({0, len(values), *data.draw(st.lists(st.integers(0, len(values)), max_size=4))})
    made = []
    for first, end in itertools.pairwise(cuts):
        parts, began = [], 0
        for name, size in sizes.items():
            start, stop = max(first, began), min(end, began + size)
            parts += [universal.Part(name, start - began, start - first, stop - start)] if start < stop else []
            began += size
        made.append((values[first:end].clone(), parts))
    return made
