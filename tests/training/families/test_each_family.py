"""Every family through pretraining, evaluation, fine-tuning and export, and the exports through transformers' Auto classes.

One corpus; one tokenizer of each kind; models of two layers. transformers and scikit-learn recompute the figures.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from infra.artifact import SEAL, Artifact, SourceFile, seal
from infra.stage import run
from tests.training.families.test_pretrain_each import AUTO, PAPER, Data, config_of
from tests.training.small import LENGTH, Here
from training.card import read_card
from training.evaluate import EVALUATE, EvaluateConfig
from training.families.catalog import FAMILIES, family, load
from training.feed.batch import IGNORE, Batch
from training.feed.loader import Feed
from training.finetune import FINETUNE, FinetuneConfig, make_feed
from training.pretrain import PRETRAIN
from training.pretrain import make_feed as pretraining_feed
from training.tasks.task import Columns, read_examples

EVERY = [*FAMILIES, "gpt3-banded"]
BAND = 5
SCORING = EvaluateConfig(batch=8, samples=20, seed=2)
CLOSE = {"atol": 1e-5, "rtol": 0.0}


def trained(name: str, data: Data) -> tuple[dict[str, Artifact], Artifact, Any]:
    """Inputs, model and config of a short pretraining; the second call finds the artifact."""
    found = name.partition("-")[0]
    config = config_of(found, steps=6, lr=5e-3, valid_batches=0, warmup=1, optimiser="adamw")
    config.overrides.update({"init_std": 0.05} | ({"band": BAND} if name != found else {}))
    return data(found), run(PRETRAIN, config, data(found), data.store, Here()), config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceFile]:
    rows = [f"The {'river' if i % 2 else 'cat'} sees the home{' and the music' * (i % 3)}.\t{'wet' if i % 2 else 'dry'}" for i in range(24)]
    folder = tmp_path_factory.mktemp("task")
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return {name: SourceFile.of(folder / f"{name}.tsv") for name in ("train", "dev")}


@pytest.fixture(autouse=True)
def modules_of_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of exports that transformers copies, in the test's own directory."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def opened(auto: str, folder: Path) -> Any:
    """The export by an Auto class, with every tensor in its place."""
    theirs, report = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    return theirs.eval().requires_grad_(False)


def given(theirs: Any, batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as the library's models take it."""
    inputs = {"input_ids": batch.tokens_BL}
    if batch.keep_BL is not None:
        inputs["attention_mask"] = batch.keep_BL.long()
    if batch.segments_BL is not None and getattr(theirs.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = batch.segments_BL
    return inputs


def batches(feed: Feed) -> Iterator[Batch]:
    for step in range(feed.steps_per_epoch):
        yield feed.slice(step, 0, 1)


def scores(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artifact.file("scores.json").read_text())["scores"]
    return found


@pytest.mark.parametrize("name", EVERY)
def test_evaluation_is_what_transformers_computes_from_the_export(name: str, data: Data) -> None:
    """Loss and accuracy of the language head over the whole validation set; for ELECTRA of the generator in its own directory."""
    inputs, model, config = trained(name, data)
    found, card = family(config.family), read_card(model)
    score = scores(run(EVALUATE, SCORING, {"model": model, **inputs}, data.store, Here()))
    folder = model.path / "model" / ("generator" if "rtd" in found.heads else "")
    label = found.objective.partition("+")[0]
    auto = "AutoModelForPreTraining" if name in PAPER and "rtd" not in found.heads else AUTO[label]
    theirs, nats, right, count = opened(auto, folder), 0.0, 0, 0
    for batch in batches(pretraining_feed(config, inputs, "valid")):
        out = theirs(**given(theirs, batch))
        at_BL = batch.labels[label] != IGNORE
        logits_NV, gold_N = (out.logits if hasattr(out, "logits") else out.prediction_logits)[at_BL], batch.labels[label][at_BL]
        nats += float(F.cross_entropy(logits_NV, gold_N, reduction="sum"))
        right, count = right + int((logits_NV.argmax(-1) == gold_N).sum()), count + len(gold_N)
    assert score["predicted"] == count
    assert score["loss"]["value"] == pytest.approx(nats / count, abs=1e-4)
    assert score["accuracy"]["value"] == pytest.approx(right / count, abs=1e-6)
    assert score["loss"]["value"] == pytest.approx(card["valid_parts"][label], abs=1e-4), "training's own validation says the same"


def test_the_discriminator_is_scored_on_every_real_token_as_scikit_learn_scores_it(data: Data) -> None:
    inputs, model, config = trained("electra", data)
    score = scores(run(EVALUATE, SCORING, {"model": model, **inputs}, data.store, Here()))["discriminator"]
    whole, theirs = load(model.path / "model").eval().requires_grad_(False), opened("AutoModelForPreTraining", model.path / "model")
    assert type(theirs).__name__ == "ElectraForPreTraining"
    doubts, labels, nats = [], [], 0.0
    for batch in batches(pretraining_feed(config, inputs, "valid")):
        chosen_BL = batch.labels["mlm"] != IGNORE
        sampled_N = whole.sample(whole.language_logits(batch, chosen_BL).float(), batch)
        original_BL = torch.where(chosen_BL, batch.labels["mlm"], batch.tokens_BL)
        filled_BL = original_BL.masked_scatter(chosen_BL, sampled_N)
        logits_BL = theirs(**{**given(theirs, batch), "input_ids": filled_BL}).logits
        doubts.append(logits_BL[batch.keep_BL])
        labels.append((filled_BL != original_BL)[batch.keep_BL])
        nats += float(F.binary_cross_entropy_with_logits(doubts[-1], labels[-1].float(), reduction="sum"))
    doubt, label = torch.cat(doubts).numpy(), torch.cat(labels).numpy()
    assert 0 < label.sum() < len(label) == score["tokens"]
    assert score["replaced_frac"] == pytest.approx(label.mean(), abs=1e-6)
    assert score["loss"]["value"] == pytest.approx(nats / len(label), abs=1e-4)
    assert score["loss"]["value"] == pytest.approx(read_card(model)["valid_parts"]["rtd"], abs=1e-4)
    assert score["accuracy"]["value"] == pytest.approx(accuracy_score(label, doubt > 0), abs=1e-6)
    assert score["f1"]["value"] == pytest.approx(f1_score(label, doubt > 0, zero_division=0.0), abs=1e-6)
    assert score["auc"]["value"] == pytest.approx(roc_auc_score(label, doubt), abs=1e-4), "rounding may swap two nearly equal scores"
    assert score["auc"]["low"] <= score["auc"]["value"] <= score["auc"]["high"] and score["auc"]["low"] < score["auc"]["high"]
    always = {"accuracy": accuracy_score(label, np.zeros_like(label)), "f1": f1_score(label, np.zeros_like(label), zero_division=0.0)}
    assert score["baseline"] == pytest.approx({"loss": _coin(label.mean()), "auc": 0.5, **always}, abs=1e-6)


def _coin(rate: float) -> float:
    return float(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))


