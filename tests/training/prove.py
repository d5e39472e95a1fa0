"""They learn: each comparison of the papers that shows at a small scale, as functions of a scale; and the same larger, by `make prove-gpu`.

    python tests/training/prove.py --part masking            # on a GPU: one part, under nine minutes
    python tests/training/prove.py --part all --tiny         # on a CPU, in a few minutes: that it runs, not that it shows

Text is that of TEXTMILL_TEST_DATA; everything before the model goes through the real stages and the real feed. A part prints one
Markdown table, with the gate it has where the effect is known to show at its scale.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_prep import shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from tests.training.small import documents
from training.engine.optim import OptimConfig, lr_at, make
from training.families.family import Family
from training.feed.loader import Feed, FeedConfig, open_feed
from training.objectives.tower import Tower

DATA = "TEXTMILL_TEST_DATA"
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """One size for everything in a table; `words` caps each kind of text."""

    words: int = 600_000
    vocab: int = 1000
    length: int = 64
    batch: int = 32
    width: int = 128
    layers: int = 2
    heads: int = 4
    lr: float = 2e-3
    steps: int = 1000
    device: str = "cpu"
    held: int = 64  # held-out batches

    def shape(self, found: Family, **more: Any) -> dict[str, Any]:
        narrow = found.sizes[next(iter(found.sizes))].embedding_width != found.sizes[next(iter(found.sizes))].width
        width = {"embedding_width": self.width // 2} if narrow else {"embedding_width": self.width}
        sizes = {"width": self.width, "layers": self.layers, "heads": self.heads, "positions": self.length, "ffn": 4 * self.width}
        return {**sizes, **width, "dropout": 0.0, **more}


CPU = Scale()
TINY = Scale(words=30_000, vocab=400, batch=8, width=32, layers=2, heads=2, steps=6, held=2)
GPU = Scale(words=5_000_000, vocab=8192, length=128, batch=256, width=512, layers=6, heads=8, lr=5e-4, steps=6000, device="cuda")


# ---- text ----------------------------------------------------------------------------------------------------------------


def reviews(data: Path) -> Iterator[str]:
    """Film reviews, lower-cased and tokenised."""
    with gzip.open(data / "text" / "en" / "movie-reviews.jsonl.gz", "rt", encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)


def books(data: Path, chapter: int = 2000) -> Iterator[str]:
    """Novels, cut into documents of about `chapter` words, their books mixed."""
    with gzip.open(data / "text" / "en" / "books.jsonl.gz", "rt", encoding="utf-8") as file:
        whole = [re.split(r"\n\s*\n", json.loads(line)["text"]) for line in file]
    found: list[str] = []
    for paragraphs in whole:
        part: list[str] = []
        for paragraph in paragraphs:
            part.append(" ".join(paragraph.split()))
            if sum(len(p.split()) for p in part) >= chapter:
                found.append("\n".join(part))
                part = []
    random.Random(1).shuffle(found)
    yield from found


def halves(texts: Iterable[str]) -> Iterator[str]:
    """Each sentence a document of its own, cut in the middle into two paragraphs: what comes first is plain from either half."""
    for text in texts:
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            words = sentence.split()
            if 8 <= len(words) <= 40:
                yield " ".join(words[: len(words) // 2]) + "\n\n" + " ".join(words[len(words) // 2 :])


def capped(texts: Iterable[str], words: int) -> list[str]:
    """Texts from the front until there are `words` words."""
    found, total = [], 0
    for text in texts:
        if total >= words:
            break
        found.append(text)
        total += len(text.split())
    return found


class Text:
    """Texts through the real stages; a tokenizer and a cut are made once. Another text may be read with this one's tokenizers."""

    def __init__(self, root: Path, texts: list[str], scale: Scale, like: Text | None = None) -> None:
        self.store, self.local, self.scale = Store(root), LocalCompute(), scale
        self.documents, self.like = documents(self.store, texts), like

    def tokenizer(self, found: Family) -> Artifact:
        if self.like is not None:
            return self.like.tokenizer(found)
        specials = "roberta" if "mlm" in found.objective and found.tokenizer == "byte_bpe" else "gpt"
        config = TokenizerConfig(kind=found.tokenizer, vocab=self.scale.vocab, specials=specials, lowercase=found.tokenizer == "wordpiece")
        return run(TOKENIZER, config, {"documents": self.documents}, self.store, self.local)

    def made(self, found: Family) -> dict[str, Artifact]:
        """examples, sentences and tokenizer as this family reads them."""
        tokenizer = self.tokenizer(found)
        sentences = run(
            ENCODE, EncodeConfig(valid_share=0.1), {"documents": self.documents, "tokenizer": tokenizer}, self.store, self.local
        )
        made = {"sentences": sentences, "tokenizer": tokenizer}
        if found.examples == "blocks":
            return made | {"examples": run(BLOCKS, BlocksConfig(self.scale.length), {"sentences": sentences}, self.store, self.local)}
        return made | {"examples": run(PAIRS, PairsConfig(self.scale.length), {"sentences": sentences}, self.store, self.local)}

    def feed(self, found: Family, split: str = "train", seed: int = 1, objective: str = "", **masking: Any) -> Feed:
        made = self.made(found)
        config = FeedConfig(self.scale.batch, self.scale.length, seed, objective or found.objective)
        if found.masking is not None:
            config = replace(config, masking=replace(found.masking, **masking))
        return open_feed(made["examples"], made["sentences"], made["tokenizer"], config, split)

    def unigram(self, found: Family) -> float:
        """Nats a token costs who knows how often each occurs, and nothing else."""
        counts: Counter[int] = Counter()
        for path in self.made(found)["sentences"].shards:
            counts.update(shards.read(path)["tokens"].combine_chunks().flatten().to_pylist())
        total = sum(counts.values())
        return -sum(n / total * math.log(n / total) for n in counts.values())


