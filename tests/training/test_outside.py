"""Every family and task, exported: AutoTokenizer and AutoModel of transformers 4.57 and 5.x on raw strings give textmill's own scores."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from pipelines.models import Inputs, predict_rows
from tests import transformers4
from tests.training import outside
from tests.training.small import Here, documents, model, sentence, texts
from training.card import read_card
from training.evaluation.generate import fill_masked
from training.families import catalog
from training.feed.batch import Batch
from training.finetune import FINETUNE, FinetuneConfig, make_feed, read_both
from training.predict import open_classifier

VERSIONS = {"4.57": "4.57.", "5.x": "5."}
CLOSE = 1e-5
LENGTH, POSITIONS = 26, 40
KINDS = {
    "wordpiece": TokenizerConfig(kind="wordpiece", vocab=200, lowercase=True),
    "byte_bpe": TokenizerConfig(kind="byte_bpe", vocab=300),
    "roberta": TokenizerConfig(kind="byte_bpe", vocab=300, specials="roberta"),
    "bpe_eow": TokenizerConfig(kind="bpe_eow", vocab=200, lowercase=True),
    "unigram": TokenizerConfig(kind="sentencepiece_unigram", vocab=60),
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # tokenizer, and how the small shape differs
    "gpt1": ("bpe_eow", {"ffn": 0}),
    "gpt2": ("byte_bpe", {}),
    "gpt3": ("byte_bpe", {}),
    "bert": ("wordpiece", {}),
    "roberta": ("roberta", {}),
    "albert": ("unigram", {"embedding_width": 16}),
    "electra": ("wordpiece", {"embedding_width": 16, "generator": 0.5}),
    "distilbert": ("wordpiece", {}),
}
BRANCHES = {"distilgpt2": "gpt2", "distilroberta": "roberta", "tinybert": "bert"}  # the layout and the frame of another family
TASKS = ("single", "pair", "language")


def test_every_family_is_in_the_matrix() -> None:
    assert set(catalog.FAMILIES) == {*FAMILIES, *BRANCHES}
    for name, of in BRANCHES.items():
        found, other = catalog.family(name), catalog.family(of)
        assert (found.layout, found.separators, found.pool, found.position) == (other.layout, other.separators, other.pool, other.position)


@dataclass
class Cell:
    """One model of the matrix: where it is, what it reads, and what textmill says of it."""

    folder: Path
    kind: str  # of outside.py's jobs
    rows: list[tuple[str, ...]]
    inside: Any
    card: dict[str, Any]
    pieces: list[str]


def task_file(path: Path, pair: bool, seed: int) -> SourceFile:
    """Texts of one to six sentences; some are longer than the model reads."""
    rng = random.Random(seed)
    rows = []
    for number in range(24):
        first = " ".join(sentence(rng) for _ in range(1 + number % 6))
        second = " ".join(sentence(rng) for _ in range(1 + number % 4))
        rows.append("\t".join([first, *([second] if pair else []), "wet" if "river" in first else "dry"]))
    path.write_text("\n".join(["\t".join(["text", *(["second"] if pair else []), "label"]), *rows]) + "\n")
    return SourceFile.of(path)


class World:
    """Small random models of every family, fine-tuned a few steps on a task about one text and on one about two."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / "store")
        source = documents(self.store, texts())
        self.tokenizers = {name: run(TOKENIZER, kind, {"documents": source}, self.store, LocalCompute()) for name, kind in KINDS.items()}
        self.cells = {(family, task): self.cell(family, task) for family in FAMILIES for task in TASKS}
        self.cells |= {("electra", "replaced"): self.replaced()}

    def base(self, family: str) -> tuple[Artifact, Artifact]:
        kind, changes = FAMILIES[family]
        data = {"tokenizer": self.tokenizers[kind]}
        fixed = {"layers": 2, "positions": POSITIONS, "init_std": 0.2}
        return model(self.store, family, data, **fixed, **changes), self.tokenizers[kind]

    def cell(self, family: str, task: str) -> Cell:
        base, tokenizer = self.base(family)
        return self.language(base, tokenizer) if task == "language" else self.classified(base, tokenizer, task == "pair")

    def classified(self, base: Artifact, tokenizer: Artifact, pair: bool) -> Cell:
        files = [task_file(self.root / f"{side}{pair}.tsv", pair, seed) for seed, side in enumerate(("train", "dev"))]
        named = {"text": "text", "pair": "second" if pair else ""}
        config = FinetuneConfig(*files, epochs=2, batch=12, length=LENGTH, lr=1e-3, samples=20, **named)
        tuned = run(FINETUNE, config, {"model": base, "tokenizer": tokenizer}, self.store, Here())
        _, dev, labels = read_both(config)
        feed = make_feed(dev, labels, base, tokenizer, batch=24, length=LENGTH, seed=0, shuffle=False)
        batch = feed.slice(0, 0, 1)
        found = catalog.load(tuned.path / "model").eval()
        with torch.no_grad():
            logits = found.head("class").logits(found.hidden(batch)).tolist()
        rows = [(row.text, *([row.pair] if row.pair else [])) for row in dev.rows]
        first = [tokenizers.load(tokenizer).pieces[i] for i in feed.encoded[0].tokens]
        return Cell(tuned.path / "model", "classify", rows, logits, read_card(tuned), first)

    def language(self, base: Artifact, tokenizer: Artifact) -> Cell:
        folder, given = base.path / "model", tokenizers.load(tokenizer)
        rng = random.Random(5)
        lines = [" ".join(sentence(rng) for _ in range(1 + number % 3)) for number in range(6)]
        found = catalog.load(folder).eval()
        if found.config.causal:
            return Cell(folder, "causal", [(line,) for line in lines], [causal_loss(found, given, line) for line in lines], {}, [])
        if folder.joinpath("generator").is_dir():
            folder = folder / "generator"
        mask = given.pieces[given.specials["mask"]]
        lines = [line.partition(".")[0].replace(line.split()[2], "[MASK]", 1) for line in lines]  # one sentence, its verb masked
        guesses = fill_masked(folder, lines, best=1)
        inside = [[(row[0].token, row[0].probability) for row in text] for text in guesses]
        return Cell(folder, "masked", [(line.replace("[MASK]", mask),) for line in lines], inside, {}, [])

    def replaced(self) -> Cell:
        base, tokenizer = self.base("electra")
        found, given = catalog.load(base.path / "model").eval(), tokenizers.load(tokenizer)
        lines = texts(4, seed=9)
        lines = [line[:60] for line in lines]
        frame = catalog.family("electra").frame(found.config, given.specials)
        inside = []
        with torch.no_grad():
            for line in lines:
                one = frame.encode(given.encode_batch([line])[0], None, POSITIONS)
                batch = Batch(torch.tensor([one.tokens]), torch.tensor([one.segments]), None, {})
                inside.append(found.head("rtd").logits(found.hidden(batch))[0].tolist())
        return Cell(base.path / "model", "replaced", [(line,) for line in lines], inside, {}, [])


