"""A small web on loopback: pages by host and path, sent by functions that may do as they like with the connection."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Send = Callable[[BaseHTTPRequestHandler], None]
DEAD = "127.0.0.1:1"  # nothing listens there


class Web:
    """pages: what answers for (host, path); other paths of known hosts go to `elsewhere`, or are 404. sent: bytes of bodies."""

    def __init__(self) -> None:
        self.pages: dict[tuple[str, str], Send] = {}
        self.elsewhere: Callable[[str, str], Send | None] = lambda host, path: None
        self.asked: list[tuple[str, str]] = []
        self.sent: Counter[tuple[str, str]] = Counter()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                here = ((self.headers.get("Host") or "").partition(":")[0], self.path)
                web.asked.append(here)
                send = web.pages.get(here) or web.elsewhere(*here) or page(b"<p>There is no such page.</p>", status=404)
                send(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # a crawler that has had enough hangs up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.where = f"127.0.0.1:{self.server.server_address[1]}"

    def flood(self, chunk: bytes, times: int, declared: bool = False) -> Send:
        """A body that is made while it is sent, and counted as far as it goes."""

        def send(handler: BaseHTTPRequestHandler) -> None:
            here = ((handler.headers.get("Host") or "").partition(":")[0], handler.path)
            length = {"Content-Length": str(len(chunk) * times)} if declared else {"Connection": "close"}
            begin(handler, 200, {"Content-Type": "text/html; charset=utf-8", **length})
            handler.close_connection = True
            for _ in range(times):
                handler.wfile.write(chunk)
                self.sent[here] += len(chunk)

        return send


def begin(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def page(body: bytes, status: int = 200, kind: str = "text/html; charset=utf-8", **headers: str) -> Send:
    def send(handler: BaseHTTPRequestHandler) -> None:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        begin(handler, status, {"Content-Type": kind, "Content-Length": str(len(body)), **more})
        handler.wfile.write(body)

    return send


def cut(body: bytes, promised: int) -> Send:
    """Says how long it will be and hangs up before."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, 200, {"Content-Type": "text/html", "Content-Length": str(promised)})
        handler.wfile.write(body)
        handler.close_connection = True

    return send


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.server.shutdown()
        web.server.server_close()
        thread.join()
