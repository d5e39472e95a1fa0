"""One label for one text or for a pair of texts: sentiment, entailment, paraphrase.

How texts are framed follows what the model saw while it was pretrained: BERT, section 4.1, for [CLS] a [SEP] b [SEP];
a causal model gets the bare text (its end-of-text token between the two of a pair) and answers at the last token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError
from training.evaluation import metrics
from training.tasks.task import Example, Examples


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
        found = tuple(sorted({example.label for example in train.rows}))
        if len(found) < 2:
            raise ConfigError(f"the training file has one label only ({', '.join(found)}): there is nothing to tell apart")
        return found

    def known(self, examples: Examples, labels: Sequence[str]) -> Examples:
        kept = tuple(example for example in examples.rows if example.label in set(labels))
        strange = len(examples.rows) - len(kept)
        if not kept:
            raise ConfigError(f"no row has a label that the model knows: {', '.join(labels)}")
        return Examples(kept, {**examples.corrupt, "unknown_label": strange} if strange else examples.corrupt)

    def score(self, gold: NDArray[np.int64], said: NDArray[np.int64], labels: Sequence[str], samples: int, seed: int) -> dict[str, Any]:
        """Accuracy with a bootstrap interval, F1 (of label 1 when there are two, else the mean over labels), Matthews."""
        right = (gold == said).astype(np.float64)
        positive = f1_of(labels)
        f1 = metrics.f1(gold, said, 1) if positive else metrics.macro_f1(gold, said, len(labels))
        return {
            "examples": len(gold),
            "accuracy": metrics.bootstrap(lambda rows: float(right[rows].mean()), len(right), samples=samples, seed=seed).record(),
            "f1": round(f1, 6),
            "f1_of": positive or "mean over labels",
            "matthews": round(metrics.matthews(gold, said), 6),
            "majority": round(max(Counter(gold.tolist()).values()) / len(gold), 6),
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
