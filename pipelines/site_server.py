"""Answers for the hosts of a site artifact on a free loopback port, so that a real crawler has a real web."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep import shards
from infra.artifact import Artifact
from pipelines.site import pages

DEAD = "127.0.0.1:1"  # nothing listens on port 1: a host that is gone refuses at once instead of waiting for a name server


@dataclass(frozen=True)
class Web:
    """Where pages lie; bytes are read from the memory-mapped shards when asked for."""

    places: dict[str, tuple[Path, int]]
    tables: dict[Path, pa.ChunkedArray]
    redirects: dict[str, str]
    robots: bytes
    hosts: frozenset[str]

    @classmethod
    def of(cls, artifact: Artifact) -> Web:
        settings = json.loads(artifact.file("site.json").read_text())
        places = {address: (path, row) for address, path, row in pages(artifact.shards)}
        tables = {path: shards.read(path)["html"] for path in artifact.shards}
        return cls(places, tables, settings["redirects"], settings["robots"].encode(), frozenset(a.split("/")[2] for a in places))

    def answer(self, host: str, path: str) -> tuple[int, str, bytes, str | None]:
        """Status, content type, body and, for a redirect, where to."""
        address = f"http://{host}{path}"
        if path == "/robots.txt":
            return 200, "text/plain; charset=utf-8", self.robots, None
        if target := self.redirects.get(address):
            return 301, "text/html; charset=utf-8", b"<p>Moved.</p>", target
        if place := self.places.get(address):
            return 200, "text/html; charset=utf-8", self.tables[place[0]][place[1]].as_py(), None
        return 404, "text/html; charset=utf-8", b"<!DOCTYPE html><title>Not found</title><p>There is no such page.</p>", None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open: a crawl asks each host thousands of times
    server_version, sys_version = "textmill-site", ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # head and body in one packet
    timeout = 60

    def __init__(self, web: Web, *given: Any) -> None:
        self.web = web
        super().__init__(*given)

    def do_GET(self) -> None:  # the standard library's name
        host = (self.headers.get("Host") or "").rpartition("@")[2].partition(":")[0].lower()
        if host not in self.web.hosts:
            self.close_connection = True  # nobody lives here: hang up as a dead host does
            return
        status, kind, body, target = self.web.answer(host, self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if target:
            self.send_header("Location", target)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the terminal belongs to the run."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news, and the terminal belongs to the run."""


@dataclass(frozen=True)
class Serving:
    """A running server: its address, and the addresses that a recipe's `resources.connect_to` (Compute.addresses) needs."""

    address: str
    hosts: tuple[str, ...]

    @property
    def connect_to(self) -> dict[str, str]:
        return {**dict.fromkeys(self.hosts, self.address), "gone.test": DEAD}


@contextmanager
def serving(artifact: Artifact) -> Iterator[Serving]:
    """Serve the site while the block runs, from a thread of this process; other processes reach it on loopback."""
    web = Web.of(artifact)
    server = _Server(("127.0.0.1", 0), partial(_Handler, web))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="site", daemon=True)
    thread.start()
    try:
        yield Serving(f"127.0.0.1:{server.server_address[1]}", tuple(sorted(web.hosts)))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
