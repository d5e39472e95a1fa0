"""A recipe's line becomes a model that transformers loads; killed whole and started again it is the same one, byte for byte."""

from __future__ import annotations

import json
import math
import multiprocessing as mp
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from infra.artifact import Artifact, fingerprint
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError, Preempted
from infra.stage import run
from infra.store import Store
from tests.training.small import LENGTH, Here, documents, prepared, texts
from training.card import read_card
from training.engine import loop
from training.engine.measure import read
from training.evaluate import EVALUATE, EvaluateConfig
from training.families import catalog
from training.pretrain import PRETRAIN, check, make_feed
from training.pretrain_config import PretrainConfig
from training.settings import loop_config, model_of, optim_config

SMALL = {"width": 32, "heads": 4, "layers": 2, "positions": LENGTH}
STEPS = 24


def config_of(family: str, **changes: object) -> PretrainConfig:
    said = {"size": "tiny", "tokens": STEPS * 8 * LENGTH, "batch_tokens": 8 * LENGTH, "length": LENGTH, "lr": 3e-3, "warmup": 2}
    said |= {"overrides": SMALL, "micro_batch": 3, "save_every": 5, "log_every": 4, "valid_every": 12, "seed": 3}
    return PretrainConfig(family=family, **{**said, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def inputs(store: Store) -> dict[str, dict[str, Artifact]]:
    return {"gpt2": prepared(store, True), "bert": prepared(store, False)}


@pytest.fixture(scope="module", params=["gpt2", pytest.param("bert", marks=pytest.mark.prove)])
def made(request: pytest.FixtureRequest, store: Store, inputs: dict[str, dict[str, Artifact]]) -> tuple[str, Artifact]:
    return request.param, run(PRETRAIN, config_of(request.param), inputs[request.param], store, LocalCompute(ranks=2))


def test_the_artifact_holds_model_card_and_curve_and_no_checkpoints(
    made: tuple[str, Artifact], inputs: dict[str, dict[str, Artifact]]
) -> None:
    family, artifact = made
    names = {f["name"] for f in artifact.files}
    assert {"card.json", "metrics.jsonl", "model/config.json", "model/model.safetensors", "model/tokenizer.json"} <= names
    assert not any("checkpoint" in name for name in names)
    card, lines = read_card(artifact), read(artifact.file("metrics.jsonl"))
    assert all(0 < line["speed"]["mfu"] < 1.5 and line["speed"]["real_tokens_per_s"] > 0 for line in lines)
    assert ("valid_bits_per_byte" in lines[-1]) == (family == "gpt2"), "a masked model's loss is not that of a code for the text"
    assert [line["step"] for line in lines] == [0, 4, 8, 11, 12, 16, 20, 23]
    assert [line["step"] for line in lines if "valid_loss" in line] == [11, 23]
    assert lines[-1]["valid_loss"] < lines[0]["loss"] - 0.3, "something was learnt"
    assert card["valid_loss"] == lines[-1]["valid_loss"] and card["steps"] == STEPS == artifact.counts["steps"]
    assert card["backbone"]["width"] == 32 and card["family"] == family
    if family == "gpt2":
        assert artifact.counts["tokens"] == STEPS * 8 * LENGTH


@pytest.mark.parametrize("name", ["examples", "sentences"])
def test_a_flipped_bit_in_its_data_stops_a_training_before_a_rank_starts(
    store: Store, inputs: dict[str, dict[str, Artifact]], name: str, tmp_path: Path
) -> None:
    """Of the same length, and Arrow reads it: only its hash tells. A copy, since damage is quarantined."""
    copy = Store(shutil.copytree(store.root, tmp_path / "copy"))
    given = {key: Artifact(a.stage, a.fingerprint, copy.path(a.stage, a.fingerprint)) for key, a in inputs["bert"].items()}
    shard = given[name].shards[0]
    good = shard.read_bytes()
    at = len(good) // 2
    shard.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
    with pytest.raises(ArtifactError, match=f"{shard.name} does not hash to what its manifest says"):
        run(PRETRAIN, config_of("bert", seed=77), given, copy, LocalCompute(ranks=2))
    assert not given[name].path.exists()


def test_transformers_loads_it_and_gives_our_logits(made: tuple[str, Artifact], inputs: dict[str, dict[str, Artifact]]) -> None:
    family, artifact = made
    auto = transformers.AutoModelForCausalLM if family == "gpt2" else transformers.AutoModelForPreTraining
    theirs, ours = auto.from_pretrained(artifact.path / "model").eval(), catalog.load(artifact.path / "model").eval()
    batch = make_feed(config_of(family), inputs[family], "valid").slice(0, 0, 1)
    more = {} if family == "gpt2" else {"attention_mask": batch.keep_BL.long(), "token_type_ids": batch.segments_BL}
    with torch.no_grad():
        out = theirs(input_ids=batch.tokens_BL, **more)
        logits = out.logits if family == "gpt2" else out.prediction_logits
        at = torch.ones_like(batch.tokens_BL, dtype=torch.bool) if batch.keep_BL is None else batch.keep_BL
        torch.testing.assert_close(ours.language_logits(batch, at), logits[at], atol=1e-5, rtol=1e-4)
        assert ours(batch).total.item() < 10


def make(root: str, config: PretrainConfig, inputs: dict[str, Artifact]) -> None:
    run(PRETRAIN, config, inputs, Store(Path(root)), LocalCompute(ranks=2))


def test_killed_whole_and_started_again_the_model_is_the_same_file(
    tmp_path: Path, made: tuple[str, Artifact], inputs: dict[str, dict[str, Artifact]]
) -> None:
    """The driver gets kill -9 after a checkpoint; its ranks end with it. Dropout is on, as the family has it."""
    family, artifact = made
    process = mp.get_context("spawn").Process(target=make, args=(str(tmp_path), config_of(family), inputs[family]))
    process.start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("step-10/manifest.json")) and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    again = run(PRETRAIN, config_of(family), inputs[family], Store(tmp_path), LocalCompute(ranks=2))
    assert again.fingerprint == artifact.fingerprint
    for name in ("model/model.safetensors", "model/config.json", "card.json"):
        assert again.file(name).read_bytes() == artifact.file(name).read_bytes(), name


def test_stopped_under_one_stage_of_zero_it_goes_on_under_others(
    tmp_path: Path, inputs: dict[str, dict[str, Artifact]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One artifact, one curve: dropout is on, and its masks follow from the step."""
    config, data, save = config_of("bert", log_every=1, valid_every=0), inputs["bert"], loop._Run._save
    whole = run(PRETRAIN, config, data, Store(tmp_path / "whole"), Here())
    for at, zero in ((7, 1), (12, 2), (17, 0)):

        def stopped(self: Any, wish: Any, verdict: Any, at: int = at) -> None:
            save(self, wish._replace(stop=self.point.step == at), verdict)

        monkeypatch.setattr(loop._Run, "_save", stopped)
        with pytest.raises(Preempted, match=f"saved after step {at}"):
            run(PRETRAIN, replace(config, zero=zero), data, Store(tmp_path / "other"), Here())
    monkeypatch.setattr(loop._Run, "_save", save)
    again = run(PRETRAIN, replace(config, zero=3, offload="optimizer"), data, Store(tmp_path / "other"), Here())
    assert again.fingerprint == whole.fingerprint and again.config == whole.config and "zero" not in again.config
    lines, straight = read(again.file("metrics.jsonl")), read(whole.file("metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in straight], abs=1e-5)


def refused(config: PretrainConfig, inputs: dict[str, Artifact], ranks: int = 1) -> str:
    with pytest.raises(ConfigError) as caught:
        check(config, inputs, ranks)
    return str(caught.value)


def test_what_cannot_be_is_said_before_any_rank_starts(inputs: dict[str, dict[str, Artifact]]) -> None:
    gpt, bert = inputs["gpt2"], inputs["bert"]
    check(config_of("gpt2"), gpt, 2)
    check(config_of("bert"), bert, 2)
    assert "did you mean `bert`" in refused(config_of("brt"), bert)
    assert "no size `huge`" in refused(config_of("gpt2", size="huge"), gpt)
    assert "width 30 is not a multiple of heads 4" in refused(config_of("gpt2", overrides={**SMALL, "width": 30}), gpt)
    assert "did you mean `layers`" in refused(config_of("gpt2", overrides={"layer": 2}), gpt)
    assert "wrong type" in refused(config_of("gpt2", overrides={"layers": "two"}), gpt)
    assert "positions; lower it" in refused(config_of("gpt2", length=2 * LENGTH), gpt)
    assert "too few for 9 ranks" in refused(config_of("gpt2"), gpt, ranks=9)
    assert "learns from pairs, it was given blocks" in refused(config_of("bert"), {**bert, "examples": gpt["examples"]})
    assert "needs the specials mask" in refused(config_of("bert"), {**bert, "tokenizer": gpt["tokenizer"]})
    assert "schedule 'cosin'" in refused(config_of("gpt2", schedule="cosin"), gpt)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_tokens": 1000}, "not a multiple of length 32; 992 would be"),
        ({"tokens": 10}, "less than one step"),
        ({"length": 0}, "above 0"),
        ({"zero": 4}, "ZeRO has the stages"),
        ({"precision": "fp8"}, "choose fp32, bf16, fp16 or auto"),
        ({"micro_batch": -1}, "0 or more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_without_importing_torch(wrong: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of("gpt2", **wrong)


def test_what_is_not_said_is_the_familys_own() -> None:
    plain = PretrainConfig(family="bert", size="base", tokens=10**9, batch_tokens=256 * 128)
    optimiser = optim_config(plain)
    assert (optimiser.lr, optimiser.warmup, optimiser.weight_decay, optimiser.schedule) == (1e-4, 0.01, 0.01, "linear")
    assert loop_config(plain).clip == 1.0 and loop_config(plain).steps == round(10**9 / 32768) and loop_config(plain).micro_batch == 64
    assert optim_config(replace(plain, lr=5e-4, warmup=100)).warmup_steps(1000) == 100
    assert model_of(plain, 1234)[1].vocab == 1234


def test_decay_is_the_share_of_the_steps_in_which_the_rate_falls() -> None:
    config = PretrainConfig("gpt2", "tiny", tokens=40 * 512, batch_tokens=512, schedule="wsd", decay=0.25, warmup=1, min_ratio=0.0)
    rates = [loop_config(config).lr(step) for step in range(40)]
    assert [rate == max(rates) for rate in rates] == [False, *[True] * 30, *[False] * 9]
    assert optim_config(replace(config, decay=None)).decay == 0.1
    with pytest.raises(ConfigError, match="take decay out, or set pretrain.schedule"):
        optim_config(replace(config, schedule="linear"))


def test_what_is_learnt_is_fingerprinted_and_how_it_is_shared_out_is_not() -> None:
    assert fingerprint(config_of("gpt2")) == fingerprint(config_of("gpt2"))
    assert fingerprint(config_of("gpt2")) == fingerprint(config_of("gpt2", zero=3, offload="parameters"))
    assert fingerprint(config_of("gpt2")) != fingerprint(config_of("gpt2", overrides={**SMALL, "layers": 3}))


WORDS = ["river", "stone", "lamp", "winter", "carpet", "seven", "quiet", "orange", "ladder", "music", "kettle", "garden"]
# a rate that rises until the training diverges: the lowest loss lies long before the end
BEST = {
    "tokens": 10 * 8 * LENGTH,
    "lr": 1 / 7,
    "warmup": 9,
    "valid_every": 2,
    "valid_batches": 0,
    "keep_best": True,
    "schedule": "constant",
}


def few(store: Store) -> dict[str, Artifact]:
    """Little text, of words in no order."""
    rng = random.Random(4)
    return prepared(store, True, rows=[" ".join(rng.choices(WORDS, k=60)) + "." for _ in range(12)])


def weights_of(artifact: Artifact) -> dict[str, torch.Tensor]:
    return catalog.load(artifact.path / "model").state_dict()


def test_keep_best_publishes_the_weights_of_the_lowest_validation_loss(store: Store) -> None:
    """The loss recomputed from the export is that of the best step, not of the last."""
    data = few(store)
    best = run(PRETRAIN, config_of("gpt2", **BEST), data, store, Here())
    card, measured = read_card(best), [line for line in read(best.file("metrics.jsonl")) if "valid_loss" in line]
    losses = {line["step"] + 1: line["valid_loss"] for line in measured}
    lowest = min(losses, key=lambda step: (losses[step], step))
    assert len(losses) == 5 and lowest < 10 and losses[lowest] < losses[10] - 0.01, "the training must diverge for this test"
    assert (card["best_step"], card["steps"]) == (lowest, 10)
    assert card["valid_loss"] == pytest.approx(losses[lowest], abs=1e-6) and card["last_valid_loss"] == losses[10]
    scored = run(EVALUATE, EvaluateConfig(seed=3, samples=10), {"model": best, **data}, store, Here())
    loss = json.loads(scored.file("scores.json").read_text())["scores"]["loss"]["value"]
    assert loss == pytest.approx(losses[lowest], abs=1e-4), "the published weights, evaluated apart from the training"
    last = run(PRETRAIN, config_of("gpt2", **{**BEST, "keep_best": False}), data, store, Here())
    assert not all(torch.equal(weight, weights_of(last)[name]) for name, weight in weights_of(best).items())
    assert "best_step" not in read_card(last) and last.fingerprint != best.fingerprint, "keep_best changes the model"


def test_patience_ends_a_training_whose_validation_loss_no_longer_falls(store: Store) -> None:
    data = few(store)
    full = run(PRETRAIN, config_of("gpt2", **BEST), data, store, Here())
    losses = [line["valid_loss"] for line in read(full.file("metrics.jsonl")) if "valid_loss" in line]
    lowest, stale, expected = math.inf, 0, 10
    for number, loss in enumerate(losses, 1):
        lowest, stale = (loss, 0) if loss < lowest else (lowest, stale + 1)
        if stale == 2:
            expected = 2 * number
            break
    assert expected < 10, "the training must diverge for this test"
    early = run(PRETRAIN, config_of("gpt2", **BEST, patience=2), data, store, Here())
    assert read_card(early)["steps"] == early.counts["steps"] == expected
    assert read_card(early)["best_step"] == read_card(full)["best_step"]
    assert all(torch.equal(weight, weights_of(full)[name]) for name, weight in weights_of(early).items())


def test_keep_best_without_validation_is_refused_before_any_step(store: Store) -> None:
    with pytest.raises(ConfigError, match="pretrain.patience needs validations to compare: set pretrain.valid_every"):
        config_of("gpt2", patience=2, valid_every=0)
    data = few(store)
    bare = run(
        ENCODE, EncodeConfig(valid_share=0.0), {"documents": documents(store, texts(12)), "tokenizer": data["tokenizer"]}, store, Here()
    )
    blocks = run(BLOCKS, BlocksConfig(LENGTH), {"sentences": bare}, store, Here())
    with pytest.raises(ConfigError, match="raise encode.valid_share"):
        check(config_of("gpt2", **BEST), {**data, "sentences": bare, "examples": blocks}, 1)
