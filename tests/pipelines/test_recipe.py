# ruff: noqa: E501  # a row of the table is a line
"""A wrong recipe is answered with every mistake, its line, and what was probably meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.errors import ConfigError
from pipelines import plan_checks
from pipelines import recipe as recipes
from tests.pipelines.test_chain import asked

LINKS = """\
name: links
corpus:
  sources:
    - {kind: urls, path: urls.txt}
  crawl: {contact: someone@example.com}
tokenizers:
  pieces: {kind: wordpiece, vocab: 500}
models:
  bert: {family: bert, size: mini, tokenizer: pieces}
students:
  half: {teacher: bert}
tasks:
  mood: {kind: classify, train: t.tsv, dev: t.tsv, models: [bert, half]}
"""


@pytest.fixture
def links(tmp_path: Path) -> Path:
    (tmp_path / "urls.txt").write_text("http://example.com/\n")
    (tmp_path / "t.tsv").write_text("label\ttext\na\tb\nb\tc\n")
    path = tmp_path / "r.yaml"
    path.write_text(LINKS)
    return path


def problems(path: Path, *settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        recipes.load(str(path), settings)
    return str(caught.value).splitlines()


def change(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_good_recipe_loads_and_a_relative_path_is_beside_it(links: Path) -> None:
    recipe = recipes.load(str(links)).recipe
    assert recipe.models["bert"].tokenizer == "pieces"
    assert recipe.corpus.sources[0].path == str(links.parent / "urls.txt")  # type: ignore[union-attr]


def test_the_resolved_recipe_loads_to_the_same_recipe(links: Path, tmp_path: Path) -> None:
    first = recipes.load(str(links), ("corpus.filter.max_symbol_ratio=null", "corpus.decontaminate.max_documents=null", "seed=7"))
    again = tmp_path / "again.yaml"
    again.write_text(first.resolved)
    assert recipes.load(str(again)).recipe == first.recipe
    assert first.recipe.corpus.filter.max_symbol_ratio is None


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("crawl: {contact: someone@example.com}", "filter: {min_word: 3}\n  crawl: {contact: a@b.c}", "r.yaml:5: corpus.filter has no `min_word`; did you mean `min_words`?"),
        ("crawl: {contact: someone@example.com}", "decontaminate: {action: burn}\n  crawl: {contact: a@b.c}", "r.yaml:5: corpus.decontaminate: decontaminate: action 'burn' is neither"),
        ("tokenizers:", "tokenizer:", "r.yaml:6: a recipe has no `tokenizer`; did you mean `tokenizers`?"),
        ("kind: urls, path: urls.txt", "kind: urls, paht: urls.txt", "r.yaml:4: corpus.sources.0 has no `paht`; did you mean `path`?"),
        ("kind: urls, path: urls.txt", "kind: url, path: urls.txt", "r.yaml:4: corpus.sources.0.kind must be one of submissions, urls, sitemap, feed, site, warc, documents"),
        ("urls.txt", "gone.txt", "r.yaml:4: corpus.sources.0.path: there is no file"),
        ("vocab: 500", "vocab: many", "r.yaml:7: tokenizers.pieces.vocab: it must be a valid integer"),
        ("vocab: 500", "vocab: 2", "r.yaml:7: tokenizers.pieces: tokenizer: vocab 2"),
        ("tokenizer: pieces", "tokenizer: peaces", "r.yaml:9: models.bert.tokenizer: there is no tokenizer `peaces`; did you mean `pieces`?"),
        ("teacher: bert", "teacher: brt", "r.yaml:11: students.half.teacher: there is no model `brt`; did you mean `bert`?"),
        ("teacher: bert", "teacher: bert, method: distilbart", "r.yaml:11: students.half: no method is called 'distilbart'"),
        ("teacher: bert", "teacher: bert, tokens: -5", "r.yaml:11: students.half: distill.tokens is -5"),
        ("[bert, half]", "[bert, halve]", "r.yaml:13: tasks.mood names no model of this recipe with `halve`; did you mean `half`?"),
        ("  half:", "  bert:", "r.yaml:11: students.bert: a model has this name already"),
        ("name: links", "name: Big Links", "r.yaml:1: name: a name is made of lower-case letters"),
        ("train: t.tsv", "train: site:task/train.tsv", "r.yaml:13: tasks.mood.train: site:task/train.tsv needs a `site` section"),
        ("  crawl: {contact: someone@example.com}\n", "", "r.yaml:2: corpus.crawl is missing"),
        ("  crawl: {contact: someone@example.com}", "  crawl: {}", "r.yaml:5: corpus.crawl.contact is missing"),
        ("students:", "seed: 1\nseed: 2\nstudents:", "r.yaml:11: `seed` is given twice (first in line 10)"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(links: Path, old: str, new: str, line: str) -> None:
    told = problems(change(links, old, new))
    assert any(one.startswith(line) for one in told), told


def test_a_tokenizer_without_a_model_is_trained_and_measured(links: Path) -> None:
    told = asked(recipes.load(str(links), ("tokenizers.spare.kind=wordpiece",)).recipe)
    assert {"tokenizer spare", "encode spare"} <= set(told)


def test_a_recipe_of_tokenizers_alone_needs_no_models(links: Path) -> None:
    said = yaml.safe_load(links.read_text())
    alone = {key: said[key] for key in ("name", "corpus", "tokenizers")}
    links.write_text(yaml.safe_dump(alone))
    assert list(asked(recipes.load(str(links)).recipe))[-2:] == ["tokenizer pieces", "encode pieces"]


def test_controls_are_models_that_tasks_may_name(links: Path) -> None:
    told = asked(recipes.load(str(links), ("tasks.mood.models=[half, half-control]",)).recipe)
    by_control = next(one for label, one in told.items() if label.endswith(" half-control") and one[0] == "finetune")
    assert by_control[2]["model"] == "half-control"


def test_every_model_student_and_task_may_have_a_seed_of_its_own(links: Path) -> None:
    seeds = ("seed=3", "models.bert.pretrain.seed=7", "students.half.seed=8", "tasks.mood.seed=9")
    told = asked(recipes.load(str(links), seeds).recipe)
    assert (told["bert"][1].seed, told["half"][1].seed, told["half-control"][1].seed) == (7, 8, 8)
    assert {one[1].seed for one in told.values() if one[0] == "finetune"} == {9}
    assert {one[1].seed for one in told.values() if one[0] == "pairs"} == {3}, "what several models read has the recipe's"
    usual = asked(recipes.load(str(links), seeds[:1]).recipe)
    assert {one[1].seed for one in usual.values() if one[0] in ("pretrain", "distill", "finetune")} == {3}


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(links: Path) -> None:
    for old, new in (
        ("urls.txt", "gone.txt"),
        ("vocab: 500", "vocabulary: 500"),
        ("tokenizer: pieces", "tokenizer: peaces"),
        ("half]", "hlf]"),
    ):
        change(links, old, new)
    told = problems(links)
    assert [one.split(": ")[0] for one in told] == ["r.yaml:4", "r.yaml:7", "r.yaml:9", "r.yaml:13"]


def test_set_goes_through_the_same_checks(links: Path) -> None:
    assert recipes.load(str(links), ("students.half.tokens=1e6",)).recipe.students["half"].tokens == 1_000_000  # type: ignore[attr-defined]
    assert problems(links, "corpus.filter.min_word=3")[0] == (
        "--set corpus.filter.min_word=3: corpus.filter has no `min_word`; did you mean `min_words`?"
    )
    assert "valid integer" in problems(links, "corpus.filter.min_words=1.5")[0]


def test_no_is_a_language_and_6e_4_is_a_number(links: Path) -> None:
    recipe = recipes.load(str(links), ("corpus.filter.languages=[no, en]", "students.half.lr=6e-4", "students.half.control=no")).recipe
    assert recipe.corpus.filter.languages == ("no", "en")
    assert recipe.students["half"].lr == 6e-4 and recipe.students["half"].control is False  # type: ignore[attr-defined]


def test_an_unknown_recipe_names_those_that_ship() -> None:
    with pytest.raises(ConfigError, match="did you mean `demo`"):
        recipes.load("demmo")


def test_the_recipes_that_ship_are_good(links: Path) -> None:
    for name in recipes.builtin_recipes():
        assert recipes.load(name, () if name == "demo" else (f"corpus.sources.0.path={links}",)).builtin


def test_reading_a_recipe_imports_nothing_heavy(links: Path) -> None:
    code = "import sys; from pipelines import recipe; recipe.load(sys.argv[1]); print(sorted({'torch','ray','prefect','deepspeed'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code, str(links)], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("models.bert.family=brt", "models.bert: there is no family `brt`; did you mean `bert`?"),
        ("models.bert.size=minni", "models.bert: "),
        ("models.bert.pretrain.overrides={width: 770}", "models.bert: width 770 is not a multiple of heads"),
        ("models.bert.pretrain.overrides={widht: 64}", "models.bert: pretrain.overrides has no field `widht`; did you mean `width`?"),
        ("models.bert.pretrain.length=4096", "models.bert: pretrain.length 4096 is more than bert/mini's"),
        ("resources.ranks=9999", "models.bert: pretrain.batch_tokens"),
        ("tokenizers.pieces.kind=byte_bpe", "models.bert: bert learns by masks"),
        ("students.half.layers=99", "students.half: "),
        ("students.half.method=distilgpt2", "students.half: distilgpt2 is for gpt2 teachers"),
    ],
)
def test_a_size_that_cannot_be_is_told_before_any_work(links: Path, setting: str, told: str) -> None:

    with pytest.raises(ConfigError) as caught:
        plan_checks.check(recipes.load(str(links), (setting,)))
    assert told in str(caught.value)