@torch.no_grad()
def causal_loss(found: Any, given: Any, line: str) -> float:
    ids = torch.tensor(given.encode_batch([line]))[:, :POSITIONS]
    logits = found.language_logits(Batch(ids, None, None, {}))
    return float(F.cross_entropy(logits[0, :-1], ids[0, 1:]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def results(world: World) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """What each version of transformers says of every cell; each is one program."""
    jobs = [{"folder": str(cell.folder), "kind": cell.kind, "rows": cell.rows} for cell in world.cells.values()]
    (world.root / "jobs.json").write_text(json.dumps(jobs))
    found = {}
    for version, path in {"4.57": str(transformers4.install()), "5.x": ""}.items():
        out = world.root / f"{version}.json"
        env = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, outside.__file__, world.root / "jobs.json", out], env=env, check=True, timeout=500)
        found[version] = dict(zip(world.cells, json.loads(out.read_text()), strict=True))
    return found


BERTS, GPTS = ["[CLS]", "text", "[SEP]", "text", "[SEP]"], ["text", "<|endoftext|>", "text"]
PUBLISHED = {  # how a pair is framed: Devlin et al. 2019, section 3; fairseq's RoBERTa; Radford et al. 2018, section 3.3 has a delimiter
    **dict.fromkeys(("bert", "albert", "electra", "distilbert"), BERTS),
    **dict.fromkeys(("gpt1", "gpt2", "gpt3"), GPTS),
    "roberta": ["<s>", "text", "</s>", "</s>", "text", "</s>"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_is_framed_as_published(family: str, world: World) -> None:
    special = {"[CLS]", "[SEP]", "<s>", "</s>", "<|endoftext|>"}
    kinds = [piece if piece in special else "text" for piece in world.cells[family, "pair"].pieces]
    assert [kind for at, kind in enumerate(kinds) if kind != "text" or kinds[at - 1 : at] != ["text"]] == PUBLISHED[family]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("task", ["single", "pair"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_outside_gives_the_dev_score(family: str, task: str, version: str, world: World, results: Any) -> None:
    cell, found = world.cells[family, task], results[version][family, task]
    assert found["version"].startswith(VERSIONS[version])
    assert found["pieces"] == cell.pieces
    segments = family in ("bert", "albert", "electra")
    assert found["names"] == sorted(["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])])
    assert (found["labels"], found["problem"], found["max_length"]) == (["dry", "wet"], "single_label_classification", LENGTH)
    assert found["pad"] is not None
    torch.testing.assert_close(torch.tensor(found["out"]), torch.tensor(cell.inside), atol=CLOSE, rtol=0)
    gold = [line.rsplit("\t", 1)[1] for line in (world.root / f"dev{task == 'pair'}.tsv").read_text().splitlines()[1:]]
    said = [found["labels"][max(range(2), key=row.__getitem__)] for row in found["out"]]
    right = sum(a == b for a, b in zip(gold, said, strict=True)) / len(gold)
    assert right == pytest.approx(cell.card["dev"]["accuracy"]["value"], abs=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_outside_gives_the_loss_or_the_masked_tokens(family: str, version: str, world: World, results: Any) -> None:
    cell, found = world.cells[family, "language"], results[version][family, "language"]
    assert found["max_length"] == POSITIONS and found["pad"] is not None
    if cell.kind == "causal":
        assert found["names"] == ["attention_mask", "input_ids"]
        assert found["out"] == pytest.approx(cell.inside, abs=CLOSE)
        return
    tokenizer = tokenizers.load(world.tokenizers[FAMILIES[family][0]])
    for theirs, ours in zip(found["out"], cell.inside, strict=True):
        assert [tokenizer.decode([number]).strip() for number, _ in theirs] == [token for token, _ in ours]
        assert [chance for _, chance in theirs] == pytest.approx([chance for _, chance in ours], abs=CLOSE)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_discriminator_outside_gives_the_same_logits(version: str, world: World, results: Any) -> None:
    cell, found = world.cells["electra", "replaced"], results[version]["electra", "replaced"]
    for theirs, ours in zip(found["out"], cell.inside, strict=True):
        assert theirs == pytest.approx(ours, abs=CLOSE)


@pytest.mark.parametrize("task", ["single", "pair"])
@pytest.mark.parametrize("family", FAMILIES)
def test_predict_and_the_pipeline_agree(family: str, task: str, world: World, results: Any) -> None:
    cell = world.cells[family, task]
    rows = list(predict_rows(world.root, str(cell.folder), Inputs(world.root / f"dev{task == 'pair'}.tsv")))
    assert [row["line"] for row in rows] == list(range(2, 26))
    for version in VERSIONS:
        pipeline = results[version][family, task]["pipeline"]
        assert [row["label"] for row in rows] == [one["label"] for one in pipeline]
        assert [row["score"] for row in rows] == pytest.approx([one["score"] for one in pipeline], abs=CLOSE)
    assert all(sum(row["scores"].values()) == pytest.approx(1.0, abs=1e-5) for row in rows)


def test_predict_truncates_to_a_shorter_length_when_asked(world: World) -> None:
    cell = world.cells["bert", "single"]
    classifier = open_classifier(cell.folder)
    long, short = ("The cat sees the home. " * 9, None), ("The cat sees the home.", None)
    found = [[p.scores["dry"] for p in classifier.predict([long, short], length=n)] for n in (0, 7, 500)]
    assert found[0] == pytest.approx(found[2]) and found[0][0] != found[1][0]
    assert found[1][0] == pytest.approx(found[1][1], abs=1e-6)
