from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from data_prep.tokenizer.base import Meta, save_meta
from infra.artifact import SEAL, seal
from infra.errors import ArtifactError, ConfigError
from training.feed.loader import FeedConfig, Masking, Mixing
from training.feed.views import Shards

LENGTH = 48
FEEDS = [("next", "blocks"), ("mlm", "blocks"), ("mlm", "pairs"), ("mlm+nsp", "pairs"), ("mlm+sop", "pairs")]


def feed_of(toy: Any, objective: str, kind: str, split: str = "train", batch: int = 12) -> Any:
    return toy.feed(getattr(toy, kind)(LENGTH), split, batch_size=batch, length=LENGTH, objective=objective, seed=11)


def everything(batch: Any) -> dict[str, np.ndarray]:
    tensors = {"tokens": batch.tokens_BL, "segments": batch.segments_BL, "keep": batch.keep_BL, **batch.labels}
    return {name: x.numpy() for name, x in tensors.items() if x is not None}


@pytest.mark.parametrize(("objective", "kind"), FEEDS)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_worlds_of_any_size_and_fresh_feeds_see_the_same_batches(toy: Any, objective: str, kind: str, split: str) -> None:
    feed = feed_of(toy, objective, kind, split)
    for step in (0, 1, feed.steps_per_epoch - 1, feed.steps_per_epoch, 7):
        whole = everything(feed.slice(step, 0, 1))
        for world in (2, 3, 4):
            other = feed_of(toy, objective, kind, split)  # as a rank that has just been started again
            parts = [everything(other.slice(step, rank, world)) for rank in range(world)]
            for name, expected in whole.items():
                joined = [p[name] for p in parts if name in p]
                assert np.array_equal(np.concatenate(joined), expected), (name, step, world)


GOLDEN = {
    "next blocks": "9b523f219a17b921",
    "mlm blocks": "576d52aebcb6d861",
    "mlm pairs": "2e3499091965b70c",
    "mlm+nsp pairs": "24e26b97e8491de4",
    "mlm+sop pairs": "b64c17f1d9b60c4f",
}


@pytest.mark.parametrize(("objective", "kind"), FEEDS)
def test_the_batches_are_the_same_on_every_machine_and_for_ever(toy: Any, objective: str, kind: str) -> None:
    feed = feed_of(toy, objective, kind)
    state = xxhash.xxh3_64()
    for step in (0, 5, 1000):
        for name, array in sorted(everything(feed.slice(step, 0, 1)).items()):
            state.update(name.encode() + np.ascontiguousarray(array).astype("<i8").tobytes())
    assert state.hexdigest() == GOLDEN[f"{objective} {kind}"]


def test_what_does_not_fit_together_is_refused(toy: Any) -> None:
    blocks, pairs = toy.blocks(LENGTH), toy.pairs(LENGTH)
    with pytest.raises(ConfigError, match="reads blocks, these are pairs"):
        toy.feed(pairs, batch_size=4, length=LENGTH)
    with pytest.raises(ConfigError, match="reads pairs, these are blocks"):
        toy.feed(blocks, batch_size=4, length=LENGTH, objective="mlm+sop")
    with pytest.raises(ConfigError, match="does not fit blocks of 48"):
        toy.feed(blocks, batch_size=4, length=64)
    with pytest.raises(ConfigError, match="neither train nor valid"):
        toy.feed(blocks, "test", batch_size=4, length=LENGTH)
    with pytest.raises(ConfigError, match="holds no examples"):
        toy.feed(toy.blocks(100_000), batch_size=4, length=100_000)


def test_a_tokenizer_that_did_not_make_the_ids_is_refused(toy: Any) -> None:
    folder = toy.tokenizer.path / "tokenizer"
    save_meta(folder, Meta("wordpiece", 5000, {"eos": 5}, "another"))
    with pytest.raises(ArtifactError, match="ids mean other pieces"):
        toy.feed(toy.blocks(LENGTH), batch_size=4, length=LENGTH)


def test_masking_needs_a_tokenizer_with_a_mask(make_toy: Any) -> None:
    toy = make_toy()
    blocks = toy.blocks(LENGTH)
    folder = toy.tokenizer.path / "tokenizer"
    save_meta(folder, Meta("byte_bpe", 5000, {"eos": 5}, "toy toy"))
    with pytest.raises(ConfigError, match="needs the specials cls, mask, pad, sep"):
        toy.feed(blocks, batch_size=4, length=LENGTH, objective="mlm")


class Gone:
    """Stands for Arrow's tables once the feed is open: whoever asks them for anything has gone the slow road."""

    def __getitem__(self, number: int) -> Any:
        raise AssertionError("a batch was made by asking an Arrow table: 3 million tokens a second by take, 9 by as_py, 650 by views")


