"""Which stage feeds which, told by a `do` that only writes down what it was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import Stage
from infra.store import Store
from pipelines import chain
from pipelines.recipe import Recipe, load
from pipelines.rundir import RunDir
from pipelines.runner import plainly, recorded
from tests.training.small import Here
from training.engine.measure import read

Asked = dict[str, tuple[str, Any, dict[str, str]]]


def asked(recipe: Recipe, until: str = "") -> Asked:
    """Label -> stage, config and the labels of its inputs."""
    told: Asked = {}
    labels: dict[str, str] = {}

    def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        key = stage.key(config, inputs)
        told[label] = (stage.name, config, {name: labels[a.fingerprint] for name, a in inputs.items()})
        labels[key] = label
        return Artifact(stage.name, key, Path("nowhere") / key)

    chain.run(do, recipe, until)
    return told


@pytest.fixture(scope="module")
def demo() -> Recipe:
    return load("demo").recipe


def test_the_demo_goes_from_links_to_scores(demo: Recipe) -> None:
    told = asked(demo)
    assert told["links"][0] == "links" and told["crawl"][2] == {"links": "links"}
    assert (
        told["extract"][2] == {"pages": "crawl"}
        and told["filter"][2] == {"documents": "extract"}
        and told["dedup"][2] == {"documents": "filter"}
    )
    assert told["encode bytes"][2] == {"documents": "dedup", "tokenizer": "tokenizer bytes"}
    assert told["gpt"][2] == {"examples": "blocks bytes 128", "sentences": "encode bytes", "tokenizer": "tokenizer bytes"}
    assert told["bert"][2]["examples"] == "pairs pieces 128"
    assert told["bert-half"][2]["teacher"] == "bert"
    assert told["compare bert-half"][2] | {} == {
        "teacher": "bert", "student": "bert-half", "control": "bert-half-control",
        "examples": "pairs pieces 128", "sentences": "encode pieces", "tokenizer": "tokenizer pieces",
    }  # fmt: skip
    assert told["evaluate package bert"][2]["model"] == "package bert"


def test_student_and_control_differ_in_the_teacher_alone(demo: Recipe) -> None:
    told = asked(demo)
    student, control = told["bert-half"], told["bert-half-control"]
    assert replace(student[1], control=True) == control[1]
    assert student[2] == control[2]


def test_a_date_changes_the_crawl_and_nothing_before_it(demo: Recipe) -> None:
    dated = demo.model_copy(update={"date": "2026-11-21T03:00"})
    first, second = asked(demo, "crawl"), asked(dated, "crawl")
    assert first["links"] == second["links"]
    assert second["crawl"][1].logical_date == "2026-11-21T03:00"


@pytest.mark.parametrize(
    ("until", "last"), [("links", "links"), ("dedup", "dedup"), ("tokenizer", "tokenizer pieces"), ("pretrain", "bert")]
)
def test_until_ends_with_all_stages_of_that_kind(demo: Recipe, until: str, last: str) -> None:
    assert list(asked(demo, until))[-1] == last


def test_until_knows_the_name_that_was_meant(demo: Recipe) -> None:
    with pytest.raises(ConfigError, match="did you mean `dedup`"):
        asked(demo, "dedupe")


def test_resources_reach_no_config(demo: Recipe) -> None:
    more = demo.model_copy(update={"resources": demo.resources.model_copy(update={"ranks": 7, "cpus": 5})})
    assert asked(demo) == asked(more)


def test_a_decontaminate_section_puts_its_stage_between_dedup_and_all_that_read_documents(demo: Recipe) -> None:
    from data_prep.corpus.decontaminate import DecontaminateConfig

    assert "decontaminate" not in asked(demo)
    told = asked(load("demo", ("corpus.decontaminate={ngram: 8}",)).recipe)
    stage, config, inputs = told["decontaminate"]
    assert (stage, inputs, config.ngram, config.action) == ("decontaminate", {"documents": "dedup"}, 8, DecontaminateConfig().action)
    assert [(task.name, [file.name for file in task.files]) for task in config.tasks] == [("package", ["train.tsv", "dev.tsv"])]
    assert told["encode bytes"][2]["documents"] == told["tokenizer bytes"][2]["documents"] == "decontaminate"
    assert list(asked(demo, "decontaminate"))[-1] == "dedup"


def test_a_recipe_without_tasks_has_nothing_to_decontaminate_from(recipe: Path) -> None:
    assert "decontaminate" not in asked(load(str(recipe), ("corpus.decontaminate={}",)).recipe)


def test_a_list_of_bad_words_is_looked_for_beside_the_recipe_and_counts_by_its_content(recipe: Path) -> None:
    (recipe.parent / "bad.txt").write_text("darn\n")
    config = asked(load(str(recipe), ("corpus.filter.bad_words=bad.txt",)).recipe)["filter"][1]
    assert (config.bad_words[0].name, config.min_words) == ("bad.txt", 20)
    with pytest.raises(ConfigError, match="there is no file"):
        asked(load(str(recipe), ("corpus.filter.bad_words=gone.txt",)).recipe)


def test_several_sources_are_gathered(recipe: Path) -> None:
    (recipe.parent / "more.txt").write_text("Some more text that stands alone.\n")
    two = "corpus.sources=[{kind: documents, path: docs.jsonl}, {kind: documents, path: more.txt}]"
    told = asked(load(str(recipe), (two,)).recipe)
    assert told["gather"][2] == {"part000": "documents 1", "part001": "documents 2"}
    assert told["filter"][2] == {"documents": "gather"}


def test_the_same_fingerprints_wherever_the_files_lie(recipe: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    for name in ("docs.jsonl", "small.yaml"):
        (elsewhere / name).write_bytes((tmp_path / name).read_bytes())
    keys = []
    for path in (recipe, elsewhere / "small.yaml"):
        made: list[str] = []

        def do(stage: Stage[Any], config: Any, label: str = "", into: list[str] = made, **inputs: Artifact) -> Artifact:
            into.append(stage.key(config, inputs))
            return Artifact(stage.name, into[-1], Path("nowhere"))

        chain.run(do, load(str(path)).recipe)
        keys.append(made)
    assert keys[0] == keys[1]


EXTENDED = """
models:
  longest: {extend: long, pretrain: {tokens: 8e3}}
  long: {extend: gpt, pretrain: {tokens: 4e3, keep_state: true}}
  gpt: {family: gpt2, size: tiny, tokenizer: bytes, pretrain: {PRETRAIN}}
