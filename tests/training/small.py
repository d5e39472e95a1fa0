"""A small made-up web of text through the real stages, and towers on it: what the tests of stages 11 to 13 start from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch

from data_prep import schemas, shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.catalog import meta
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import Stage, run
from infra.store import Store
from training.backbone.transformer import count_parameters
from training.card import CARD, MODEL, write_json
from training.families import catalog
from training.feed.loader import FeedConfig, open_feed
from training.objectives.tower import Tower

R, T = TypeVar("R"), TypeVar("T")
LENGTH = 32
SUBJECTS, VERBS, ENDS = (
    ["cat", "dog", "bird", "child", "teacher", "river", "engine"],
    ["sees", "likes", "finds", "follows"],
    ["home", "water", "music", "light"],
)


class Here(LocalCompute):
    """A gang of one in this very process: no start of a process, the same code."""

    def gang(self, name: str, fn: Callable[[], R], ranks: int | None = None) -> list[R]:
        return [fn()]


def sentence(rng: random.Random) -> str:
    subject = rng.choice(SUBJECTS)
    verb = VERBS[(len(subject) + rng.randrange(2)) % 4]  # what can be learnt: the subject half decides the verb
    return f"The {subject} {verb} the {ENDS[VERBS.index(verb)]}."


def texts(count: int = 60, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(sentence(rng) for _ in range(rng.randrange(4, 12))) for _ in range(count)]


def documents(store: Store, rows: Iterable[str]) -> Artifact:
    rows = list(rows)

    def work(config: Any, inputs: Any, out: Path, compute: Any) -> dict[str, int]:
        columns: dict[str, list[Any]] = {name: [""] * len(rows) for name in schemas.DOCUMENTS.names}
        columns |= {
            "id": [f"{i:016x}" for i in range(len(rows))],
            "text": rows,
            "language": ["en"] * len(rows),
            "karma": [None] * len(rows),
        }
        shards.write(pa.table(columns, schema=schemas.DOCUMENTS), out / "00000.arrow", {"kept": len(rows)})
        return {"kept": len(rows)}

    return run(Stage("documents", 1, work), {"texts": rows}, {}, store, LocalCompute())


def prepared(
    store: Store, causal: bool, rows: Iterable[str] | None = None, vocab: int = 300, length: int = LENGTH, blocks: bool = False
) -> dict[str, Artifact]:
    """tokenizer, sentences and examples of a GPT (blocks) or a BERT (pairs, or blocks too)."""
    local, source = LocalCompute(), documents(store, texts() if rows is None else rows)
    kind = TokenizerConfig(kind="byte_bpe", vocab=vocab) if causal else TokenizerConfig(kind="wordpiece", vocab=vocab, lowercase=True)
    tokenizer = run(TOKENIZER, kind, {"documents": source}, store, local)
    encoded = run(ENCODE, EncodeConfig(valid_share=0.2), {"documents": source, "tokenizer": tokenizer}, store, local)
    made = {"tokenizer": tokenizer, "sentences": encoded}
    if causal or blocks:
        return made | {"examples": run(BLOCKS, BlocksConfig(length), {"sentences": encoded}, store, local)}
    return made | {"examples": run(PAIRS, PairsConfig(length), {"sentences": encoded}, store, local)}


def model(
    store: Store, family: str, data: Mapping[str, Artifact], seed: int = 0, steps: int = 0, lr: float = 2e-3, **changes: Any
) -> Artifact:
    """A tiny model of a family: random weights, or trained a little in a plain torch loop."""
    found = catalog.family(family)
    settings = {
        "width": 32,
        "heads": 4,
        "ffn": 64,
        "layers": 4,
        "positions": LENGTH,
        "embedding_width": 0,
        "init_std": 0.1,
        "dropout": 0.0,
    } | changes

    def work(config: Any, inputs: Any, out: Path, compute: Any) -> dict[str, int]:
        size = next(iter(found.sizes))
        config = replace(found.sizes[size], vocab=meta(data["tokenizer"]).vocab, **settings)
        tower = found.build(config, seed=seed)
        study(tower, data, found.objective, steps, lr)
        found.export(tower, out / MODEL, data["tokenizer"].path)
        card = {
            "family": family,
            "size": size,
            "backbone": asdict(tower.config),
            "heads": [head.name for head in tower.heads],
            "tokenizer_fingerprint": meta(data["tokenizer"]).fingerprint,
            "parameters": count_parameters(tower),
            "steps": steps,
            "tokens": 0,
            "length": settings["positions"],
        }
        write_json(out / CARD, card)
        return {"steps": steps}

    return run(
        Stage("pretrain", 1, work), {"family": family, "seed": seed, "steps": steps, "settings": settings}, data, store, LocalCompute()
    )


def study(tower: Tower, data: Mapping[str, Artifact], objective: str, steps: int, lr: float, batch: int = 16) -> None:
    if not steps:
        return
    feed = open_feed(data["examples"], data["sentences"], data["tokenizer"], FeedConfig(batch, tower.config.positions, 1, objective))
    optimiser = torch.optim.AdamW(tower.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    tower.train()
    for step in range(steps):
        tower(feed.slice(step, 0, 1)).total.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
