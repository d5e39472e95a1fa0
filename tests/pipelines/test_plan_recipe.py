"""A recipe's own pretraining, costed before anything runs: parameters, memory and time against arithmetic done here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infra.errors import ConfigError
from pipelines import cli
from pipelines.plan_recipe import costs, line, rows
from pipelines.recipe import load


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("Some words about nothing.\n\nSome more words.")
    pretrain = {"tokens": 1_000_000_000, "batch_tokens": 524_288, "length": 1024, "micro_batch": 8, "precision": "bf16", "lr": 6.0e-4}
    said = {
        "name": "costed",
        "corpus": {"sources": [{"kind": "documents", "path": str(text), "separator": "\n\n"}]},
        "tokenizers": {"bytes": {"kind": "byte_bpe", "vocab": 50257}},
        "models": {
            "gpt": {"family": "gpt2", "size": "124m", "tokenizer": "bytes", "pretrain": pretrain},
            "again": {"family": "gpt2", "size": "124m", "tokenizer": "bytes", "pretrain": {**pretrain, "activation_checkpointing": 1}},
        },
        "resources": {"ranks": 8},
    }
    path = tmp_path / "costed.yaml"
    path.write_text(yaml.safe_dump(said))
    return path


def test_a_recipe_on_gpus_takes_its_tokens_times_its_arithmetic(recipe: Path) -> None:
    told = costs(load(str(recipe)).recipe, on="H100", mfu=0.5)
    one, again = told["gpt"], told["again"]
    assert one["parameters"] == 124_439_808 and one["steps"] == 1907
    a_token = 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * 1024 * 768
    assert one["seconds"] == pytest.approx(1e9 * a_token / (8 * 989e12 * 0.5), rel=0.02)
    assert again["seconds"] == pytest.approx(one["seconds"] * 4 / 3), "every layer goes forward twice"
    assert again["memory"]["total"] < one["memory"]["total"] / 1.5 and one["fits"]
    assert one["setting"]["accumulated"], "64 sequences of a rank go through 8 at once"
    assert one["memory"]["lasting"] and one["memory"]["optimiser"] == 12 * -(-124_439_808 // 8)
    assert "8 x NVIDIA H100" in line(told) and {row["model"] for row in rows(told)} == {"gpt", "again"}


def test_here_the_rate_is_tried(recipe: Path) -> None:
    told = costs(load(str(recipe), ("models.gpt.pretrain.precision=fp32",)).recipe)["gpt"]
    assert told["device"]["flops"] > 1e9 and "tried" in told["device"]["source"] and told["setting"]["precision"] == "fp32"


@pytest.mark.parametrize(("more", "said"), [({"on": "H300"}, "no GPU `H300`"), ({"on": "V100"}, "choose fp32"), ({"mfu": 0.0}, "above 0")])
def test_a_cluster_that_cannot_be_is_refused(recipe: Path, more: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        costs(load(str(recipe)).recipe, **more)


def test_the_command_shows_it(recipe: Path, tmp_path: Path) -> None:
    words = ["plan", str(recipe), "--workspace", str(tmp_path / "w"), "--on", "H200"]
    shown = CliRunner().invoke(cli.app, words)
    assert shown.exit_code == 0, shown.output
    assert "8 x NVIDIA H200" in shown.output and "124,439,808" in shown.output
    import json

    steps = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).output)
    assert {step["label"] for step in steps if "cost" in step} == {"gpt", "again"}


def test_a_curriculums_shorter_part_costs_less_but_memory_is_the_longest_ones(recipe: Path) -> None:
    parts = "[{share: 0.9, length: 128}, {share: 0.1, length: 1024}]"
    whole, short = (costs(load(str(recipe), more).recipe, on="H100")["gpt"] for more in ((), (f"models.gpt.pretrain.curriculum={parts}",)))
    a_token = {length: 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * length * 768 for length in (128, 1024)}
    assert short["seconds"] / whole["seconds"] == pytest.approx((0.9 * a_token[128] + 0.1 * a_token[1024]) / a_token[1024], rel=0.01)
    assert short["memory"] == whole["memory"]
