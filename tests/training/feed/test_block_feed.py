from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import ConfigError
from training.families.catalog import family
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


@pytest.mark.parametrize("mode", ["full_sentences", "doc_sentences"])
@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("objective", ["next", "mlm"])
def test_blocks_of_whole_sentences_are_padded_and_every_sentence_comes_once_an_epoch(
    toy: Any, mode: str, split: str, objective: str
) -> None:
    length = 32 if objective == "next" else 34
    feed = toy.feed(toy.blocks(32, mode=mode), split, batch_size=4, length=length, objective=objective)
    seen: dict[int, int] = {}
    taken = 0
    for step in range(feed.steps_per_epoch):
        batch = feed.slice(step, 0, 1)
        tokens = batch.tokens_BL
        if objective == "mlm":
            tokens = batch.labels["mlm"].where(batch.labels["mlm"] != IGNORE, tokens)
            assert bool((tokens[:, 0] == CLS).all()) and not bool((batch.labels["mlm"][~batch.keep_BL] != IGNORE).any())
        else:
            real = (tokens != 0).sum(1)
            assert (batch.labels["next"] != IGNORE).sum(1).tolist() == (real - 1).tolist()
        assert set(feed.trace(step)) == {toy.document_of[t - FIRST] for t in tokens.flatten().tolist() if t >= FIRST}
        for row in tokens.tolist():
            if taken == feed.examples:
                break
            taken += 1
            documents = {toy.document_of[t - FIRST] for t in row if t >= FIRST}
            assert len(documents) == 1 or mode == "full_sentences"
            for token in row:
                if token >= FIRST:
                    seen[token - FIRST] = seen.get(token - FIRST, 0) + 1
    wanted = {s: n for s, n in enumerate(toy.lengths) if toy.split_of[toy.document_of[s]] == split}
    assert seen == wanted


def test_documents_apart_see_only_themselves_and_count_from_their_own_start(toy: Any) -> None:
    blocks = toy.blocks(24)
    for objective, length in (("next", 24), ("mlm", 26)):
        joined = toy.feed(blocks, "valid", batch_size=5, length=length, objective=objective)
        apart = toy.feed(blocks, "valid", batch_size=5, length=length, objective=objective, apart=True, restart=True)
        for step in range(apart.steps_per_epoch):
            batch, plain = apart.slice(step, 0, 1), joined.slice(step, 0, 1)
            assert batch.tokens_BL.equal(plain.tokens_BL) and batch.labels[objective].equal(plain.labels[objective])
            whole = batch.labels["mlm"].where(batch.labels["mlm"] != IGNORE, batch.tokens_BL) if objective == "mlm" else batch.tokens_BL
            for row in range(len(batch)):
                part, place, expected, at = 0, 0, [], []
                for number, token in enumerate(whole[row].tolist()):
                    if number and int(whole[row][number - 1]) == EOS:
                        part, place = part + 1, 0
                    expected.append(part if batch.keep_BL is None or batch.keep_BL[row][number] else -1)
                    at.append(place)
                    place += 1
                assert batch.parts_BL[row].tolist() == expected and batch.places_BL[row].tolist() == at
    with pytest.raises(ConfigError, match="documents_apart"):
        toy.feed(blocks, batch_size=5, length=24, restart=True)


def test_apart_a_document_reads_as_if_it_stood_alone(toy: Any) -> None:
    """A GPT's hidden states of each document in a block are those of the document by itself, and another's change nothing."""
    config = replace(next(iter(family("gpt2").sizes.values())), vocab=10 + len(toy.lengths) + 1, width=32, heads=4, layers=2, ffn=64)
    backbone = family("gpt2").build(config, seed=1).backbone.double().eval()
    batch = toy.feed(toy.blocks(64), batch_size=4, length=64, apart=True, restart=True).slice(0, 0, 1)
    with torch.no_grad():
        together = backbone(batch.tokens_BL, parts_BL=batch.parts_BL, places_BL=batch.places_BL).last_BLD
        assert int(batch.parts_BL.max()) >= 1
        for row in range(len(batch)):
            for part in range(int(batch.parts_BL[row].max()) + 1):
                at = batch.parts_BL[row] == part
                torch.testing.assert_close(together[row][at], backbone(batch.tokens_BL[row][at][None]).last_BLD[0], atol=1e-6, rtol=1e-5)
