"""Data stages against their peers: the same documents, one core, process CPU time, best of three.

    python tests/benchmarks/bench_data.py --data FOLDER --peer-python VENV/bin/python

The peers live in a virtual environment of their own, because datatrove needs an older xxhash: `datatrove[processing]==0.10.1`,
spacy and datasketch. FOLDER is the test data (default: TEXTMILL_TEST_DATA). This file runs in both; it prints a Markdown table.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPEATS = 3


def documents(folder: Path, limit: int) -> list[str]:
    """Film reviews and addresses: whole texts of some 4 to 30 KB."""
    texts = []
    for name in ("text/en/movie-reviews.jsonl.gz", "text/en/state-of-the-union.jsonl.gz"):
        with gzip.open(folder / name, "rt") as file:
            texts += [json.loads(line)["text"] for line in file]
    return texts[:: max(1, len(texts) // limit)][:limit]


def pages(folder: Path) -> list[str]:
    """Real article pages, already decoded, so that extraction alone is timed."""
    found = []
    for path in sorted((folder / "web/articles/html").glob("*.html.gz")):
        with gzip.open(path) as file:
            found.append(file.read().decode("utf-8", "replace"))
    return found


def speed(work: Callable[[], object], count: int, repeats: int = REPEATS) -> float:
    """Items a second of process CPU time, best of a few; the first call, which imports, is not counted."""
    work()
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return count / best


def ours(texts: list[str], markup: list[str]) -> dict[str, float]:
    import pyarrow as pa

    from data_prep.corpus import filter as filtering
    from data_prep.corpus import html, minhash, words
    from data_prep.corpus.language import detect

    array = pa.array(texts)
    english = ["en"] * len(texts)
    config = filtering.FilterConfig(min_words=1)

    def signatures() -> None:
        for batch in words.batches(pa.chunked_array([array])):
            found = minhash.shingles(words.split(batch), 5)
            minhash.band_keys(minhash.signatures(found, 112), 18, 6)

    return {
        "filter": speed(lambda: filtering.judge(config, array, english), len(texts)),
        "language": speed(lambda: [detect(text) for text in texts], len(texts)),
        "minhash": speed(signatures, len(texts)),
        "extract best": speed(lambda: [html.extract(page, "best") for page in markup], len(markup), 2),
        "extract resiliparse": speed(lambda: [html.extract(page, "resiliparse") for page in markup], len(markup), 2),
    }


def trafilatura_alone(markup: list[str]) -> dict[str, float]:
    import trafilatura

    def run() -> None:
        for page in markup:
            trafilatura.extract(page, favor_precision=True, include_comments=False)

    return {"extract": speed(run, len(markup), 2)}


def datatrove(texts: list[str]) -> dict[str, float]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    quality, repetition = GopherQualityFilter(), GopherRepetitionFilter()
    signer = MinhashDedupSignature(output_folder="signatures", config=MinhashConfig())
    given = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]

    def filters() -> None:
        for document in given:  # both on every document, as ours
            quality.filter(document)
            repetition.filter(document)

    def signatures() -> None:
        for document in given:
            signer.get_signature(signer.get_shingles(document.text))

    return {"filter": speed(filters, len(given), 2), "minhash": speed(signatures, len(given), 2)}


def datasketch(texts: list[str]) -> dict[str, float]:
    from datasketch import MinHash

    def run() -> None:
        for text in texts:
            words = text.lower().split()
            sketch = MinHash(num_perm=112)
            sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])

    return {"minhash": speed(run, len(texts), 2)}


def peers(folder: Path, limit: int) -> dict[str, dict[str, float]]:
    """What is installed here of the peers."""
    texts = documents(folder, limit)
    found = {}
    for name, measure in (("datatrove", datatrove), ("datasketch", datasketch)):
        if importlib.util.find_spec(name):
            found[name] = measure(texts)
    return found


def asked(python: str, folder: Path, limit: int) -> dict[str, dict[str, float]]:
    """The peers, measured by another interpreter."""
    command = [python, __file__, "--data", str(folder), "--documents", str(limit), "--peers-only"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # its errors go to our own stderr
    if done.returncode:
        sys.exit(f"the peers could not be measured by {python}; see above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(mine: dict[str, float], theirs: dict[str, dict[str, float]]) -> str:
    rows = [
        ("Gopher quality + repetition", "filter", [("datatrove", "filter")]),
        ("MinHash signatures, 112 slots, 5 words", "minhash", [("datatrove", "minhash"), ("datasketch", "minhash")]),
        ("main text, `best`", "extract best", [("trafilatura", "extract")]),
        ("main text, `resiliparse`", "extract resiliparse", [("trafilatura", "extract")]),
    ]
    lines = ["| step | textmill, items/s | peer | items/s | ratio |", "|---|---|---|---|---|"]
    for step, own, against in rows:
        for peer, name in against:
            if name in theirs.get(peer, {}):
                lines.append(f"| {step} | {mine[own]:,.0f} | {peer} | {theirs[peer][name]:,.0f} | {mine[own] / theirs[peer][name]:.1f}x |")
    lines.append(f"| language | {mine['language']:,.0f} | | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--peer-python", help="interpreter of the virtual environment that holds the peers")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--peers-only", action="store_true", help="print the peers' figures as JSON")
    options = parser.parse_args()
    if not options.data:
        parser.error("no test data: give --data or set TEXTMILL_TEST_DATA")
    folder = Path(options.data)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for Arrow's threads too
    if options.peers_only:
        print(json.dumps(peers(folder, options.documents)))
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    texts, markup = documents(folder, options.documents), pages(folder)
    theirs = asked(options.peer_python, folder, options.documents) if options.peer_python else peers(folder, options.documents)
    theirs["trafilatura"] = trafilatura_alone(markup)
    mine = ours(texts, markup)
    size = sum(map(len, texts)) / len(texts)
    print(f"{len(texts)} documents of {size:,.0f} characters, {len(markup)} pages of {sum(map(len, markup)) / len(markup):,.0f}\n")
    print(table(mine, theirs))


if __name__ == "__main__":
    main()
