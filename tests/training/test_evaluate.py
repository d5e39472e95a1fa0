"""Scores are what they say: checked against sums written out by hand, and the same in every run."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_prep import shards
from data_prep.tokenizer.catalog import meta
from distill.distill import DISTILL, DistillConfig
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError
from infra.stage import run
from infra.store import Store
from tests.training.small import LENGTH, Here, model, prepared, texts
from training.evaluate import EVALUATE, EvaluateConfig
from training.evaluation.language import unigram
from training.families import catalog
from training.feed.batch import IGNORE
from training.feed.loader import FeedConfig, open_feed
from training.finetune import FINETUNE, FinetuneConfig

CONFIG = EvaluateConfig(batch=8, samples=200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def gpt(store: Store) -> dict[str, Artifact]:
    data = prepared(store, causal=True)
    return data | {"model": model(store, "gpt2", data, steps=60, lr=1e-2)}


@pytest.fixture(scope="module")
def bert(store: Store) -> dict[str, Artifact]:
    data = prepared(store, causal=False)
    return data | {"model": model(store, "bert", data, steps=60, lr=1e-2)}


def scores(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artifact.file("scores.json").read_text())
    return found


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_the_loss_is_the_mean_over_every_held_out_prediction(family: str, request: pytest.FixtureRequest, store: Store) -> None:
    inputs = request.getfixturevalue(family)
    record = scores(run(EVALUATE, CONFIG, inputs, store, Here()))
    objective, label = ("next", "next") if family == "gpt" else ("mlm+nsp", "mlm")
    feed = open_feed(inputs["examples"], inputs["sentences"], inputs["tokenizer"], FeedConfig(64, LENGTH, 1, objective), "valid")
    tower = catalog.load(inputs["model"].path / "model").eval()
    nats = count = 0.0
    for step in range(feed.steps_per_epoch):
        batch = feed.slice(step, 0, 1)
        with torch.no_grad():
            logits = tower.language_logits(batch)
        nats += float(F.cross_entropy(logits.flatten(0, 1), batch.labels[label].flatten(), ignore_index=IGNORE, reduction="sum"))
        count += int((batch.labels[label] != IGNORE).sum())
    assert record["objective"] == objective
    assert record["scores"]["predicted"] == count
    assert record["scores"]["loss"]["value"] == pytest.approx(nats / count, abs=1e-4)
    assert record["scores"]["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert record["scores"]["loss"]["low"] < record["scores"]["loss"]["value"] < record["scores"]["loss"]["high"]
    assert record["scores"]["below_unigram"] > 0.2  # 60 steps teach more than frequencies
    if family == "bert":
        assert 0.0 <= record["scores"]["pair_accuracy"]["value"] <= 1.0


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_the_unigram_is_every_training_token_counted_once_plus_one(family: str, request: pytest.FixtureRequest) -> None:
    inputs = request.getfixturevalue(family)
    vocab = meta(inputs["tokenizer"]).vocab
    counted: Counter[int] = Counter()
    if family == "gpt":
        for shard in inputs["examples"].shards:
            for row in shards.read(shard)["tokens"].to_pylist():
                counted.update(row)
    else:
        for shard in inputs["sentences"].shards:
            side = shards.read(shard.parent / "documents" / shard.name)["split"].to_pylist()
            table = shards.read(shard)
            for document, row in zip(table["document"].to_pylist(), table["tokens"].to_pylist(), strict=True):
                counted.update(row if side[document] == "train" else [])
    total = sum(counted.values()) + vocab
    expected = [math.log((counted[token] + 1) / total) for token in range(vocab)]
    assert unigram(inputs["examples"], inputs["sentences"], vocab) == pytest.approx(expected)


def test_bits_per_byte_count_the_bytes_of_the_held_out_text(gpt: dict[str, Artifact], store: Store) -> None:
    record = scores(run(EVALUATE, CONFIG, gpt, store, Here()))
    side = [row for path in gpt["sentences"].side("documents") for row in shards.read(path).to_pylist() if row["split"] == "valid"]
    per_byte = sum(row["tokens"] + 1 for row in side) / sum(row["bytes"] for row in side)
    assert record["scores"]["bits_per_byte"]["value"] == pytest.approx(record["scores"]["loss"]["value"] * per_byte / math.log(2), abs=1e-4)
    assert {row["bytes"] for row in side} <= {len(text.encode()) for text in texts()}


def test_scores_are_the_same_bytes_in_this_process_and_in_a_gang(bert: dict[str, Artifact], store: Store, tmp_path: Path) -> None:
    small = replace(CONFIG, batches=2)
    here, there = run(EVALUATE, small, bert, store, Here()), run(EVALUATE, small, bert, Store(tmp_path), LocalCompute(ranks=2))
    assert here.file("scores.json").read_bytes() == there.file("scores.json").read_bytes()


def test_a_batch_of_another_size_gives_the_same_loss(gpt: dict[str, Artifact], store: Store) -> None:
    one, other = (scores(run(EVALUATE, replace(CONFIG, batch=b), gpt, store, Here()))["scores"] for b in (3, 16))
    assert one["loss"]["value"] == pytest.approx(other["loss"]["value"], abs=1e-5)
    assert one["predicted"] == other["predicted"]


def test_a_student_is_compared_with_its_teacher_on_the_same_places(bert: dict[str, Artifact], store: Store) -> None:
    data = {name: bert[name] for name in ("examples", "sentences", "tokenizer")}
    lesson = DistillConfig(tokens=20 * 8 * LENGTH, batch_tokens=8 * LENGTH, length=LENGTH, lr=2e-3)
    student, control = (
        run(DISTILL, replace(lesson, control=alone), data | {"teacher": bert["model"]}, store, Here()) for alone in (False, True)
    )
    inputs = data | {"teacher": bert["model"], "student": student, "control": control}
    record = scores(run(EVALUATE, replace(CONFIG, kind="compare"), inputs, store, Here()))
    teacher, taught, alone = (record["scores"][name] for name in ("teacher", "student", "control"))
    assert "kl" not in teacher and taught["kl"]["value"] > 0 and 0 < taught["agreement"]["value"] <= 1
    assert teacher["predicted"] == taught["predicted"] == alone["predicted"]
    gap = record["minus_control"]["student"]
    assert gap["kl"]["value"] == pytest.approx(taught["kl"]["value"] - alone["kl"]["value"], abs=1e-5)
    base = record["scores"]["unigram"]["loss"]["value"]
    kept = (base - taught["loss"]["value"]) / (base - teacher["loss"]["value"])
    assert taught["gain_kept"]["value"] == pytest.approx(kept, abs=1e-3)
    assert taught["parameters_kept"] == pytest.approx(student.counts["parameters"] / record["models"]["teacher"]["parameters"], abs=1e-6)
    assert record["models"]["control"]["control"] and not record["models"]["student"]["control"]


def test_a_model_against_itself_agrees_and_has_no_distance(gpt: dict[str, Artifact], store: Store) -> None:
    data = {name: gpt[name] for name in ("examples", "sentences", "tokenizer")}
    record = scores(run(EVALUATE, replace(CONFIG, kind="compare"), data | {"teacher": gpt["model"], "twin": gpt["model"]}, store, Here()))
    twin = record["scores"]["twin"]
    assert twin["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert twin["agreement"]["value"] == twin["gain_kept"]["value"] == twin["accuracy_kept"] == 1.0


def test_a_task_is_scored_on_its_dev_file_as_finetune_scored_it(bert: dict[str, Artifact], store: Store, tmp_path: Path) -> None:
    lines = [f"{'The river sees the home.' if i % 2 else 'The cat likes the water.'}\t{'wet' if i % 2 else 'dry'}" for i in range(32)]
    for name, extra in (("train.tsv", []), ("dev.tsv", ["The dog sees the light.\tfur", "\tdry"])):
        (tmp_path / name).write_text("\n".join(["text\tlabel", *lines, *extra]) + "\n")
    train, dev = SourceFile.of(tmp_path / "train.tsv"), SourceFile.of(tmp_path / "dev.tsv")
    tuning = FinetuneConfig(train, dev, epochs=6, batch=8, length=16, lr=3e-3, samples=200)
    tuned = run(FINETUNE, tuning, {"model": bert["model"], "tokenizer": bert["tokenizer"]}, store, Here())
    scored = run(EVALUATE, EvaluateConfig("task", dev=dev, samples=200), {"model": tuned, "tokenizer": bert["tokenizer"]}, store, Here())
    record, card = scores(scored), json.loads(tuned.file("card.json").read_text())
    assert record["scores"] == card["dev"] and record["scores"]["accuracy"]["value"] == round(32 / 33, 6)
    assert (record["corrupt"], record["scores"]["unknown_labels"]) == ({"text": 1}, 1)
    assert record["files"]["dev"]["unknown_labels"] == {"fur": 1} and record["files"]["dev"]["labels"] == {"dry": 16, "fur": 1, "wet": 16}
    assert scored.counts == {"read": 34, "kept": 33, "unknown_labels": 1, "set_aside.text": 1}
    assert card["files"]["train"] == {
        "rows": 32,
        "labels": {"dry": 16, "wet": 16},
        "quarantined": {},
        "unknown_labels": {},
        "duplicate_ids": 0,
    }
    assert card["files"]["dev"]["quarantined"] == {"text": {"rows": 1, "lines": [35]}}


def test_what_cannot_be_measured_is_refused(gpt: dict[str, Artifact], bert: dict[str, Artifact], store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of language, compare, task"):
        EvaluateConfig("speed")
    with pytest.raises(ConfigError, match="a dev file belongs to kind"):
        EvaluateConfig("task")
    with pytest.raises(ConfigError, match="needs the input model"):
        run(EVALUATE, CONFIG, {"tokenizer": gpt["tokenizer"]}, store, Here())
    with pytest.raises(ConfigError, match="beside the teacher"):
        run(EVALUATE, replace(CONFIG, kind="compare"), {"teacher": gpt["model"], "tokenizer": gpt["tokenizer"]}, store, Here())
    with pytest.raises(ArtifactError, match="was made with tokenizer"):
        run(EVALUATE, CONFIG, gpt | {"model": bert["model"]}, store, Here())
    (tmp_path / "dev.tsv").write_text("text\tlabel\na\tb\n")
    with pytest.raises(ConfigError, match="not fine-tuned"):
        config = EvaluateConfig("task", dev=SourceFile.of(tmp_path / "dev.tsv"))
        run(EVALUATE, config, {"model": gpt["model"], "tokenizer": gpt["tokenizer"]}, store, Here())


def test_a_distribution_that_was_counted_sums_to_one(gpt: dict[str, Artifact]) -> None:
    assert float(np.exp(unigram(gpt["examples"], gpt["sentences"], meta(gpt["tokenizer"]).vocab)).sum()) == pytest.approx(1.0)
