"""From real text: below what the frequencies of tokens alone would give, and ELECTRA's doubt is real."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
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
from tests.training.small import Here, documents
from training.engine.measure import read
from training.families.catalog import family
from training.feed.batch import Batch
from training.feed.loader import FeedConfig, open_feed
from training.feed.order import DRAW, StepFeed
from training.feed.random import fold
from training.objectives.rtd import GeneratorDiscriminator, corrupt
from training.pretrain import PRETRAIN, PretrainConfig

pytestmark = pytest.mark.slow
LENGTH, ROWS = 64, 16
STEPS = {"next": 150, "mlm": 450}  # those that fill in masks stay at the frequencies for their first hundreds of steps
SHAPE = {"width": 96, "heads": 4, "layers": 2, "positions": LENGTH, "dropout": 0.0}
NARROW = {"albert": {"embedding_width": 64}, "electra": {"embedding_width": 64}}
CHOSEN = ("gpt2", "distilgpt2", "roberta")  # BERT, ALBERT and ELECTRA are still at the frequencies after these steps


class Text:
    """Film reviews through the real stages, each tokenizer and each cut made once."""

    def __init__(self, root: Path, source: Path) -> None:
        self.store, self.local = Store(root), LocalCompute()
        with gzip.open(source, "rt", encoding="utf-8") as file:
            rows = [json.loads(line)["text"] for line in islice(file, 600)]
        self.documents = documents(self.store, rows)

    def __call__(self, name: str) -> dict[str, Artifact]:
        found = family(name)
        masked = "mlm" in found.objective
        config = TokenizerConfig(
            kind=found.tokenizer, vocab=1000, specials="roberta" if masked and found.tokenizer == "byte_bpe" else "gpt"
        )
        tokenizer = run(TOKENIZER, config, {"documents": self.documents}, self.store, self.local)
        sentences = run(
            ENCODE, EncodeConfig(valid_share=0.1), {"documents": self.documents, "tokenizer": tokenizer}, self.store, self.local
        )
        made = {"sentences": sentences, "tokenizer": tokenizer}
        if found.examples == "blocks":
            return made | {"examples": run(BLOCKS, BlocksConfig(LENGTH), {"sentences": sentences}, self.store, self.local)}
        return made | {"examples": run(PAIRS, PairsConfig(LENGTH), {"sentences": sentences}, self.store, self.local)}

    def unigram(self, name: str) -> float:
        """Nats a token costs who knows every token's frequency and nothing else."""
        counts: Counter[int] = Counter()
        for path in self(name)["sentences"].shards:
            for row in shards.read(path)["tokens"].to_pylist():
                counts.update(row)
        total = sum(counts.values())
        return -sum(n / total * math.log(n / total) for n in counts.values())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Text:
    torch.set_num_threads(1)
    return Text(tmp_path_factory.mktemp("text"), data / "text" / "en" / "movie-reviews.jsonl.gz")


@pytest.mark.parametrize("name", CHOSEN)
def test_a_family_beats_the_frequencies_of_tokens(name: str, text: Text) -> None:
    size = "tiny" if "tiny" in family(name).sizes else "125m"
    steps = STEPS[family(name).objective.partition("+")[0]]
    config = PretrainConfig(
        family=name, size=size, tokens=steps * ROWS * LENGTH,
        batch_tokens=ROWS * LENGTH, length=LENGTH, lr=3e-3, warmup=20,
        overrides={**SHAPE, **NARROW.get(name, {})}, save_every=steps, valid_batches=8,
    )  # fmt: skip
    made = run(PRETRAIN, config, text(name), text.store, Here())
    parts = read(made.file("metrics.jsonl"))[-1]["valid_parts"]
    language = parts.get("mlm", parts.get("next"))
    assert language < text.unigram(name) - 0.05, parts


def test_the_discriminator_doubts_better_than_the_base_rate(text: Text) -> None:
    """One batch by heart, with one fixed draw of the generator: its loss ends below the entropy of the share of replaced tokens."""
    torch.set_num_threads(1)
    found, made = family("electra"), text("electra")
    feed = open_feed(made["examples"], made["sentences"], made["tokenizer"], FeedConfig(ROWS, LENGTH, 1, "mlm", masking=found.masking))
    batch = feed.slice(0, 0, 1)
    config = replace(found.backbone("tiny", vocab=1000), ffn=384, **{**SHAPE, **NARROW["electra"]})
    tower = found.build(config, seed=1)
    assert isinstance(tower, GeneratorDiscriminator)
    drawn = torch.randint(5, 1000, (batch.count("mlm"),), generator=torch.Generator().manual_seed(0))
    tokens, labels = corrupt(batch, drawn)
    share = (labels == 1).sum().item() / (labels >= 0).sum().item()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    doubt = tower.head("rtd")
    optimiser = torch.optim.AdamW([*tower.backbone.parameters(), *doubt.parameters()], 1e-3)
    for _ in range(150):
        loss = doubt(tower.backbone(tokens, None, batch.keep_BL), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * entropy, f"{loss.item():.3f} against {entropy:.3f}"
    assert all(p.grad is None for n, p in tower.generator.named_parameters() if not n.startswith("embedding.")), "nothing flows back to it"


def test_masks_drawn_anew_beat_one_copy_of_them(text: Text) -> None:
    """128 rows seen 50 times: with one copy their holes are learnt by heart (Liu et al. 2019, section 4.1, turned to the extreme)."""
    torch.set_num_threads(1)
    made, found, losses = text("roberta"), family("roberta"), []
    for copies in (0, 1):
        masking = replace(found.masking, static_copies=copies)
        feed, held = (
            open_feed(made["examples"], made["sentences"], made["tokenizer"], FeedConfig(64, LENGTH, 1, "mlm", masking=masking), split)
            for split in ("train", "valid")
        )
        tower = found.build(replace(found.backbone("tiny", vocab=1000), **{**SHAPE, "ffn": 384, "embedding_width": 96}), seed=1)
        optimiser = torch.optim.AdamW(tower.parameters(), 2e-3)
        for step in range(400):
            optimiser.zero_grad()
            tower(again(feed, step, rows=128)).total.backward()
            optimiser.step()
        with torch.no_grad():
            losses.append(tower.eval()(held.slice(0, 0, 1)).total.item())
    assert losses[0] < losses[1] - 0.15, losses


def again(feed: StepFeed, step: int, rows: int) -> Batch:
    """16 of the first rows, drawn as the feed draws them in the epoch that is counted by these rows alone."""
    epoch, place = divmod(step, rows // 16)
    index = np.arange(16, dtype=np.int64) + place * 16
    copy = epoch % feed.copies if feed.copies else epoch
    return feed.source.assemble(feed.source.plan(index, fold(feed.seed, DRAW, copy, index)))
