"""Packed rows against the padded ones they stand for: the same sequences, masks, losses and gradients, and nobody sees a neighbour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.engine.measure import cut
from training.families.catalog import family
from training.feed.batch import IGNORE, Batch
from training.feed.packing import pack
from training.objectives.rtd import GeneratorDiscriminator
from training.objectives.tower import Tower, read

LENGTH = 48
# family, examples, objective: blocks of whole sentences of one document are those that leave padding
KINDS = [("bert", "pairs", "mlm+nsp"), ("albert", "pairs", "mlm+sop"), ("roberta", "blocks", "mlm"), ("electra", "pairs", "mlm")]
kinds = pytest.mark.parametrize(("name", "kind", "objective"), KINDS)


@pytest.fixture
def toy(make_toy: Callable[..., Any]) -> Any:
    """Short sentences, short documents."""
    return make_toy(documents=120, longest=9, most=8)


@given(st.lists(st.integers(1, 60), max_size=120), st.integers(60, 90))
def test_no_two_sequences_overlap_and_few_rows_are_needed(lengths: list[int], width: int) -> None:
    layout = pack(np.array(lengths, np.int64), width)
    taken = np.zeros((layout.rows, width), int)
    numbers: dict[int, list[tuple[int, int]]] = {}
    for row, at, number, length in zip(layout.row_N, layout.at_N, layout.number_N, lengths, strict=True):
        assert at + length <= width
        taken[row, at : at + length] += 1
        numbers.setdefault(int(row), []).append((int(at), int(number)))
    assert taken.max(initial=1) == 1 and taken.any(1).all()
    assert all([number for _, number in sorted(row)] == list(range(len(row))) for row in numbers.values())
    assert layout.rows <= max(1, 11 / 9 * -(-sum(lengths) // width) + 4) or not lengths  # Johnson's bound, on the rows no one can save
    fullest = (taken.sum(1) <= width // 2).sum()
    assert fullest <= 1  # two rows at most half full would have become one


def examples(toy: Any, kind: str) -> Any:
    return toy.pairs(LENGTH, short_share=0.5) if kind == "pairs" else toy.blocks(LENGTH - 2, mode="doc_sentences")


def feeds(toy: Any, kind: str, objective: str, batch: int = 24, **more: Any) -> tuple[Any, Any]:
    made = examples(toy, kind)
    return tuple(  # type: ignore[return-value]
        toy.feed(made, batch_size=batch, length=LENGTH, objective=objective, seed=11, packed=packed, **more) for packed in (False, True)
    )


def sequences(batch: Batch) -> list[tuple[Any, ...]]:
    """Each sequence of a batch with all that belongs to it, in some order."""
    found = []
    for row in range(len(batch)):
        parts = batch.parts_BL[row] if batch.parts_BL is not None else torch.where(batch.keep_BL[row], 0, -1)
        for number in range(int(parts.max()) + 1):
            at = parts == number
            pair = batch.labels.get("pair")
            label = None if pair is None else int(pair[row] if pair.dim() == 1 else pair[row][at][0])
            places = torch.arange(int(at.sum())) if batch.places_BL is None else batch.places_BL[row][at]
            segments = () if batch.segments_BL is None else tuple(batch.segments_BL[row][at].tolist())
            tokens = [tuple(x[row][at].tolist()) for x in (batch.tokens_BL, batch.labels["mlm"])]
            found.append((*tokens, segments, tuple(places.tolist()), label))
    return sorted(found, key=str)


@kinds
def test_a_packed_batch_holds_what_the_padded_one_holds_in_fewer_rows(toy: Any, name: str, kind: str, objective: str) -> None:
    padded, packed = feeds(toy, kind, objective)
    rows = places = 0
    for step in (0, 1, 7, 40):
        one, other = padded.slice(step, 0, 1), packed.slice(step, 0, 1)
        assert sequences(one) == sequences(other)
        assert int(one.keep_BL.sum()) == int(other.keep_BL.sum()) == int((other.parts_BL >= 0).sum())
        assert one.count("mlm") == other.count("mlm") and padded.trace(step) == packed.trace(step)
        if "pair" in one.labels:
            assert other.count("pair") == len(one)
        rows, places = rows + len(one), places + len(other)
    assert places < 0.8 * rows


@kinds
def test_packed_batches_are_the_same_for_every_number_of_ranks_and_micro_batches(toy: Any, name: str, kind: str, objective: str) -> None:
    _, packed = feeds(toy, kind, objective, batch=9)
    for step in (0, 3, 50):
        whole = packed.slice(step, 0, 1)
        for world in (2, 3, 4, 8):
            slices = [packed.slice(step, rank, world) for rank in range(world)]
            joined = {key: torch.cat([getattr(part, key) for part in slices]) for key in ("tokens_BL", "parts_BL", "places_BL", "keep_BL")}
            assert all(torch.equal(value, getattr(whole, key)) for key, value in joined.items())
            assert all(torch.equal(torch.cat([part.labels[key] for part in slices]), whole.labels[key]) for key in whole.labels)
            for parts in (1, 2, 5):
                assert sum(piece.count("mlm") for part in slices for piece in cut(part, parts)) == whole.count("mlm")


def tower_of(name: str, vocab: int) -> Tower:
    found = family(name)
    shape = {"vocab": vocab, "width": 32, "heads": 4, "layers": 2, "ffn": 64, "positions": LENGTH, "dropout": 0.0, "init_std": 0.2}
    tower = found.build(replace(next(iter(found.sizes.values())), embedding_width=16 if name == "albert" else 32, **shape), seed=3)
    if isinstance(tower, GeneratorDiscriminator):
        tower.sample = lambda logits_NV, _: logits_NV.argmax(-1)  # type: ignore[method-assign]  # its noise goes by the whole row
    return tower.double().train()


def learnt(tower: Tower, batches: list[Batch], counts: dict[str, int]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of a step that is done in several pieces, as the loop does it."""
    tower.zero_grad()
    told: dict[str, float] = {}
    for batch in batches:
        losses = tower(replace(batch, denominators=counts))
        losses.total.backward()
        for key, value in {"total": losses.total.detach(), **losses.parts}.items():
            told[key] = told.get(key, 0.0) + float(value)
    return told, {key: p.grad.clone() for key, p in tower.named_parameters() if p.grad is not None}


