"""Crawling against Scrapy: the same pages of a real site from the same server, no delay, robots.txt obeyed, no cookies.

    python tests/benchmarks/bench_crawl.py --data FOLDER --peer-python VENV/bin/python

The server answers from memory, in a process of its own on another core; each crawler has one core. Ours writes WARC records and
flushes them to the disk, Scrapy throws the pages away: that difference is to Scrapy's advantage. Runs take turns, the best of
several counts. FOLDER is the test data (default: TEXTMILL_TEST_DATA). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HOSTS = 64  # addresses 127.0.1.1, ...: hosts that no name server need know
CONCURRENCY = 64
ROBOTS = b"User-agent: *\nDisallow: /private/\n"


def pages(folder: Path) -> dict[bytes, bytes]:
    """The site's pages by path, without the stubs: whole answers."""
    found = {b"/robots.txt": _answer(ROBOTS, b"text/plain")}
    with tarfile.open(folder / "web/site-flink.apache.org.tar.gz") as archive:
        for member in archive:
            if member.name.endswith(".html") and member.size > 2_000:
                file = archive.extractfile(member)
                found[b"/" + member.name.removeprefix("./").encode()] = _answer(file.read() if file else b"", b"text/html; charset=utf-8")
    return found


def _answer(body: bytes, kind: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body)) + body


class _Serve(asyncio.Protocol):
    answers: dict[bytes, bytes] = {}

    def connection_made(self, transport) -> None:
        self.transport, self.held = transport, b""

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            path = self.held.split(b" ", 2)[1]
            self.held = self.held[end + 4 :]
            self.transport.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))


async def _serving(folder: Path) -> None:
    _Serve.answers = pages(folder)
    server = await asyncio.get_running_loop().create_server(_Serve, "0.0.0.0", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def urls_of(folder: Path, port: int, count: int) -> list[str]:
    paths = sorted(path.decode() for path in pages(folder) if path != b"/robots.txt")
    hosts = [f"127.0.1.{n + 1}:{port}" for n in range(HOSTS)]
    return [f"http://{host}{path}" for path in paths for host in hosts][:count]


def ours(listed: list[str]) -> tuple[int, int]:
    """(pages, bytes of text) of one crawl through the real stages; the links are made before the watch starts."""
    from data_prep.corpus.crawl import CRAWL, CrawlConfig
    from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
    from infra.artifact import SourceFile
    from infra.compute import LocalCompute
    from infra.stage import run
    from infra.store import Store

    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "urls.txt").write_text("\n".join(listed))
        store = Store(Path(folder) / "artifacts")
        links = run(LINKS, LinksConfig((LinkSource("urls", (SourceFile.of(path),)),), shards=1), {}, store, LocalCompute())
        config = CrawlConfig(
            contact="bench@example.org", per_host_delay_s=0.0, concurrency=CONCURRENCY, retries=2, allow_networks=("127.0.0.0/8",)
        )
        with _watch():
            made = run(CRAWL, config, {"links": links}, store, LocalCompute())
        return made.counts["kept"], made.counts["bytes"]


def scrapys(listed: list[str]) -> tuple[int, int]:
    import scrapy
    from scrapy.crawler import CrawlerProcess

    got = [0, 0]

    class Spider(scrapy.Spider):
        name = "bench"
        start_urls = listed

        def parse(self, response):
            got[0] += response.status == 200
            got[1] += len(response.body)

    settings = {
        "ROBOTSTXT_OBEY": True,
        "COOKIES_ENABLED": False,
        "CONCURRENT_REQUESTS": CONCURRENCY,
        "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
        "DOWNLOAD_DELAY": 0,
        "LOG_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "RETRY_TIMES": 2,
        "USER_AGENT": "textmill (+bench@example.org)",
    }
    process = CrawlerProcess(settings)
    process.crawl(Spider)
    with _watch():
        process.start()
    return got[0], got[1]


class _watch:
    """Wall and CPU seconds of what stands inside, printed as JSON."""

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        print(json.dumps({"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}), flush=True)


def measured(python: str, who: str, folder: Path, port: int, count: int, core: int) -> dict[str, float]:
    command = ["taskset", "-c", str(core), python, __file__, "--as", who, "--port", str(port), "--pages", str(count), "--data", str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(_root())})
    lines = [json.loads(line) for line in told.stdout.splitlines() if line.startswith(("{", "["))]
    if told.returncode or len(lines) != 2:
        raise SystemExit(f"{who} failed:\n{told.stderr[-3000:]}")
    return lines[0] | {"pages": lines[1][0], "bytes": lines[1][1]}


def _root() -> Path:
    return Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TEXTMILL_TEST_DATA", "data")))
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--pages", type=int, default=6_400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--as", dest="who", default="")
    parser.add_argument("--port", type=int, default=0)
    told = parser.parse_args()
    if told.who == "server":
        asyncio.run(_serving(told.data))
    elif told.who:
        print(json.dumps({"ours": ours, "scrapy": scrapys}[told.who](urls_of(told.data, told.port, told.pages))))
    else:
        compare(told)


def compare(told: argparse.Namespace) -> None:
    cores = sorted(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(cores[-1]), sys.executable, __file__, "--as", "server", "--data", str(told.data)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        pythons = {"ours": sys.executable} | ({"scrapy": told.peer_python} if told.peer_python else {})
        runs: dict[str, list[dict[str, float]]] = {who: [] for who in pythons}
        for _ in range(told.repeats):
            for who, python in pythons.items():
                runs[who].append(measured(python, who, told.data, port, told.pages, cores[0]))
    finally:
        server.terminate()
        server.wait()
    show(runs, told.pages)


def show(runs: dict[str, list[dict[str, float]]], wanted: int) -> None:
    best = {who: {kind: min(run[kind] for run in told) for kind in ("wall", "cpu")} for who, told in runs.items()}
    for who, told in runs.items():
        assert all(run["pages"] == wanted for run in told), f"{who} fetched {told} of {wanted} pages"
    print(f"\n{wanted} pages, {runs['ours'][0]['bytes'] / wanted / 1024:.0f} KiB each, {HOSTS} hosts, {CONCURRENCY} requests at a time\n")
    print("| crawler | pages/s (wall) | pages/s of CPU |\n|---|---|---|")
    for who, seconds in best.items():
        print(f"| {who} | {wanted / seconds['wall']:.0f} | {wanted / seconds['cpu']:.0f} |")
    if "scrapy" in best:
        ratios = [best["scrapy"][kind] / best["ours"][kind] for kind in ("wall", "cpu")]
        print(f"| ours : scrapy | {ratios[0]:.1f} | {ratios[1]:.1f} |")


if __name__ == "__main__":
    main()
