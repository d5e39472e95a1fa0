"""A family that exists in this file alone: less than forty lines, one line in the catalog, and every command knows it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store
from pipelines.plan_model import plan_model
from tests.training.small import LENGTH, Here, prepared
from training.families import catalog
from training.families.family import Family
from training.pretrain import PRETRAIN
from training.pretrain_config import PretrainConfig


def electric_gpt() -> Family:
    """A made-up system: OPT's shape (norm before, ReLU, positions from 2 on) read both ways, with ALBERT's sharing."""
    from training.backbone.config import BackboneConfig
    from training.backbone.exchange import Layout
    from training.families.bert import BERT
    from training.families.family import Preset
    from training.feed.masking import Masking

    shape = BackboneConfig(
        vocab=30_000, width=256, layers=8, heads=8, positions=128, causal=False, norm="pre", embedding_norm=False,
        activation="relu", embedding_width=64, share="ffn", dropout=0.0, eps=1e-6, residual_init=True,
    )  # fmt: skip
    layer = "model.layers.{i}."
    return replace(
        BERT,
        name="electric",
        paper="none: made for this test",
        sizes={"one": shape, "two": replace(shape, width=512, ffn=0)},
        examples="blocks",
        objective="mlm",
        heads=("mlm",),
        masking=Masking(rate=0.3, unit="word"),
        presets={"": Preset(lr=1e-3, steps=1000, batch=64, length=128, warmup=100, schedule="wsd")},
        layout=Layout(
            model_type="electric",
            prefix="model.",
            fields={"vocab": ("vocab_size",), "width": ("width",), "layers": ("depth",), "heads": ("heads",), "positions": ("longest",),
                    "ffn": ("inner",), "embedding_width": ("narrow",), "activation": ("act",), "eps": ("eps",)},
            modules={"embedding.token": "model.words", "embedding.position": "model.places", "embedding.up": "model.up",
                     "norm": "model.norm"},
            block={"attention.out": f"{layer}o", "attention_norm": f"{layer}n1", "ffn.up": f"{layer}a", "ffn.down": f"{layer}b",
                   "ffn_norm": f"{layer}n2"},
            qkv=(layer + "q", layer + "k", layer + "v"),
            heads={"mlm": {"transform.dense": "head.dense", "transform.norm": "head.norm", "scores.bias": "head.bias"}},
            architectures={("mlm",): "ElectricForMaskedLM"},
            activations={"relu": "relu"},
        ),
    )  # fmt: skip


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Family:
    found = electric_gpt()
    monkeypatch.setitem(catalog.FAMILIES, found.name, found)  # the one line
    return found


def test_it_takes_less_than_forty_lines() -> None:
    assert len(inspect.getsource(electric_gpt).splitlines()) < 40


def test_a_plan_knows_it(listed: Family) -> None:
    told = plan_model("electric/one")
    assert told["parameters"] == listed.parameters(listed.backbone("one")) > 3_000_000
    assert told["preset"]["schedule"] == "wsd"


def test_it_is_pretrained_written_and_read_back(listed: Family, tmp_path: Path) -> None:
    store = Store(tmp_path)
    data: dict[str, Artifact] = prepared(store, causal=False, blocks=True)
    overrides = {"width": 32, "heads": 4, "layers": 2, "embedding_width": 16}
    config = PretrainConfig(
        family="electric", size="one", tokens=8 * 8 * LENGTH, batch_tokens=8 * LENGTH, length=LENGTH, overrides=overrides
    )
    made = run(PRETRAIN, config, data, store, Here())
    lines = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    again = catalog.load(made.path / "model")
    assert (again.config.share, again.config.norm, again.config.activation, again.config.embedding_width) == ("ffn", "pre", "relu", 16)
    assert again.backbone.blocks[1].ffn is again.backbone.blocks[0].ffn
    with pytest.raises(ValueError, match="electric"):
        transformers.AutoModel.from_pretrained(made.path / "model")


def test_without_its_line_nobody_knows_it() -> None:
    with pytest.raises(ConfigError, match="there is no family `electric`"):
        catalog.family("electric")
