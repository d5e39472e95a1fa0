"""A look at a few steps: its files open, it sees those steps alone, and the weights do not notice."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path

import pytest

from infra.compute import LocalCompute
from infra.errors import ConfigError
from tests.training.engine.trial import Trial, run_all, settings
from training.engine.profile import FOLDER, OPERATORS, TRACE
from training.pretrain_config import PretrainConfig


def test_the_profile_holds_the_asked_steps_and_changes_no_weight(tmp_path: Path) -> None:
    looked, plain = Trial(tmp_path / "looked", settings(profile=(4, 7))), Trial(tmp_path / "plain", settings())
    to_the_end = Trial(tmp_path / "end", settings(profile=(10, 99)))
    seen = LocalCompute(2, 0).gang("trial", partial(run_all, [looked, plain, to_the_end]))[0]
    assert all((seen[0].arrays[name] == value).all() for name, value in seen[1].arrays.items())
    told = json.loads((looked.out / FOLDER / OPERATORS).read_text())
    assert (told["first"], told["end"], told["device"]) == (4, 7, "cpu")
    by_name = {row["operator"]: row for row in told["operators"]}
    assert by_name["aten::mm"]["calls"] == int(by_name["aten::mm"]["calls"]) > 0, "whole calls a step: the steps are alike"
    assert [row["own_ms"] for row in told["operators"]] == sorted((row["own_ms"] for row in told["operators"]), reverse=True)
    with gzip.open(looked.out / FOLDER / TRACE, "rt") as file:
        events = json.load(file)["traceEvents"]
    updates = [e for e in events if e.get("name", "").startswith("Optimizer.step#")]
    assert len({e["ts"] for e in updates}) >= 3 and len(updates) % 3 == 0, "DeepSpeed wraps the optimiser, and both are seen"
    assert not (plain.out / FOLDER).exists()
    assert json.loads((to_the_end.out / FOLDER / OPERATORS).read_text())["end"] == 12


def test_who_goes_on_behind_the_window_writes_nothing(tmp_path: Path) -> None:
    half, rest = Trial(tmp_path / "one", settings(steps=6)), Trial(tmp_path / "one", settings(profile=(2, 5)))
    LocalCompute(1, 0).gang("trial", partial(run_all, [half, rest]))
    assert not (tmp_path / "one" / FOLDER).exists()


@pytest.mark.parametrize(("said", "why"), [("7", "FIRST:END"), ("9:9", "FIRST:END"), ("a:b", "FIRST:END"), ("100:110", "ends with step 9")])
def test_a_window_that_cannot_be_is_refused(said: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        PretrainConfig("gpt2", "tiny", tokens=10_240, batch_tokens=1024, profile=said)
