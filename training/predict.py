"""Labels and scores of texts from a fine-tuned model directory, as transformers' text-classification pipeline gives them.

Letters: N texts, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer import hub_options
from data_prep.tokenizer.base import JSON, read_meta
from data_prep.tokenizer.frame import Frame, frame_of
from infra.errors import ArtifactError, ConfigError
from training.backbone import exchange
from training.families import catalog
from training.objectives.tower import Tower
from training.tasks.feed import LABEL, TaskFeed

Text = tuple[str, str | None]  # a text, and the second of a pair


@dataclass(frozen=True)
class Prediction:
    """The label with the highest score, and every label's score."""

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Classifier:
    """A fine-tuned model with all that its directory says about inputs and outputs.

    pad: the id of padding. length: tokens of an input at most. problem: transformers' problem_type, "" where none is set.
    """

    model: Tower
    tokenizer: tokenizers.Tokenizer
    frame: Frame
    pad: int
    length: int
    labels: tuple[str, ...]
    problem: str

    def predict(self, texts: Sequence[Text], batch: int = 32, length: int = 0) -> Iterator[Prediction]:
        """A prediction for each text, in their order. length: truncate to fewer tokens than the model's own limit; 0: that limit."""
        if not texts:
            return
        limit = min(length or self.length, self.length)
        encoded = self.tokenizer.encode_batch([text for pair in texts for text in pair if text is not None])
        ids = iter(encoded)
        rows = [self.frame.encode(next(ids), None if second is None else next(ids), limit) for _, second in texts]
        feed = TaskFeed(rows, [0] * len(rows), batch_size=batch, length=limit, pad=self.pad, segments=self.frame.segments)
        for step in range(feed.steps_per_epoch):
            for scores in self.scores(self._logits(feed, step)).tolist():
                best = max(range(len(scores)), key=scores.__getitem__)
                named = dict(zip(self.labels, scores, strict=True))
                yield Prediction(self.labels[best], scores[best], named)

    @torch.inference_mode()
    def _logits(self, feed: TaskFeed, step: int) -> Tensor:
        found = feed.slice(step, 0, 1)
        return self.model.head(LABEL).logits(self.model.hidden(found)).float()

    def scores(self, logits_NC: Tensor) -> Tensor:
        """Probabilities, or the values of a regression: the rules of transformers' TextClassificationPipeline."""
        if self.problem == "regression":
            return logits_NC
        independent = self.problem == "multi_label_classification" or (not self.problem and logits_NC.shape[-1] == 1)
        return logits_NC.sigmoid() if independent else logits_NC.softmax(-1)


def open_classifier(folder: Path) -> Classifier:
    """The classifier of a model directory. Raises ConfigError for a model without a classification head."""
    settings = exchange.read_settings(folder)
    model = catalog.load(folder).eval()
    if not any(head.name == LABEL for head in model.heads):
        raise ConfigError(f"{folder} has no classification head; fine-tune it on a task first, or give the fine-tuned model")
    meta = read_meta(folder)
    names = settings.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{folder}: config.json gives two classes one name ({', '.join(labels)}); name them differently")
    return Classifier(
        model,
        tokenizers.load(folder),
        frame_of(_record(folder)),
        int(settings.get("pad_token_id") or meta.specials.get("pad", 0)),
        min(hub_options.length(folder) or model.config.positions, model.config.positions),
        labels,
        str(settings.get("problem_type") or ""),
    )


def _record(folder: Path) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads((folder / JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} holds no readable {JSON} ({error}); `textmill import` writes one") from error
    return found
