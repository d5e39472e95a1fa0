"""One label for one text or for a pair of texts: sentiment, entailment, paraphrase.

How texts are framed follows what the model saw while it was pretrained: BERT, section 4.1, for [CLS] a [SEP] b [SEP]; RoBERTa has
two separators between a pair; a causal model gets the bare text (its end-of-text token between the two of a pair) and answers at
the last token. The exported tokenizer frames in the same way (data_prep/tokenizer/frame.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer.frame import Encoded, Frame
from infra.errors import ConfigError
from training.evaluation import metrics
from training.tasks.task import Example, Examples


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
    """Token ids of an example's texts within `length`, framed."""
    return frame.encode(ids(example.text), None if example.pair is None else ids(example.pair), length)
