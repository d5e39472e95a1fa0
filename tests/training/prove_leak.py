"""The leak of a pair's label on real text of both sizes: boosted trees on shapes, within two standard errors of an AUC of 0.5.

Seeds are fixed, so a result repeats. Of labels that are independent of the shape one draw in twenty is further off by chance: the mean of
three draws counts, against the error of one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.store import Store
from tests.training.feed import leak, leak_texts
from tests.training.feed.leak import Leak

VIEWS = {"nsp": ("lengths", "counts", "a", "b"), "sop": ("lengths", "counts", "pair")}
DRAWS = (1, 3, 5)  # each with the next one


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("leak"))


@pytest.mark.parametrize("task", VIEWS)
@pytest.mark.parametrize("length", [64, 128, 512])
@pytest.mark.parametrize("size", leak_texts.SIZES)
def test_the_shape_of_a_pair_does_not_show_its_label(store: Store, data: Path, size: str, length: int, task: str) -> None:
    source = leak_texts.source(store, size, length, task, data)
    found: dict[str, list[leak.Leak]] = {view: [] for view in VIEWS[task]}
    for seed in DRAWS:
        fitted, scored = leak.shapes(source, seed, max(1, 20_000 // source.examples)), leak.shapes(source, seed + 1)
        for view, draws in found.items():
            draws.append(leak.leak(fitted, scored, leak.VIEWS[view]))
    mean = {
        view: Leak(*(float(np.mean([getattr(one, name) for one in draws])) for name in ("auc", "error")), 0)
        for view, draws in found.items()
    }
    print(f"\n{size} {length} {task}", *(f"{view} {one.auc:.4f}+-{one.error:.4f}" for view, one in mean.items()))
    assert all(one.holds for one in mean.values()), mean
