"""They learn: each comparison of the papers that shows at a small scale, as functions of a scale; and the same larger, by `make prove-gpu`.

    python -m tests.training.prove --part masking            # on a GPU: one part, under nine minutes
    python -m tests.training.prove --part all --tiny         # on a CPU, in a few minutes: that it runs, not that it shows

Text is that of TEXTMILL_TEST_DATA; everything before the model goes through the real stages and the real feed. A part prints one
Markdown table, with the gate it has where the effect is known to show at its scale.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep import shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.catalog import load as load_tokenizer
from data_prep.tokenizer.catalog import meta
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from tests.training.small import documents
from training.backbone.transformer import count_parameters
from training.cost import training_flops
from training.engine.optim import OptimConfig, lr_at, make
from training.families.catalog import FAMILIES, family
from training.families.family import Family
from training.feed.loader import Feed, FeedConfig, open_feed
from training.objectives.tower import Tower

DATA = "TEXTMILL_TEST_DATA"
FOLDS = 5


@dataclass(frozen=True)
class Scale:
    """One size for everything in a table. words: of each kind of text, at most; held: held-out batches, at most."""

    words: int = 300_000
    vocab: int = 400
    length: int = 32
    batch: int = 32
    width: int = 64
    layers: int = 2
    heads: int = 4
    lr: float = 3e-3
    steps: int = 400
    device: str = "cpu"
    held: int = 40
    report: bool = True  # also what has no gate, because it does not show within minutes of a CPU

    def shape(self, found: Family, **more: Any) -> dict[str, Any]:
        """Fields of BackboneConfig; who factorises the embedding keeps it half as wide."""
        first = next(iter(found.sizes.values()))
        narrow = found.name in ("albert", "electra") or first.embedding_width != first.width
        layers = max(1, self.layers // 2) if found.name.startswith(("distil", "tiny")) else self.layers
        sizes = {"width": self.width, "layers": layers, "heads": self.heads, "positions": self.length, "ffn": 4 * self.width}
        return {**sizes, "embedding_width": self.width // 2 if narrow else self.width, "dropout": 0.0, **more}


@dataclass(frozen=True)
class Part:
    """A comparison at three scales: on a CPU in a test, on a GPU in under nine minutes, and tiny, to see that it runs."""

    cpu: Scale
    gpu: Scale
    run: Callable[[Path, Scale], Table]

    @property
    def tiny(self) -> Scale:
        """Shows nothing."""
        return replace(self.cpu, words=20_000, vocab=400, batch=8, width=32, heads=2, steps=4, held=2, report=True)


@dataclass
class Table:
    """What was seen, and what must hold of it where the effect is known to show."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    gates: dict[str, bool] = field(default_factory=dict)

    def gate(self, said: str, holds: bool) -> None:
        self.gates[said] = bool(holds)

    def markdown(self) -> str:
        """Rows, then gates."""
        names = list(self.rows[0])
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(shown(row.get(name, "")) for name in names) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"{'holds' if holds else 'FAILS'}: {said}" for said, holds in self.gates.items())])


def shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


# ---- text ----------------------------------------------------------------------------------------------------------------


def reviews(data: Path) -> Iterator[str]:
    """Film reviews, lower-cased and tokenised."""
    with gzip.open(data / "text" / "en" / "movie-reviews.jsonl.gz", "rt", encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)


def books(data: Path, chapter: int) -> Iterator[str]:
    """Novels, cut into documents of about `chapter` words, their books mixed."""
    with gzip.open(data / "text" / "en" / "books.jsonl.gz", "rt", encoding="utf-8") as file:
        whole = [re.split(r"\n\s*\n", json.loads(line)["text"]) for line in file]
    found: list[str] = []
    for paragraphs in whole:
        part, words = [], 0
        for paragraph in paragraphs:
            part.append(" ".join(paragraph.split()))
            words += len(paragraph.split())
            if words >= chapter:
                found.append("\n".join(part))
                part, words = [], 0
    random.Random(1).shuffle(found)
    yield from found


