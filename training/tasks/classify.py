"""One label for one text or for a pair of texts: sentiment, entailment, paraphrase.

How texts are framed follows what the model saw while it was pretrained: BERT, section 4.1, for [CLS] a [SEP] b [SEP];
a causal model gets the bare text (its end-of-text token between the two of a pair) and answers at the last token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError
from training.evaluation import metrics
from training.tasks.task import Example, Examples, meaning_of, order_of


@dataclass(frozen=True)
class Frame:
    """The tokens a family puts around its texts: start and stop are None for a causal model, between stands in the middle."""

    start: int | None
    between: int
    stop: int | None

    @property
    def spent(self) -> int:
        return (self.start is not None) + (self.stop is not None)


@dataclass(frozen=True)
class Encoded:
    """One example as the model reads it, not yet padded."""

    tokens: list[int]
    segments: list[int]


class Classify:
    """The task's answers and scores; reading is task.py's, training finetune.py's."""

    name = "classify"

    def labels(self, train: Examples) -> tuple[str, ...]:
        """In numeric order when all are numbers, so that 0 to n-1 are their own class numbers; else in the order of their texts."""
        spelled: dict[Any, str] = {}
        meaning = meaning_of(train.labels)
        for label in sorted(train.labels, key=lambda label: (len(label), label)):
            spelled.setdefault(meaning(label), label)
        found = tuple(sorted(spelled.values(), key=order_of(tuple(spelled.values()))))
        if len(found) < 2:
            raise ConfigError(f"the training file has one label only ({', '.join(found)}): a classifier needs at least two")
        return found

    def known(self, examples: Examples, labels: Sequence[str]) -> Examples:
        meaning = meaning_of(labels)
        spelled = {meaning(label): label for label in labels}
        rows = tuple(replace(row, label=spelled.get(meaning(row.label), row.label)) for row in examples.rows)
        unknown = {label: count for label, count in replace(examples, rows=rows).labels.items() if label not in set(labels)}
        if sum(unknown.values()) == len(rows):
            raise ConfigError(f"no row has a label that the model knows ({', '.join(labels)}); the file has {', '.join(unknown)}")
        return replace(examples, rows=rows, unknown=unknown)

    def score(self, gold: NDArray[np.int64], said: NDArray[np.int64], labels: Sequence[str], samples: int, seed: int) -> dict[str, Any]:
        """Accuracy with a bootstrap interval, F1 (of label 1 when there are two, else the mean over labels), Matthews.

        gold: class numbers; a negative one is of a label that the model does not know. It counts as an example answered incorrectly,
        in every measure.
        """
        right = (gold == said).astype(np.float64)
        truth = np.where(gold < 0, len(labels), gold)  # one more class, which no answer can be
        positive = f1_of(labels)
        f1 = metrics.f1(truth, said, 1) if positive else metrics.f1_per_class(truth, said, len(labels) + 1)[:-1].mean()
        return {
            "examples": len(gold),
            "accuracy": metrics.bootstrap(lambda rows: float(right[rows].mean()), len(right), samples=samples, seed=seed).record(),
            "f1": round(float(f1), 6),
            "f1_of": positive or "mean over labels",
            "matthews": round(metrics.matthews(truth, said), 6),
            "majority": round(max(Counter(gold[gold >= 0].tolist()).values(), default=0) / len(gold), 6),
            "unknown_labels": int((gold < 0).sum()),
            "gold": {label: int((gold == index).sum()) for index, label in enumerate(labels)},
            "said": {label: int((said == index).sum()) for index, label in enumerate(labels)},
        }


def f1_of(labels: Sequence[str]) -> str:
    """GLUE scores F1 of the second label ("1", paraphrase)."""
    return labels[1] if len(labels) == 2 else ""


def encode(example: Example, ids: Callable[[str], list[int]], frame: Frame, length: int) -> Encoded:
    """Token ids within `length`, framed. Segments are 0 through the first separator and 1 after it."""
    first = ids(example.text)
    if example.pair is None:
        return _framed(first[: length - frame.spent], None, frame)
    first, second = shorten(first, ids(example.pair), length - frame.spent - 1)
    return _framed(first, second, frame)


def shorten(first: list[int], second: list[int], budget: int) -> tuple[list[int], list[int]]:
    """Cut single tokens from the end of the longer of the two until both fit (BERT's run_classifier, _truncate_seq_pair)."""
    if budget < 2:
        raise ConfigError(f"length leaves {budget} tokens for a pair of texts; at least 2 are needed")
    over = len(first) + len(second) - budget
    if over <= 0:
        return first, second
    half = budget // 2  # when both must give way, ties take from the second: it keeps the smaller half
    if len(second) <= half:
        return first[: budget - len(second)], second
    if len(first) <= budget - half:
        return first, second[: budget - len(first)]
    return first[: budget - half], second[:half]


def _framed(first: list[int], second: list[int] | None, frame: Frame) -> Encoded:
    head = [frame.start] if frame.start is not None else []
    tail = [frame.stop] if frame.stop is not None else []
    if second is None:
        tokens = head + first + tail
        return Encoded(tokens, [0] * len(tokens))
    left = head + first + [frame.between]
    right = second + tail
    return Encoded(left + right, [0] * len(left) + [1] * len(right))
