"""The stage from a teacher's artifact to a student that transformers loads, with its control and every refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from distill.distill import DISTILL, DistillConfig, make_feed
from distill.recipes import METHODS, check_teacher, method
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError
from infra.stage import run
from infra.store import Store
from tests.training.small import LENGTH, Here, model, prepared, texts
from training.card import read_card
from training.engine.measure import read
from training.families import catalog

CONFIG = DistillConfig(tokens=12 * 8 * LENGTH, batch_tokens=8 * LENGTH, length=LENGTH, micro_batch=4, log_every=1, save_every=5, lr=2e-3)
KINDS = {"distilbert": ("bert", False), "distilgpt2": ("gpt2", True)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", params=sorted(KINDS))
def lesson(request: pytest.FixtureRequest, store: Store) -> tuple[DistillConfig, dict[str, Artifact]]:
    family, causal = KINDS[request.param]
    data = prepared(store, causal)
    return replace(CONFIG, method=request.param), data | {"teacher": model(store, family, data, steps=40)}


@pytest.fixture(scope="module")
def student(lesson: tuple[DistillConfig, dict[str, Artifact]], store: Store) -> Artifact:
    return run(DISTILL, lesson[0], lesson[1], store, Here())


def test_a_student_loads_in_transformers_with_our_logits(student: Artifact, lesson: tuple[DistillConfig, dict[str, Artifact]]) -> None:
    causal = lesson[0].method == "distilgpt2"
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    theirs = kind.from_pretrained(student.path / "model").eval()
    ours = catalog.load(student.path / "model").eval()
    batch = make_feed(*lesson, "valid").slice(0, 0, 1)
    mask = None if batch.keep_BL is None else batch.keep_BL.long()
    with torch.no_grad():
        said, wanted = ours.language_logits(batch), theirs(input_ids=batch.tokens_BL, attention_mask=mask).logits
    real = torch.ones_like(batch.tokens_BL, dtype=torch.bool) if mask is None else batch.keep_BL
    torch.testing.assert_close(said[real], wanted[real], atol=1e-5, rtol=0)
    assert transformers.AutoTokenizer.from_pretrained(student.path / "model").vocab_size == ours.config.vocab


def test_the_card_and_the_metrics_tell_what_happened(student: Artifact, lesson: tuple[DistillConfig, dict[str, Artifact]]) -> None:
    card, teacher = read_card(student), read_card(lesson[1]["teacher"])
    assert card["family"] == METHODS[lesson[0].method].family
    assert card["teacher"]["layers_taken"] == [0, 3] and card["backbone"]["layers"] == 2 and card["backbone"]["segments"] == 0
    assert card["tokenizer_fingerprint"] == teacher["tokenizer_fingerprint"]
    assert card["parameters"] < card["teacher"]["parameters"] == teacher["parameters"]
    assert card["steps"] == student.counts["steps"] == 12
    lines = [json.loads(line) for line in student.file("metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    assert set(lines[0]["parts"]) == {"kd", "cosine", "next" if lesson[0].method == "distilgpt2" else "mlm"}
    assert lines[-1]["parts"]["kd"] < lines[0]["parts"]["kd"]
    assert not [file["name"] for file in student.files if "checkpoint" in file["name"]]


def test_patience_ends_a_student_that_diverges_and_keep_best_publishes_its_best_weights(
    lesson: tuple[DistillConfig, dict[str, Artifact]], store: Store
) -> None:
    """A rate that rises until the student diverges; the card's loss is that of the best validation."""
    config = replace(lesson[0], lr=1.0, warmup=11, schedule="constant", valid_every=1, valid_batches=0, keep_best=True, patience=2)
    best = run(DISTILL, config, lesson[1], store, Here())
    card, lines = read_card(best), read(best.file("metrics.jsonl"))
    losses = {line["step"] + 1: line["valid_loss"] for line in lines if "valid_loss" in line}
    assert card["best_step"] == min(losses, key=lambda step: (losses[step], step)) == card["steps"] - 2 < 10
    assert card["valid_loss"] == pytest.approx(min(losses.values()), abs=1e-6) and card["last_valid_loss"] == losses[card["steps"]]
    last = run(DISTILL, replace(config, keep_best=False), lesson[1], store, Here())
    assert read_card(last)["steps"] == card["steps"] and "best_step" not in read_card(last)
    assert best.file("model/model.safetensors").read_bytes() != last.file("model/model.safetensors").read_bytes()


