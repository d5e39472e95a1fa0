"""Several sequences in a row against the library reading each alone: nobody sees a neighbour, and the loss is of all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.families.compared import (
    CASES,
    ELECTRAS,
    TOLERANCE,
    doubted,
    electras,
    gradients_close,
    pair,
    seen,
    weights_become_gradients,
)
from training.backbone import exchange
from training.feed.batch import IGNORE, Batch
from training.feed.packing import Layout, move, pack
from training.objectives.tower import Tower

LENGTHS = (11, 9, 8, 1, 6, 5, 20, 3)  # of rows of 20 tokens: two, three and four sequences share one
GRADIENTS = [case for case in CASES if case not in ("albert-attention", "albert-ffn")]  # theirs have no such model: its tensors are copies


def packed(tower: Tower, seed: int, segmented: bool, reference: SimpleNamespace) -> tuple[Batch, Batch, Layout]:
    """The sequences a row each, the same in packed rows, and where each stands there."""
    names = ["mlm"] if any(h.name == "rtd" for h in tower.heads) else [h.name for h in tower.heads]
    alone = reference.make_batch(tower.config, names, seed, True, segmented, LENGTHS)
    layout = pack(np.array(LENGTHS), alone.tokens_BL.shape[1])
    together = move(alone, np.array(LENGTHS), layout, pad=1)
    assert layout.rows == 4 and int(together.parts_BL.max()) >= 2
    return alone, together, layout


def at(layout: Layout, number: int, x: Tensor) -> Tensor:
    """What packed rows hold of one sequence."""
    begin = int(layout.at_N[number])
    return x[int(layout.row_N[number]), begin : begin + LENGTHS[number]]


def asked(batch: Batch, number: int) -> dict[str, Tensor]:
    """One sequence as the library reads it: by itself, without padding."""
    given = {"input_ids": batch.tokens_BL[number : number + 1, : LENGTHS[number]]}
    if batch.segments_BL is not None:
        given["token_type_ids"] = batch.segments_BL[number : number + 1, : LENGTHS[number]]
    return given


def near(case: str, ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert seen(case, "packed", (ours - theirs).abs().max().item()) < TOLERANCE


def mean_loss(found: list[Any], alone: Batch) -> Tensor:
    """Of the library's scores over all sequences: each kind of label a mean of its own."""
    kind = "next" if "next" in alone.labels else "mlm"
    labels = torch.cat([alone.labels[kind][i, :n] for i, n in enumerate(LENGTHS)])
    total = F.cross_entropy(torch.cat([language(out)[0] for out in found]), labels, ignore_index=IGNORE)
    if "pair" in alone.labels:
        total = total + F.cross_entropy(torch.cat([order(out) for out in found]), alone.labels["pair"])
    return total


def language(out: Any) -> Tensor:
    return out.prediction_logits if "prediction_logits" in out else out.logits


def order(out: Any) -> Tensor:
    return out.sop_logits if "sop_logits" in out else out.seq_relationship_logits


@pytest.mark.parametrize("segmented", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES)
def test_packed_sequences_are_the_librarys_alone(case: str, seed: int, segmented: bool, tmp_path: Path, reference: SimpleNamespace) -> None:
    _, tower, theirs = pair(reference, case, seed, tmp_path)
    alone, together, layout = packed(tower, seed, segmented, reference)
    with torch.no_grad():
        found = [theirs(**asked(alone, number), output_hidden_states=True) for number in range(len(LENGTHS))]
        hidden, logits, told = tower.hidden(together, every_layer=True), tower.language_logits(together), tower(together)
    for number, out in enumerate(found):
        near(case, at(layout, number, logits), language(out)[0])
        states = out.hidden_states[-len(hidden.layers) :]  # ALBERT gives its embedding twice
        for ours, wanted in zip([*hidden.layers[:-1], hidden.last_BLD], states, strict=True):
            near(case, at(layout, number, ours), wanted[0])
    near(case, told.total, mean_loss(found, alone))
    if "pair" in alone.labels:
        by_place = np.lexsort((layout.at_N, layout.row_N)).tolist()
        scores = tower.head("pair").logits(hidden, together.labels["pair"] != IGNORE)
        near(case, scores, torch.cat([order(found[number]) for number in by_place]))


