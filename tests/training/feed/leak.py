"""How well boosted trees tell a pair's label from its shape: lengths, sentence counts, positions and document length, no word of it.

Documents are split between fitting and scoring, so that nothing about one document can be memorized. A sampler without a leak gives an
AUC of 0.5 within two standard errors, which are those of pairs clustered by document (Obuchowski 1997).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from training.feed.pair_feed import PairSource
from training.feed.random import fold

Shape = dict[str, NDArray[np.float64]]
Seen = tuple[Shape, NDArray[np.int64]]
COUNTS = ("a_tokens", "b_tokens", "a_sentences", "b_sentences")
VIEWS = {  # of the shape of a pair: positions and document length of A's document, or of B's; of both together any two differ in NSP
    "lengths": ("a_tokens", "b_tokens"),
    "counts": COUNTS,
    "a": (*COUNTS, "a_position", "a_depth", "a_document"),
    "b": (*COUNTS, "b_position", "b_depth", "b_document"),
    "pair": (*COUNTS, "position", "depth", "a_document"),  # where the earlier of the two stands: what a swap (SOP) leaves as it is
}


@dataclass(frozen=True)
class Leak:
    """auc and its standard error over `pairs` scored pairs."""

    auc: float
    error: float
    pairs: int

    @property
    def holds(self) -> bool:
        """Within two standard errors of knowing nothing."""
        return abs(self.auc - 0.5) <= 2 * self.error


def shapes(source: PairSource, seed: int, epochs: int = 1) -> Seen:
    """What can be seen of every pair in some epochs without reading it, by name, and the labels."""
    columns: dict[str, list[Any]] = {}
    index = np.arange(source.examples)
    for epoch in range(epochs):
        plan = source.plan(index, fold(seed, 77, epoch, index), fold(seed, 77, np.full(len(index), epoch)))
        for name, values in _shape(source, plan).items():
            columns.setdefault(name, []).append(values)
        columns.setdefault("label", []).append(plan["pair"])
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    label = joined.pop("label")
    return {name: values.astype(np.float64) for name, values in joined.items()}, label


def _shape(source: PairSource, plan: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """A and B as they are seen: A is what stands first."""
    shape: dict[str, NDArray[Any]] = {}
    first_row, sentences = (source._documents.numbers(name) for name in ("first", "sentences"))
    starts = source._tokens.places(np.arange(source._sentences.starts[-1]))
    for side in "ab":
        first, last = plan[f"{side}0"], plan[f"{side}1"] - 1
        row = np.searchsorted(starts, first, side="right") - 1
        document = source._document(row)
        begin = first_row.at(document) + source._sentences.starts[source._sentences.shard_of(row)]
        count = sentences.at(document)
        shape[f"{side}_tokens"] = last - first + 1
        shape[f"{side}_sentences"] = np.searchsorted(starts, last, side="right") - 1 - row + 1
        shape[f"{side}_position"], shape[f"{side}_depth"], shape[f"{side}_document"] = row - begin, (row - begin) / count, count
        shape[f"{side}_owner"] = document
    shape["position"] = np.minimum(shape["a_position"], shape["b_position"])
    shape["depth"] = np.minimum(shape["a_depth"], shape["b_depth"])
    return shape


def leak(fitted: Seen, scored: Seen, names: tuple[str, ...], seed: int = 0) -> Leak:
    """Trees fitted to the pairs of half of the documents and scored on those of the other half, and the other way round.

    Where B's document is seen, a pair takes part whose two documents are of one half: trees that knew a document by its length would
    else know from which half a random B is. fitted, scored: pairs of one source under different draws.
    """
    halves = (
        np.random.default_rng(seed).permutation(
            1 + max(int(shape[f"{side}_owner"].max()) for shape, _ in (fitted, scored) for side in "ab")
        )
        % 2
    )
    found = [_one_way(fitted, scored, names, halves, half) for half in (0, 1)]
    error = float(np.sqrt(sum(one.error**2 for one in found)) / 2)
    return Leak(sum(one.auc for one in found) / 2, error, sum(one.pairs for one in found))


def _one_way(fitted: Seen, scored: Seen, names: tuple[str, ...], halves: NDArray[np.int64], half: int) -> Leak:
    def part(seen: Seen, half: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        shape, label = seen
        inside = halves[shape["a_owner"].astype(int)] == half
        if "b_document" in names:
            inside &= halves[shape["b_owner"].astype(int)] == half
        return np.stack([shape[name][inside] for name in names], axis=1), label[inside], shape["a_owner"][inside]

    model = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.08, max_leaf_nodes=15, random_state=0)
    model.fit(*part(fitted, 1 - half)[:2])
    features, label, owner = part(scored, half)
    return Leak(*_clustered(label, model.predict_proba(features)[:, 1], owner), len(label))


def _clustered(label: NDArray[np.int64], score: NDArray[np.float64], owner: NDArray[np.float64]) -> tuple[float, float]:
    """AUC and its standard error from the placement of each pair among those of the other class, summed per document (Obuchowski 1997).

    Pairs of one document are not independent: one direction of chunking and one style of sentences are of all of them.
    """
    above, below = score[label == 1], score[label == 0]
    order = stats.rankdata(np.concatenate([above, below]))
    of_above = (order[: len(above)] - stats.rankdata(above)) / len(below)
    of_below = 1.0 - (order[len(above) :] - stats.rankdata(below)) / len(above)
    auc = float(of_above.mean())
    owners = np.concatenate([owner[label == 1], owner[label == 0]]).astype(np.int64)
    share = np.bincount(owners, np.concatenate([(of_above - auc) / len(above), (of_below - auc) / len(below)]))
    clusters = len(np.unique(owners))
    return auc, float(np.sqrt(clusters / (clusters - 1) * (share**2).sum()))
