"""CPU time of pages, filters, signatures, dedup and archives in two or more checkouts of this project, in turns on one core.

    git worktree add ../before COMMIT && python tests/benchmarks/bench_versions.py ../before . [--only articles,filter]

Every checkout is a process of its own; they take turns with a few pages, or one call, at a time, so that whatever else the machine does
falls on all of them. Prints a Markdown table of speeds relative to the first checkout: by the fastest and by the median turn of each part.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

PAGES = 10  # of a turn
Turn = Callable[[], object]
SITE = "web/site-flink.apache.org.tar.gz"


def page_sets(folder: Path) -> dict[str, list[bytes]]:
    import bench_extract

    sets = {title: [page.body for page in pages] for title, pages in bench_extract.every_set(folder).items()}
    with tarfile.open(folder / SITE) as archive:
        names = sorted(member.name for member in archive if member.name.endswith(".html"))
        return {**sets, "manual": [archive.extractfile(name).read() for name in names]}


def page_turns(pages: list[bytes]) -> list[Turn]:
    from data_prep.corpus import child

    question = child.Question("", "best", 25)

    def read(some: list[bytes]) -> None:
        for body in some:
            child.read_page(question, body, lambda answer: None)

    return [partial(read, pages[at : at + PAGES]) for at in range(0, len(pages), PAGES)]


def text_turns(folder: Path) -> dict[str, list[Turn]]:
    import pyarrow as pa

    from data_prep import schemas
    from data_prep.corpus import filter as filtering
    from data_prep.corpus.dedup import DEDUP, DedupConfig
    from data_prep.corpus.deduping import signing
    from infra.compute import LocalCompute
    from infra.stage import Stage, run
    from infra.store import Store

    def table(name: str, count: int) -> pa.Table:
        with gzip.open(folder / f"text/{name}.jsonl.gz", "rt") as lines:
            texts = [json.loads(line)["text"][:8000] for _, line in zip(range(count), lines, strict=False)]
        empty = dict.fromkeys(schemas.DOCUMENTS.names, "")
        return pa.Table.from_pylist(
            [{**empty, "id": str(at), "text": text, "karma": None} for at, text in enumerate(texts)], schema=schemas.DOCUMENTS
        )

    english, korean = table("en/movie-reviews", 400), table("ko/naver-movie-reviews", 8_000)
    always = {name: 0 for name in ("min_share_words", "min_share_lines") if hasattr(filtering.FilterConfig, name)}
    config = filtering.FilterConfig(families=("c4", "fineweb"), **always)  # rules for texts of any length, as once

    def dedup() -> None:
        from data_prep import shards

        def fill(_config: object, _inputs: object, out: Path, _compute: object) -> dict[str, int]:
            shards.write(korean, out / shards.name(0))
            return {"read": korean.num_rows, "kept": korean.num_rows}

        with tempfile.TemporaryDirectory() as root:
            given = run(Stage("given", 1, fill), None, {}, Store(root), LocalCompute())
            run(DEDUP, DedupConfig(), {"documents": given}, Store(root), LocalCompute())

    return {
        "filter": [lambda: filtering.keep_good(config, english)],
        "signatures": [lambda: signing.signed(DedupConfig(), english.select(["id", "text", "karma"]))],
        "dedup": [dedup],
    }


def archive_turns(pages: list[bytes], place: Path) -> list[Turn]:
    from data_prep.corpus import warc

    with place.open("wb") as file:
        for number, body in enumerate(pages):
            block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://h.test/{number}\r\nContent-Length: {len(block)}\r\n\r\n"
            file.write(gzip.compress(head.encode() + block + b"\r\n\r\n", 6, mtime=0))
    return [lambda: list(warc.pages_of(place))]


def serve(checkout: str, folder: Path, core: int) -> None:
    """Answer each line, a part and the number of a turn, with its CPU seconds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    sys.path.insert(0, str(Path(checkout).resolve()))
    sets = page_sets(folder)
    turns = {title: page_turns(pages) for title, pages in sets.items()} | text_turns(folder)
    with tempfile.TemporaryDirectory() as root:
        turns["archive"] = archive_turns([body for pages in sets.values() for body in pages], Path(root) / "a.warc.gz")
        print(json.dumps({title: len(each) for title, each in turns.items()}), flush=True)
        for line in sys.stdin:
            title, number = line.split()
            started = time.process_time()
            turns[title][int(number)]()
            print(time.process_time() - started, flush=True)


def compare(checkouts: list[str], data: str, rounds: int, only: set[str]) -> None:
    core = str(max(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "0"
    command = [sys.executable, __file__, "--data", data, "--core", core, "--serve"]
    talk: dict[str, object] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, checkout], **talk) for checkout in checkouts]
    parts, *_ = [json.loads(process.stdout.readline()) for process in processes]

    def ask(process: subprocess.Popen[str], title: str, number: int) -> float:
        print(title, number, file=process.stdin, flush=True)
        return float(process.stdout.readline())

    print("| part | CPU seconds of " + ", ".join(checkouts) + " | speed by the fastest turns | by the median turns |\n|---|---|---|---|")
    for title, count in parts.items():
        if only and title not in only:
            continue
        taken = [[[] for _ in range(count)] for _ in processes]
        for turn in range(rounds + 1):
            for number in range(count):
                order = list(enumerate(processes))[:: 1 if (turn + number) % 2 else -1]
                for which, process in order:
                    seconds = ask(process, title, number)
                    if turn:  # the first warms caches
                        taken[which][number].append(seconds)
        best, usual = ([sum(map(choose, each)) for each in taken] for choose in (min, statistics.median))
        shown = [", ".join(f"{sums[0] / each:.2f}" for each in sums[1:]) for sums in (best, usual)]
        print(f"| {title} | {', '.join(f'{each:.3f}' for each in best)} | {shown[0]} | {shown[1]} |", flush=True)
    for process in processes:
        process.stdin.close()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", help="folders of checkouts; speeds are relative to the first")
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="parts, with commas between")
    parser.add_argument("--core", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data:
        parser.error("no test data: give --data or set TEXTMILL_TEST_DATA")
    if options.serve:
        serve(options.serve, Path(options.data), options.core)
        return
    if len(options.checkouts) < 2:
        parser.error("give two checkouts or more")
    compare(options.checkouts, options.data, options.rounds, set(filter(None, options.only.split(","))))


if __name__ == "__main__":
    main()
