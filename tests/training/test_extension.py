"""A finished training that is gone on with is the training that was longer from the start, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError, Preempted
from infra.stage import run
from infra.store import Store
from tests.training.small import LENGTH, Here, prepared
from training import extension
from training.card import read_card
from training.engine import loop
from training.engine.measure import read
from training.families import catalog
from training.pretrain import PRETRAIN, check
from training.pretrain_config import PretrainConfig

STEP = 8 * LENGTH
SHAPE = {"width": 32, "heads": 4, "layers": 2, "positions": LENGTH}
BRANCH = 18  # of 20 steps the last tenth falls


def config_of(steps: int, **changes: object) -> PretrainConfig:
    said = {"family": "gpt2", "size": "tiny", "tokens": steps * STEP, "batch_tokens": STEP, "length": LENGTH, "lr": 3e-3, "warmup": 3}
    said |= {"overrides": SHAPE, "micro_batch": 3, "save_every": 7, "log_every": 1, "schedule": "wsd", "seed": 3}
    return PretrainConfig(**{**said, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def data(store: Store) -> dict[str, Artifact]:
    return prepared(store, True)


@pytest.fixture(scope="module")
def base(store: Store, data: dict[str, Artifact]) -> Artifact:
    return run(PRETRAIN, config_of(20, keep_state=True), data, store, Here())


@pytest.fixture(scope="module")
def straight(store: Store, data: dict[str, Artifact]) -> Artifact:
    return run(PRETRAIN, config_of(30), data, store, Here())


def losses(artifact: Artifact) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read(artifact.file("metrics.jsonl"))}


def same(one: Artifact, other: Artifact) -> None:
    ours, theirs = (catalog.load(artifact.path / "model").state_dict() for artifact in (one, other))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items()) and len(ours) == len(theirs)
    assert one.file("model/model.safetensors").read_bytes() == other.file("model/model.safetensors").read_bytes()
    assert losses(one) == losses(other)
    assert read_card(one)["tokens"] == read_card(other)["tokens"] and read_card(one)["valid_loss"] == read_card(other)["valid_loss"]


def test_a_wsd_training_that_goes_on_before_its_fall_is_the_one_that_was_longer_from_the_start(
    store: Store, data: dict[str, Artifact], base: Artifact, straight: Artifact
) -> None:
    kept = {file["name"].split("/")[1] for file in base.files if file["name"].startswith("state/")}
    assert kept == {f"step-{BRANCH}"}, "and nothing of the other checkpoints"
    assert base.file("model/model.safetensors").read_bytes() != straight.file("model/model.safetensors").read_bytes()
    longer = run(PRETRAIN, config_of(30), {**data, "extended": base}, store, Here())
    assert longer.fingerprint != straight.fingerprint and longer.counts["steps"] == 30
    same(longer, straight)


def test_stopped_in_the_extension_and_resumed_it_is_the_same(
    tmp_path: Path, data: dict[str, Artifact], base: Artifact, straight: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, told = loop._Run._save, list[int]()

    def stopped(self: loop._Run, wish: loop.Wish, verdict: object) -> None:
        told.append(self.point.step)
        save(self, wish._replace(stop=self.point.step == 24 and len(told) < 10), verdict)

    monkeypatch.setattr(loop._Run, "_save", stopped)
    given, other = {**data, "extended": base}, Store(tmp_path)
    with pytest.raises(Preempted, match="saved after step 24"):
        run(PRETRAIN, config_of(30), given, other, Here())
    same(run(PRETRAIN, config_of(30), given, other, Here()), straight)
    assert told == list(range(BRANCH + 1, 31)), "each step once, from the kept state on"


@pytest.mark.slow
def test_two_ranks_under_another_stage_of_zero_go_on_from_what_one_kept(tmp_path: Path, data: dict[str, Artifact]) -> None:
    """Without dropout, whose draws are a rank's own."""
    bare, store = {"overrides": {**SHAPE, "dropout": 0.0}}, Store(tmp_path)
    base, straight = (run(PRETRAIN, config_of(n, keep_state=n == 20, **bare), data, store, Here()) for n in (20, 30))
    longer = run(PRETRAIN, config_of(30, zero=2, **bare), {**data, "extended": base}, store, LocalCompute(ranks=2))
    found, expected = losses(longer), losses(straight)
    assert list(found) == list(range(30)) and list(found.values()) == pytest.approx(list(expected.values()), abs=1e-5)


