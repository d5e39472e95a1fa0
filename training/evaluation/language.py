"""How well models predict the held-out text, each on the very same batches: loss, hits, and how near one is to another.

Everything is summed by sequence, so that intervals are drawn over sequences and two models are compared pair by pair.
Letters: B sequences, L positions, N predicted places, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep import shards
from infra.artifact import Artifact
from infra.errors import ConfigError
from training.evaluation import detection, metrics
from training.evaluation.metrics import Floats
from training.feed.batch import IGNORE, Batch
from training.feed.loader import Feed
from training.objectives.rtd import GeneratorDiscriminator
from training.objectives.tower import Tower

Sums = dict[str, Floats]  # by sequence: tokens, nats, right; against a teacher kl, agree; for a pair head pairs, pairs_right
UNIGRAM = "unigram"
_MICRO = 8  # sequences at once: vocabulary scores of all their places are held in float32


def tally(
    feed: Feed, towers: Mapping[str, Tower], *, teacher: str = "", unigram: Floats | None = None, vocab: int = 0, batches: int = 0
) -> dict[str, Sums]:
    """Each tower's sums over the feed, which must be a held-out one (fixed order, fixed masks).

    teacher: the tower that the others' kl and agree are taken against. unigram: log-probabilities of a model without context,
    tallied under its own name. vocab: columns beyond it, of a padded embedding, take no part.
    """
    label = _label(towers)
    for tower in towers.values():
        tower.eval()
    kept: dict[str, list[dict[str, Tensor]]] = {name: [] for name in (*towers, *([UNIGRAM] if unigram is not None else []))}
    steps = min(batches or feed.steps_per_epoch, feed.steps_per_epoch)
    prior = None if unigram is None else torch.from_numpy(unigram)
    for step in range(steps):
        whole = feed.slice(step, 0, 1)
        for start in range(0, len(whole), _MICRO):
            for name, sums in _score(whole.rows(start, start + _MICRO), towers, label, teacher=teacher, prior=prior, vocab=vocab).items():
                kept[name].append(sums)
    return {
        name: {key: torch.cat([sums[key] for sums in parts]).double().numpy() for key in parts[0]} for name, parts in kept.items() if parts
    }


def _label(towers: Mapping[str, Tower]) -> str:
    names = {name: tower.language_head().name for name, tower in towers.items()}
    if len(set(names.values())) != 1:
        raise ConfigError(f"these models predict different things and cannot be compared: {names}")
    return str(next(iter(names.values())))


@torch.no_grad()
def _score(
    batch: Batch, towers: Mapping[str, Tower], label: str, *, teacher: str, prior: Tensor | None, vocab: int
) -> dict[str, dict[str, Tensor]]:
    labels_BL = batch.labels[label]
    at_BL = labels_BL != IGNORE
    gold_N, row_N = labels_BL[at_BL], at_BL.nonzero()[:, 0]

    def by_row(values_N: Tensor) -> Tensor:
        return torch.zeros(len(batch), dtype=torch.float64).index_add_(0, row_N, values_N.double())

    tokens = by_row(torch.ones(len(gold_N)))
    found: dict[str, dict[str, Tensor]] = {}
    taught_NV: Tensor | None = None
    for name in sorted(towers, key=lambda name: name != teacher):  # the teacher first: the others are held against it
        hidden = towers[name].language_hidden(batch)
        logits_NV = towers[name].language_head().logits(hidden, at_BL)[:, : vocab or None].float()
        said_NV = logits_NV.log_softmax(-1)
        best_N = said_NV.argmax(-1)
        sums = {"tokens": tokens, "nats": by_row(-said_NV.gather(1, gold_N[:, None])[:, 0]), "right": by_row(best_N == gold_N)}
        if taught_NV is not None:
            sums["kl"] = by_row((taught_NV.exp() * (taught_NV - said_NV)).sum(-1))
            sums["agree"] = by_row(best_N == taught_NV.argmax(-1))
        if name == teacher:
            taught_NV = said_NV
        if "pair" in batch.labels and any(head.name == "pair" for head in towers[name].heads):
            right_B = towers[name].head("pair").logits(hidden).argmax(-1) == batch.labels["pair"]
            sums |= {"pairs": torch.ones(len(batch)), "pairs_right": right_B.double()}
        if isinstance(tower := towers[name], GeneratorDiscriminator):
            sums |= detection.sums(*tower.detect(batch, logits_NV))
        found[name] = sums
    if prior is not None:
        guess = int(prior.argmax())
        found[UNIGRAM] = {"tokens": tokens, "nats": by_row(-prior[gold_N]), "right": by_row(gold_N == guess)}
    return found


# ---- what a text without context would be worth ---------------------------------------------------------------------------


def unigram(examples: Artifact, sentences: Artifact, vocab: int) -> Floats:
    """log P(token) by its count in the training examples, one added to each (Laplace): the best guess without context."""
    counts = np.ones(vocab)
    for shard in examples.shards:
        table = shards.read(shard)
        if "tokens" in table.column_names:
            ids = np.concatenate([chunk.flatten().to_numpy() for chunk in table["tokens"].chunks] or [np.empty(0, np.uint16)])
        else:  # pairs name sentences: all those of training documents
            ids = _training_tokens(sentences, shard.name)
        counts += np.bincount(ids.astype(np.int64), minlength=vocab)[:vocab]
    return np.asarray(np.log(counts / counts.sum()))


def _training_tokens(sentences: Artifact, name: str) -> Floats:
    table = shards.read(sentences.path / name).combine_chunks()
    split = np.asarray(shards.read(sentences.path / "documents" / name)["split"].to_numpy() == "train")
    column = table["tokens"].chunk(0) if table.num_rows else None
    if column is None:
        return np.empty(0)
    lengths = np.diff(column.offsets.to_numpy())
    mine = np.repeat(split[table["document"].to_numpy()], lengths)
    return np.asarray(column.flatten().to_numpy()[mine])


def tokens_per_byte(sentences: Artifact) -> float:
    """Tokens a byte of the held-out documents' own text; the end of each document is a token too, and is predicted."""
    counts = sentences.counts
    if not counts.get("valid_bytes"):
        raise ConfigError("no document is held out, so there are no bits per byte; raise encode.valid_share")
    return (counts["valid_tokens"] + counts["valid_documents"]) / counts["valid_bytes"]


