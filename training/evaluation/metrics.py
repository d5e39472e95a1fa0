"""Scores of predictions, and how sure a sample of this size lets us be of them.

Definitions are the textbook ones that GLUE uses (Wang et al. 2018, table 1); tests hold them against scikit-learn and scipy.
Where a score is undefined (Matthews with one class only, a correlation of a constant) it is 0, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_CHUNK = 4_000_000  # cells of the resampling table held at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A value and the two ends between which it would fall in `level` of all samples like this one."""

    value: float
    low: float
    high: float

    def record(self, digits: int = 6) -> dict[str, float]:
        return {"value": round(self.value, digits), "low": round(self.low, digits), "high": round(self.high, digits)}


def accuracy(gold: Sequence[int] | Ints, predicted: Sequence[int] | Ints) -> float:
    """The share that is right."""
    truth, guess = _both(gold, predicted, np.int64)
    return float((truth == guess).mean())


def confusion(gold: Sequence[int] | Ints, predicted: Sequence[int] | Ints, classes: int) -> Ints:
    """Rows are the truth, columns what was said."""
    truth, guess = _both(gold, predicted, np.int64)
    return np.bincount(truth * classes + guess, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def f1_per_class(gold: Sequence[int] | Ints, predicted: Sequence[int] | Ints, classes: int) -> Floats:
    """2 TP / (2 TP + FP + FN); a class that is neither there nor predicted scores 0."""
    table = confusion(gold, predicted, classes)
    hits = np.diag(table)
    total = table.sum(axis=0) + table.sum(axis=1)
    return np.divide(2.0 * hits, total, out=np.zeros(classes), where=total > 0)


def f1(gold: Sequence[int] | Ints, predicted: Sequence[int] | Ints, positive: int = 1) -> float:
    """F1 of one class: MRPC and QQP take class 1."""
    top = int(max(np.max(gold), np.max(predicted), positive)) + 1
    return float(f1_per_class(gold, predicted, top)[positive])


def macro_f1(gold: Sequence[int] | Ints, predicted: Sequence[int] | Ints, classes: int) -> float:
    """The mean of every class's F1, rare classes counting as much as frequent ones."""
    return float(f1_per_class(gold, predicted, classes).mean())


def matthews(gold: Sequence[int] | Ints, predicted: Sequence[int] | Ints) -> float:
    """Matthews' correlation for any number of classes (Gorodkin 2004, eq. 8)."""
    truth, guess = _both(gold, predicted, np.int64)
    classes = int(max(truth.max(), guess.max())) + 1
    table = confusion(truth, guess, classes).astype(np.float64)
    said, true, right, total = table.sum(0), table.sum(1), np.trace(table), table.sum()
    above = right * total - said @ true
    below = math.sqrt((total**2 - said @ said) * (total**2 - true @ true))
    return float(above / below) if below > 0 else 0.0


def pearson(gold: Sequence[float] | Floats, predicted: Sequence[float] | Floats) -> float:
    """The linear correlation."""
    truth, guess = _both(gold, predicted, np.float64)
    truth, guess = truth - truth.mean(), guess - guess.mean()
    below = math.sqrt(float(truth @ truth)) * math.sqrt(float(guess @ guess))
    return float(truth @ guess) / below if below > 0 else 0.0


def spearman(gold: Sequence[float] | Floats, predicted: Sequence[float] | Floats) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank."""
    truth, guess = _both(gold, predicted, np.float64)
    return pearson(_ranks(truth), _ranks(guess))


def bootstrap(
    metric: Callable[[NDArray[np.int64]], float], size: int, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap of `metric(rows)`, a score of the rows named by their indices (Efron 1979).

    Two systems scored on the same rows are compared by giving the metric that subtracts them: the draws are then paired.
    """
    _check(size, samples, level)
    rng = np.random.default_rng(seed)
    drawn = np.array([metric(rng.integers(0, size, size)) for _ in range(samples)])
    return _interval(metric(np.arange(size)), drawn, level)


def bootstrap_ratio(
    above: Sequence[float] | Floats, below: Sequence[float] | Floats, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Bootstrap of sum(above) / sum(below) over sequences: a mean per token whose unit of chance is the sequence.

    Tokens of one sequence are not independent, so drawing tokens would give intervals that are too narrow.
    """
    top, base = _both(above, below, np.float64)
    _check(len(top), samples, level)
    rng = np.random.default_rng(seed)
    drawn = np.empty(samples)
    step = max(1, _CHUNK // len(top))
    for start in range(0, samples, step):
        rows = rng.integers(0, len(top), (min(step, samples - start), len(top)))
        drawn[start : start + len(rows)] = top[rows].sum(1) / np.maximum(base[rows].sum(1), 1e-12)
    return _interval(float(top.sum() / base.sum()), drawn, level)


def auc(gold: Sequence[float] | Floats, scores: Sequence[float] | Floats) -> float:
    """Area under the ROC curve: the chance that a positive row scores above a negative one, ties counting half. 0.5 with one class only."""
    truth, said = _both(gold, scores, np.float64)
    return _auc_of(truth > 0, np.unique(said, return_inverse=True)[1].reshape(-1), np.ones(len(said)))


def bootstrap_auc(
    gold: Sequence[float] | Floats,
    scores: Sequence[float] | Floats,
    sizes: Ints,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap of `auc` over sequences: rows lie sequence by sequence, sizes[i] of them in sequence i."""
    truth, said = _both(gold, scores, np.float64)
    if int(sizes.sum()) != len(said):
        raise ConfigError(f"sequences of {int(sizes.sum())} rows do not hold {len(said)} scores")
    positive, rank = truth > 0, np.unique(said, return_inverse=True)[1].reshape(-1)
    owner = np.repeat(np.arange(len(sizes)), sizes)

    def of(rows: NDArray[np.int64]) -> float:
        return _auc_of(positive, rank, np.bincount(rows, minlength=len(sizes))[owner].astype(np.float64))

    return bootstrap(of, len(sizes), samples=samples, level=level, seed=seed)


def _auc_of(positive: NDArray[np.bool_], rank: Ints, weight: Floats) -> float:
    """Mann-Whitney's U over both classes' total weights; rank: equal scores share one, from 0 without gaps."""
    top = int(rank.max()) + 1
    above = np.bincount(rank[positive], weight[positive], minlength=top)
    below = np.bincount(rank[~positive], weight[~positive], minlength=top)
    pairs = above.sum() * below.sum()
    return float((above * (np.cumsum(below) - below / 2.0)).sum() / pairs) if pairs > 0 else 0.5


def _interval(value: float, drawn: Floats, level: float) -> Interval:
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(float(value), float(low), float(high))


def _check(size: int, samples: int, level: float) -> None:
    if size < 1 or samples < 1 or not 0.0 < level < 1.0:
        raise ConfigError(f"a bootstrap of {size} rows, {samples} samples, level {level} cannot be drawn: all must be positive, level < 1")


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse.reshape(-1)]


def _both(gold: Sequence[float] | NDArray, predicted: Sequence[float] | NDArray, kind: type) -> tuple[NDArray, NDArray]:
    truth: NDArray = np.asarray(gold, dtype=kind)
    guess: NDArray = np.asarray(predicted, dtype=kind)
    if truth.shape != guess.shape or truth.ndim != 1 or not len(truth):
        raise ConfigError(
            f"{truth.shape} true values cannot be scored against {guess.shape} predictions: both must be one row of one length"
        )
    return truth, guess
