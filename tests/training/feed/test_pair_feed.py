from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infra.errors import ConfigError
from training.feed.batch import IGNORE

FIRST, PAD, CLS, SEP = 10, 0, 2, 3
LENGTH = 48


class Seen:
    """A batch taken apart again: the sentences of A and B, in order, and the label."""

    def __init__(self, toy: Any, batch: Any) -> None:
        labels = batch.labels["mlm"]
        original = labels.where(labels != IGNORE, batch.tokens_BL).numpy()
        keep, segments = batch.keep_BL.numpy(), batch.segments_BL.numpy()
        self.rows = []
        for row, kept, segment in zip(original, keep, segments, strict=True):
            real = row[kept]
            assert real[0] == CLS and real[-1] == SEP and (real == SEP).sum() == 2 and (row[~kept] == PAD).all()
            cut = int(np.flatnonzero(real == SEP)[0])
            assert (segment[kept] == (np.arange(len(real)) > cut)).all() and (segment[~kept] == 0).all()
            self.rows.append((real[1:cut] - FIRST, real[cut + 1 : -1] - FIRST))
        self.labels = batch.labels["pair"].tolist() if "pair" in batch.labels else []
        self.documents = [({toy.document_of[s] for s in a}, {toy.document_of[s] for s in b}) for a, b in self.rows]


def seen(toy: Any, objective: str, steps: int = 20, split: str = "train", **more: Any) -> list[Seen]:
    feed = toy.feed(toy.pairs(LENGTH), split, batch_size=64, length=LENGTH, objective=objective, **more)
    return [Seen(toy, feed.slice(s, 0, 1)) for s in range(steps)]


def test_nsp_negatives_are_never_of_the_same_document_and_positives_always_follow(toy: Any) -> None:
    labels = []
    for part in seen(toy, "mlm+nsp"):
        for (a, b), (of_a, of_b), label in zip(part.rows, part.documents, part.labels, strict=True):
            assert len(of_a) == len(of_b) == 1
            assert (of_a != of_b) == bool(label)
            if not label:
                assert b[0] > a[-1] and b[0] - a[-1] <= 12
        labels += part.labels
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / len(labels) ** 0.5)


def test_neither_length_nor_place_in_the_document_betrays_a_negative(make_toy: Any) -> None:
    toy = make_toy(documents=300, per_shard=300, most=30)
    sums: dict[int, list[int]] = {0: [], 1: []}
    begins: dict[int, list[bool]] = {0: [], 1: []}
    for part in seen(toy, "mlm+nsp", steps=60):
        for (a, b), label in zip(part.rows, part.labels, strict=True):
            sums[label].append(len(a) + len(b))
            first = int(b[0])
            begins[label].append(first == 0 or toy.document_of[first - 1] != toy.document_of[first])
    assert np.mean(sums[0]) == pytest.approx(np.mean(sums[1]), rel=0.05)
    assert not any(begins[0]) and not any(begins[1])


def test_sop_pairs_are_of_one_document_and_swapped_half_of_the_time(toy: Any) -> None:
    labels = []
    for part in seen(toy, "mlm+sop"):
        for (a, b), (of_a, of_b), label in zip(part.rows, part.documents, part.labels, strict=True):
            assert of_a == of_b and len(of_a) == 1
            assert (a[0] > b[-1]) if label else (a[-1] < b[0])
        labels += part.labels
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / len(labels) ** 0.5)


@pytest.mark.parametrize("objective", ["mlm+sop", "mlm+nsp"])
def test_what_truncation_leaves_whole_is_adjacent(make_toy: Any, objective: str) -> None:
    """The second side begins with the sentence after the first side's last; nothing lies between, nothing is in both."""
    toy, compared = make_toy(longest=5), 0
    for part in seen(toy, objective):
        for (a, b), label in zip(part.rows, part.labels, strict=True):
            first, second = (b, a) if objective == "mlm+sop" and label else (a, b)
            whole = [sum(toy.lengths[s] for s in range(side[0], side[-1] + 1)) == len(side) for side in (a, b)]
            if all(whole) and len(a) + len(b) < LENGTH - 3 and not (label and objective == "mlm+nsp"):
                assert second[0] == first[-1] + 1
                compared += 1
    assert compared > 200


def test_without_a_task_the_second_segment_always_follows_the_first(toy: Any) -> None:
    """As ELECTRA and DistilBERT read them: both segments are seen, and nothing is asked about them."""
    for part in seen(toy, "mlm"):
        assert not part.labels
        for (a, b), (of_a, of_b) in zip(part.rows, part.documents, strict=True):
            assert of_a == of_b and len(of_a) == 1
            assert 0 < b[0] - a[-1] <= 12


