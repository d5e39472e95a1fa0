"""Several sources in given proportions: held against counting one place after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.feed.mixture import Mixing, Mixture, Pattern, Runs, whole

WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def sources(sizes: list[int]) -> list[Runs]:
    """Source k has the examples 1000 k, 1000 k + 1, ..., in runs of three with gaps between."""
    return [Runs.of([(1000 * k + 5 * run, min(3, size - 3 * run)) for run in range(-(-size // 3))]) for k, size in enumerate(sizes)]


def rows(k: int, size: int) -> list[int]:
    return [1000 * k + 5 * (i // 3) + i % 3 for i in range(size)]


@given(WEIGHTS, st.integers(0, 3000))
def test_at_every_prefix_each_source_has_its_share_within_one_example(weights: list[int], start: int) -> None:
    pattern, total = Pattern(whole(weights)), sum(weights)
    for k, weight in enumerate(weights):
        taken = pattern.taken(np.arange(start, start + 700), k)
        assert np.abs(taken - np.arange(start, start + 700) * weight / total).max() < 1
        assert set(np.diff(taken).tolist()) <= {0, 1}
    assert sum(int(pattern.taken(np.array([start]), k)[0]) for k in range(len(weights))) == start


@given(WEIGHTS, st.data())
def test_sources_repeat_each_in_its_own_epochs(weights: list[int], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=len(weights), max_size=len(weights)))
    mixture = Mixture(sources(sizes), weights, "repeat", 4)
    epoch, example = mixture(np.arange(400))
    for k, size in enumerate(sizes):
        mine = example // 1000 == k
        for number in range(int(epoch[mine].max(initial=-1)) + 1):
            seen = example[mine & (epoch == number)].tolist()
            whole_epoch = number < epoch[mine].max()
            assert len(set(seen)) == len(seen) and set(seen) <= set(rows(k, size)) and (not whole_epoch or len(seen) == size)
    again = mixture(np.array([399, 3, 77]))
    assert (again[0].tolist(), again[1].tolist()) == (epoch[[399, 3, 77]].tolist(), example[[399, 3, 77]].tolist())


@given(WEIGHTS, st.data())
def test_sources_that_stop_are_seen_once_a_round_and_the_rest_keep_their_proportions(weights: list[int], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=len(weights), max_size=len(weights)))
    mixture, total = Mixture(sources(sizes), weights, "stop", 4), sum(sizes)
    epoch, example = mixture(np.arange(3 * total))
    for number in range(3):
        part = example[number * total : (number + 1) * total]
        assert sorted(part.tolist()) == sorted(row for k, size in enumerate(sizes) for row in rows(k, size))
        assert (epoch[number * total : (number + 1) * total] == number).all()
    left, counted, since, begun = list(sizes), [0] * len(sizes), 0, [0] * len(sizes)
    for row in example[:total].tolist():  # one after another: within each stretch, the shares of those that are left
        k, alive = row // 1000, [w if n else 0 for w, n in zip(weights, left, strict=True)]
        counted[k], left[k], since = counted[k] + 1, left[k] - 1, since + 1
        for j, weight in enumerate(alive):
            assert abs(counted[j] - begun[j] - since * weight / sum(alive)) < 1
        if not left[k]:
            since, begun = 0, list(counted)


def test_weights_may_have_digits_but_not_many() -> None:
    assert whole([0.7, 0.3]) == [7, 3] and whole([2, 1]) == [2, 1] and whole([0.5, 0.25, 0.25]) == [2, 1, 1]
    for wrong in ({"a": 0.123456, "b": 1}, {"a": 0}, {"a": -1.0}, {"a": float("inf")}):
        with pytest.raises(ConfigError, match=r"pretrain\.mixture"):
            Mixing(wrong)
    with pytest.raises(ConfigError, match="neither repeat nor stop"):
        Mixing({"a": 1}, "drop")


def test_the_longest_pattern_that_fits_decides_whatever_their_order() -> None:
    for names in (("wiki*", "*"), ("*", "wiki*")):
        mixing = Mixing(dict.fromkeys(names, 1.0))
        assert (mixing.name_of("wiki-en.jsonl"), mixing.name_of("books.jsonl")) == ("wiki*", "*")
    assert Mixing({"wiki*": 1.0}).name_of("books.jsonl") is None


@pytest.mark.parametrize(("kind", "objective"), [("blocks", "next"), ("pairs", "mlm+nsp")])
def test_a_feed_mixes_the_files_of_its_documents(make_toy: Callable[..., Any], kind: str, objective: str) -> None:
    toy = make_toy(documents=150, files=3)
    first = 10

    def origin(sentence: int) -> str:
        return f"file{toy.document_of[sentence][1] % 3}.jsonl"

    weights = {"file0*": 3, "file2.jsonl": 1}
    feed = toy.feed(getattr(toy, kind)(24), batch_size=16, length=24, objective=objective, seed=2, mixing=Mixing(weights))
    counted: Counter[str] = Counter()
    for step in range(30):
        tokens = feed.slice(step, 0, 1)
        whole_rows = tokens.tokens_BL if kind == "blocks" else tokens.labels["mlm"].where(tokens.labels["mlm"] >= 0, tokens.tokens_BL)
        firsts = [next(t for t in row if t >= first) - first for row in whole_rows.tolist()]
        counted.update(origin(sentence) for sentence in firsts)
        if kind == "blocks":  # but for the one block of a shard where sources meet, a block is of one source
            assert {f"file{row % 3}.jsonl" for _, row in feed.trace(step)} <= {"file0.jsonl", "file1.jsonl", "file2.jsonl"}
    assert counted == {"file0.jsonl": 360, "file2.jsonl": 120}
    with pytest.raises(ConfigError, match=r"no example comes from film\*; the documents come from file0.jsonl, file1.jsonl"):
        toy.feed(getattr(toy, kind)(24), batch_size=16, length=24, objective=objective, mixing=Mixing({"film*": 1, "*": 1}))


def test_blocks_of_several_files_are_cut_one_file_after_another(make_toy: Callable[..., Any]) -> None:
    toy = make_toy(documents=150, files=3)
    feed = toy.feed(toy.blocks(24), "valid", batch_size=4, length=24)
    mixed = total = 0
    for step in range(feed.steps_per_epoch):
        for row in range(len(feed.slice(step, 0, 1))):
            one = toy.feed(toy.blocks(24), "valid", batch_size=1, length=24)
            origins = {document % 3 for _, document in one.trace(step * 4 + row)}
            mixed, total = mixed + (len(origins) > 1), total + 1
    assert total > 20 and mixed <= 2 * 6  # six shards, two borders in each
