"""One label for one text or for a pair of texts: sentiment, entailment, paraphrase.

How texts are framed follows what the model saw while it was pretrained: BERT, section 4.1, for [CLS] a [SEP] b [SEP]; RoBERTa has
two separators between a pair; a causal model gets the bare text (its end-of-text token between the two of a pair) and answers at
the last token. The exported tokenizer frames in the same way (data_prep/tokenizer/frame.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer.frame import Encoded, Frame
from infra.errors import ConfigError
from training.evaluation import metrics
from training.tasks.task import Example, Examples, meaning_of, order_of


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
    """Token ids of an example's texts within `length`, framed."""
    return frame.encode(ids(example.text), None if example.pair is None else ids(example.pair), length)