def test_an_extension_can_keep_its_own_state_and_looks_for_its_own_best(store: Store, data: dict[str, Artifact], base: Artifact) -> None:
    best = config_of(24, keep_state=True, keep_best=True, valid_every=3)
    longer = run(PRETRAIN, best, {**data, "extended": base}, store, Here())
    assert {file["name"].split("/")[1] for file in longer.files if file["name"].startswith("state/")} == {"step-22"}
    assert read_card(longer)["best_step"] > BRANCH


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt"])
def test_schedules_without_a_fall_go_on_from_their_last_step(schedule: str) -> None:
    assert extension.check(config_of(20, schedule=schedule, keep_state=True), config_of(21, schedule=schedule)) == 20


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({"keep_state": False}, {}, "keeps no state to go on from; set its pretrain.keep_state: true"),
        ({}, {"tokens": 20 * STEP}, "5,120 make 20 steps, and .* has done 20; set more than its 5,120 tokens"),
        ({}, {"seed": 4}, "seed must be as in .*: seed is 4 and was 3; leave it out"),
        ({}, {"batch_tokens": 2 * STEP, "precision": "bf16"}, "batch_tokens, precision must be as in .*leave them out"),
        ({"schedule": "cosine"}, {"schedule": "cosine"}, "under cosine every rate depends on the number of all steps"),
        ({"schedule": "linear"}, {"schedule": "linear"}, "train it with schedule wsd"),
        ({"warmup": 0.2}, {"warmup": 0.2}, "its warm-up had 4 steps, here it has 6: set pretrain.warmup to 4"),
        ({}, {"lr": 1e-3}, "had the rate 0.00075, here 0.00025: leave lr, min_ratio, decay and schedule out"),
        ({}, {"decay": 0.6}, "step 13 is one of the 18 .* leave lr, min_ratio, decay and schedule out"),
        ({"schedule": "constant"}, {"schedule": "cosine"}, "leave lr, min_ratio, decay and schedule out"),
        ({"schedule": "constant", "tokens": 40 * STEP}, {"tokens": 41 * STEP}, "step 38 is one of the 40 .* raise tokens so that"),
        ({"batch_ramp": {"start": STEP // 2, "tokens": 5 * STEP}}, {"batch_ramp": {"start": STEP // 2, "tokens": 5 * STEP}}, "batch_ramp"),
        (
            {"curriculum": ({"share": 0.5, "length": 16}, {"share": 0.5, "length": 32})},
            {"curriculum": ({"share": 0.5, "length": 16}, {"share": 0.5, "length": 32})},
            "length 16 from step 0, 32 from step 10, here 16 from step 0, 32 from step 15",
        ),
    ],
)
def test_what_could_not_be_the_longer_training_is_refused(was: dict, now: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        extension.check(config_of(20, **{"keep_state": True, **was}), config_of(30, **now))


def test_a_longer_fall_branches_earlier() -> None:
    assert extension.check(config_of(20, keep_state=True, decay=0.25), config_of(30, decay=0.5)) == 15


def test_a_curriculum_whose_borders_stay_where_they_were_goes_on() -> None:
    parts = [({"share": share, "length": 16}, {"share": 1 - share, "length": 32}) for share in (0.5, 0.25)]
    assert extension.check(config_of(20, keep_state=True, curriculum=parts[0]), config_of(40, curriculum=parts[1])) == BRANCH


def test_a_state_that_cannot_be_kept_is_refused_before_a_step(data: dict[str, Artifact]) -> None:
    with pytest.raises(ConfigError, match="keep_state and patience do not go together"):
        config_of(20, keep_state=True, patience=2, valid_every=2)
    with pytest.raises(ConfigError, match="of these 1 steps there is none before the rate falls"):
        check(config_of(1, keep_state=True), data, 1)


def test_other_data_is_refused_by_the_stage(store: Store, data: dict[str, Artifact], base: Artifact) -> None:
    with pytest.raises(ConfigError, match="read other examples; only a training on the same data"):
        check(config_of(30), {**data, "examples": replace(data["examples"], fingerprint="0" * 12), "extended": base}, 1)
