"""Links: a synthetic dump of submissions, lines a second of one core and peak memory; canonical URLs against other libraries; host lists.

    python tests/benchmarks/bench_links.py --lines 2000000

The dump is made here (records with the fields of a Pushshift dump of 2013, zstd) and kept in --folder for the next call. The stage runs
in a process of its own, pinned to one core, so that its memory is its own. The baseline does the least that any such script does: parse
each line as JSON, ask for karma, keep the raw URL in a set. URLs are real ones of the test data (urls/reddit-top-2013). Figures are
process CPU time, best of three, peers measured in turn with us.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPEATS = 3  # unless --repeats says otherwise
WORDS = ["the", "of", "and", "to", "in", "that", "with", "they", "from", "word"]


def write_dump(path: Path, lines: int) -> None:
    """Link posts and self posts on 20,000 hosts with a long tail; a third of the links comes again."""
    import zstandard

    chosen = random.Random(1)
    with zstandard.ZstdCompressor(level=3).stream_writer(path.open("wb")) as file:
        for number in range(lines):
            page, host = chosen.randrange(lines), int(20_000 * chosen.random() ** 3)
            is_self = chosen.random() < 0.3
            record = {
                "id": f"{number:x}",
                "url": f"http://www.host{host}.com/{page % 997}/{page}?ref={page % 7}#top" if not is_self else "http://www.reddit.com/r/x/",
                "score": int(chosen.paretovariate(0.6)) - 1,
                "is_self": is_self,
                "over_18": chosen.random() < 0.05,
                "domain": f"host{host}.com" if not is_self else "self.x",
                "title": " ".join(chosen.choices(WORDS, k=12)),
                "selftext": " ".join(chosen.choices(WORDS, k=60)) if is_self else "",
                "subreddit": f"r{page % 5000}",
                "author": f"user{page % 99991}",
                "permalink": f"/r/x/comments/{number:x}/some_title_of_it/",
                **dict.fromkeys(("media", "secure_media", "author_flair_text", "link_flair_text", "distinguished", "edited")),
                **dict.fromkeys(("ups", "downs", "num_comments", "created_utc", "retrieved_on", "gilded"), 0),
                "thumbnail": "default",
                "media_embed": {},
                "name": f"t3_{number:x}",
            }
            file.write(json.dumps(record).encode() + b"\n")


def stage(path: Path, folder: Path, kind: str) -> dict[str, float]:
    """The whole stage on one dump: CPU seconds of the reading and in all, megabytes of memory at most."""
    from data_prep.corpus import links
    from infra.artifact import SourceFile
    from infra.compute import LocalCompute

    config = links.LinksConfig((links.LinkSource("submissions", (SourceFile(str(path), "x", path.name),)),), max_per_domain=1_000)
    counts = links.work(config, {}, folder, LocalCompute())
    return {"read": counts["read"], "kept": counts["kept"]}


def least(path: Path, folder: Path, kind: str) -> dict[str, float]:
    """What a script of ten lines does."""
    import zstandard

    found, read = set(), 0
    with io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"))) as file:
        for line in file:
            read += 1
            record = json.loads(line)
            if record["score"] >= 3 and not record["over_18"] and not record["is_self"]:
                found.add(record["url"])
    return {"read": read, "kept": len(found)}


def alone(what: str, path: Path) -> dict[str, float]:
    """One of the two in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, "--dump", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(what: str, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        told = {"stage": stage, "least": least}[what](path, Path(folder), what)
        seconds = time.process_time() - started
    print(json.dumps(told | {"seconds": seconds, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "before": before / 1024}))


def dumps_table(folder: Path, lines: int, repeats: int) -> str:
    rows = ["| lines | who | lines/s | peak MB | URLs kept |", "|---|---|---|---|---|"]
    for size in (lines // 4, lines):
        path = folder / f"dump-{size}.jsonl.zst"
        if not path.exists():
            write_dump(path.with_suffix(".part"), size)
            path.with_suffix(".part").rename(path)
        runs: dict[str, list[dict[str, float]]] = {"stage": [], "least": []}
        for _ in range(repeats):
            for what, seen in runs.items():
                seen.append(alone(what, path))
        for what, name in (("stage", "textmill, whole stage"), ("least", "json.loads and a set")):
            best = min(runs[what], key=lambda run: run["seconds"])
            speed = best["read"] / best["seconds"]
            rows.append(f"| {size:,} | {name} | {speed:,.0f} | {best['MB']:,.0f} | {best['kept']:,.0f} |")
    return "\n".join(rows)


def real_urls(data: Path) -> list[str]:
    found = []
    for path in sorted((data / "urls/reddit-top-2013").glob("*.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            found += [row["url"] for row in csv.DictReader(file) if row["is_self"] == "False"]
    return found


def interleaved(works: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Items a second of each, best of a few, one after the other."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(REPEATS):
        for name, work in works.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - started)
    return {name: count / seconds for name, seconds in best.items()}


def urls_table(data: Path) -> str:
    from courlan import normalize_url
    from url_normalize import url_normalize
    from w3lib.url import canonicalize_url

    from data_prep.corpus import urls

    given = real_urls(data)
    peers = {
        "textmill": urls.canonical,
        "w3lib canonicalize_url": canonicalize_url,
        "url-normalize": url_normalize,
        "courlan normalize_url": normalize_url,
    }

    def all_of(normal: Callable[[str], object]) -> Callable[[], object]:
        def run() -> None:
            for url in given:
                try:
                    normal(url)
                except ValueError:
                    continue

        return run

    speeds = interleaved({name: all_of(normal) for name, normal in peers.items()}, len(given))
    own = speeds["textmill"]
    lines = [f"{len(given):,} real URLs\n", "| who | URLs/s | ratio to textmill |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {speed:,.0f} | {own / speed:.2f}x |" for name, speed in speeds.items()])


def hosts_table(folder: Path, lines: int) -> str:
    from data_prep.corpus import hosts
    from infra.artifact import SourceFile

    path = folder / f"hosts-{lines}.txt"
    path.write_text("".join(f"site{number}.example{number % 977}.com\n" for number in range(lines)))
    started = time.process_time()
    listed = hosts.Hosts((), SourceFile(str(path), "x", path.name))
    loading = time.process_time() - started
    asked = [f"www.a{number}.site{number * 7}.example{number * 7 % 977}.com" for number in range(200_000)]
    patterns = [f".{name}" for name in list(listed.listed)[:1_000]]
    works = {
        "textmill, all lines": lambda: sum(host in listed for host in asked),
        "pattern scan, 1,000 lines": lambda: sum(any(host.endswith(p) for p in patterns) for host in asked[:2_000]),
    }
    speeds = interleaved(works, len(asked))
    speeds["pattern scan, 1,000 lines"] *= 2_000 / len(asked)
    rows = [f"a list of {lines:,} domains is read in {loading:.1f} s\n", "| who | hosts/s |", "|---|---|"]
    return "\n".join(rows + [f"| {name} | {speed:,.0f} |" for name, speed in speeds.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=2_000_000)
    parser.add_argument("--hosts", type=int, default=1_000_000)
    parser.add_argument("--folder", default=os.path.join(tempfile.gettempdir(), "bench-links"), help="where the dump is kept")
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="how often each dump is read")
    parser.add_argument("--only", choices=("dumps", "urls", "hosts"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--dump", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for Arrow's threads too
    if options.measure:
        measure(options.measure, Path(options.dump))
        return
    if not options.data:
        parser.error("no test data: give --data or set TEXTMILL_TEST_DATA")
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "dumps": lambda: dumps_table(folder, options.lines, options.repeats),
        "urls": lambda: urls_table(Path(options.data)),
        "hosts": lambda: hosts_table(folder, options.hosts),
    }
    for name, table in tables.items():
        if options.only in (None, name):
            print(table(), "\n")


if __name__ == "__main__":
    main()