def test_a_generator_as_wide_as_its_discriminator_is_not_mistaken_for_it(data: Data) -> None:
    """With equal shapes the discriminator's hidden states fit the generator's head: the figure would be a number, and wrong."""
    inputs = data("electra")
    config = config_of("electra", steps=6, lr=5e-3, valid_batches=0, warmup=1)
    config.overrides.update({"generator": 1.0, "init_std": 0.05})
    model = run(PRETRAIN, config, inputs, data.store, Here())
    score = scores(run(EVALUATE, SCORING, {"model": model, **inputs}, data.store, Here()))
    assert score["loss"]["value"] == pytest.approx(read_card(model)["valid_parts"]["mlm"], abs=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_a_fine_tuned_export_answers_as_the_evaluation_says(name: str, data: Data, task: dict[str, SourceFile]) -> None:
    inputs, model, _ = trained(name, data)
    tokenizer = inputs["tokenizer"]
    tuning = FinetuneConfig(task["train"], task["dev"], epochs=4, batch=8, length=LENGTH, lr=3e-3, samples=20)
    tuned = run(FINETUNE, tuning, {"model": model, "tokenizer": tokenizer}, data.store, Here())
    scoring = EvaluateConfig("task", dev=task["dev"], samples=20)
    score = scores(run(EVALUATE, scoring, {"model": tuned, "tokenizer": tokenizer}, data.store, Here()))
    theirs, ours = (
        opened("AutoModelForSequenceClassification", tuned.path / "model"),
        load(tuned.path / "model").eval().requires_grad_(False),
    )
    assert theirs.config.id2label == {0: "dry", 1: "wet"}
    rows = read_examples(task["dev"], Columns())
    feed = make_feed(rows, ["dry", "wet"], tuned, tokenizer, batch=8, length=LENGTH, seed=0, shuffle=False)
    gold, said = [], []
    for batch in batches(feed):
        logits = theirs(**given(theirs, batch)).logits
        torch.testing.assert_close(ours.head("class").logits(ours.hidden(batch)), logits, **CLOSE)
        gold, said = gold + batch.labels["class"].tolist(), said + logits.argmax(-1).tolist()
    assert len(gold) == 24 and score["accuracy"]["value"] == pytest.approx(accuracy_score(gold, said), abs=1e-6)
    bare = transformers.AutoModel.from_pretrained(tuned.path / "model", trust_remote_code=True)
    hidden = bare.eval().requires_grad_(False)(**given(theirs, batch)).last_hidden_state
    torch.testing.assert_close(ours.hidden(batch).last_BLD[batch.keep_BL], hidden[batch.keep_BL], **CLOSE)


def test_a_discriminator_without_its_generator_is_reported_and_not_scored(data: Data) -> None:
    """An imported ELECTRA has no generator: nothing can be sampled, and its vocabulary scores do not exist."""
    inputs, model, _ = trained("electra", data)
    alone = data.store.root / "alone" / model.fingerprint
    shutil.copytree(model.path, alone)
    shutil.rmtree(alone / "model" / "generator")
    manifest = json.loads((alone / "manifest.json").read_text())
    manifest["shards"] = [entry for entry in manifest["shards"] if "generator" not in entry["name"]]
    (alone / "manifest.json").write_text(json.dumps(manifest | {SEAL: seal(manifest)}))
    made = run(EVALUATE, SCORING, {"model": Artifact("pretrain", "alone", alone), **inputs}, data.store, Here())
    assert scores(made) == {} and made.counts["predicted"] == 0
    assert "no head that predicts tokens" in json.loads(made.file("scores.json").read_text())["skipped"]
