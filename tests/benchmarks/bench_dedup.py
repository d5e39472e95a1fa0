"""Deduplication against its peers, and beyond memory.

    python tests/benchmarks/bench_dedup.py --data FOLDER --peer-python VENV/bin/python
    python tests/benchmarks/bench_dedup.py --growth --data FOLDER
    python tests/benchmarks/bench_dedup.py --soak 100000000 --folder FOLDER

The first prints documents a second of process CPU time on one core, every engine in turn and the best of several rounds, all from
text to signature with 112 slots and 5-word shingles. The peers live in a virtual environment of their own:
`datatrove[processing]==0.10.1`, spacy, datasketch, rensa. The second deduplicates real short texts in one run, and again with the
last 1% as a second day. The third makes that many signatures up, with clusters that are known, and runs every step from equal
documents to the fate of each; a comparison of texts is answered with 1. It needs some 320 bytes of disk a document.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 5
SLOTS = 112
N = 5
SHARD = 1_000_000


def documents(folder: Path, limit: int) -> list[str]:
    """Film reviews and addresses: whole texts of some 4 to 30 KB."""
    texts = []
    for name in ("text/en/movie-reviews.jsonl.gz", "text/en/state-of-the-union.jsonl.gz"):
        with gzip.open(folder / name, "rt") as file:
            texts += [json.loads(line)["text"] for line in file]
    return texts[:: max(1, len(texts) // limit)][:limit]


def textmill(texts: list[str]) -> Callable[[], object]:
    import pyarrow as pa

    from data_prep.corpus import minhash, words

    array = pa.chunked_array([pa.array(texts)])

    def sign() -> None:
        for batch in words.batches(array):
            minhash.band_keys(minhash.signatures(minhash.shingles(words.split(batch), N), SLOTS), *minhash.bands(0.8, SLOTS))

    return sign


def stage(texts: list[str]) -> Callable[[], object]:
    """All that the stage writes of a document: exact key, bands, facts."""
    import pyarrow as pa

    from data_prep.corpus.deduping import signing
    from data_prep.corpus.deduping.config import DedupConfig

    table = pa.table({"id": [str(n) for n in range(len(texts))], "text": texts, "karma": pa.nulls(len(texts), pa.int64())})
    return lambda: signing.signed(DedupConfig(), table)


def shingled(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + N]) for i in range(max(1, len(words) - N + 1))]


def rensa(texts: list[str]) -> Callable[[], object]:
    from rensa import RMinHash

    def sign() -> None:
        for text in texts:
            sketch = RMinHash(num_perm=SLOTS, seed=42)
            sketch.update(shingled(text))
            sketch.digest()

    return sign


def rensa_batch(texts: list[str]) -> Callable[[], object]:
    from rensa import RMinHash

    return lambda: RMinHash.digest_matrix_from_token_sets([shingled(text) for text in texts], num_perm=SLOTS, seed=42)


def datasketch(texts: list[str], wide: bool = False) -> Callable[[], object]:
    """With its default hash (SHA-1) exchanged for the fastest that its scheme takes."""
    import xxhash
    from datasketch import MinHash

    scheme = {"hashfunc": xxhash.xxh64_intdigest, "scheme": "affine64"} if wide else {"hashfunc": xxhash.xxh32_intdigest}

    def sign() -> None:
        for text in texts:
            sketch = MinHash(num_perm=SLOTS, **scheme)
            sketch.update_batch([shingle.encode() for shingle in shingled(text)])

    return sign


def datasketch_wide(texts: list[str]) -> Callable[[], object]:
    return datasketch(texts, wide=True)


def datatrove(texts: list[str]) -> Callable[[], object]:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    signer = MinhashDedupSignature(output_folder="signatures", config=MinhashConfig())

    def sign() -> None:
        for text in texts[::10]:  # it takes its time
            signer.get_signature(signer.get_shingles(text))

    return sign


OURS = {"textmill": textmill, "textmill, the whole stage": stage}
PEERS = {
    "rensa": rensa,
    "rensa, its batch call": rensa_batch,
    "datasketch, xxh32": datasketch,
    "datasketch, affine64 + xxh64": datasketch_wide,
    "datatrove": datatrove,
}


def timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def serve(texts: list[str], engines: dict[str, Callable[[list[str]], Callable[[], object]]]) -> None:
    """Answer each line on stdin, the name of an engine, with the seconds one round of it takes."""
    made: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in made:
                made[name] = engines[name](texts)
                made[name]()  # imports and caches are not counted
            print(timed(made[name]), flush=True)
        except Exception as error:  # one peer that does not work leaves the others
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


def compare(options: argparse.Namespace) -> None:
    """Every engine in turn, some rounds; the best of each."""
    limits = ["--data", options.data, "--documents", str(options.documents)]
    talk: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = {
        "ours": subprocess.Popen([sys.executable, __file__, *limits, "--serve", "ours"], **talk),
        "peers": subprocess.Popen([options.peer_python or sys.executable, __file__, *limits, "--serve", "peers"], **talk),
    }
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for side, names in (("ours", OURS), ("peers", PEERS)):
            for name in names:
                print(name, file=processes[side].stdin, flush=True)
                answer = processes[side].stdout.readline().strip()
                try:
                    best[name] = min(best.get(name, float("inf")), float(answer))
                except ValueError:
                    print(f"{name}: {answer}", file=sys.stderr)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    texts = documents(Path(options.data), options.documents)
    rate = {name: len(texts[::10] if name == "datatrove" else texts) / seconds for name, seconds in best.items()}
    print(f"{len(texts)} documents of {sum(map(len, texts)) / len(texts):,.0f} characters, best of {ROUNDS} rounds in turn\n")
    print("| engine | documents/s and core | textmill is | the whole stage is |\n|---|---|---|---|")
    for name, speed in rate.items():
        print(f"| {name} | {speed:,.0f} | {rate['textmill'] / speed:.2f}x | {rate['textmill, the whole stage'] / speed:.2f}x |")


def grow(folder: Path) -> None:
    """The CPU time of one run on all Korean reviews (in 16 shards), and of a day with 1% of them after the others."""
    import tempfile

    import pyarrow as pa

    from data_prep import schemas, shards
    from data_prep.corpus.dedup import DEDUP, DedupConfig
    from infra.compute import LocalCompute
    from infra.stage import Stage, run
    from infra.store import Store

    with gzip.open(folder / "text/ko/naver-movie-reviews.jsonl.gz", "rt") as file:
        rows = [{**dict.fromkeys(schemas.DOCUMENTS.names, ""), **json.loads(line), "karma": None} for line in file]
    new = len(rows) // 100
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)

        def given(name: str, part: list[dict[str, Any]], number: int) -> Any:
            def fill(_config: object, _inputs: object, out: Path, _compute: object) -> dict[str, int]:
                for n in range(number):
                    shards.write(pa.Table.from_pylist(part[n::number], schema=schemas.DOCUMENTS), out / shards.name(n))
                return {"read": len(part), "kept": len(part)}

            return run(Stage(name, 1, fill), None, {}, store, LocalCompute())

        everything, most, last = given("all", rows, 16), given("most", rows[:-new], 16), given("last", rows[-new:], 1)
        found = {}
        for name, inputs in (
            ("one run", {"documents": everything}),
            ("first day", {"documents": most}),
            ("second day", {"documents": last}),
        ):
            earlier = {"earlier": found["first day"]} if name == "second day" else {}
            started = time.process_time()
            found[name] = run(DEDUP, DedupConfig(), {**inputs, **earlier}, store, LocalCompute())
            print(f"{name}: {time.process_time() - started:.2f} s CPU, {found[name].counts}", flush=True)
        if found["one run"].counts["kept"] != found["second day"].counts["kept"]:
            sys.exit("two days did not give the corpus of one run")


def made_up(folder: Path, number: int, size: int, count: int) -> Any:
    """Write the signatures of one shard: 10% of the documents in near clusters, 5% in equal ones, the rest alone. The classes drawn."""
    import numpy as np
    import pyarrow as pa

    from data_prep import shards
    from data_prep.corpus.deduping.config import DedupConfig
    from data_prep.corpus.minhash import mixed

    place = np.arange(number * SHARD, number * SHARD + size, dtype=np.uint64)
    noise = mixed(place)
    near, equal = place % np.uint64(10) == 0, place % np.uint64(20) == 1
    group = np.where(near, noise % np.uint64(max(count // 20, 1)), noise % np.uint64(max(count // 40, 1)))
    # one number a document, but one a class for equal documents
    own = np.where(equal, group + np.uint64(1 << 50), place)
    shared = group + np.uint64(1 << 51)
    columns = {
        "high": mixed(own * np.uint64(64) + np.uint64(62)),
        "low": mixed(own * np.uint64(64) + np.uint64(63)),
        "id": pa.array(place).cast(pa.string()),
        "id_key": noise,
        "text_key": noise,
        "length": (noise % np.uint64(10_000)).astype(np.int64),
        "karma": np.zeros(size, np.int64),
        "some": np.ones(size, np.bool_),
    }
    bands = DedupConfig().bands[0]
    for band in range(bands):
        # every member has one band for sure in common with its class, and the others half the time
        meets = near & ((group % np.uint64(bands) == band) | (mixed(noise + np.uint64(band)) % np.uint64(2) == 0))
        columns[f"band{band}"] = mixed(np.where(meets, shared, own) * np.uint64(64) + np.uint64(band))
    shards.write(pa.table(columns), folder / "signatures" / shards.name(number), {"read": size})
    return np.unique(group[near]), np.unique(group[equal])


def soak(count: int, folder: Path, partition: int) -> None:
    """Make it, resolve it, check how many stay; time, memory and disk."""
    import numpy as np

    from data_prep import shards
    from data_prep.corpus import dedup
    from data_prep.corpus.deduping import contents, life
    from data_prep.corpus.deduping.corpus import KEPT, Corpus, column, counted

    folder.mkdir(parents=True)
    names = tuple(shards.name(n) for n in range(-(-count // SHARD)))
    near, equal = np.zeros(max(count // 20, 1), np.bool_), np.zeros(max(count // 40, 1), np.bool_)
    started = time.time()
    for number in range(len(names)):
        found = made_up(folder, number, min(SHARD, count - number * SHARD), count)
        near[found[0]], equal[found[1]] = True, True
    places = np.arange(20)
    alone = count - int((-(-(count - places[::10]) // 20)).clip(0).sum()) - -(-(count - 1) // 20)
    expected = alone + int(near.sum()) + int(equal.sum())
    say(f"{count:,} signatures made", started)
    most = [0]
    threading.Thread(target=watch, args=(folder, most), daemon=True).start()
    config = dedup.DedupConfig(partition=partition)
    corpus = counted(Corpus(config, folder, names, (Path(),) * len(names), None, np.zeros(len(names) + 1, np.int64)))
    compute = timed_compute()
    contents.number(corpus, compute)
    life.settle(corpus, compute)
    dedup.resolve(corpus, compute, lambda _corpus, pairs: np.ones(len(pairs)))
    kept = sum(int((column(folder / ".work" / "fates" / name, "status") == KEPT).sum()) for name in names)
    say("all of it", started)
    for step, seconds in compute.seconds.items():
        print(f"| {step} | {seconds:,.0f} s |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"kept {kept:,}, expected {expected:,}; peak memory {peak:,.0f} MB; disk at most {most[0] / 1e9:.1f} GB", flush=True)
    if kept != expected:
        sys.exit("not the clusters that were made")


def timed_compute() -> Any:
    """Work in this process, one after another, with the seconds of every step."""
    from infra.compute import LocalCompute

    class Timed(LocalCompute):
        seconds: dict[str, float] = {}

        def map(self, name: str, fn: Any, items: Any) -> list[Any]:
            started = time.time()
            result = super().map(name, fn, items)
            self.seconds[name] = time.time() - started
            say(name, started)
            return result

    return Timed()


def say(what: str, started: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.time() - started:,.0f} s wall, {time.process_time():,.0f} s CPU, peak memory {peak:,.0f} MB", flush=True)


def watch(folder: Path, most: list[int]) -> None:
    """Note the most bytes that the folder ever held."""
    while True:
        used = 0
        for path in folder.rglob("*"):
            try:
                used += path.stat().st_blocks * 512
            except OSError:
                continue  # gone between listing and looking
        most[0] = max(most[0], used)
        time.sleep(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--peer-python", help="interpreter of the virtual environment that holds the peers")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--serve", choices=("ours", "peers"), help=argparse.SUPPRESS)
    parser.add_argument("--growth", action="store_true", help="a day's 1%% after the others")
    parser.add_argument("--soak", type=int, help="how many signatures to make up")
    parser.add_argument("--folder", default="soak", help="where to, deleted afterwards; must not exist")
    parser.add_argument("--partition", type=int, default=1 << 21)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if options.soak:
        try:
            soak(options.soak, Path(options.folder), options.partition)
        finally:
            shutil.rmtree(options.folder, ignore_errors=True)
        return
    if not options.data:
        parser.error("no test data: give --data or set TEXTMILL_TEST_DATA")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for Arrow's threads too
    if options.growth:
        grow(Path(options.data))
    elif options.serve:
        serve(documents(Path(options.data), options.documents), OURS if options.serve == "ours" else PEERS)
    else:
        compare(options)


if __name__ == "__main__":
    main()
