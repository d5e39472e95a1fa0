from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.feed.batch import IGNORE

FIRST, EOS, CLS, SEP, MASK = 10, 5, 2, 3, 4


def epoch(feed: Any, number: int = 0) -> list[Any]:
    return [feed.slice(s, 0, 1) for s in range(number * feed.steps_per_epoch, (number + 1) * feed.steps_per_epoch)]


def stream_of(toy: Any, split: str, shard: str) -> list[int]:
    """What the split's documents of a shard say, one after another, each with its end."""
    stream: list[int] = []
    for sentence, (document, length) in enumerate(zip(toy.document_of, toy.lengths, strict=True)):
        if document[0] == shard and toy.split_of[document] == split:
            stream += [FIRST + sentence] * length
            if sentence + 1 == len(toy.lengths) or toy.document_of[sentence + 1] != document:
                stream.append(EOS)
    return stream


def test_a_valid_epoch_is_the_corpus_in_order_and_nothing_else(toy: Any) -> None:
    feed = toy.feed(toy.blocks(16), "valid", batch_size=4, length=16)
    rows = np.concatenate([b.tokens_BL.numpy() for b in epoch(feed)])
    asked = sum(b.count("next") for b in epoch(feed))
    expected, predicted = [], 0
    for shard in sorted({name for name, _ in toy.document_of}):
        stream = stream_of(toy, "valid", shard)
        predicted += sum(len(stream[at : at + 16]) - 1 for at in range(0, len(stream), 16))
        expected += stream + [EOS] * (-len(stream) % 16)
    assert rows.flatten().tolist() == expected
    assert asked == predicted  # padding is never asked for, nor seen by a real token


def test_a_train_epoch_holds_every_block_once(make_toy: Any) -> None:
    toy = make_toy(documents=50, per_shard=50)
    feed = toy.feed(toy.blocks(16), batch_size=feed_size(toy), length=16, seed=9)
    rows = feed.slice(0, 0, 1).tokens_BL.numpy()
    stream = stream_of(toy, "train", "00000.arrow")
    blocks = np.array(stream[: len(stream) // 16 * 16]).reshape(-1, 16)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, blocks.tolist()))
    assert rows.tolist() != blocks.tolist()


def feed_size(toy: Any) -> int:
    return int(toy.blocks(16).counts["blocks"])


def test_the_label_of_a_token_is_the_one_after_it(toy: Any) -> None:
    batch = toy.feed(toy.blocks(16), batch_size=8, length=16).slice(3, 0, 1)
    labels = batch.labels["next"]
    assert labels[:, :-1].equal(batch.tokens_BL[:, 1:]) and bool((labels[:, -1] == IGNORE).all())
    assert batch.keep_BL is None and batch.segments_BL is None and batch.tokens_BL.is_contiguous()


def test_masked_blocks_can_be_framed_and_hide_no_special(toy: Any) -> None:
    for length in (16, 18):
        feed = toy.feed(toy.blocks(16, tail="pad"), batch_size=8, length=length, objective="mlm")
        for batch in epoch(feed):
            chosen = batch.labels["mlm"] != IGNORE
            assert int(batch.labels["mlm"][chosen].min()) >= FIRST
            original = batch.labels["mlm"].where(chosen, batch.tokens_BL)
            keep = np.ones(original.shape, bool) if batch.keep_BL is None else batch.keep_BL.numpy()
            assert not (chosen.numpy() & ~keep).any()
            if length == 18:
                last = keep.sum(1) - 1
                assert bool((original[:, 0] == CLS).all()) and (original.numpy()[np.arange(len(last)), last] == SEP).all()


def test_masks_are_drawn_anew_in_each_epoch_and_the_same_when_repeated(toy: Any) -> None:
    blocks = toy.blocks(16)
    size = int(blocks.counts["blocks"])
    feed = toy.feed(blocks, batch_size=size, length=16, objective="mlm", seed=4)
    one, two = feed.slice(0, 0, 1), feed.slice(1, 0, 1)
    again = toy.feed(blocks, batch_size=size, length=16, objective="mlm", seed=4).slice(1, 0, 1)
    assert two.tokens_BL.equal(again.tokens_BL) and two.labels["mlm"].equal(again.labels["mlm"])

    def masks(batch: Any) -> dict[tuple[int, ...], list[bool]]:
        chosen = batch.labels["mlm"] != IGNORE
        original = batch.labels["mlm"].where(chosen, batch.tokens_BL)
        return {tuple(o): c for o, c in zip(original.tolist(), chosen.tolist(), strict=True)}

    first, second = masks(one), masks(two)
    assert first.keys() == second.keys()
    assert np.mean([first[block] == second[block] for block in first]) < 0.2


@pytest.mark.parametrize("split", ["train", "valid"])
def test_trace_names_exactly_the_documents_of_a_step(toy: Any, split: str) -> None:
    feed = toy.feed(toy.blocks(16), split, batch_size=3, length=16)
    for step in range(feed.steps_per_epoch):
        tokens = feed.slice(step, 0, 1).tokens_BL
        traced = feed.trace(step)
        assert {toy.document_of[t - FIRST] for t in tokens.flatten().tolist() if t >= FIRST} <= set(traced)
        assert all(toy.split_of[document] == split for document in traced)
        ends = int((tokens == EOS).sum())
        assert len(traced) <= ends + 3  # a row without an end lies within one document
