"""A pretrained model learns a task, every kind of body the same way, and leaves as transformers wants it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError, StageFailed
from infra.log import attach
from infra.stage import run
from infra.store import Store
from tests.training.small import Here, model, prepared, sentence, texts
from training.card import read_card
from training.families import catalog
from training.finetune import FINETUNE, FinetuneConfig, make_feed, make_tower, read_both

FAMILIES = {"bert": False, "distilbert": False, "gpt2": True}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def write(path: Path, rows: int, seed: int, extra: str = "") -> SourceFile:
    """Sentences about the river against all others: one word decides."""
    rng = random.Random(seed)
    lines = [(text, "wet" if "river" in text else "dry") for text in (sentence(rng) for _ in range(rows * 5))]
    wet = [line for line in lines if line[1] == "wet"][: rows // 2]
    kept = wet + [line for line in lines if line[1] == "dry"][: rows - len(wet)]
    rng.shuffle(kept)
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in kept) + extra)
    return SourceFile.of(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    folder = tmp_path_factory.mktemp("task")
    train, dev = write(folder / "train.tsv", 120, 1, extra="torn line\n"), write(folder / "dev.tsv", 40, 2)
    return FinetuneConfig(train, dev, epochs=4, batch=16, length=16, lr=3e-3, log_every=5, samples=200)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def inputs(request: pytest.FixtureRequest, store: Store) -> dict[str, Artifact]:
    data = prepared(store, FAMILIES[request.param])
    segments = {"bert": {}, "distilbert": {"segments": 0}, "gpt2": {}}[request.param]
    return {"model": model(store, request.param, data, layers=2, **segments), "tokenizer": data["tokenizer"]}


@pytest.fixture(scope="module")
def tuned(config: FinetuneConfig, inputs: dict[str, Artifact], store: Store) -> Artifact:
    return run(FINETUNE, config, inputs, store, Here())


def test_a_word_that_decides_is_learnt(tuned: Artifact, config: FinetuneConfig) -> None:
    card = read_card(tuned)
    assert card["labels"] == ["dry", "wet"]
    assert card["dev"]["accuracy"]["value"] >= 0.9 > card["dev"]["majority"] == 0.5
    assert card["steps"] == config.steps(120) == 30
    assert card["corrupt"] == {"dev": {}, "train": {"columns": 1}} and tuned.counts["corrupt.train"] == 1


def test_transformers_gives_our_logits_for_every_padded_length(
    tuned: Artifact, inputs: dict[str, Artifact], config: FinetuneConfig
) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tuned.path / "model").eval()
    ours = catalog.load(tuned.path / "model").eval()
    _, dev, labels = read_both(config)
    assert theirs.config.id2label == {0: "dry", 1: "wet"}
    together = make_feed(dev, labels, inputs["model"], inputs["tokenizer"], batch=40, length=16, seed=0, shuffle=False).slice(0, 0, 1)
    alone = make_feed(dev, labels, inputs["model"], inputs["tokenizer"], batch=1, length=16, seed=0, shuffle=False)
    with torch.no_grad():
        said = ours.head("class").logits(ours.hidden(together))
        wanted = theirs(input_ids=together.tokens_BL, attention_mask=together.keep_BL.long()).logits
        torch.testing.assert_close(said, wanted, atol=1e-5, rtol=0)
        for row in range(5):
            one = alone.slice(row, 0, 1)
            torch.testing.assert_close(ours.head("class").logits(ours.hidden(one))[0], said[row], atol=1e-5, rtol=0)


def test_a_users_pipeline_answers_as_we_do(tuned: Artifact, inputs: dict[str, Artifact], config: FinetuneConfig) -> None:
    """Text goes through the exported tokenizer, not ours: frame and reading place must be the same."""
    _, dev, labels = read_both(config)
    feed = make_feed(dev, labels, inputs["model"], inputs["tokenizer"], batch=16, length=16, seed=0, shuffle=False)
    ours = catalog.load(tuned.path / "model").eval()
    with torch.no_grad():
        scores = ours.head("class").logits(ours.hidden(feed.slice(0, 0, 1))).softmax(-1)
    answers = transformers.pipeline("text-classification", model=str(tuned.path / "model"))([row.text for row in dev.rows[:16]])
    assert [answer["label"] for answer in answers] == [labels[int(row.argmax())] for row in scores]
    assert [answer["score"] for answer in answers] == pytest.approx(scores.max(-1).values.tolist(), abs=1e-5)


def test_a_pretrained_pooler_goes_on_and_scratch_keeps_nothing(inputs: dict[str, Artifact], config: FinetuneConfig) -> None:
    before = catalog.load(inputs["model"].path / "model")
    tuned, scratch = make_tower(config, inputs["model"], 2), make_tower(replace(config, from_scratch=True), inputs["model"], 2)
    for name, value in tuned.backbone.state_dict().items():
        assert torch.equal(value, before.backbone.state_dict()[name])
    weight = "embedding.token.weight"
    assert not torch.equal(scratch.backbone.state_dict()[weight], tuned.backbone.state_dict()[weight])
    assert scratch.config == tuned.config
    if any(head.name == "pair" for head in before.heads):
        assert torch.equal(tuned.heads[0].pool.weight, before.head("pair").pool.weight)


def test_two_processes_make_the_model_of_one(config: FinetuneConfig, store: Store, tmp_path: Path) -> None:
    data = prepared(store, causal=False)
    inputs = {"model": model(store, "bert", data, layers=2), "tokenizer": data["tokenizer"]}
    calm = replace(config, epochs=1, lr=1e-4)
    one = run(FINETUNE, calm, inputs, store, Here())
    two = run(FINETUNE, replace(calm, zero=2), inputs, Store(tmp_path), LocalCompute(ranks=2))
    assert one.fingerprint == two.fingerprint and one.path != two.path
    ours, theirs = (catalog.load(a.path / "model").state_dict() for a in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-3, rtol=0, msg=name)


def test_pairs_of_texts_are_learnt_with_their_segments(store: Store, tmp_path: Path) -> None:
    """The same words on both labels: only which text they are in decides."""
    rows = ["The cat sees\tThe bird sees\tcat first", "The bird sees\tThe cat sees\tbird first"] * 16
    (tmp_path / "pairs.tsv").write_text("\n".join(["one\ttwo\tgold", *rows]) + "\n")
    source = SourceFile.of(tmp_path / "pairs.tsv")
    data = prepared(store, causal=False)
    inputs = {"model": model(store, "bert", data, layers=2), "tokenizer": data["tokenizer"]}
    config = FinetuneConfig(source, source, text="one", pair="two", label="gold", epochs=15, batch=16, length=16, lr=3e-3, samples=50)
    tuned = run(FINETUNE, config, inputs, store, Here())
    assert read_card(tuned)["dev"]["accuracy"]["value"] == 1.0
    examples, _, labels = read_both(config)
    batch = make_feed(examples, labels, inputs["model"], inputs["tokenizer"], batch=4, length=16, seed=0, shuffle=False).slice(0, 0, 1)
    assert set(batch.segments_BL.unique().tolist()) == {0, 1}


def test_bad_rows_are_told_once_a_file(config: FinetuneConfig, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    end = attach(lambda event: told.append(event) if event["kind"] == "warning" else None)
    short = replace(config, epochs=0.2)
    run(FINETUNE, short, inputs, Store(tmp_path), Here())
    end()
    found = [event["message"] for event in told if "skipped" in str(event["message"])]
    assert found == ["finetune: 1 of 121 rows of train are skipped: 1 columns (line 122)"]


def test_what_cannot_be_trained_is_refused(config: FinetuneConfig, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than the model's 32 positions"):
        run(FINETUNE, replace(config, length=64), inputs, Store(tmp_path), Here())
    with pytest.raises(ConfigError, match="finetune.lr"):
        replace(config, lr=0.0)
    with pytest.raises(ConfigError, match="no task is called"):
        replace(config, task="parse")
    other = prepared(
        Store(tmp_path), catalog.load(inputs["model"].path / "model").config.causal, rows=[t.replace("cat", "cow") for t in texts()]
    )
    with pytest.raises((ArtifactError, StageFailed), match="tokenizer"):
        run(FINETUNE, config, {**inputs, "tokenizer": other["tokenizer"]}, Store(tmp_path), Here())
