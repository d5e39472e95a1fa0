"""From a recipe over real texts to models fed by packing, mixture, curriculum and blocks of sentences; each step traced to its pages."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep import shards
from data_prep.tokenizer.catalog import load as tokenizer_of
from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.store import Store
from pipelines import chain, plan_checks
from pipelines.recipe import load
from pipelines.rundir import RunDir
from pipelines.runner import plainly, recorded
from pipelines.trace import _config, trace
from tests.training.small import Here
from training.card import read_card
from training.engine.measure import read
from training.feed.batch import IGNORE
from training.pretrain import PRETRAIN, make_feed
from training.pretrain_config import PretrainConfig

RECIPE = """\
name: fed
corpus:
  sources:
    - {kind: documents, path: speeches.jsonl, shards: 2}
    - {kind: documents, path: films.jsonl, shards: 2}
  filter: {languages: [en], min_words: 20}
encode: {valid_share: 0.1}
tokenizers:
  pieces: {kind: wordpiece, vocab: 2000, lowercase: true}
  bytes: {kind: byte_bpe, vocab: 2000, specials: roberta}
models:
  bert:
    family: bert
    size: tiny
    tokenizer: pieces
    pretrain:
      {SHORT, packed: true, mixture: {"speeches*": 3, "films*": 1}, curriculum: [{share: 0.6, length: 32}, {share: 0.4, length: 64}]}
  paper: {family: bert, size: tiny, tokenizer: pieces, pretrain: {SHORT, curriculum: paper}}
  roberta: {family: roberta, size: tiny, tokenizer: bytes, blocks: {mode: doc_sentences}, pretrain: {SHORT, packed: true}}
  gpt:
    family: gpt2
    size: tiny
    tokenizer: bytes
    pretrain: {SHORT, documents_apart: true, restart_positions: true, mixture: {"films*": 1}, exhausted: stop, feed_workers: 1}
