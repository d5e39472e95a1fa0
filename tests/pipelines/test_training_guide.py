"""docs/guides/training.md names every key there is, and no other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from data_prep.examples.blocks import MODES, BlocksConfig
from data_prep.tokenizer.catalog import LOADERS
from training.engine.guard import GuardConfig
from training.feed.masking import Masking
from training.pretrain_config import PretrainConfig

GUIDE = (Path(__file__).parents[2] / "docs/guides/training.md").read_text()
PROSE = re.sub(r"^```.*?^```", "", GUIDE, flags=re.M | re.S)  # without code blocks, whose backticks are no words
WORDS = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", PROSE))))


def test_every_key_of_pretraining_is_explained() -> None:
    known = {field.name for kind in (PretrainConfig, GuardConfig) for field in fields(kind)}
    assert known - WORDS == set()
    assert {f"{field.name}" for field in fields(Masking)} - WORDS <= {"ngram", "with_replacement"}, "two that only families set"


def test_every_kind_of_tokenizer_and_block_is_explained() -> None:
    assert {*LOADERS, *MODES} - WORDS == set()
    assert {field.name for field in fields(BlocksConfig)} - WORDS == set()


def test_the_keys_of_its_tables_exist() -> None:
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", GUIDE.split("## Training")[1].split("## Tasks")[0], flags=re.M)
    named = {word for row in rows for word in re.findall(r"`([a-z_]+)", row)}
    assert len(named) > 25
    assert named - {field.name for field in fields(PretrainConfig)} <= {"init"}


def test_the_table_of_deviations_says_what_the_code_does() -> None:
    from data_prep.examples.pairs import PairsConfig
    from training.engine.optim import OptimConfig, lr_at
    from training.families.catalog import family
    from training.finetune import FinetuneConfig
    from training.pace import reached

    table = GUIDE.split("## Where presets differ from the papers")[1]
    assert "max_predictions: 20" in table and Masking().max_predictions == 0 and round(Masking().rate * 128) == 19
    activations = {name: family(name).sizes["base"].activation for name in ("bert", "electra", "albert")}
    assert activations == {"bert": "gelu", "electra": "gelu", "albert": "gelu_tanh"}
    assert PairsConfig().short_share == 0.1 and Masking().static_copies == 0
    assert PretrainConfig("bert", "base").parts == () and family("bert").preset("base").opening == (0.9, 128)
    assert lr_at(OptimConfig(lr=1.0, schedule="linear", warmup=10, min_ratio=0.0), 10, 100) == 1.0, "the fall begins after the warm-up"
    usual = {name: field.default for name, field in FinetuneConfig.__dataclass_fields__.items()}
    assert (usual["lr"], usual["batch"], usual["epochs"], usual["warmup"]) == (5e-5, 32, 3.0, 0.1)
    gpt1, gpt2 = family("gpt1"), family("gpt2")
    assert (gpt1.preset("base").lr, gpt1.preset("base").steps) == (2.5e-4, 3_000_000)
    assert all(gpt1.preset(size).lr == gpt2.preset(size).lr / 2 for size in ("tiny", "mini", "small", "medium"))
    assert [gpt2.preset(size).lr for size in ("124m", "355m", "774m")] == [family("gpt3").preset(s).lr for s in ("125m", "350m", "760m")]
    assert not any(size.band for size in family("gpt3").sizes.values())
    assert [round(100 * reached(width)) for width in (256, 768, 4096)] == [24, 36, 45]