@pytest.mark.parametrize("seed", [3, 4, 5])
@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_of_packed_sequences_are_the_librarys(case: str, seed: int, tmp_path: Path, reference: SimpleNamespace) -> None:
    found, tower, theirs = pair(reference, case, seed, tmp_path)
    alone, together, _ = packed(tower, seed, True, reference)
    mean_loss([theirs(**asked(alone, number)) for number in range(len(LENGTHS))], alone).backward()
    tower(together).total.backward()
    weights_become_gradients(tower)
    gradients_close(case, exchange.to_theirs(tower, found.layout), {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})


class Doubts:
    """ELECTRA's two towers on packed rows, and the library's two on each sequence alone."""

    def __init__(self, case: str, seed: int, segmented: bool, folder: Path, reference: SimpleNamespace) -> None:
        self.found, self.tower, doubter, guesser = electras(case, seed, folder, reference)
        self.theirs = (guesser, doubter)
        alone, self.batch, self.layout = packed(self.tower, seed, segmented, reference)
        self.shown, replaced = doubted(self.tower, self.batch)
        self.shown.parts_BL, self.shown.places_BL = self.batch.parts_BL, self.batch.places_BL
        numbers = range(len(LENGTHS))
        self.guesses = [guesser(**asked(alone, i), output_hidden_states=True) for i in numbers]
        self.doubts = [
            doubter(**{**asked(alone, i), "input_ids": at(self.layout, i, self.shown.tokens_BL)[None]}, output_hidden_states=True)
            for i in numbers
        ]
        labels = torch.cat([at(self.layout, i, self.batch.labels["mlm"]) for i in numbers])
        self.guess_loss = F.cross_entropy(torch.cat([out.logits[0] for out in self.guesses]), labels, ignore_index=IGNORE)
        truth = torch.cat([at(self.layout, i, replaced) for i in numbers]).float()
        assert 0 < truth.sum() < len(truth) == sum(LENGTHS)
        self.doubt_loss = F.binary_cross_entropy_with_logits(torch.cat([out.logits[0] for out in self.doubts]), truth)


@pytest.mark.parametrize("segmented", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", ELECTRAS)
def test_both_electra_towers_on_packed_sequences_are_the_librarys_alone(
    case: str, seed: int, segmented: bool, tmp_path: Path, reference: SimpleNamespace
) -> None:
    with torch.no_grad():
        both = Doubts(case, seed, segmented, tmp_path, reference)
        tower, batch = both.tower, both.batch
        more = {"parts_BL": batch.parts_BL, "places_BL": batch.places_BL, "every_layer": True}
        low = tower.generator(batch.tokens_BL, batch.segments_BL, batch.keep_BL, **more)
        high = tower.hidden(both.shown, every_layer=True)
        logits, told = (tower.language_logits(batch), tower.head("rtd").logits(high)), tower(batch)
    for mine, scores, theirs in ((low, logits[0], both.guesses), (high, logits[1], both.doubts)):
        for number, out in enumerate(theirs):
            near(case, at(both.layout, number, scores), out.logits[0])
            for ours, wanted in zip([*mine.layers[:-1], mine.last_BLD], out.hidden_states[-len(mine.layers) :], strict=True):
                near(case, at(both.layout, number, ours), wanted[0])
    near(case, told.parts["mlm"], both.guess_loss)
    near(case, told.parts["rtd"], both.doubt_loss)
    assert told.total.item() == pytest.approx(both.guess_loss.item() + 50 * both.doubt_loss.item(), rel=1e-5)


@pytest.mark.parametrize("seed", [3, 4, 5])
@pytest.mark.parametrize("case", ELECTRAS)
def test_gradients_of_both_electra_towers_on_packed_sequences_are_the_librarys(
    case: str, seed: int, tmp_path: Path, reference: SimpleNamespace
) -> None:
    both = Doubts(case, seed, True, tmp_path, reference)
    (both.guess_loss + 50 * both.doubt_loss).backward()
    alone = [{n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in both.theirs]
    shared = "electra.embeddings."
    wanted = [{n: g + other[n] if n.startswith(shared) else g for n, g in mine.items()} for mine, other in (alone, alone[::-1])]
    both.tower(both.batch).total.backward()
    weights_become_gradients(both.tower)
    for part, gradients in zip(both.found.parts(both.tower).values(), wanted, strict=True):
        gradients_close(case, exchange.to_theirs(part, both.found.layout), gradients)
