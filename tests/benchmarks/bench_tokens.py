"""Tokenizers and the encode stage against the bare libraries: the same vocabularies and texts, one core, process CPU time.

    python tests/benchmarks/bench_tokens.py [--data FOLDER] [speed] [stage] [parity] [memory] [workers]

speed: the tokenizers' calls against `tokenizers`, sentencepiece and tiktoken on the same sentences. stage: where encoding spends
its time. parity: ids against transformers on all text there is (minutes). memory: peaks of training each kind on 60 MB and of
encoding one large shard, each in a process of its own. workers: the encode stage on 1 and 2 Ray workers. Without a name:
speed and stage. FOLDER is the test data (default: TEXTMILL_TEST_DATA), with its published vocabularies. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import cProfile
import gzip
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

VOCABULARIES = {
    "gpt2": ("encoder.json", "vocab.bpe"),
    "gpt1": ("encoder_bpe_40000.json", "vocab_40000.bpe"),
    "bert-uncased": ("vocab.txt",),
    "t5": ("spiece.model",),
}
TEXTS = {
    "English reviews": ("en/movie-reviews.jsonl.gz", "en"),
    "English books": ("en/books.jsonl.gz", "en"),
    "Korean reviews": ("ko/naver-movie-reviews.jsonl.gz", "ko"),
    "388 languages": ("other/udhr.jsonl.gz", ""),
}
KINDS = ("byte_bpe", "bpe_eow", "wordpiece", "sentencepiece_bpe", "sentencepiece_unigram")
PART = 2_000_000  # letters of a call, as the stage makes them
MOST = 8_000_000  # bytes of each text
TRAINED_ON = 60_000_000  # bytes


def read(folder: Path, name: str, most: int | None = None) -> list[str]:
    texts, size = [], 0
    with gzip.open(folder / "text" / name, "rt", encoding="utf-8") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1].encode())
            if most and size >= most:
                break
    return texts


def adopted(folder: Path, name: str, out: Path) -> Path:
    from data_prep.tokenizer import published

    published.read([folder / "tokenizers" / name / file for file in VOCABULARIES[name]], out / name, lowercase=name == "bert-uncased")
    return out / name


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def bare(name: str, tokenizer: Any, folder: Path) -> Callable[[Sequence[str]], list[list[int]]]:
    """The library's own batch call."""
    if name == "t5":
        return lambda texts: tokenizer._engine.encode(texts, out_type=int)
    return lambda texts: [row.ids for row in tokenizer._engine.encode_batch_fast(texts, add_special_tokens=False)]