"""
SHORT = "tokens: 2e3, batch_tokens: 512, length: 32, lr: 6e-4, schedule: constant, warmup: 1, keep_state: true"


def test_a_model_that_extends_another_comes_after_it_and_goes_on_from_it(recipe: Path, tmp_path: Path) -> None:
    said = recipe.read_text().partition("models:")[0] + EXTENDED.replace("PRETRAIN", SHORT).lstrip()
    recipe.write_text(said)
    loaded = load(str(recipe), ("models.gpt.pretrain.overrides={layers: 1, width: 32, heads: 2}",))
    told = asked(loaded.recipe)
    assert [label for label in told if label in ("gpt", "long", "longest")] == ["gpt", "long", "longest"]
    assert told["long"][2] == {**told["gpt"][2], "extended": "gpt"} and told["longest"][2]["extended"] == "long"
    again = tmp_path / "again.yaml"
    again.write_text(loaded.resolved)
    assert load(str(again)).recipe == loaded.recipe
    store = Store(tmp_path / "w" / "artifacts")
    run = RunDir.create(tmp_path / "w", "small", loaded.resolved, loaded.source, "abcdef")
    made = chain.run(recorded(run, store, plainly(store, Here())), loaded.recipe, "pretrain")
    assert [made[name].counts["tokens"] for name in ("gpt", "long", "longest")] == [4 * 512, 8 * 512, 16 * 512]
    assert [line["step"] for line in read(made["longest"].file("metrics.jsonl"))] == [0, 3, 7, 10, 15]
    assert not any(file["name"].startswith("state/") for file in made["longest"].files)


def test_a_second_run_makes_nothing(recipe: Path, tmp_path: Path) -> None:
    loaded, store = load(str(recipe)), Store(tmp_path / "w" / "artifacts")
    states = []
    for _ in range(2):
        run = RunDir.create(tmp_path / "w", "small", loaded.resolved, loaded.source, "abcdef")
        made = chain.run(recorded(run, store, plainly(store, LocalCompute())), loaded.recipe, "blocks")
        states.append({row.state for row in run.rows})
    assert states == [{"done"}, {"cached"}]
    assert made["dedup"].counts["read"] == 60


def test_blocks_leave_room_for_the_frame_of_a_model_that_guesses_masked_words(tmp_path: Path) -> None:
    (tmp_path / "books.jsonl").write_text('{"text": "a"}\n')
    recipe = tmp_path / "roberta.yaml"
    recipe.write_text(
        f"""
name: roberta
corpus: {{sources: [{{kind: documents, path: {tmp_path}/books.jsonl}}]}}
tokenizers: {{bytes: {{kind: byte_bpe, vocab: 512, specials: roberta}}}}
models:
  masked: {{family: roberta, size: tiny, tokenizer: bytes, pretrain: {{tokens: 4096, batch_tokens: 1024, length: 64}}}}
"""
    )
    told = asked(load(str(recipe)).recipe)
    assert told["masked"][2]["examples"] == (label := "blocks bytes 62 full_sentences")
    assert told[label][1].length == 62 and told["masked"][1].length == 64
