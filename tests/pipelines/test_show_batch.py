"""A step's batch as text, held against the documents and the tensors that it was made from."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.stage import record
from infra.store import Store
from pipelines.show_batch import render, show_batch
from tests.pipelines.test_trace import BATCH, LENGTH, TEXTS, made, model, plain
from training.pretrain import PRETRAIN, make_feed
from training.pretrain_config import PretrainConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("w") / "workspace" / "artifacts")


@pytest.fixture(scope="module")
def pairs(store: Store) -> dict[str, Artifact]:
    return made(store, "bert")


def trained(store: Store, inputs: dict[str, Artifact], config: PretrainConfig) -> str:
    key = PRETRAIN.key(config, inputs)
    if not store.find("pretrain", key):
        with store.writing("pretrain", key, record(PRETRAIN, config, inputs)):
            pass
    return f"pretrain/{key}"


def answered(text: str) -> str:
    """A shown text with every label in the place of what was read."""
    return re.sub(r"\[MASK=([^\]]*)\]|\{(?:[^={}]*=)?([^={}]*)\}", lambda m: m[1] or m[2] or "", text)


def spoken(text: str) -> str:
    return plain(re.sub(r"\[(CLS|SEP|UNK)\]", " ", answered(text)).replace("##", ""))


def test_masks_segments_and_labels_are_those_of_the_tensors_and_of_the_documents(store: Store, pairs: dict[str, Artifact]) -> None:
    name, config = model(store, "bert", pairs)
    found, batch = show_batch(store.root.parent, name, 17), make_feed(config, pairs, "train").slice(17, 0, 1)
    assert (found["objective"], found["rows"], found["length"], len(found["shown"])) == ("mlm+nsp", BATCH, LENGTH, BATCH)
    assert found["predicted"] == {"mlm": int((batch.labels["mlm"] >= 0).sum()), "pair": BATCH}
    kinds, labels = set(), batch.labels["mlm"].tolist()
    for number, row in enumerate(found["shown"]):
        hidden = {one["position"]: one for one in row["predicted"]}
        assert sorted(hidden) == [place for place, label in enumerate(labels[number]) if label >= 0]
        kinds |= {one["kind"] for one in row["predicted"]}
        assert row["tokens"] + row["padding"] == LENGTH and row["pair"] == int(batch.labels["pair"][number])
        parts = [spoken(row["segments"][side]) for side in "AB"]
        homes = [{key for key, text in TEXTS.items() if part in plain(text)} for part in parts]
        assert all(homes), "each segment is of a document, once the labels stand in the text"
        assert bool(homes[0] & homes[1]) == (row["pair_means"] == "B follows A in its document") == (row["pair"] == 0)
    assert "masked" in kinds


def test_the_three_kinds_of_predicted_tokens_are_told_apart(store: Store, pairs: dict[str, Artifact]) -> None:
    masking: dict[str, Any] = {"rate": 0.5, "mask": 0.4, "random": 0.3}
    name = trained(store, pairs, replace(model(store, "bert", pairs)[1], masking=masking))
    rows = show_batch(store.root.parent, name, 3)["shown"]
    found = [one for row in rows for one in row["predicted"]]
    assert {one["kind"] for one in found} == {"masked", "replaced", "unchanged"}
    assert all((one["input"] == one["label"]) == (one["kind"] == "unchanged") for one in found)
    shown = " ".join(text for row in rows for text in row["segments"].values())
    assert shown.count("[MASK=") == sum(one["kind"] == "masked" for one in found)


def test_packed_rows_are_shown_sequence_by_sequence(store: Store, pairs: dict[str, Artifact]) -> None:
    plain_name, config = model(store, "bert", pairs)
    packed = trained(store, pairs, replace(config, packed=True))
    one, other = (show_batch(store.root.parent, name, 5) for name in (plain_name, packed))
    assert other["rows"] <= one["rows"] and len(other["shown"]) == len(one["shown"]) == BATCH
    texts = [sorted(json.dumps(row["segments"]) + str(row["pair"]) for row in found["shown"]) for found in (one, other)]
    assert texts[0] == texts[1], "the same batch, laid out in fewer rows"


def test_a_model_of_the_next_token_shows_text(store: Store) -> None:
    inputs = made(store, "gpt2")
    name, config = model(store, "gpt2", inputs)
    found = show_batch(store.root.parent, name, 0, sequences=2)
    assert found["predicted"] == {"next": BATCH * (LENGTH - 1)} and len(found["shown"]) == 2
    for row in found["shown"]:
        pieces = [plain(part) for part in row["segments"]["A"].split("<|endoftext|>")]
        assert all(any(part in plain(text) for text in TEXTS.values()) for part in pieces)
    assert config.length == LENGTH


def test_a_student_of_the_field_can_read_it(store: Store, pairs: dict[str, Artifact]) -> None:
    name, _ = model(store, "bert", pairs)
    screen = Console(file=StringIO(), width=120)
    render(show_batch(store.root.parent, name, 0, sequences=1), screen)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert all(words in text for words in ("step 0 of 50", "A: [CLS]", "B: ", "[MASK=", "label ", ": hidden, the label is"))


def test_the_command_and_what_it_refuses(store: Store, pairs: dict[str, Artifact], textmill: Any, tmp_path: Path) -> None:
    name, _ = model(store, "bert", pairs)
    told = textmill("show", "batch", name, "--step", "2", "--json", "-w", str(store.root.parent))
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == show_batch(store.root.parent, name, 2)
    with pytest.raises(ConfigError, match="there is no step 50"):
        show_batch(store.root.parent, name, 50)
    with pytest.raises(ConfigError, match="--sequences -1"):
        show_batch(store.root.parent, name, 0, -1)