@pytest.mark.parametrize(("objective", "kind"), FEEDS)
@pytest.mark.parametrize("more", [{}, {"packed": True}, {"mixing": Mixing({"*": 1})}])
def test_the_slow_road_through_arrow_has_not_come_back(toy: Any, objective: str, kind: str, more: dict[str, Any]) -> None:
    """After opening, batches come from numpy views of the files alone: neither take nor as_py can be called where no Arrow is."""
    if objective == "next" and "packed" in more:
        return
    settings = {"batch_size": 12, "length": LENGTH, "objective": objective, "seed": 11, **more}
    feed, other = (toy.feed(getattr(toy, kind)(LENGTH), **settings) for _ in range(2))
    held = [value for value in vars(feed.source).values() if isinstance(value, Shards)]
    assert len(held) == (2 if kind == "blocks" else 3)
    for shards in held:
        shards._tables = Gone()
    for step in (0, 1, 50):
        one, two = everything(feed.slice(step, 0, 1)), everything(other.slice(step, 0, 1))
        assert all(np.array_equal(array, two[name]) for name, array in one.items())


def opened_files() -> tuple[int, int]:
    """Files this process holds open, and shards it has mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return len(os.listdir("/proc/self/fd")), len({line.split()[-1] for line in maps if line.endswith(".arrow")})


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts by Linux's /proc")
@pytest.mark.parametrize(("objective", "kind", "sets"), [("mlm+nsp", "pairs", 3)])
def test_many_shards_are_mapped_once_each_and_no_file_stays_open(make_toy: Any, objective: str, kind: str, sets: int) -> None:
    """150 here; a thousand, and ten gigabytes, in tests/benchmarks/bench_feed.py."""
    toy = make_toy(documents=450, per_shard=3, longest=9)
    examples = getattr(toy, kind)(16)
    gc.collect()
    before = opened_files()
    feed = toy.feed(examples, batch_size=64, length=16, objective=objective)
    for step in range(5):
        feed.slice(step, 0, 1)
    after = opened_files()
    assert after[0] - before[0] < 10 and after[1] - before[1] == 150 * sets
    del feed
    gc.collect()
    assert opened_files()[1] == before[1]


@pytest.mark.parametrize("kind", ["blocks", "pairs"])
@pytest.mark.parametrize("damage", ["cut", "gone", "foreign", "same size"])
def test_a_shard_that_is_not_what_it_was_is_named(make_toy: Any, kind: str, damage: str) -> None:
    toy, other = make_toy(), make_toy(name="other", documents=61)
    examples, theirs = getattr(toy, kind)(LENGTH), getattr(other, kind)(LENGTH)
    path, strange = examples.shards[1], theirs.shards[1].read_bytes()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(strange)
    if damage == "same size":  # as long as it was: the tokenizer's mark tells
        record = json.loads((examples.path / "manifest.json").read_text())
        for entry in record["shards"]:
            if entry["name"] == path.name:
                entry["bytes"] = len(strange)
        (examples.path / "manifest.json").write_text(json.dumps(record | {SEAL: seal(record)}))
        examples = toy.store.get(examples.stage, examples.fingerprint)
    with pytest.raises(ArtifactError, match=f"{path.name}.*" + ("tokenizer toy other" if damage == "same size" else "")):
        toy.feed(examples, batch_size=4, length=LENGTH, objective="mlm")


def test_a_flipped_bit_is_found_by_verify(toy: Any) -> None:
    examples = toy.blocks(LENGTH)
    whole = examples.shards[1].read_bytes()
    at = len(whole) // 2
    examples.shards[1].write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    with pytest.raises(ArtifactError, match=examples.shards[1].name):
        toy.store.verify(examples)


@pytest.mark.parametrize(("objective", "kind"), [("mlm", "blocks"), ("mlm+nsp", "pairs")])
def test_static_copies_come_again_and_dynamic_masks_do_not(toy: Any, objective: str, kind: str) -> None:
    """BERT wrote ten copies of its data, masks and pairs and all; k copies here are read in turn, each time in another order."""
    examples = getattr(toy, kind)(LENGTH)
    size = int(examples.counts[kind])

    def epochs(copies: int) -> list[dict[str, np.ndarray]]:
        config = {"batch_size": size, "length": LENGTH, "objective": objective, "seed": 3, "masking": Masking(static_copies=copies)}
        feed = toy.feed(examples, **config)
        return [everything(feed.slice(epoch, 0, 1)) for epoch in range(4)]

    def rows(batch: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
        return sorted(map(tuple, np.concatenate([batch["tokens"], batch["mlm"]], 1).tolist()))

    static, dynamic = epochs(2), epochs(0)
    assert rows(static[0]) == rows(static[2]) != rows(static[1]) == rows(static[3])
    assert not np.array_equal(static[0]["tokens"], static[2]["tokens"])
    assert rows(dynamic[0]) == rows(static[0]) and rows(dynamic[1]) == rows(static[1])
    assert len({str(rows(batch)) for batch in dynamic}) == 4


def test_masks_that_need_words_ask_the_tokenizer_for_them(toy: Any) -> None:
    with pytest.raises(ArtifactError, match="tokenizer cannot be read"):  # the toy has no pieces
        toy.feed(toy.blocks(LENGTH), batch_size=4, length=LENGTH, objective="mlm", masking=Masking(unit="word"))


def test_a_rate_said_alone_stands_in_for_the_maskings() -> None:
    assert FeedConfig(4, 8, masking=Masking(unit="span"), mask_rate=0.3).masking == Masking(rate=0.3, unit="span")