"""
SHORT = "tokens: 10_240, batch_tokens: 1024, length: 64, log_every: 1, lr: 1.0e-3, overrides: {width: 32, layers: 1}"
SOURCES = {"speeches": ("text/en/state-of-the-union.jsonl.gz", 12), "films": ("text/en/movie-reviews.jsonl.gz", 60)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Store, dict[str, Artifact]]:
    folder = tmp_path_factory.mktemp("fed")
    for name, (path, count) in SOURCES.items():
        with gzip.open(data / path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for _, line in zip(range(count), file, strict=False)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row["text"][:6000]}) + "\n" for row in rows))
    (folder / "fed.yaml").write_text(RECIPE.replace("SHORT", SHORT))
    loaded, store = load(str(folder / "fed.yaml")), Store(folder / "workspace" / "artifacts")
    plan_checks.check(loaded)
    run = RunDir.create(folder / "workspace", "fed", loaded.resolved, loaded.source, "abcdef")
    return store, chain.run(recorded(run, store, plainly(store, Here())), loaded.recipe, "pretrain")


def fed(store: Store, model: Artifact) -> tuple[PretrainConfig, dict[str, Artifact]]:
    inputs = {role: store.get(made["stage"], made["fingerprint"]) for role, made in model.manifest["inputs"].items()}
    return _config(PRETRAIN, PretrainConfig, model), inputs


def plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def spoken(engine: Any, batch: Any) -> list[str]:
    """What stands between control tokens, as text, nothing hidden."""
    tokens = batch.tokens_BL if "next" in batch.labels else batch.labels["mlm"].where(batch.labels["mlm"] != IGNORE, batch.tokens_BL)
    controls, found = set(engine.specials.values()), []
    for row in tokens.tolist():
        part: list[int] = []
        for number in [*row, min(controls)]:
            if number not in controls:
                part.append(number)
            elif part:
                found.append(plain(engine.decode(part).replace("##", "").strip("\ufffd")))
                part = []
    return [text for text in found if text]


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt"])
def test_the_text_of_a_step_is_in_the_documents_of_its_trace(made: tuple[Store, dict[str, Artifact]], name: str) -> None:
    store, artifacts = made
    config, inputs = fed(store, artifacts[name])
    feed, engine = make_feed(config, inputs, "train"), tokenizer_of(inputs["tokenizer"])
    texts = {row["id"]: plain(row["text"]) for path in artifacts["dedup"].shards for row in shards.read(path).to_pylist()}
    steps = (0, 5, 6, 9)  # the sixth is the first of bert's second part
    found = trace(store.root.parent, name, steps[0])  # what is imported is imported
    for step in steps:
        began = time.process_time()
        found = trace(store.root.parent, name, step)
        assert time.process_time() - began < 1
        known = [texts[row["id"]] for row in found["documents"]]
        said = spoken(engine, feed.slice(step, 0, 1))
        assert said and all(any(part in text for text in known) for part in said)
        if name == "bert":
            assert found["sequences"] == (32 if step < 6 else 16)


def test_a_mixture_holds_its_weights_and_rows_are_packed(made: tuple[Store, dict[str, Artifact]]) -> None:
    store, artifacts = made
    config, inputs = fed(store, artifacts["bert"])
    feed = make_feed(config, inputs, "train")
    side = {path.name: shards.read(path)["source"].to_pylist() for path in inputs["sentences"].side("documents")}
    for step in range(10):
        part, own = feed.part(step)
        plan = part._plan(*part.bounds(own))
        rows = feed_documents(part, plan)
        origins = [side[shard][row] for shard, row in rows]
        assert origins.count("speeches.jsonl") == 3 * origins.count("films.jsonl") == len(origins) * 3 // 4
        batch = feed.slice(step, 0, 1)
        assert len(batch) <= len(rows) and batch.parts_BL is not None
    config, inputs = fed(store, artifacts["gpt"])
    assert {side_of(inputs, *place) for step in range(10) for place in make_feed(config, inputs, "train").trace(step)} == {"films.jsonl"}


def side_of(inputs: dict[str, Artifact], shard: str, row: int) -> str:
    return str(shards.read(inputs["sentences"].path / "documents" / shard)["source"][row].as_py())


def feed_documents(part: Any, plan: Any) -> list[tuple[str, int]]:
    """The document of every pair's A, in the batch's order."""
    source = part.source
    return [(source._sentences.names[int(s)], int(d)) for s, d in
            zip(source._sentences.shard_of(plan["row"]), source._owner.at(plan["row"]), strict=True)]  # fmt: skip


def test_one_word_trains_as_the_paper_did_on_short_sequences_first(made: tuple[Store, dict[str, Artifact]]) -> None:
    """Nine steps of ten at a quarter of the length, the tokens of a step the same."""
    store, artifacts = made
    config, inputs = fed(store, artifacts["paper"])
    assert config.parts == ({"share": 0.9, "length": 16}, {"share": 0.1, "length": 64})
    feed = make_feed(config, inputs, "train")
    assert [feed.slice(step, 0, 1).tokens_BL.shape for step in (0, 8, 9)] == [(64, 16), (64, 16), (16, 64)]
    assert read_card(artifacts["paper"])["length"] == 64 and len(read(artifacts["paper"].file("metrics.jsonl"))) == 10


def test_a_family_without_such_a_curriculum_is_refused_with_the_recipe(tmp_path: Path) -> None:
    told = RECIPE.replace("SHORT", SHORT).replace("documents_apart: true, restart_positions: true", "curriculum: paper")
    (tmp_path / "fed.yaml").write_text(told)
    for name in SOURCES:
        (tmp_path / f"{name}.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"models.gpt: gpt2 was trained on sequences of one length"):
        plan_checks.check(load(str(tmp_path / "fed.yaml")))


@pytest.mark.parametrize(
    ("said", "mode"),
    [("blocks: {mode: doc_sentences},", "doc_sentences"), ("", "full_sentences"), ("blocks: {tail: pad},", "full_sentences")],
)
def test_text_is_cut_as_the_familys_paper_did_unless_the_recipe_says_otherwise(said: str, mode: str, tmp_path: Path) -> None:
    told = RECIPE.replace("SHORT", SHORT).replace("blocks: {mode: doc_sentences},", said)
    (tmp_path / "fed.yaml").write_text(told)
    for name in SOURCES:
        (tmp_path / f"{name}.jsonl").write_text("")
    models = load(str(tmp_path / "fed.yaml")).recipe.models
    assert (chain.blocks_mode(models["roberta"]), chain.blocks_mode(models["gpt"])) == (mode, "stream")


def test_the_curves_and_cards_are_those_of_any_training(made: tuple[Store, dict[str, Artifact]]) -> None:
    _, artifacts = made
    for name in ("bert", "roberta", "gpt"):
        lines, card = read(artifacts[name].file("metrics.jsonl")), read_card(artifacts[name])
        assert [line["step"] for line in lines] == list(range(10)) and card["steps"] == 10
        assert lines[-1]["valid_loss"] < lines[0]["loss"]
        assert card["length"] == 64
