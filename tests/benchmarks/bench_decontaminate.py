"""Decontamination: what of the real task files stands in real corpora, recall on injected items, and speed against other ways to do it.

    python tests/benchmarks/bench_decontaminate.py --data FOLDER --peer-python VENV/bin/python

The peers are datatrove's n-gram filter (its index written by hand with its own functions, for its indexer wants lighteval) and a plain
Python set of n-grams of split words. FOLDER is the test data (default: TEXTMILL_TEST_DATA). One core, process CPU time, best of several.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

N = 13
TASKS = {
    "SST-2": ("finetune/glue/SST-2/train.tsv.gz", "finetune/glue/SST-2/dev.tsv"),
    "RTE": ("finetune/glue/RTE/train.tsv", "finetune/glue/RTE/dev.tsv"),
    "WNLI": ("finetune/glue/WNLI/train.tsv", "finetune/glue/WNLI/dev.tsv"),
    "MRPC": ("finetune/glue/MRPC/msr_paraphrase_train.txt", "finetune/glue/MRPC/msr_paraphrase_test.txt"),
    "STS-B": ("finetune/glue/STS-B/train.tsv", "finetune/glue/STS-B/dev.tsv"),
    "SQuAD": ("finetune/qa/squad2-train.json", "finetune/qa/squad2-dev.json", "finetune/qa/squad1-xquad-en.json"),
    "polarity": ("finetune/single/sentence-polarity/rt-polarity.pos.txt", "finetune/single/sentence-polarity/rt-polarity.neg.txt"),
}


def corpora(folder: Path) -> dict[str, list[str]]:
    """Texts that a crawl might hold, by kind."""

    def texts(name: str) -> list[str]:
        with gzip.open(folder / name, "rt", encoding="utf-8") as file:
            return [json.loads(line)["text"] for line in file]

    with gzip.open(folder / "neardup/articles.train.gz", "rt") as file:
        news = [line.split(" ", 1)[1].strip() for line in file]
    polarity = [path.read_text("latin-1") for path in sorted((folder / "finetune/single/sentence-polarity").glob("*.txt"))]
    snippets = [line for text in polarity for line in text.splitlines()]
    return {
        "film reviews": texts("text/en/movie-reviews.jsonl.gz"),
        "sentence polarity, 20 a page": ["\n".join(snippets[at : at + 20]) for at in range(0, len(snippets), 20)],
        "news": news,
        "speeches": texts("text/en/state-of-the-union.jsonl.gz"),
    }


def named(folder: Path, work: Path) -> Any:
    """The tasks' files under names that say their kind."""
    from data_prep.corpus.decontaminate import TaskFiles
    from infra.artifact import SourceFile

    found = []
    for task, names in TASKS.items():
        files = []
        for name in names:
            suffix = {"MRPC": ".tsv"}.get(task, "")
            link = work / f"{task}-{Path(name).name}{suffix}"
            if (folder / name).exists():
                link.write_bytes((folder / name).read_bytes())
                files.append(SourceFile.of(link))
        if files:
            found.append(TaskFiles(task, tuple(files)))
    return tuple(found)


def found_in(folder: Path) -> str:
    """The real stage on each corpus with all tasks."""
    from data_prep.corpus.decontaminate import DECONTAMINATE, DecontaminateConfig
    from data_prep.corpus.documents import DOCUMENTS, DocumentsConfig
    from infra.artifact import SourceFile
    from infra.compute import LocalCompute
    from infra.stage import run
    from infra.store import Store

    rows = [
        "| corpus | documents | cut | removed | task: documents that share 13 words, items found, common phrases |",
        "|---" * 5 + "|",
    ]
    checkable = ""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        tasks = named(folder, work)
        for kind, texts in corpora(folder).items():
            lines = work / "corpus.jsonl"
            lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            store = Store(work / "store")
            documents = run(DOCUMENTS, DocumentsConfig((SourceFile.of(lines),), shards=2), {}, store, LocalCompute())
            counts = run(DECONTAMINATE, DecontaminateConfig(tasks), {"documents": documents}, store, LocalCompute()).counts
            told = [
                f"{task.name}: {counts.get(f'overlaps.{task.name}', 0)}, {counts.get(f'items_dirty.{task.name}', 0)}, "
                f"{counts.get(f'items_common.{task.name}', 0)}"
                for task in tasks
                if counts.get(f"items_dirty.{task.name}") or counts.get(f"items_common.{task.name}")
            ]
            gone = counts["read"] - counts["kept"]
            rows.append(f"| {kind} | {counts['read']:,} | {counts['cut']} | {gone} | {'; '.join(told)} |")
            short = {task.name: (counts.get(f"items_unchecked.{task.name}", 0), counts[f"items.{task.name}"]) for task in tasks}
            checkable = "; ".join(f"{name} {few:,} of {all_:,}" for name, (few, all_) in short.items())
    return "\n".join([*rows, "", f"Items of fewer than {N} words, not checkable: {checkable}."])


def wrapped(item: str, rng: random.Random, filler: list[str]) -> str:
    words = item.split()
    return "\n".join(" ".join(words[at : at + 8]) for at in range(0, len(words), 8))


def embedded(item: str, rng: random.Random, filler: list[str]) -> str:
    return f"{' '.join(rng.choices(filler, k=5))} {item} {' '.join(rng.choices(filler, k=5))}"