# ---- summaries ------------------------------------------------------------------------------------------------------------


def summary(sums: Sums, samples: int, seed: int) -> dict[str, Any]:
    """Means over predicted places, with intervals drawn over sequences."""
    told: dict[str, Any] = {"sequences": len(sums["tokens"]), "predicted": int(sums["tokens"].sum())}
    ratios = {"loss": ("nats", "tokens"), "accuracy": ("right", "tokens"), "kl": ("kl", "tokens"), "agreement": ("agree", "tokens")}
    for name, (above, below) in (ratios | {"pair_accuracy": ("pairs_right", "pairs")}).items():
        if above in sums:
            told[name] = metrics.bootstrap_ratio(sums[above], sums[below], samples=samples, seed=seed).record()
    if detection.TOKENS in sums:
        told["discriminator"] = detection.summary(sums, samples, seed)
    told["perplexity"] = round(math.exp(min(told["loss"]["value"], 700.0)), 6)
    return told


def difference(first: Sums, second: Sums, above: str, samples: int, seed: int) -> dict[str, float]:
    """first minus second in `above` per predicted place, both drawn on the same sequences."""
    tokens = first["tokens"]

    def apart(rows: Any) -> float:
        return float((first[above][rows].sum() - second[above][rows].sum()) / max(tokens[rows].sum(), 1.0))

    return metrics.bootstrap(apart, len(tokens), samples=samples, seed=seed).record()