def test_truncation_takes_from_the_longer_side_only(make_toy: Any) -> None:
    toy = make_toy(longest=80)
    room, cut = LENGTH - 3, 0
    for part in seen(toy, "mlm"):
        for a, b in part.rows:
            assert len(a) + len(b) <= room and len(a) and len(b)
            whole = [sum(toy.lengths[s] for s in range(side[0], side[-1] + 1)) for side in (a, b)]
            if whole[0] + whole[1] > room and whole[0] + whole[1] - room < max(whole) - min(whole):
                longer = int(whole[1] > whole[0])
                assert len((a, b)[1 - longer]) == whole[1 - longer]  # the shorter side lost nothing
                cut += 1
    assert cut > 50


def test_an_epoch_holds_every_pair_once_and_labels_are_drawn_anew(toy: Any) -> None:
    pairs = toy.pairs(LENGTH)
    feed = toy.feed(pairs, batch_size=pairs.counts["pairs"], length=LENGTH, objective="mlm+sop")
    epochs = [Seen(toy, feed.slice(s, 0, 1)) for s in (0, 1, 0)]
    drawn = [{min(int(a[0]), int(b[0])): label for (a, b), label in zip(e.rows, e.labels, strict=True)} for e in epochs]
    chunks = {min(toy.document_of.index(d) for d in of_a) for of_a, _ in epochs[0].documents}
    documents = {d for d in set(toy.document_of) if toy.document_of.count(d) > 1 and toy.split_of[d] == "train"}
    assert {toy.document_of[c] for c in chunks} == documents
    assert drawn[0] == drawn[2] and drawn[0] != drawn[1]


def test_the_budget_of_masks_is_exact_and_no_special_is_hidden(toy: Any) -> None:
    feed = toy.feed(toy.pairs(LENGTH), batch_size=64, length=LENGTH, objective="mlm+nsp")
    for step in range(5):
        batch = feed.slice(step, 0, 1)
        chosen = batch.labels["mlm"] != IGNORE
        real = batch.keep_BL.sum(1)
        assert chosen.sum(1).tolist() == [max(1, int(n * 0.15 + 0.5)) for n in real.tolist()]
        assert int(batch.labels["mlm"][chosen].min()) >= FIRST


def test_the_valid_feed_is_fixed_and_all_of_its_split(toy: Any) -> None:
    pairs = toy.pairs(LENGTH)
    feeds = [toy.feed(pairs, "valid", batch_size=7, length=LENGTH, objective="mlm+nsp", seed=3) for _ in range(2)]
    assert feeds[0].examples == pairs.counts["valid_pairs"]
    total = 0
    for step in range(feeds[0].steps_per_epoch):
        one, two = feeds[0].slice(step, 0, 1), feeds[1].slice(step + feeds[1].steps_per_epoch, 0, 1)
        assert one.tokens_BL.equal(two.tokens_BL) and one.labels["pair"].equal(two.labels["pair"])
        total += len(one)
        assert all(toy.split_of[d] == "valid" for of in Seen(toy, one).documents for side in of for d in side)
    assert total == feeds[0].examples


def test_trace_names_the_documents_of_both_sides(toy: Any) -> None:
    for objective in ("mlm+nsp", "mlm+sop"):
        feed = toy.feed(toy.pairs(LENGTH), batch_size=16, length=LENGTH, objective=objective)
        for step in range(10):
            assert set(feed.trace(step)) == {d for of in Seen(toy, feed.slice(step, 0, 1)).documents for side in of for d in side}


def test_one_document_cannot_give_negatives(make_toy: Any) -> None:
    toy = make_toy(documents=1, seed=3)
    with pytest.raises(ConfigError, match="two documents"):
        toy.feed(toy.pairs(LENGTH), batch_size=2, length=LENGTH, objective="mlm+nsp")
    assert toy.feed(toy.pairs(LENGTH), batch_size=2, length=LENGTH, objective="mlm+sop").examples > 0


def test_two_documents_of_very_different_size_still_give_true_negatives(make_toy: Any) -> None:
    toy = make_toy(documents=2, most=60, longest=20, seed=5)
    for part in seen(toy, "mlm+nsp", steps=10):
        assert all((a != b) == bool(label) for (a, b), label in zip(part.documents, part.labels, strict=True))
