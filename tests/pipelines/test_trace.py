"""The documents of a step, held against the text that its batch decodes to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from data_prep import schemas, shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.catalog import load
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from distill.distill import DISTILL, DistillConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError
from infra.stage import record, run
from infra.store import Store
from pipelines.trace import trace
from training.pretrain import PRETRAIN, make_feed
from training.pretrain_config import PretrainConfig

LENGTH, BATCH = 32, 4
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe qui ro su te vi wo xa ze".split()  # noqa: SIM905


def corpus() -> list[dict[str, Any]]:
    """Documents of made-up words, so that a dozen letters are of one document only."""
    rng = Random(3)

    def sentence() -> str:
        return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(rng.randint(4, 9))).capitalize() + "."

    empty = {"host": "", "title": "", "language": "en", "karma": None, "source": ""}
    texts = [" ".join(sentence() for _ in range(rng.randint(2, 9))) for _ in range(90)]
    return [{**empty, "id": f"{n:016x}", "url": f"http://mill.test/{n}", "text": text} for n, text in enumerate(texts)]


DOCUMENTS = corpus()
TEXTS = {row["id"]: row["text"] for row in DOCUMENTS}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "workspace" / "artifacts")


def made(store: Store, kind: str) -> dict[str, Artifact]:
    """Examples of the corpus in three shards."""
    if (found := store.find("documents", "all")) is None:
        with store.writing("documents", "all", {"stage": "documents", "version": 1, "config": {}, "inputs": {}}) as work:
            for number in range(3):
                shards.write(pa.Table.from_pylist(DOCUMENTS[number::3], schema=schemas.DOCUMENTS), work.out / shards.name(number))
        found = store.get("documents", "all")
    local = LocalCompute()
    settings = {"gpt2": TokenizerConfig(vocab=500), "bert": TokenizerConfig("wordpiece", 500, lowercase=True)}[kind]
    tokenizer = run(TOKENIZER, settings, {"documents": found}, store, local)
    sentences = run(ENCODE, EncodeConfig(0.1), {"documents": found, "tokenizer": tokenizer}, store, local)
    inputs = {"sentences": sentences}
    examples = (
        run(BLOCKS, BlocksConfig(LENGTH), inputs, store, local) if kind == "gpt2" else run(PAIRS, PairsConfig(LENGTH), inputs, store, local)
    )
    return {"examples": examples, "sentences": sentences, "tokenizer": tokenizer}


def model(store: Store, kind: str, inputs: dict[str, Artifact]) -> tuple[str, PretrainConfig]:
    """What a training leaves for trace: a manifest."""
    config = PretrainConfig(kind, "tiny", tokens=50 * BATCH * LENGTH, batch_tokens=BATCH * LENGTH, length=LENGTH, seed=7)
    key = PRETRAIN.key(config, inputs)
    with store.writing("pretrain", key, record(PRETRAIN, config, inputs)):
        pass
    return f"pretrain/{key}", config


def plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def runs(inputs: dict[str, Artifact], config: PretrainConfig, step: int) -> list[str]:
    """What stands between control tokens in the batch, as text, nothing hidden."""
    tokenizer, batch = load(inputs["tokenizer"]), make_feed(config, inputs, "train").slice(step, 0, 1)
    tokens = batch.tokens_BL
    if "mlm" in batch.labels:
        tokens = batch.labels["mlm"].where(batch.labels["mlm"] >= 0, tokens)
    controls, found = set(tokenizer.specials.values()), []
    for row in tokens.tolist():
        part: list[int] = []
        for number in [*row, min(controls)]:
            if number not in controls:
                part.append(number)
            elif part:
                found.append(plain(tokenizer.decode(part).replace("##", "")))
                part = []
    return [text for text in found if text]


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_text_of_a_step_is_in_its_documents_and_each_document_is_in_its_text(store: Store, kind: str) -> None:
    inputs = made(store, kind)
    name, config = model(store, kind, inputs)
    trace(store.root.parent, name, 0)  # what is imported is imported
    for step in (0, 17, 49):
        began = time.process_time()
        found = trace(store.root.parent, name, step)
        assert time.process_time() - began < 1
        texts = {row["id"]: plain(TEXTS[row["id"]]) for row in found["documents"]}
        assert [row["url"] for row in found["documents"]] == [f"http://mill.test/{int(key, 16)}" for key in texts]
        seen = runs(inputs, config, step)
        assert seen and all(any(part in text for text in texts.values()) for part in seen)
        assert all(any(part in text for part in seen) for text in texts.values())
        assert (found["steps"], found["sequences"]) == (50, BATCH)


def test_a_student_is_traced_like_its_teacher_and_a_task_is_not(store: Store) -> None:
    inputs = made(store, "bert")
    teacher, _ = model(store, "bert", inputs)
    source = store.get(*teacher.split("/"))
    config = DistillConfig(tokens=10 * BATCH * LENGTH, batch_tokens=BATCH * LENGTH, length=LENGTH, seed=7)
    given = {"teacher": source, **inputs}
    with store.writing("distill", "d", record(DISTILL, config, given)):
        pass
    with store.writing(
        "finetune", "f", {"stage": "finetune", "version": 1, "config": {}, "inputs": record(DISTILL, 0, {"model": source})["inputs"]}
    ):
        pass
    found = trace(store.root.parent, "distill/d", 3)
    assert found["documents"] and found["steps"] == 10
    with pytest.raises(ConfigError, match=f"trace the model it started from, {teacher}"):
        trace(store.root.parent, "finetune/f", 0)


def test_what_cannot_be_traced_says_why(store: Store) -> None:
    inputs = made(store, "gpt2")
    name, config = model(store, "gpt2", inputs)
    for step in (-1, 50):
        with pytest.raises(ConfigError, match=f"numbered 0 to 49; there is no step {step}"):
            trace(store.root.parent, name, step)
    older = {**record(PRETRAIN, config, inputs), "version": PRETRAIN.version - 1}
    with store.writing("pretrain", "older", older):
        pass
    with pytest.raises(ArtifactError, match="trace it with the textmill that made it"):
        trace(store.root.parent, "pretrain/older", 0)


def test_the_command_lists_documents_and_urls(store: Store, textmill: Any) -> None:
    name, _ = model(store, "gpt2", made(store, "gpt2"))
    told = textmill("trace", name, "--step", "5", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == trace(store.root.parent, name, 5)
    told = textmill("trace", name, "--step", "50")
    assert told.returncode == 2 and "there is no step 50" in told.stderr