def halves(texts: Iterable[str]) -> Iterator[str]:
    """Each sentence a document of its own, cut in the middle into two paragraphs: what comes first is plain from either half.

    No longer than fits a row whole: a part that is cut off might be the full stop.
    """
    for text in texts:
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            words = sentence.split()
            if 8 <= len(words) <= 24:
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


def novels(scale: Scale) -> list[str]:
    """Pieces of novels, fifty of them at least."""
    return capped(books(data(), min(2000, scale.words // 50)), scale.words)


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
    scale = text.scale
    first = next(iter(found.sizes.values()))
    config = replace(first, vocab=meta(text.tokenizer(found)).vocab, **scale.shape(found, **more))
    return found.build(config, seed=seed).to(scale.device)


def study(tower: Tower, feed: Feed, scale: Scale, steps: int = 0, lr: float = 0.0) -> dict[str, float]:
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


# ---- the comparisons -----------------------------------------------------------------------------------------------------


# a generator that is wide enough to learn anything here; GPT-3's bands, which no other family shows
CHANGED: dict[str, dict[str, Any]] = {"electra": {"generator": 0.5}, "gpt3": {"band": 8}}


def learnt(name: str, text: Text, steps: int) -> dict[str, Any]:
    """One family's held-out loss beside what the frequencies of tokens alone would give."""
    found = family(name)
    tower, began = build(found, text, **CHANGED.get(name, {})), time.process_time()
    study(tower, text.feed(found), text.scale, steps, lr=1e-3 if name == "gpt1" else 0.0)
    losses, right = held_out(tower, text.feed(found, "valid"), text.scale)
    language = losses.get("mlm", losses.get("next", math.nan))
    pair, doubt = right.get("pair", ""), losses.get("rtd", "")
    seconds = time.process_time() - began
    unigram = text.unigram(found)
    row = {"family": name, "steps": steps, "frequencies": unigram, "held out": language, "below by": unigram - language}
    return row | {"pair right": pair, "doubt": doubt, "cpu s": round(seconds)}


# of the scale's steps: who reads one way learns from every token; pairs, shared layers and a norm after each sublayer take longer
PATIENCE = {"gpt2": 0.5, "gpt3": 0.5, "distilgpt2": 0.5, "bert": 1.5, "tinybert": 1.5, "albert": 2.0}


def families(root: Path, scale: Scale) -> Table:
    """Every family falls well below the frequencies of tokens."""
    table, text = Table(), Text(root / "reviews", capped(reviews(data()), scale.words), scale)
    for name in FAMILIES:
        steps = max(1, round(scale.steps * PATIENCE.get(name, 1.0)))
        table.rows.append(learnt(name, text, steps))
        table.gate(f"{name} is 0.1 nats below the frequencies", table.rows[-1]["below by"] > 0.1)
    return table


def masking(root: Path, scale: Scale) -> Table:
    """Masks drawn anew against one and ten copies of them (Liu et al. 2019, section 4.1), on a text seen twenty times."""
    table, found, losses = Table(), family("roberta"), {}
    wide = Text(root / "wide", capped(reviews(data()), scale.words), scale)
    seen = scale.steps * scale.batch * scale.length
    few = Text(root / "few", capped(reviews(data()), max(2000, round(seen / 20 / 1.9))), scale, like=wide)  # 1.9 tokens a word
    for kind, copies in (("anew", 0), ("ten copies", 10), ("one copy", 1)):
        tower = build(found, wide)
        late = study(tower, few.feed(found, static_copies=copies), scale)
        held, _ = held_out(tower, wide.feed(found, "valid"), scale)
        losses[kind] = held["mlm"]
        table.rows.append({"masks": kind, "training": late["mlm"], "held out": held["mlm"]})
    table.gate("masks drawn anew beat one copy by 0.4 nats", losses["anew"] < losses["one copy"] - 0.4)
    table.gate("ten copies are as good, to 0.1 nats", abs(losses["anew"] - losses["ten copies"]) < 0.1)
    return table


def paired(text: Text, objective: str, steps: int) -> dict[str, float]:
    """Trained on one task of pairs; right answers on both."""
    found = family("bert")
    tower = build(found, text)
    study(tower, text.feed(found, objective=f"mlm+{objective}"), text.scale, steps)
    return {task: held_out(tower, text.feed(found, "valid", objective=f"mlm+{task}"), text.scale)[1]["pair"] for task in ("nsp", "sop")}


def pairs(root: Path, scale: Scale) -> Table:
    """Next sentence and order of sentences, each on its own task and on the other's (Lan et al. 2020, table 5)."""
    table = Table()
    real = Text(root / "books", novels(scale), scale)
    cut = Text(root / "halves", capped(halves(novels(scale)), scale.words), scale)
    found: dict[tuple[str, str], dict[str, float]] = {}
    arms = [("whole sentences", "nsp", real, scale.steps), ("half sentences", "sop", cut, max(1, scale.steps * 4 // 5))]
    if scale.report:
        arms += [("whole sentences", "sop", real, scale.steps), ("half sentences", "nsp", cut, max(1, scale.steps * 4 // 5))]
    for kind, objective, text, steps in arms:
        found[kind, objective] = paired(text, objective, steps)
        table.rows.append({"text": kind, "trained on": objective, "steps": steps, **found[kind, objective]})
    # NSP is reported without a gate: at chance (50.1%) after 1,000 steps on pairs whose lengths match, 62.4% on the former ones
    table.gate("the order of half sentences is learnt: more than 90% right", found["half sentences", "sop"]["sop"] > 0.9)
    crossed = {"NSP on SOP": found["whole sentences", "nsp"]["sop"], "SOP of halves on NSP": found["half sentences", "sop"]["nsp"]}
    for said, right in crossed.items():
        table.gate(f"{said} is at chance, to 5 points", abs(right - 0.5) < 0.05)
    return table


def snippets(limit: int) -> tuple[list[str], np.ndarray]:
    """Sentences of film reviews and whether they praise, mixed."""
    folder = data() / "finetune" / "single" / "sentence-polarity"
    rows = [
        (line, label)
        for label, end in enumerate(("neg", "pos"))
        for path in sorted(folder.glob(f"*.{end}*"))
        for line in path.read_text(encoding="latin-1").splitlines()
    ]
    random.Random(2).shuffle(rows)
    return [line for line, _ in rows[:limit]], np.array([label for _, label in rows[:limit]])


def tagged(name: str, limit: int) -> list[tuple[list[str], list[str]]]:
    """Sentences of the web as words and their universal parts of speech (UD English EWT)."""
    found: list[tuple[list[str], list[str]]] = [([], [])]
    with gzip.open(data() / "finetune" / "tagging" / "ud-ewt" / f"{name}.conllu.gz", "rt", encoding="utf-8") as file:
        for line in file:
            columns = line.split("\t")
            if columns[0].isdigit():
                found[-1][0].append(columns[1].lower())
                found[-1][1].append(columns[3])
            elif not line.strip() and found[-1][0]:
                found.append(([], []))
                if len(found) > limit:
                    break
    return [row for row in found if row[0]]


@torch.no_grad()
def states(tower: Tower, rows: list[list[int]], scale: Scale) -> Iterator[np.ndarray]:
    """The last hidden states [length, width] of each row of ids."""
    for start in range(0, len(rows), 64):
        some = rows[start : start + 64]
        longest = max(map(len, some))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in some], device=scale.device)
        keep = torch.arange(longest, device=scale.device) < torch.tensor([len(row) for row in some], device=scale.device)[:, None]
        hidden = tower.eval().backbone(tokens, None, keep).last_BLD.float().cpu().numpy()
        yield from (states_LD[: len(row)] for states_LD, row in zip(hidden, some, strict=True))


def linear(x: np.ndarray, y: np.ndarray, x_new: np.ndarray, y_new: np.ndarray, penalty: float = 1.0) -> float:
    """Share of right answers of a ridge regression onto the classes."""
    names, classes = np.unique(y, return_inverse=True)
    middle, spread = x.mean(0), x.std(0) + 1e-6
    a, b = (np.c_[(part - middle) / spread, np.ones(len(part))] for part in (x, x_new))
    weights = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ np.eye(len(names))[classes])
    return float((names[(b @ weights).argmax(1)] == y_new).mean())


def speech(tower: Tower, text: Text, found: Family, few: bool) -> float:
    """Parts of speech of words, each from the state at its last piece."""
    engine, both = load_tokenizer(text.tokenizer(found)), []
    for name, limit in (("train", 40 if few else 1500), ("dev", 20 if few else 800)):
        rows, ends, tags = [], [], []
        for words, parts in tagged(name, limit):
            pieces = engine.encode_batch([f" {word}" for word in words])
            at = np.cumsum([len(ids) for ids in pieces])
            inside = at <= text.scale.length
            rows.append([number for ids in pieces for number in ids][: text.scale.length])
            ends.append(at[inside] - 1)
            tags += np.array(parts)[inside].tolist()
        vectors = [x[end] for x, end in zip(states(tower, rows, text.scale), ends, strict=True)]
        both += [np.concatenate(vectors), np.array(tags)]
    return linear(*both)


def polarity(tower: Tower, text: Text, found: Family, few: bool) -> float:
    """Praise or blame of a sentence, from the mean of its states; each fifth judged by what was fitted to the other four."""
    lines, labels = snippets(200 if few else 10_662)
    ids = load_tokenizer(text.tokenizer(found)).encode_batch(lines)
    rows = [row[-text.scale.length :] or [0] for row in ids]
    x, fold = np.stack([state.mean(0) for state in states(tower, rows, text.scale)]), np.arange(len(rows)) % FOLDS
    right = [linear(x[fold != k], labels[fold != k], x[fold == k], labels[fold == k]) for k in range(FOLDS)]
    return float(np.mean(right))


def probe(root: Path, scale: Scale) -> Table:
    """A linear probe of frozen states tells parts of speech, and praise from blame, better after pretraining than before.

    Praise shows slowly, 2 or 3 points after 700 steps, 5 after 1,600 (244 s of a CPU): within minutes it is told, not asked for.
    """
    table, found = Table(), family("gpt2")
    novels = [one.lower() for one in capped(books(data(), 2000), scale.words)]  # as the sentences that are judged are written
    text, few = Text(root / "books", novels, scale), scale.words <= 20_000
    tower = build(found, text)
    for kind in ("random weights", "pretrained"):
        if kind == "pretrained":
            study(tower, text.feed(found), scale)
        row = {"parts of speech": speech(tower, text, found, few), "polarity": polarity(tower, text, found, few)}
        table.rows.append({"weights": kind, **row})
    before, after = table.rows
    table.gate("pretraining is worth 13 points in parts of speech", after["parts of speech"] >= before["parts of speech"] + 0.13)
    if scale.device == "cuda":
        table.gate("and 4 points in polarity", after["polarity"] >= before["polarity"] + 0.04)
    return table


def sharing(root: Path, scale: Scale) -> Table:
    """ALBERT's layers shared in four ways (Lan et al. 2020, table 4): no gate, a report."""
    table, found = Table(), family("albert")
    text = Text(root / "books", novels(scale), scale)
    for share in ("all", "attention", "ffn", "none"):
        tower, began = build(found, text, share=share), time.process_time()
        study(tower, text.feed(found), scale)
        losses, right = held_out(tower, text.feed(found, "valid"), scale)
        row = {"shared": share, "parameters": count_parameters(tower), "held out": losses["mlm"], "order right": right["pair"]}
        table.rows.append(row | {"cpu s": round(time.process_time() - began)})
    return table


def electra(root: Path, scale: Scale) -> Table:
    """Replaced tokens against masked ones at equal arithmetic (Clark et al. 2020, figure 2), by linear probes: no gate."""
    table, replaced = Table(), family("electra")
    masked = replace(family("bert"), objective="mlm", heads=("mlm",), examples=replaced.examples, masking=replaced.masking)
    text = Text(root / "reviews", capped(reviews(data()), scale.words), scale)
    few = scale.words <= 20_000
    towers = {
        "replaced": (replaced, build(replaced, text)),
        "masked": (masked, build(masked, text, embedding_width=scale.width // 2, share="none")),
    }
    price = {kind: training_flops(found, tower, scale.length) for kind, (found, tower) in towers.items()}
    for kind, (found, tower) in {"random": towers["replaced"], **towers}.items():
        steps = 0 if kind == "random" else round(scale.steps * price["masked"] / price[kind])
        losses = study(tower, text.feed(found), scale, steps) if steps else {}
        row = {"trained on": kind, "steps": steps, "operations": f"{steps * scale.batch * scale.length * price.get(kind, 0):.1e}"}
        told = {"masked loss": losses.get("mlm", ""), "doubt": losses.get("rtd", "")}
        table.rows.append(row | told | {"polarity": polarity(tower, text, found, few), "parts of speech": speech(tower, text, found, few)})
    return table


GPU = Scale(words=5_000_000, vocab=8192, length=128, batch=128, width=512, layers=6, heads=8, lr=5e-4, steps=4000, device="cuda", held=100)
PARTS: dict[str, Part] = {
    "families": Part(Scale(), replace(GPU, steps=1500, layers=4, width=256, heads=4, lr=1e-3), families),
    "masking": Part(Scale(length=64, batch=16, steps=1000, lr=3e-3, vocab=1000), replace(GPU, layers=4, width=256), masking),
    "pairs": Part(Scale(words=700_000, width=128, length=64, steps=1000, lr=1e-3, vocab=1000, report=False), GPU, pairs),
    "probe": Part(Scale(words=1_300_000, width=128, layers=4, length=128, batch=16, vocab=4096, steps=400, lr=2e-3), GPU, probe),
    "sharing": Part(Scale(steps=300), replace(GPU, steps=3000), sharing),
    "electra": Part(Scale(width=128, steps=300), replace(GPU, steps=6000), electra),
}


def data() -> Path:
    """The folder of real text."""
    return Path(os.environ[DATA])


def main() -> None:
    """Run parts; exit code 1 when a gate fails, but not with --tiny, which shows nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--scale", choices=["cpu", "gpu", "tiny"], default="gpu", help="gpu wants a CUDA device")
    parser.add_argument("--tiny", action="store_const", const="tiny", dest="scale", help="a few steps of small models, on a CPU")
    said = parser.parse_args()
    if not os.environ.get(DATA):
        parser.error(f"{DATA} names no folder of real text")
    if said.scale == "gpu" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --scale cpu or --tiny do without")
    torch.set_float32_matmul_precision("medium" if said.scale != "gpu" else "high")
    failed = False
    for name in PARTS if said.part == "all" else [said.part]:
        began, cpu = time.monotonic(), time.process_time()
        with tempfile.TemporaryDirectory() as root:
            part = PARTS[name]
            table = part.run(Path(root), getattr(part, said.scale))
        sys.stdout.write(f"\n### {name}: {' '.join((part.run.__doc__ or '').split())}\n\n{table.markdown()}\n")
        sys.stdout.write(f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU, scale {said.scale}\n")
        sys.stdout.flush()
        failed |= not all(table.gates.values())
    sys.exit(1 if failed and said.scale != "tiny" else 0)


if __name__ == "__main__":
    main()