def repunctuated(item: str, rng: random.Random, filler: list[str]) -> str:
    words = [word.strip(".,;:!?\"'()") for word in item.split()]
    return ", ".join(word.upper() if rng.random() < 0.5 else f"“{word}”" for word in words if word) + "!!"


def recall(folder: Path) -> str:
    """Real items with enough words, put into filler four ways; what a stage's own functions find of them, and of the filler alone."""
    from data_prep.corpus import overlap, task_texts

    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as place:
        texts = {
            task.name: [text for file in task.files for item in task_texts.items(file) for text in item.texts]
            for task in named(folder, Path(place))
        }
    items = {name: [text for text in found if overlap.count(text) >= N][:500] for name, found in texts.items()}
    filler = [part for text in corpora(folder)["speeches"] for part in textwrap.wrap(text, 300)]
    kinds: dict[str, Callable[[str, random.Random, list[str]], str]] = {
        "verbatim": lambda item, *_: item,
        "re-wrapped to 8 words": wrapped,
        "in filler of ten times": embedded,
        "punctuation and case": repunctuated,
    }
    rows = ["| task | items | " + " | ".join(kinds) + " | filler alone |", "|---" * (len(kinds) + 3) + "|"]
    for task, known in items.items():
        grams = overlap.grams(known, N)
        index = overlap.index_of(grams.values, grams.values.astype("int64") * 0)

        def hit(documents: list[str], index: overlap.Index = index) -> float:
            found = [bool(len(index.hits(overlap.grams([text], N).values)[0])) for text in documents]
            return sum(found) / max(1, len(found))

        shares = [hit([put(text, rng, filler) for text in known]) for put in kinds.values()]
        rows.append(f"| {task} | {len(known)} | " + " | ".join(f"{share:.3f}" for share in (*shares, hit(filler[:2_000]))) + " |")
    return "\n".join(rows)


def our_speed(items: list[str], texts: list[str]) -> Callable[[], object]:
    import numpy as np

    from data_prep.corpus import overlap

    grams = overlap.grams(items, N)
    index = overlap.index_of(grams.values, np.zeros(len(grams.values), np.int64))

    def run() -> None:
        for at in range(0, len(texts), 500):
            index.hits(overlap.grams(texts[at : at + 500], N).values)

    return run


def set_speed(items: list[str], texts: list[str]) -> Callable[[], object]:
    def grams(text: str) -> list[str]:
        words = re.findall(r"\w+", text.lower())
        return [" ".join(words[at : at + N]) for at in range(len(words) - N + 1)]

    known = {gram for item in items for gram in grams(item)}
    return lambda: [any(gram in known for gram in grams(text)) for text in texts]


def datatrove_speed(items: list[str], texts: list[str]) -> Callable[[], object]:
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.text import ngrams, simplify_text

    judge = NGramsDecontFilter(tempfile.mkdtemp(), NGramsDecontConfig(n_grams=N))
    words = [judge.tokenizer.word_tokenize(simplify_text(item, judge.config.norm_config)) for item in items]
    judge._index_hashes = {judge.hash_func(gram): "task" for each in words for gram in map(" ".join, ngrams(each, N))}
    return lambda: [judge.filter(Document(text=text, id="")) for text in texts]


def timed(work: Callable[[], object], count: int) -> float:
    work()
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def speeds(folder: Path, python: str | None, rounds: int) -> str:
    from data_prep.corpus import task_texts

    with tempfile.TemporaryDirectory() as place:
        files = [file for task in named(folder, Path(place)) if task.name in ("SST-2", "SQuAD") for file in task.files]
        items = [text for file in files for item in task_texts.items(file) for text in item.texts][::8]
    texts = corpora(folder)["film reviews"][::5]
    best: dict[str, float] = {}
    for _ in range(rounds):
        rates = {"textmill": timed(our_speed(items, texts), len(texts)), "a Python set": timed(set_speed(items, texts), len(texts))}
        if python:
            rates["datatrove"] = asked(python, items, texts)
        best.update({name: max(rate, best.get(name, 0)) for name, rate in rates.items()})
    rows = ["| way | documents/s | textmill is |", "|---|---|---|"]
    rows += [f"| {name} | {rate:,.0f} | {best['textmill'] / rate:.1f}x |" for name, rate in best.items()]
    return "\n".join(rows)


def asked(python: str, items: list[str], texts: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.json"
        path.write_text(json.dumps([items, texts]), encoding="utf-8")
        done = subprocess.run([python, __file__, "--given", str(path)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"the peer could not be measured by {python}; see above")
        return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--peer-python", help="interpreter of the virtual environment that holds datatrove")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--given", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for Arrow's threads too
    if options.given:
        items, texts = json.loads(options.given.read_text(encoding="utf-8"))
        print(timed(datatrove_speed(items, texts), len(texts)))
        return
    if not options.data:
        parser.error("no test data: give --data or set TEXTMILL_TEST_DATA")
    folder = Path(options.data)
    print(f"### Recall of injected items\n\n{recall(folder)}\n", flush=True)
    print(f"### What stands in the corpora\n\n{found_in(folder)}\n", flush=True)
    print(f"### Speed\n\n{speeds(folder, options.peer_python, options.rounds)}")


if __name__ == "__main__":
    main()