def speed(folder: Path, out: Path) -> str:
    """New: a tokenizer just loaded, which has seen no word; again: the same text a second time. Best of three, interleaved."""
    from data_prep.examples.sentences import split
    from data_prep.tokenizer.catalog import load
    from data_prep.tokenizer.word_ids import batches

    lines = [
        "| vocabulary | text | bare library, MB/s | textmill, new words | ratio | again | ratio | ids |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in VOCABULARIES:
        place = adopted(folder, name, out)
        for text, (file, language) in TEXTS.items():
            cut = [sentence for document in read(folder, file, MOST) for sentence in split(document, language)]
            parts, size = list(batches(cut, PART)), sum(len(sentence.encode()) for sentence in cut) / 1e6
            best = {"bare": 1e9, "new": 1e9, "again": 1e9}
            for _ in range(3):
                tokenizer = load(place)
                tokenizer.encode_flat(["so warm it up"] * 1000)
                call = bare(name, tokenizer, folder)
                rows = [row for part in parts for row in call(part)] if best["bare"] == 1e9 else []
                best["new"] = min(best["new"], seconds(lambda: [tokenizer.encode_flat(part) for part in parts]))
                best["again"] = min(best["again"], seconds(lambda: [tokenizer.encode_flat(part) for part in parts]))
                best["bare"] = min(best["bare"], seconds(lambda: [call(part) for part in parts]))
                equal = not rows or [row for part in parts for row in tokenizer.encode_flat(part).lists()] == rows
                assert equal, f"{name}: other ids on {text}"
            new, again = best["bare"] / best["new"], best["bare"] / best["again"]
            cells = f"{size / best['bare']:.1f} | {size / best['new']:.1f} | {new:.2f}x | {size / best['again']:.1f} | {again:.2f}x | equal"
            lines.append(f"| {name} | {text} | {cells} |")
    return "\n".join(lines)


def artifact(texts: Sequence[tuple[str, str]], store: Any, name: str, count: int) -> Any:
    """(text, language) as a documents artifact of so many shards."""
    import pyarrow as pa

    from data_prep import schemas, shards

    with store.writing("documents", name, {"stage": "documents", "version": 1, "config": {}, "inputs": {}}) as work:
        for number in range(count):
            part = list(enumerate(texts))[number::count]
            rows = {
                "id": [f"{at:016x}" for at, _ in part],
                "text": [text for _, (text, _) in part],
                "language": [language for _, (_, language) in part],
            }
            others = [field for field in schemas.DOCUMENTS if field.name not in rows]
            blank = {field.name: pa.array([""] * len(part)) if field.type == pa.string() else pa.nulls(len(part)) for field in others}
            table = pa.table(rows | blank).select(schemas.DOCUMENTS.names).cast(schemas.DOCUMENTS)
            shards.write(table, work.out / shards.name(number))
    return store.get("documents", name)


def mixed(folder: Path, most: int) -> list[tuple[str, str]]:
    return [
        (text, language)
        for name in ("English reviews", "Korean reviews")
        for text in read(folder, TEXTS[name][0], most)
        for language in [TEXTS[name][1]]
    ]


def stage(folder: Path, out: Path) -> str:
    """One shard of English and one of Korean; the shares are of the profile, whose overhead the MB/s do not have."""
    from data_prep.examples.encode import EncodeConfig, encode
    from infra.store import Store

    lines = ["| vocabulary | shard | stage, MB/s | splitting | tokenizer | the rest |", "|---|---|---|---|---|---|"]
    for name in VOCABULARIES:
        place = adopted(folder, name, out)
        for text in ("English reviews", "Korean reviews"):
            texts = [(document, TEXTS[text][1]) for document in read(folder, TEXTS[text][0], MOST)]
            shard = artifact(texts, Store(out / f"store {name} {text}"), "d", 1).shards[0]
            size = sum(len(document.encode()) for document, _ in texts) / 1e6
            taken = min(seconds(lambda: encode(EncodeConfig(), place, shard, out)) for _ in range(3))
            profile = cProfile.Profile()
            profile.runcall(encode, EncodeConfig(), place, shard, out)
            stats = pstats.Stats(profile)
            spent = {function[2]: row[3] for function, row in stats.stats.items()}  # type: ignore[attr-defined]
            total = stats.total_tt  # type: ignore[attr-defined]
            split, tokens = spent["split"] / total, spent["encode_flat"] / total
            lines.append(f"| {name} | {text} | {size / taken:.1f} | {split:.0%} | {tokens:.0%} | {1 - split - tokens:.0%} |")
    return "\n".join(lines)


def theirs(folder: Path, name: str) -> Any:
    """transformers' own class, from the published files."""
    import transformers

    place = folder / "tokenizers" / name
    if name == "t5":
        return transformers.T5Tokenizer.from_pretrained(str(place))
    if name == "bert-uncased":
        lines = (place / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
        return transformers.BertTokenizer(vocab={piece: number for number, piece in enumerate(lines)})
    ids = json.loads((place / VOCABULARIES[name][0]).read_text(encoding="utf-8"))
    merges = [tuple(line.split(" ", 1)) for line in (place / VOCABULARIES[name][1]).read_text(encoding="utf-8").split("\n")[1:] if line]
    return {"gpt2": transformers.GPT2Tokenizer, "gpt1": transformers.OpenAIGPTTokenizer}[name](vocab=ids, merges=merges)


def everything(folder: Path) -> dict[str, list[str]]:
    """All text of text/, whole documents."""
    import bz2

    names = [path.relative_to(folder / "text").as_posix() for path in sorted((folder / "text").rglob("*.jsonl.gz"))]
    found = {name: read(folder, name) for name in names}
    for path in sorted((folder / "text").rglob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found[path.relative_to(folder / "text").as_posix()] = ["".join(lines) for lines in iter(lambda: list(islice(file, 1000)), [])]
    for path in sorted((folder / "text").rglob("*.bz2")):
        with bz2.open(path, "rt", encoding="utf-8") as file:
            found[path.relative_to(folder / "text").as_posix()] = ["".join(lines) for lines in iter(lambda: list(islice(file, 1000)), [])]
    return found


def parity(folder: Path, out: Path) -> str:
    """Documents whose ids differ from transformers'."""
    from data_prep.tokenizer.catalog import load

    lines = ["| vocabulary | " + " | ".join(texts := everything(folder)) + " |", "|---" * (len(texts) + 1) + "|"]
    for name in VOCABULARIES:
        ours, other = load(adopted(folder, name, out)), theirs(folder, name)
        cells = []
        for documents in texts.values():
            differ = 0
            for at in range(0, len(documents), 500):
                part = documents[at : at + 500]
                for mine, their in zip(ours.encode_batch(part), other(part, add_special_tokens=False)["input_ids"], strict=True):
                    differ += mine != their
            cells.append(f"{differ} of {len(documents)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def trained_on(folder: Path) -> list[str]:
    """60 MB: all books, reviews and declarations, then the books again with every word reversed."""
    names = (
        "en/books.jsonl.gz",
        "en/movie-reviews.jsonl.gz",
        "en/state-of-the-union.jsonl.gz",
        "ko/naver-movie-reviews.jsonl.gz",
        "other/udhr.jsonl.gz",
    )
    texts = [text for name in names for text in read(folder, name)]
    size = sum(len(text.encode()) for text in texts)
    for text in texts[:]:
        if size >= TRAINED_ON:
            break
        texts.append(" ".join(word[::-1] for word in text.split(" ")))
        size += len(texts[-1].encode())
    return texts


def memory_of(field: str) -> float:
    """MB of this process, from a line of /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def peak() -> float:
    """MB, mapped files included. Not getrusage's figure, which a process inherits from the one that became it."""
    return memory_of("VmHWM")


def train_alone(folder: Path, out: Path, kind: str) -> None:
    """In a process of its own: the stage itself on one documents artifact."""
    from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
    from infra.compute import LocalCompute
    from infra.stage import run
    from infra.store import Store

    store = Store(out / kind)
    if not (out / kind / "documents").exists():
        artifact([(text, "") for text in trained_on(folder)], store, "d", 4)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # so that making the documents is not measured
    source, before, started = store.get("documents", "d"), peak(), time.process_time()
    made = run(TOKENIZER, TokenizerConfig(kind, 16_000), {"documents": source}, store, LocalCompute())
    print(json.dumps([kind, made.counts["sampled_bytes"], before, peak(), time.process_time() - started]))


def encode_alone(folder: Path, out: Path, size: str) -> None:
    """In a process of its own: one shard of so many bytes, the same text again and again."""
    from data_prep.examples.encode import ENCODE, EncodeConfig
    from infra.compute import LocalCompute
    from infra.store import Store

    store = Store(out / f"shard {size}")
    if not (out / f"shard {size}" / "documents").exists():
        texts = mixed(folder, 4_000_000)
        artifact(texts * max(1, int(size) // 8_000_000), store, "d", 1)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    work = out / f"work {size}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    tokenizer = adopted(folder, "gpt2", out)
    before, most, done = peak(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], memory_of("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    counts = ENCODE.work(EncodeConfig(), {"documents": store.get("documents", "d"), "tokenizer": tokenizer}, work, LocalCompute())
    done.set()
    watcher.join()
    print(json.dumps(["encode", counts["bytes"], before, peak(), most[0]]))


def memory(folder: Path, out: Path) -> str:
    lines = [
        "| work | text, MB | before, MB | peak, MB | CPU s (training), peak without mapped files, MB (encoding) |",
        "|---|---|---|---|---|",
    ]
    for call, argument in [*(("train", kind) for kind in KINDS), *(("encode", str(size)) for size in (8_000_000, 80_000_000, 400_000_000))]:
        command = [sys.executable, __file__, "--data", str(folder), "--alone", call, argument, str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        name, size, before, most, last = json.loads(done.stdout.splitlines()[-1])
        lines.append(f"| {name} | {size / 1e6:.0f} | {before:.0f} | {most:.0f} | {last:.0f} |")
    return "\n".join(lines)


def workers(folder: Path, out: Path) -> str:
    """Wall time of the stage on Ray with 1 and 2 CPUs, the second time in the same cluster, so that workers have started."""
    from data_prep.examples.encode import ENCODE, EncodeConfig
    from infra.ray_compute import RayCompute
    from infra.store import Store

    source = artifact(mixed(folder, MOST) * 4, Store(out / "many"), "d", 16)
    lines = ["| vocabulary | 1 worker, MB/s | 2 workers, MB/s | ratio |", "|---|---|---|---|"]
    for name in VOCABULARIES:
        inputs, found = {"documents": source, "tokenizer": adopted(folder, name, out)}, []
        for cpus in (1, 2):
            with RayCompute(cpus=cpus) as compute:
                for attempt in ("first", "second"):
                    work = out / f"{name} {cpus} {attempt}"
                    work.mkdir()
                    started = time.perf_counter()
                    counts = ENCODE.work(EncodeConfig(), inputs, work, compute)
                    taken = time.perf_counter() - started
            found.append(counts["bytes"] / 1e6 / taken)
        lines.append(f"| {name} | {found[0]:.1f} | {found[1]:.1f} | {found[1] / found[0]:.2f}x |")
    return "\n".join(lines)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    measures = {"speed": speed, "stage": stage, "parity": parity, "memory": memory, "workers": workers}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="measure", help=", ".join(measures))
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data:
        parser.error("no test data: give --data or set TEXTMILL_TEST_DATA")
    folder = Path(options.data)
    if options.alone:
        call, argument, out = options.alone
        return {"train": train_alone, "encode": encode_alone}[call](folder, Path(out), argument)
    for name in options.measures or ("speed", "stage"):
        if name not in measures:
            parser.error(f"{name!r} is none of {', '.join(measures)}")
        if name in ("speed", "stage"):
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        with tempfile.TemporaryDirectory() as scratch:
            print(f"{measures[name](folder, Path(scratch))}\n", flush=True)
    return None


if __name__ == "__main__":
    main()