def test_the_control_sees_the_same_batches_and_no_teacher(
    student: Artifact, lesson: tuple[DistillConfig, dict[str, Artifact]], store: Store
) -> None:
    config, inputs = lesson
    alone = replace(config, control=True)
    control = run(DISTILL, alone, inputs, store, Here())
    for step in (0, 7):
        mine, theirs = make_feed(config, inputs, "train").slice(step, 0, 1), make_feed(alone, inputs, "train").slice(step, 0, 1)
        assert torch.equal(mine.tokens_BL, theirs.tokens_BL)
        assert all(torch.equal(mine.labels[name], theirs.labels[name]) for name in mine.labels)
    first = json.loads(control.file("metrics.jsonl").read_text().splitlines()[0])
    taught = json.loads(student.file("metrics.jsonl").read_text().splitlines()[0])
    name = next(part for part in first["parts"])
    assert list(first["parts"]) == [name]
    assert first["parts"][name] == pytest.approx(taught["parts"][name], abs=1e-5)  # the same start on the same batch
    assert read_card(control)["control"] and read_card(control)["tokens"] == read_card(student)["tokens"]


def test_what_cannot_be_taught_is_refused_before_any_rank_starts(store: Store, tmp_path: Path) -> None:
    data = prepared(store, causal=False)
    inputs = data | {"teacher": model(store, "bert", data, steps=40)}
    tried = {"more than the teacher's 32": {"length": 64}, "cannot be taken evenly from 4": {"layers": 3}, "must rise": {"layers": (3, 0)}}
    for message, change in tried.items():
        with pytest.raises(ConfigError, match=message):
            run(DISTILL, replace(CONFIG, **change), inputs, Store(tmp_path), Here())
    with pytest.raises(ConfigError, match="too few for 16 ranks"):
        run(DISTILL, CONFIG, inputs, Store(tmp_path), LocalCompute(ranks=16))
    gpt = {"teacher": model(store, "gpt2", data)}
    with pytest.raises(ConfigError, match="from blocks, it was given pairs"):
        run(DISTILL, replace(CONFIG, method="distilgpt2"), data | gpt, Store(tmp_path), Here())


def test_two_ranks_with_zero_teach_what_one_teaches(store: Store, tmp_path: Path) -> None:
    data = prepared(store, causal=False)
    inputs = data | {"teacher": model(store, "bert", data, steps=40)}
    one = run(DISTILL, CONFIG, inputs, store, Here())
    two = run(DISTILL, replace(CONFIG, zero=2), inputs, Store(tmp_path), LocalCompute(ranks=2))
    assert one.fingerprint == two.fingerprint and one.path != two.path
    ours, theirs = (catalog.load(a.path / "model").state_dict() for a in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=2e-3, rtol=0, msg=name)


def test_a_tokenizer_with_two_pieces_swapped_is_refused(lesson: tuple[DistillConfig, dict[str, Artifact]], tmp_path: Path) -> None:
    config, inputs = lesson
    other = prepared(Store(tmp_path / "other"), config.method == "distilgpt2", rows=[text.replace("cat", "cow") for text in texts()])
    for wrong in ({"tokenizer": other["tokenizer"]}, {"sentences": other["sentences"], "examples": other["examples"]}):
        with pytest.raises(ArtifactError, match="tokenizer"):
            run(DISTILL, config, inputs | wrong, Store(tmp_path / "out"), Here())


def test_a_teacher_of_another_family_is_refused_with_the_method_that_fits(
    lesson: tuple[DistillConfig, dict[str, Artifact]], tmp_path: Path
) -> None:
    config, inputs = lesson
    other = "distilbert" if config.method == "distilgpt2" else "distilgpt2"
    with pytest.raises(ConfigError, match=f"use {config.method}"):
        run(DISTILL, replace(config, method=other), inputs, Store(tmp_path), Here())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "distilbart"}, "did you mean 'distilbert'"),
        ({"temperature": 0.0}, "distill.temperature"),
        ({"kd": -1.0}, "none may be negative"),
        ({"batch_tokens": 8}, "holds no sequence"),
        ({"keep_best": True}, "distill.keep_best needs validations to compare"),
        ({"patience": -1, "valid_every": 2}, "distill.patience is -1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(change: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)


def test_methods_know_their_teachers() -> None:
    check_teacher(method("distilbert"), "bert")
    with pytest.raises(ConfigError, match="teachers can be: bert, roberta, gpt2"):
        check_teacher(method("distilbert"), "electra")
    for found in METHODS.values():
        assert found.family in catalog.FAMILIES and set(found.teachers) <= set(catalog.FAMILIES)