@kinds
def test_losses_and_gradients_are_those_of_padded_rows(toy: Any, name: str, kind: str, objective: str) -> None:
    vocab = 10 + len(toy.lengths) + 1
    padded, packed = feeds(toy, kind, objective)
    tower = tower_of(name, vocab)
    for step in (0, 5):
        one = padded.slice(step, 0, 1)
        counts = tower.counts(one)
        losses, gradients = learnt(tower, [one], counts)
        for shares in (1, 4):  # whole, and by ranks and micro-batches, some of which are left blank
            pieces = [piece for rank in range(shares) for piece in cut(packed.slice(step, rank, shares), shares)]
            assert {key: sum(tower.counts(piece)[key] for piece in pieces) for key in counts} == counts
            again, others = learnt(tower, pieces, counts)
            assert again == pytest.approx(losses, rel=1e-6)  # the loss is summed in float32
            assert gradients.keys() == others.keys()
            for key, gradient in gradients.items():
                torch.testing.assert_close(others[key], gradient, atol=1e-6, rtol=1e-5, msg=key)


@kinds
def test_no_sequence_sees_another(toy: Any, name: str, kind: str, objective: str) -> None:
    _, packed = feeds(toy, kind, objective)
    tower = tower_of(name, 10 + len(toy.lengths) + 1).eval()
    batch = packed.slice(2, 0, 1)
    row = int(batch.parts_BL.max(1).values.argmax())
    assert int(batch.parts_BL[row].max()) >= 1
    changed = batch.tokens_BL.clone()
    mine = torch.zeros_like(changed, dtype=torch.bool)
    mine[row] = batch.parts_BL[row] == 1
    changed[mine] = (changed[mine] * 7 + 3) % 9 + 10
    with torch.no_grad():
        before, after = read(tower.backbone, batch).last_BLD, read(tower.backbone, batch, changed).last_BLD
    assert torch.equal(before[~mine], after[~mine]) and not torch.equal(before[mine], after[mine])
    first = read(tower.backbone, batch.rows(row, row + 1), every_layer=True, attention_scores=True)  # the path that is written out
    torch.testing.assert_close(first.last_BLD, before[row : row + 1], atol=1e-5, rtol=1e-5)


@kinds
def test_a_blank_row_adds_nothing_and_padding_is_finite(toy: Any, name: str, kind: str, objective: str) -> None:
    padded, packed = feeds(toy, kind, objective)
    tower = tower_of(name, 10 + len(toy.lengths) + 1)
    for batch in (padded.slice(0, 0, 1), packed.slice(0, 0, 1)):
        total = tower(batch.blank()).total
        total.backward()
        assert float(total.detach()) == 0.0 and not any(tower.counts(batch.blank()).values())
        assert all(bool(torch.isfinite(p.grad).all()) for p in tower.parameters() if p.grad is not None)
    assert torch.isfinite(tower.hidden(batch).last_BLD).all()
    assert bool((batch.labels["mlm"][batch.parts_BL < 0] == IGNORE).all()) and not batch.keep_BL[batch.parts_BL < 0].any()


def real(feed: Any, step: int) -> list[int]:
    batch = feed.slice(step, 0, 1)
    tokens: list[int] = batch.tokens_BL[batch.keep_BL].tolist()
    return sorted(tokens)


def test_blocks_that_fill_their_rows_stay_as_they_are(toy: Any) -> None:
    made = toy.blocks(LENGTH - 2)
    padded, packed = (toy.feed(made, "valid", batch_size=5, length=LENGTH, objective="mlm", packed=packed) for packed in (False, True))
    for step in range(padded.steps_per_epoch):
        assert len(packed.slice(step, 0, 1)) <= len(padded.slice(step, 0, 1)) and real(padded, step) == real(packed, step)


def test_next_tokens_are_not_packed(toy: Any) -> None:
    with pytest.raises(ConfigError, match="no padding to save"):
        toy.feed(toy.blocks(LENGTH), batch_size=4, length=LENGTH, packed=True)
