"""Texts are framed as the papers frame them, at every length; labels and scores are plain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from data_prep.tokenizer.frame import Frame
from infra.errors import ConfigError
from training.tasks.catalog import TASKS, task
from training.tasks.classify import Classify, encode
from training.tasks.task import Example, Examples

BERT, GPT = Frame((1,), (2,), (2,), segments=True), Frame(between=(3,))


def ids(text: str) -> list[int]:
    return [10 + int(word) for word in text.split()]


def test_single_and_pair_carry_their_separators_and_segments() -> None:
    single, both = encode(Example("1 2 3", "x"), ids, BERT, 8), encode(Example("1 2", "x", "3"), ids, BERT, 8)
    assert (single.tokens, single.segments) == ([1, 11, 12, 13, 2], [0] * 5)
    assert (both.tokens, both.segments) == ([1, 11, 12, 2, 13, 2], [0, 0, 0, 0, 1, 1])


def test_a_causal_model_gets_the_bare_text_and_one_token_between_a_pair() -> None:
    assert encode(Example("1 2 3", "x"), ids, GPT, 8).tokens == [11, 12, 13]
    assert encode(Example("1 2", "x", "3"), ids, GPT, 8).tokens == [11, 12, 3, 13]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(6, 14))
def test_no_length_is_overrun_and_none_is_wasted(left: int, right: int, length: int) -> None:
    text, pair = " ".join("1" * left), " ".join("2" * right)
    for frame, extra in ((BERT, 3), (GPT, 1)):
        both = encode(Example(text, "x", pair), ids, frame, length)
        assert len(both.tokens) == min(length, left + right + extra) == len(both.segments)
        assert both.tokens.count(frame.between[0]) == (2 if frame is BERT else 1)
    assert len(encode(Example(text, "x"), ids, BERT, length).tokens) == min(length, left + 2)


def test_labels_are_the_sorted_ones_of_the_training_file() -> None:
    train = Examples((Example("a", "pos"), Example("b", "neg"), Example("c", "pos")), {})
    assert Classify().labels(train) == ("neg", "pos")
    with pytest.raises(ConfigError, match="one label only"):
        Classify().labels(Examples(train.rows[:1], {}))


@pytest.mark.parametrize(
    ("found", "labels"),
    [
        ([str(number) for number in range(12)], tuple(map(str, range(12)))),
        (["0.5", "-1", "10", "2.25"], ("-1", "0.5", "2.25", "10")),
        (["1.0", "1", "0", "0.0"], ("0", "1")),  # what pandas writes beside whole numbers
        (["true", "false"], ("false", "true")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["02", "010", "1"], ("010", "02", "1")),  # leading zeros are names, not numbers
    ],
)
def test_labels_that_are_numbers_stand_in_their_order(found: list[str], labels: tuple[str, ...]) -> None:
    assert Classify().labels(Examples(tuple(Example("a", label) for label in found), {})) == labels


def test_a_label_that_means_the_same_is_the_same() -> None:
    dev = Examples((Example("a", "1.0"), Example("b", "True"), Example("c", "x")), {})
    assert [row.label for row in Classify().known(dev, ("0", "1")).rows] == ["1", "True", "x"]
    assert [row.label for row in Classify().known(dev, ("false", "true")).rows] == ["1.0", "true", "x"]


def test_a_label_the_model_never_saw_stays_in_the_denominator() -> None:
    dev = Examples((Example("a", "pos"), Example("b", "meh"), Example("c", "meh")), {"text": 1})
    known = Classify().known(dev, ("neg", "pos"))
    assert (known.rows, known.corrupt, known.unknown) == (dev.rows, {"text": 1}, {"meh": 2})
    with pytest.raises(ConfigError, match="no row has a label that the model knows"):
        Classify().known(dev, ("a", "b"))


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), min_size=2, max_size=40))
@settings(max_examples=40, deadline=None)
def test_scores_with_unknown_labels_are_scikit_learns_with_one_more_class(rows: list[tuple[int, int]]) -> None:
    gold, said = (np.array(column) for column in zip(*rows, strict=True))
    score = Classify().score(np.where(gold < 0, -100, gold), said, ("a", "b", "c"), 10, 0)
    truth = np.where(gold < 0, 3, gold)
    assert score["accuracy"]["value"] == pytest.approx(accuracy_score(truth, said), abs=1e-6)
    assert score["f1"] == pytest.approx(f1_score(truth, said, labels=[0, 1, 2], average="macro", zero_division=0), abs=1e-6)
    assert score["matthews"] == pytest.approx(matthews_corrcoef(truth, said), abs=1e-6)
    assert (score["unknown_labels"], score["gold"]) == (int((gold < 0).sum()), {x: int((gold == i).sum()) for i, x in enumerate("abc")})


def test_the_score_says_what_a_constant_answer_would_get() -> None:
    gold, said = np.array([0, 1, 1, 1]), np.array([1, 1, 1, 1])
    score = Classify().score(gold, said, ("no", "yes"), 200, 0)
    assert score["accuracy"]["value"] == score["majority"] == 0.75
    assert (score["matthews"], score["f1_of"], score["said"]) == (0.0, "yes", {"no": 0, "yes": 4})
    assert score["f1"] == pytest.approx(6 / 7, abs=1e-6)


def test_an_unknown_task_is_answered_with_the_nearest_name() -> None:
    assert task("classify") is TASKS["classify"]
    with pytest.raises(ConfigError, match="did you mean 'classify'"):
        task("clasify")
