"""Compiled layers give the same losses and gradients but for rounding, and a resumed run the same bits; who cannot compile is told."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.compute import LocalCompute
from infra.errors import ConfigError
from tests.training.engine.trial import Seen, Trial, run_all, settings
from training.engine import able
from training.engine.loop import LoopConfig
from training.pretrain_config import PretrainConfig
from training.settings import loop_config

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not able.compiler(CPU), reason="there is no C++ compiler here")


def program(root: Path) -> list[Seen] | None:
    """Rows of unequal number: 10 in micro-batches of 3 over two ranks. Dropout is on where the run fails and goes on."""
    trials = []
    for zero, kind in ((0, "gpt"), (2, "bert")):
        for compile in ("never", "always"):
            config = settings(steps=8, zero=zero, micro_batch=3, compile=compile, background=False)
            trials.append(Trial(root / f"{kind}-{compile}", config, kind))
    whole = Trial(root / "whole", settings(steps=8, micro_batch=3, compile="always", background=False), "bert", dropout=0.1, valid=True)
    broken = Trial(root / "broken", whole.config, "bert", dropout=0.1, feed={"fail_at": 6}, valid=True)
    with pytest.raises(ValueError, match="disk"):
        run_all([broken])
    return run_all([*trials, whole, Trial(broken.out, broken.config, "bert", dropout=0.1, valid=True)])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    return LocalCompute(2).gang("compile", partial(program, tmp_path_factory.mktemp("compile")))[0]


@pytest.mark.prove
@needs_compiler
def test_compiled_layers_follow_the_curve_of_the_others(seen: list[Seen]) -> None:
    for plain, compiled in zip(seen[0:4:2], seen[1:4:2], strict=True):
        assert compiled.losses == pytest.approx(plain.losses, abs=1e-5)
        assert [line["norm"] for line in compiled.lines] == pytest.approx([line["norm"] for line in plain.lines], rel=1e-4)
        assert set(compiled.arrays) == set(plain.arrays) and not any("_orig_mod" in name for name in compiled.arrays)
    assert any(one.losses != other.losses for one, other in zip(seen[0:4:2], seen[1:4:2], strict=True)), "something was compiled"


@pytest.mark.prove
@needs_compiler
def test_a_compiled_run_that_fails_goes_on_to_the_same_bits(seen: list[Seen]) -> None:
    """With dropout, whose draws a compiled layer makes in its own way, and an exam between the steps."""
    whole, again = seen[4:]
    assert again.losses == whole.losses
    assert all(np.array_equal(value, again.arrays[name]) for name, value in whole.arrays.items())


def test_without_a_compiler_always_is_refused_and_auto_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    assert able.compiler(CPU) == ""
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        able.check("fp32", "always", 1, CPU)
    able.check("fp32", "auto", 1, CPU)
    assert not able.compiles("auto", 1, CPU) and not able.compiles("never", 1, CPU)


def test_a_recipe_says_how_and_zero_3_is_refused_by_name() -> None:
    assert loop_config(PretrainConfig("gpt2", "tiny")).compile == "auto"
    assert loop_config(PretrainConfig("gpt2", "tiny", compile="always")).compile == "always"
    with pytest.raises(ConfigError, match="choose auto, always or never"):
        PretrainConfig("gpt2", "tiny", compile="yes")
    with pytest.raises(ConfigError, match="compile 'yes' is none of"):
        LoopConfig(1, 1, compile="yes")
    with pytest.raises(ConfigError, match="needs zero 0 to 2"):
        able.check("fp32", "always", 3, CPU)
