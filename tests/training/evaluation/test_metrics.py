"""Our scores are scikit-learn's and scipy's, and undefined ones are 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from training.evaluation import metrics

pairs = st.integers(1, 40).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, 3), min_size=n, max_size=n), st.lists(st.integers(0, 3), min_size=n, max_size=n))
)
values = st.integers(2, 30).flatmap(
    lambda n: st.tuples(st.lists(st.integers(-5, 5), min_size=n, max_size=n), st.lists(st.integers(-5, 5), min_size=n, max_size=n))
)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_class_scores_are_those_of_scikit_learn(both: tuple[list[int], list[int]]) -> None:
    gold, predicted = both
    labels = list(range(4))
    theirs = sklearn.metrics.f1_score(gold, predicted, labels=labels, average=None, zero_division=0)
    assert metrics.accuracy(gold, predicted) == pytest.approx(sklearn.metrics.accuracy_score(gold, predicted))
    assert metrics.f1_per_class(gold, predicted, 4) == pytest.approx(theirs)
    assert metrics.macro_f1(gold, predicted, 4) == pytest.approx(theirs.mean())
    assert metrics.f1(gold, predicted, positive=1) == pytest.approx(theirs[1])
    assert metrics.matthews(gold, predicted) == pytest.approx(sklearn.metrics.matthews_corrcoef(gold, predicted), abs=1e-12)
    assert (metrics.confusion(gold, predicted, 4) == sklearn.metrics.confusion_matrix(gold, predicted, labels=labels)).all()


@given(values)
@settings(max_examples=60, deadline=None)
def test_correlations_are_those_of_scipy(both: tuple[list[int], list[int]]) -> None:
    gold, predicted = both
    if len(set(gold)) == 1 or len(set(predicted)) == 1:
        assert metrics.pearson(gold, predicted) == metrics.spearman(gold, predicted) == 0.0
        return
    assert metrics.pearson(gold, predicted) == pytest.approx(scipy.stats.pearsonr(gold, predicted).statistic, abs=1e-9)
    assert metrics.spearman(gold, predicted) == pytest.approx(scipy.stats.spearmanr(gold, predicted).statistic, abs=1e-9)


def test_matthews_of_a_system_that_always_says_the_same_is_zero_and_no_nan() -> None:
    assert metrics.matthews([0, 1, 1, 0], [1, 1, 1, 1]) == 0.0
    assert metrics.matthews([1, 1], [1, 1]) == 0.0


def test_the_interval_of_an_accuracy_is_close_to_the_binomial_one() -> None:
    right = np.repeat([1, 0], [700, 300])
    drawn = metrics.bootstrap(lambda rows: float(right[rows].mean()), 1000, samples=2000)
    margin = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert drawn.value == 0.7
    assert drawn.low == pytest.approx(0.7 - margin, abs=0.005)
    assert drawn.high == pytest.approx(0.7 + margin, abs=0.005)


def test_the_same_seed_draws_the_same_interval_and_another_seed_another() -> None:
    above, below = np.arange(50.0), np.full(50, 3.0)
    once, again = metrics.bootstrap_ratio(above, below, seed=4), metrics.bootstrap_ratio(above, below, seed=4)
    assert once == again
    assert once != metrics.bootstrap_ratio(above, below, seed=5)
    assert once.value == pytest.approx(above.sum() / below.sum())
    assert once.low < once.value < once.high


def test_a_ratio_drawn_in_pieces_is_the_ratio_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    above, below = np.arange(20.0), np.arange(1.0, 21.0)
    whole = metrics.bootstrap_ratio(above, below, samples=100)
    monkeypatch.setattr(metrics, "_CHUNK", 60)
    assert metrics.bootstrap_ratio(above, below, samples=100) == whole


@pytest.mark.parametrize(("gold", "predicted"), [([], []), ([1], [1, 2])])
def test_what_cannot_be_scored_is_refused(gold: list[int], predicted: list[int]) -> None:
    with pytest.raises(ConfigError, match="cannot be scored"):
        metrics.accuracy(gold, predicted)


def test_auc_is_scikit_learns_with_ties_and_its_interval_draws_sequences() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    gold = rng.integers(0, 2, 400)
    scores = np.round(gold * 0.7 + rng.normal(size=400), 1)
    assert metrics.auc(gold, scores) == pytest.approx(roc_auc_score(gold, scores), abs=1e-12)
    assert metrics.auc(np.ones(5), np.arange(5.0)) == 0.5
    sizes = np.full(40, 10)
    found = metrics.bootstrap_auc(gold, scores, sizes, samples=300)
    drawn = []
    for _ in range(300):
        rows = np.concatenate([np.arange(10 * i, 10 * i + 10) for i in rng.integers(0, 40, 40)])
        drawn.append(roc_auc_score(gold[rows], scores[rows]))
    assert found.value == pytest.approx(roc_auc_score(gold, scores), abs=1e-12)
    assert found.high - found.low == pytest.approx(float(np.ptp(np.quantile(drawn, [0.025, 0.975]))), rel=0.25)
    with pytest.raises(ConfigError, match="do not hold 400 scores"):
        metrics.bootstrap_auc(gold, scores, sizes[1:])
