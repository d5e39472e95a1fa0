"""A web on loopback that does what the real one does, and remembers who asked for what when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_prep import shards
from data_prep.corpus.crawl import CRAWL, CrawlConfig
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    kind: str | None = "text/html"
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    hang_up: bool = False  # before a word is said
    stream: Callable[[Any], None] | None = None  # gets the socket's file and writes the body itself


@dataclass
class Hit:
    host: str
    path: str
    began: float
    ended: float = 0.0
    agent: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # names in small letters


def unchanged(reply: Reply, asked: dict[str, str]) -> bool:
    """RFC 9110, section 13.2.2, for a GET: the tag decides; where none is asked by, the date."""
    if "if-none-match" in asked:
        tags = [tag.strip().removeprefix("W/") for tag in asked["if-none-match"].split(",")]
        return reply.headers.get("ETag", "").removeprefix("W/") in tags
    then, now = asked.get("if-modified-since"), reply.headers.get("Last-Modified")
    return bool(then and now) and parsedate_to_datetime(now) <= parsedate_to_datetime(then)


class Web:
    """routes[host, path] is a Reply, or a function of how often it was asked for before; else fallback(host, path)."""

    def __init__(self, ip: str = "127.0.0.1", port: int = 0) -> None:
        self.ip = ip
        self.routes: dict[tuple[str, str], Reply | Callable[[int], Reply]] = {}
        self.fallback: Callable[[str, str], Reply] = lambda host, path: Reply(b"not here", 404)
        self.hits: list[Hit] = []
        self.lock = threading.Lock()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # the crawler hangs up on purpose

        self.server = Quiet((ip, port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def where(self) -> str:
        return f"{self.ip}:{self.port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        host, path = handler.headers.get("Host", "").partition(":")[0], handler.path
        hit = Hit(host, path, time.monotonic(), agent=handler.headers.get("User-Agent", ""))
        hit.headers = {name.lower(): value for name, value in handler.headers.items()}
        with self.lock:
            before = sum(h.host == host and h.path == path for h in self.hits)
            self.hits.append(hit)
        found = self.routes.get((host, path)) or self.fallback(host, path)
        reply = found(before) if callable(found) else found
        if reply.headers.keys() & {"ETag", "Last-Modified"} and unchanged(reply, hit.headers):
            reply = Reply(b"", 304, None, {name: reply.headers[name] for name in ("ETag", "Vary") if name in reply.headers})
        time.sleep(reply.wait)
        if reply.hang_up:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        kind = {"Content-Type": reply.kind} if reply.kind else {}
        for name, value in (kind | reply.headers).items():
            handler.send_header(name, value)
        if reply.stream is None:
            handler.send_header("Content-Length", str(len(reply.body)))
            handler.end_headers()
            hit.ended = time.monotonic()
            handler.wfile.write(reply.body)
            return
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        reply.stream(handler.wfile)

    def asked(self, host: str) -> list[str]:
        """Paths in order of arrival, robots.txt left out."""
        return [h.path for h in self.hits if h.host == host and h.path != "/robots.txt"]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


@pytest.fixture
def outside() -> Iterator[Web]:
    """A second web that stands for the public one: at another address, the only one that a test then allows."""
    web = Web("127.0.0.2")
    yield web
    web.close()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


QUICK = {
    "contact": "crawl@example.org",
    "per_host_delay_s": 0.0,
    "backoff_s": 0.01,
    "connect_timeout_s": 2.0,
    "page_timeout_s": 5.0,
    "allow_networks": ("127.0.0.0/8",),
}


class Crawler:
    """Links to rows through the two real stages."""

    def __init__(self, folder: Path, web: Web) -> None:
        self.folder, self.web = folder, web
        self.store = Store(folder / "artifacts")

    def config(self, **changes: Any) -> CrawlConfig:
        return CrawlConfig(**(QUICK | changes))

    def links(self, *urls: str, sites: tuple[LinkSource, ...] = (), count: int = 1) -> Artifact:
        path = self.folder / "urls.txt"
        path.write_text("\n".join(urls) + "\n")
        lists = (LinkSource("urls", (SourceFile.of(path),)),) if urls else ()
        return run(LINKS, LinksConfig((*lists, *sites), shards=count), {}, self.store, LocalCompute())

    def crawl(
        self, links: Artifact, addresses: dict[str, str] | None = None, *, earlier: Artifact | None = None, **changes: Any
    ) -> Artifact:
        reach = {"*": self.web.where} if addresses is None else addresses
        inputs = {"links": links} | ({"earlier": earlier} if earlier else {})
        return run(CRAWL, self.config(**changes), inputs, self.store, LocalCompute(addresses=reach))

    def rows(self, pages: Artifact) -> dict[str, dict[str, Any]]:
        return {row["url"]: row for shard in pages.shards for row in shards.read(shard).to_pylist()}

    def __call__(self, *urls: str, addresses: dict[str, str] | None = None, **changes: Any) -> dict[str, dict[str, Any]]:
        return self.rows(self.crawl(self.links(*urls), addresses, **changes))


@pytest.fixture
def crawler(tmp_path: Path, web: Web) -> Crawler:
    return Crawler(tmp_path, web)