# ---- training ------------------------------------------------------------------------------------------------------------


def build(found: Family, text: Text, seed: int = 1, **more: Any) -> Tower:
    """A model of the family in the table's size."""
    from data_prep.tokenizer.catalog import meta

    scale = text.scale
    first = next(iter(found.sizes.values()))
    config = replace(first, vocab=meta(text.tokenizer(found)).vocab, **scale.shape(found, **more))
    return found.build(config, seed=seed).to(scale.device)


def study(tower: Tower, feed: Feed, scale: Scale, steps: int = 0, lr: float = 0.0, found: Family | None = None) -> dict[str, float]:
    """Train; the last losses by part, averaged over a tenth of the run."""
    steps = steps or scale.steps
    config = OptimConfig(lr=lr or scale.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, schedule="linear", warmup=0.1, min_ratio=0.05)
    optimiser, late = make(tower, config), Counter[str]()
    torch.manual_seed(7)
    tower.train()
    tail = max(1, steps // 10)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr_at(config, step, steps)
        with torch.autocast("cuda", torch.bfloat16, enabled=scale.device == "cuda"):
            losses = tower(feed.slice(step, 0, 1).to(scale.device))
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step >= steps - tail:
            late.update({name: float(loss) / tail for name, loss in losses.parts.items()})
    return dict(late)


@torch.no_grad()
def held_out(tower: Tower, feed: Feed, scale: Scale) -> tuple[dict[str, float], dict[str, float]]:
    """Mean loss and accuracy of each part over held-out batches."""
    tower.eval()
    losses, hits, counts = Counter[str](), Counter[str](), Counter[str]()
    for step in range(min(scale.held, math.ceil(feed.examples / feed.batch_size))):
        batch = feed.slice(step, 0, 1).to(scale.device)
        told = tower(batch)
        for name, n in tower.counts(batch).items():
            counts[name] += n
            losses[name] += float(told.parts[name]) * n
            hits[name] += float(told.hits.get(name, 0))
    tower.train()
    return {n: losses[n] / max(counts[n], 1) for n in counts}, {n: hits[n] / max(counts[n], 1) for n in counts}
