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
WORDS = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", GUIDE))))


def test_every_key_of_pretraining_is_explained() -> None:
    known = {field.name for kind in (PretrainConfig, GuardConfig) for field in fields(kind)}
    assert known - WORDS == set()
    assert {f"{field.name}" for field in fields(Masking)} - WORDS <= {"ngram", "with_replacement"}, "two that only families set"


def test_every_kind_of_tokenizer_and_block_is_explained() -> None:
    assert {*LOADERS, *MODES} - WORDS == set()
    assert {field.name for field in fields(BlocksConfig)} - WORDS == set()


def test_the_keys_of_its_tables_exist() -> None:
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", GUIDE.split("## Training")[1], flags=re.M)
    named = {word for row in rows for word in re.findall(r"`([a-z_]+)", row)}
    assert len(named) > 25
    assert named - {field.name for field in fields(PretrainConfig)} <= {"init"}
