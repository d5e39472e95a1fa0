"""100 MB of damaged archives and odd HTTP answers: no crash, no hang, no byte and no record that is not counted.

    make prove PROVE=tests/prove_ingest.py
    python -m tests.prove_ingest --mb 10       other amounts, with the counts printed

Half of the bytes are WARC files with faults: each ledger must add up, and every page that no fault reached must come out with its body.
Half are HTTP answers: what curl reads must be read with the same bytes, what ends early must not be taken for a page, and random
faults must end as one of the outcomes. Fails at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from data_prep import shards
from data_prep.corpus import warc
from data_prep.corpus.archive import Archive
from data_prep.corpus.crawling import warcfile
from data_prep.corpus.crawling.address import AddressBook
from data_prep.corpus.crawling.clock import Clock
from data_prep.corpus.crawling.config import CrawlConfig
from data_prep.corpus.crawling.fetch import Fetcher, Refused, new_session
from data_prep.corpus.crawling.turns import Turns
from data_prep.schemas import OUTCOMES
from infra.artifact import SourceFile
from tests import fuzzed

PACKINGS = ("plain", "gz", "piece")
LIMIT_S = 20.0  # an answer or an archive that takes longer hangs


class Wrong(Exception):
    """Something did not hold; the seed says with what."""


def check_archive(seed: int, folder: Path, most: int = 3_000) -> Counter[str]:
    """Index one damaged archive. Raises Wrong."""
    packing = PACKINGS[seed % len(PACKINGS)]
    made = fuzzed.damaged(fuzzed.archive(seed, packing, most), seed + 1, packing)
    (path := folder / "x.warc.gz").write_bytes(made.data)
    begun = time.monotonic()
    warc.index_file(warc.WarcConfig((SourceFile(str(path), "", path.name),), ()), folder, 0)  # raises where its ledger does not add up
    counts = shards.counts(folder / shards.name(0))
    rows = {row["url"]: row for row in shards.read(folder / shards.name(0)).to_pylist()}
    if time.monotonic() - begun > LIMIT_S:
        raise Wrong(f"archive {seed}: {time.monotonic() - begun:.0f} s")
    if packing != "piece" and counts["bytes_read"] != len(made.data):
        raise Wrong(f"archive {seed}: {counts['bytes_read']} of {len(made.data)} bytes read")
    archive = Archive(folder, 1 << 26)
    for number, (url, body) in enumerate(made.pages):
        if packing != "piece" and number not in made.touched:
            if url not in rows:
                raise Wrong(f"archive {seed} ({packing}): {url} is not damaged and not read; damaged: {sorted(made.touched)}")
            if archive.body(rows[url]["warc_file"], rows[url]["warc_offset"]).body != body:
                raise Wrong(f"archive {seed} ({packing}): {url} has another body")
    archive.close()
    for file in (folder / "warc").iterdir():
        file.unlink()
    return Counter(
        {"archives": 1, "archive_bytes": len(made.data), "pages": counts["kept"], "quarantined": counts["read"] - counts["kept"]}
    )


async def fetched(server: fuzzed.Server, numbers: list[int], folder: Path) -> dict[int, tuple[str, bytes]]:
    """(outcome, body) of each answer, by the crawler's own fetcher; each stored page is read back from its WARC record."""
    config = CrawlConfig(
        contact="test@example.org",
        per_host_delay_s=0.0,
        retries=2,
        backoff_s=0.0,
        dead_after=1 << 30,
        allow_networks=("127.0.0.0/8",),
        page_timeout_s=LIMIT_S,
    )
    book, clock = AddressBook(config.allow_networks, {}, 5.0), Clock(folder / "clock", 60.0)
    found = {}
    async with new_session(config, book) as session:
        fetcher = Fetcher(config, session, book, Turns(clock, config.concurrency))
        for number in numbers:
            fetcher.dead.clear()
            try:
                answer = await fetcher.page(f"http://127.0.0.1:{server.port}/{number}", lambda _: False, lambda _: None)
            except Refused as error:
                found[number] = (error.outcome, error.reason.encode())
                continue
            (folder / "page.warc.gz").write_bytes(warcfile.page(answer.exchange, []))
            archive = Archive(folder, 1 << 26)
            stored = archive.body("page.warc.gz", 0)
            archive.close()
            if stored.body != answer.exchange.body:
                raise Wrong(f"answer {number}: another body in its WARC record ({stored.reason})")
            found[number] = ("ok" if 200 <= answer.status < 300 else "http_error", answer.exchange.body)
    await book.close()
    clock.close()
    return found


