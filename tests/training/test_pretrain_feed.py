"""What pretraining tells its feed, and resumes across the border of a curriculum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.examples.pairs import PAIRS, PairsConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError, Preempted
from infra.stage import run
from infra.store import Store
from tests.training.small import Here, prepared
from training.engine import loop
from training.engine.measure import read
from training.feed.prefetch import Prefetched
from training.pretrain import PRETRAIN, ahead, check, examples_name, make_feed
from training.pretrain_config import PretrainConfig
from training.settings import feed_config

PARTS = ({"share": 0.6, "length": 16}, {"share": 0.4, "length": 32})
SMALL = {"width": 16, "heads": 2, "layers": 1, "positions": 32}


def config_of(**changes: Any) -> PretrainConfig:
    said = {"tokens": 10 * 256, "batch_tokens": 256, "length": 32, "lr": 3e-3, "overrides": SMALL, "micro_batch": 6}
    return PretrainConfig(family="bert", size="tiny", **{**said, "log_every": 1, "packed": True, "curriculum": PARTS, **changes})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    store = Store(tmp_path_factory.mktemp("store"))
    made = prepared(store, False, length=32)
    return made | {"examples_16": run(PAIRS, PairsConfig(16), {"sentences": made["sentences"]}, store, LocalCompute())}


def test_a_training_stopped_at_any_step_ends_as_if_it_had_not_been(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed, with dropout, on and after the step at which the length changes: the same file, byte for byte."""
    config = config_of()
    whole = run(PRETRAIN, config, inputs, Store(tmp_path / "whole"), Here())
    other = Store(tmp_path / "other")
    journal = loop._Run._save

    def stopped(at: int) -> Any:
        def save(self: Any, wish: Any, verdict: Any) -> None:
            journal(self, replace_stop(wish, self.point.step == at), verdict)

        return save

    for at in (6, 7):
        monkeypatch.setattr(loop._Run, "_save", stopped(at))
        with pytest.raises(Preempted):
            run(PRETRAIN, replace(config, feed_workers=at % 2), inputs, other, Here())
    monkeypatch.setattr(loop._Run, "_save", journal)
    again = run(PRETRAIN, config, inputs, other, Here())
    assert again.fingerprint == whole.fingerprint
    assert again.file("model/model.safetensors").read_bytes() == whole.file("model/model.safetensors").read_bytes()
    assert [line["loss"] for line in read(again.file("metrics.jsonl"))] == [line["loss"] for line in read(whole.file("metrics.jsonl"))]


def replace_stop(wish: Any, stop: bool) -> Any:
    return wish._replace(stop=wish.stop or stop)


def test_each_part_has_its_length_and_a_step_its_tokens(inputs: dict[str, Artifact]) -> None:
    feed = make_feed(config_of(packed=False), inputs, "train")
    assert [tuple(feed.slice(step, 0, 1).tokens_BL.shape) for step in (0, 5, 6, 9)] == [(16, 16), (16, 16), (8, 32), (8, 32)]
    assert make_feed(config_of(), inputs, "valid").slice(0, 0, 1).tokens_BL.shape[1] == 32
    assert [examples_name(config_of(), length) for length in (16, 32)] == ["examples_16", "examples"]


def test_threads_are_how_and_not_what(inputs: dict[str, Artifact]) -> None:
    config, feed = config_of(), make_feed(config_of(), inputs, "train")
    assert PRETRAIN.key(config, inputs) == PRETRAIN.key(replace(config, feed_workers=3), inputs)
    assert PRETRAIN.key(config, inputs) != PRETRAIN.key(replace(config, packed=False), inputs)
    assert PRETRAIN.key(config, inputs) != PRETRAIN.key(replace(config, mixture={"*": 2.0}), inputs)
    assert isinstance(ahead(replace(config, feed_workers=2), feed), Prefetched)
    assert ahead(replace(config, feed_workers=0), feed) is feed
    assert isinstance(ahead(config, feed), Prefetched) == torch.cuda.is_available()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"curriculum": ({"share": 0.9, "length": 16}, {"share": 0.2, "length": 32})}, "add up to 1.1, not to 1"),
        ({"curriculum": ({"share": 1.0, "length": 16},)}, "length is 32, the curriculum ends at 16"),
        ({"curriculum": ({"share": 1.0},)}, r"a part is like \{share: 0.9, length: 128\}"),
        ({"curriculum": ({"share": 0.5, "length": 24}, {"share": 0.5, "length": 32})}, "not a multiple of the curriculum's length 24"),
        ({"feed_workers": -1}, "0 or more"),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(**wrong)


def test_settings_of_the_feed_that_do_not_fit_the_family_are_refused(inputs: dict[str, Artifact]) -> None:
    for wrong, said in (
        ({"documents_apart": True}, "bert reads pairs"),
        ({"mixture": {"*": -1}}, "must be a number above 0"),
        ({"exhausted": "drop"}, "neither repeat nor stop"),
        ({"family": "gpt2", "size": "124m", "overrides": {}}, "no padding to save"),
    ):
        with pytest.raises(ConfigError, match=said):
            feed_config(replace(config_of(), **wrong))
    with pytest.raises(ConfigError, match="positions"):
        check(config_of(overrides={**SMALL, "positions": 24}), inputs, 1)
    with pytest.raises(ConfigError, match="too few for 9 ranks"):
        check(config_of(), inputs, 9)
