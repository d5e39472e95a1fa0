"""A recipe's own pretraining, costed before anything runs: parameters, memory and time against arithmetic done here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infra.errors import ConfigError
from pipelines import cli
from pipelines.plan_recipe import costs, line, rows
from pipelines.recipe import load
from training import rehearsal
from training.families import catalog
from training.rehearsal import made_up


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Some words about nothing, for the time {n}." for n in range(100)))
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
    shown = CliRunner().invoke(cli.app, words, env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "8 x NVIDIA H200" in shown.output and "124,439,808" in shown.output
    import json

    steps = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)
    assert {step["label"] for step in steps if "cost" in step} == {"gpt", "again"}


def test_a_curriculums_shorter_part_costs_less_but_memory_is_the_longest_ones(recipe: Path) -> None:
    parts = "[{share: 0.9, length: 128}, {share: 0.1, length: 1024}]"
    rows, more = "models.gpt.pretrain.micro_batch=64", f"models.gpt.pretrain.curriculum={parts}"
    whole, short = (costs(load(str(recipe), words).recipe, on="H100")["gpt"] for words in ((rows,), (rows, more)))
    a_token = {length: 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * length * 768 for length in (128, 1024)}
    assert short["seconds"] / whole["seconds"] == pytest.approx((0.9 * a_token[128] + 0.1 * a_token[1024]) / a_token[1024], rel=0.01)
    assert short["memory"] == whole["memory"]


def test_steps_that_are_taken_here_tell_time_and_memory(recipe: Path) -> None:
    parts = "[{share: 0.5, length: 32}, {share: 0.5, length: 64}]"
    small = f"{{tokens: 65536, batch_tokens: 512, length: 64, micro_batch: 4, zero: 2, lr: 0.001, curriculum: {parts}}}"
    said = yaml.safe_load(recipe.read_text())
    del said["models"]["again"], said["models"]["gpt"]["pretrain"]
    recipe.write_text(yaml.safe_dump(said))
    shape = "models.gpt.pretrain.overrides={layers: 1, width: 32, heads: 2}"
    told = costs(load(str(recipe), (f"models.gpt.pretrain={small}", shape, "resources.ranks=1")).recipe, measure=True)
    found = told["gpt"]["measured"]
    assert 0.1 < found["seconds"] < 600, "128 steps of two or four micro-batches, of some milliseconds each"
    assert found["memory"] > 50257 * 32 * 16, "the vocabulary's matrix, its gradient and Adam's moments"
    assert {"measured", "as measured"} <= set(rows(told)[0])


def test_a_run_takes_its_steps_rests_and_micro_batches(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: {1024: rehearsal.Rehearsed(2.0, 0.5, 7)})
    found = costs(load(str(recipe)).recipe, measure=True)["gpt"]["measured"]
    assert found == {"seconds": pytest.approx(1907 * 0.5 + 1e9 / 524_288 * 8 * 2.0), "memory": 7}, (
        "8 ranks put 64 sequences through, 8 at once"
    )


def test_what_is_made_up_has_the_labels_of_every_objective() -> None:
    for name, parts in (("gpt2", ("next",)), ("bert", ("mlm", "pair")), ("electra", ("mlm", "rtd")), ("albert", ("mlm", "pair"))):
        family = catalog.family(name)
        tower = family.build(
            replace(family.backbone(next(iter(family.sizes)), 64), layers=1, width=16, heads=2, ffn=32, embedding_width=16)
        )
        for apart in (False, True):
            losses = tower(replace(made_up(family, 64, 3, 16, apart), draws=1))
            assert set(losses.parts) == set(parts) and losses.total.isfinite()


def test_steps_here_and_a_cluster_elsewhere_do_not_go_together(recipe: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["plan", str(recipe), "--workspace", str(tmp_path / "w"), "--on", "H200", "--measure"])
    assert isinstance(shown.exception, ConfigError) and "leave one of the two out" in str(shown.exception)
    shown = CliRunner().invoke(cli.app, ["plan", "--model", "gpt2/124m", "--measure"])
    assert isinstance(shown.exception, ConfigError) and "name a recipe" in str(shown.exception)