async def by_curl(port: int, numbers: list[int], folder: Path) -> dict[int, tuple[int, bytes]]:
    """(exit code, body) of each answer by one call of curl."""
    command = ["curl", "-sS", "--compressed", "--max-time", "20", "-w", "%{urlnum} %{exitcode}\\n"]
    for number in numbers:
        command += ["-o", str(folder / f"{number}.body"), f"http://127.0.0.1:{port}/{number}"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines = (await process.communicate())[0].decode().splitlines()
    codes = dict(map(int, line.split()) for line in lines)
    found = {}
    for place, number in enumerate(numbers):
        path = folder / f"{number}.body"
        found[number] = (codes[place], path.read_bytes() if path.exists() else b"")
        path.unlink(missing_ok=True)
    return found


async def check_answers(first: int, count: int, folder: Path, most: int = 4_000, *, curl: bool = True) -> Counter[str]:
    """Fetch odd answers and random noise. Raises Wrong."""
    odd = [fuzzed.answer(first + n, most) for n in range(count)]
    wires = [(one.wire, one.pieces) for one in odd] + [(fuzzed.noise(first + n, most), 1 << 16) for n in range(count // 2)]
    seen: Counter[str] = Counter(answers=len(wires), answer_bytes=sum(len(wire) for wire, _ in wires))
    async with fuzzed.Server(wires) as server:
        found = await asyncio.wait_for(fetched(server, list(range(len(wires))), folder), LIMIT_S * len(wires))
        theirs = await by_curl(server.port, list(range(count)), folder) if curl else {}
    for number, (outcome, body) in found.items():
        seen[f"outcome {outcome}"] += 1
        if outcome not in OUTCOMES:
            raise Wrong(f"answer {first + number}: outcome {outcome!r}")
        if number >= count:
            continue
        one, (code, text) = odd[number], theirs.get(number, (-1, b""))
        if one.cut and outcome == "ok":
            raise Wrong(f"answer {first + number}: it ends early and was taken for a page")
        if not one.cut and (outcome != "ok" or body != one.content):
            raise Wrong(f"answer {first + number}: {outcome} ({body[:200]!r}), curl {code}: {one.wire[:300]!r}")
        if code == 0 and not one.cut:
            seen["as curl"] += 1
            if text != body:
                raise Wrong(f"answer {first + number}: curl reads other bytes")
    return seen


def prove(megabytes: float, *, curl: bool) -> Counter[str]:
    """Everything, in batches. Raises Wrong."""
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder, seed = Path(name), 0
        while seen["archive_bytes"] < megabytes * 5e5:
            seen += check_archive(seed, folder, 60_000)
            seed += 1
        first = 0
        while seen["answer_bytes"] < megabytes * 5e5:
            seen += asyncio.run(check_answers(first, 100, folder, 60_000, curl=curl))
            first += 100
    return seen


@pytest.mark.timeout(7200)
def test_100_mb_of_damaged_input_lose_nothing_uncounted() -> None:
    curl = shutil.which("curl")
    seen = prove(100.0, curl=bool(curl))  # raises Wrong
    assert seen["archive_bytes"] >= 5e7 and seen["answer_bytes"] >= 5e7
    assert seen["pages"] > 0 and seen["quarantined"] > 0 and seen["outcome ok"] > 0 and seen["outcome truncated"] > 0
    assert not curl or seen["as curl"] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=100.0, help="megabytes of fuzzed input, half archives, half answers")
    given = parser.parse_args()
    begun = time.monotonic()
    for name, value in prove(given.mb, curl=bool(shutil.which("curl"))).items():
        print(f"{name:24} {value:>14,}")
    print(f"{'seconds':24} {time.monotonic() - begun:>14.0f}")


if __name__ == "__main__":
    main()
