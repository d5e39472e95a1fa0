from __future__ import annotations

import torch

from training.feed.batch import IGNORE, Batch


def sample() -> Batch:
    labels = {"mlm": torch.tensor([[IGNORE, 3], [4, IGNORE], [IGNORE, IGNORE]]), "pair": torch.tensor([0, 1, 0])}
    return Batch(torch.arange(6).view(3, 2), torch.zeros(3, 2, dtype=torch.long), torch.ones(3, 2, dtype=torch.bool), labels, {"mlm": 2.0})


def test_count_counts_what_has_to_be_predicted() -> None:
    assert sample().count("mlm") == 2 and sample().count("pair") == 3 and len(sample()) == 3


def test_rows_cuts_everything_alike_and_leaves_the_denominators() -> None:
    part = sample().rows(1, 3)
    assert part.tokens_BL.tolist() == [[2, 3], [4, 5]] and part.count("mlm") == 1 and part.labels["pair"].tolist() == [1, 0]
    assert part.segments_BL is not None and part.segments_BL.shape == (2, 2) and part.keep_BL is not None
    assert part.denominators == {}


def test_to_moves_every_tensor() -> None:
    moved = sample().to("meta")
    tensors = [moved.tokens_BL, moved.segments_BL, moved.keep_BL, *moved.labels.values()]
    assert all(t is not None and t.device.type == "meta" for t in tensors) and moved.denominators == {"mlm": 2.0}
    assert Batch(torch.zeros(1, 1)).to("meta").keep_BL is None
