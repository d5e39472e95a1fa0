"""What a hostile web can do to a crawler, one by one, on real sockets.

| threat | test |
|---|---|
| request forgery: address literals in every spelling, metadata services | no_spelling_of_an_inside_address; crawl: nothing_leads_into |
| request forgery by name | a_name_that_stands_for_an_inside_address |
| request forgery by redirect, meta refresh, robots.txt | no_spelling_of_an_inside_address; crawl: nothing_leads_into |
| DNS rebinding | the_connection_goes_to_the_address_that_was_checked; address: a_host_is_looked_up_once |
| gzip, deflate, brotli, zstd bombs; packings in packings | crawl: everything_that_goes_wrong; parts: a_bomb_is_known |
| endless page | crawl: everything_that_goes_wrong; faults/test_hostile_web (bytes taken, memory held) |
| a byte now and then: in the body, in the head | crawl: everything_that_goes_wrong; a_head_that_drips |
| redirect loops and chains, also by meta refresh | crawl: everything_that_goes_wrong; stubs_that_lead_round_in_circles |
| redirect to a host that forbids | crawl: a_redirect_asks_the_new_hosts_robots |
| calendar of 10,000 links a day, without end | a_calendar_without_end |
| a page of very many links | a_page_of_very_many_links |
| header floods: many, long, cookies | floods_in_the_head; no_cookie_is_ever_sent_back |
| robots.txt of 10 MB, of patterns that invite going back and forth | a_robots_file_of_ten_megabytes; robots: ten_megabytes_of_patterns |
| chunks: endless trailer, extension, size; 1xx without end | framing_that_never_ends |
| response splitting in Location | a_redirect_cannot_smuggle_lines |
| Content-Length too long, too short, doubled, with chunks | a_length_that_lies; crawl: a_body_that_is_cut_short |
| no HTTP at all | what_is_no_http |
| TLS: none, self-signed | a_server_without_a_valid_certificate |
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from data_prep import shards
from data_prep.corpus.crawling.follow import MOST
from data_prep.corpus.links import LinkSource
from data_prep.corpus.urls import canonical
from tests.data_prep.corpus.crawling.conftest import Web

PAGE = b"<html><p>Hello there.</p></html>"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
NONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
Talk = Callable[[socket.socket], None]


class Raw:
    """A server that says what it is told to, byte by byte. routes: by path; heads: what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, bytes | Talk] = {}
        self.heads: list[bytes] = []
        self.tls, self.closed = tls, False
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def where(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the crawler hangs up, or does not like the certificate
            plain = self.tls.wrap_socket(connection, server_side=True) if self.tls else connection
            with plain:
                held = b""
                while not self.closed:
                    while b"\r\n\r\n" not in held:
                        if not (more := plain.recv(65_536)):
                            return
                        held += more
                    head, _, held = held.partition(b"\r\n\r\n")
                    self.heads.append(head)
                    said = self.routes.get(head.split(b" ")[1].decode(), NONE)
                    if callable(said):
                        said(plain)
                        return
                    plain.sendall(said)

    def asked(self) -> list[str]:
        return [path for path in (head.split(b" ")[1].decode() for head in self.heads) if path != "/robots.txt"]

    def close(self) -> None:
        self.closed = True
        self.socket.close()


@pytest.fixture
def raw() -> Iterator[Raw]:
    server = Raw()
    yield server
    server.close()


def whole(body: bytes, *headers: bytes) -> bytes:
    return OK + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def forever(start: bytes, piece: bytes, pause: float = 0.0) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return talk


def outcomes(crawler, raw: Raw, **changes) -> dict[str, str]:
    """Every route crawled, and a good page after them, which must come through."""
    raw.routes["/zz-good"] = whole(PAGE)
    rows = crawler(*(f"http://a.test{path}" for path in sorted(raw.routes)), addresses={"*": raw.where}, **({"retries": 0} | changes))
    found = {url.removeprefix("http://a.test"): row["outcome"] for url, row in rows.items()}
    assert found.pop("/zz-good") == "ok"
    return found


INSIDE = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "[fd00:ec2::254]", "10.0.0.1", "0.0.0.0"]
INSIDE += ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.0.1.", "localhost.", "user@127.0.0.1"]
INSIDE += [
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[::127.0.0.1]",
    "[fe80::1%25lo]",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "%31%32%37.0.0.1",
    "ⓛocalhost",
]


def test_no_spelling_of_an_inside_address_is_asked(web, outside, reply, crawler) -> None:
    """As a link, as a redirect, as a meta refresh: nothing arrives at 127.0.0.1, though a server listens there."""
    for n, host in enumerate(INSIDE):
        target = f"http://{host}:{web.port}/secret"
        location = target.encode().decode("latin-1")
        outside.routes[f"r{n}.test", "/"] = reply(status=302, headers={"Location": location})
        outside.routes[f"m{n}.test", "/"] = reply(f'<meta charset=utf-8><meta http-equiv=refresh content="0;url={target}">'.encode())
    plain = [url for host in INSIDE if (url := canonical(f"http://{host}:{web.port}/{len(host)}")) is not None]
    urls = [f"http://{kind}{n}.test/" for kind in "rm" for n in range(len(INSIDE))]
    rows = crawler(*urls, *plain, addresses={"*.test": outside.where}, allow_networks=("127.0.0.2/32",), max_redirects=1)
    assert not web.hits
    ends = {row["outcome"] for row in rows.values()}
    assert ends <= {"private_address", "bad_url", "dead_host"}, {url: row["outcome"] for url, row in rows.items()}
    assert sum(row["outcome"] == "dead_host" for row in rows.values()) <= 4  # names that nobody knows
    assert len(plain) >= 8


@pytest.mark.parametrize("ips", [["10.0.0.1"], ["169.254.169.254"], ["127.0.0.1", "::1"], ["fd00:ec2::254"], ["::ffff:10.0.0.1"]], ids=str)
def test_a_name_that_stands_for_an_inside_address_is_not_asked(web, crawler, monkeypatch, ips) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 0)) for ip in ips])
    url = f"http://metadata.test:{web.port}/latest"
    assert crawler(url, addresses={}, allow_networks=())[url]["outcome"] == "private_address" and not web.hits


def test_the_connection_goes_to_the_address_that_was_checked(web, reply, crawler, monkeypatch) -> None:
    """A name server that is harmless when asked first and answers 127.0.0.1 ever after; each page needs a connection of its own."""
    outside = Web("127.0.0.2", web.port)
    outside.fallback = lambda host, path: reply(PAGE, 404 if path == "/robots.txt" else 200, headers={"Connection": "close"})
    answers = itertools.chain(["127.0.0.2"], itertools.repeat("127.0.0.1"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (next(answers), 0))])
    try:
        rows = crawler(*(f"http://evil.test:{web.port}/{n}" for n in range(4)), addresses={}, allow_networks=("127.0.0.2/32",))
    finally:
        outside.close()
    assert {row["outcome"] for row in rows.values()} == {"ok"} and len(outside.asked("evil.test")) == 4
    assert not web.hits


def test_a_head_that_drips_costs_its_time_limit(raw, crawler) -> None:
    raw.routes = {"/drip": forever(OK, b"X: y\r\n", 0.05), "/status": forever(b"H", b"", 0.05)}
    assert outcomes(crawler, raw, page_timeout_s=0.5) == {"/drip": "timeout", "/status": "timeout"}
    assert len(raw.asked()) == 3


def test_stubs_that_lead_round_in_circles_end(web, reply, crawler) -> None:
    def stub(target: str):
        return reply(f'<meta http-equiv="refresh" content="0;url={target}">'.encode())

    web.routes = {("a.test", "/1"): stub("/2"), ("a.test", "/2"): stub("/1"), ("a.test", "/self"): stub("/self")}
    web.routes |= {("a.test", f"/chain/{n}"): stub(f"/chain/{n + 1}") for n in range(30)}
    web.routes |= {("a.test", "/script"): stub("javascript:alert(1)"), ("a.test", "/file"): stub("file:///etc/passwd")}
    web.routes |= {("a.test", "/away"): stub("http://b.test/"), ("b.test", "/robots.txt"): reply(b"User-agent: *\nDisallow: /")}
    web.routes |= {
        ("a.test", "/moved"): stub("/there"),
        ("a.test", "/there"): reply(PAGE),
        ("a.test", "/late"): reply(b'<meta http-equiv="refresh" content="300;url=/there"><p>news</p>'),
    }
    rows = crawler(*(f"http://a.test/{path}" for path in ("1", "self", "chain/0", "script", "file", "away", "moved", "late")))
    assert {url.removeprefix("http://a.test/"): row["outcome"] for url, row in rows.items()} == {
        "1": "redirect_loop",
        "self": "ok",
        "chain/0": "redirect_loop",
        "script": "bad_url",
        "file": "bad_url",
        "away": "robots",
        "moved": "ok",
        "late": "ok",
    }
    assert rows["http://a.test/moved"]["final_url"] == "http://a.test/there" and not web.asked("b.test")


def test_a_calendar_without_end_costs_what_the_site_may_cost(web, reply, crawler) -> None:
    """Each day links to the next and to 10,000 others."""

    def day(host: str, path: str):
        if path == "/robots.txt":
            return reply(b"", 404)
        number = int(path.partition("=")[2] or 0)
        return reply(f"<a href=/?d={number + 1}>next</a>".encode() + b"".join(b"<a href=/?d=%d>" % (number * 7 + n) for n in range(10_000)))

    web.fallback = day
    site = LinkSource("site", url="http://a.test/", depth=1_000_000, max_pages=12)
    rows = crawler.rows(crawler.crawl(crawler.links(sites=(site,))))
    assert len(rows) == len(web.asked("a.test")) == len(set(web.asked("a.test"))) == 12
    assert {row["outcome"] for row in rows.values()} == {"ok"}


def test_a_page_of_very_many_links_is_cut(web, reply, crawler) -> None:
    many = b"".join(b"<a href=/%d>" % n for n in range(200_000))
    web.fallback = lambda host, path: reply(many if path == "/" else PAGE, 404 if path == "/robots.txt" else 200)
    pages = crawler.crawl(crawler.links(sites=(LinkSource("site", url="http://a.test/", depth=1, max_pages=20),)))
    table = shards.read(pages.side("validators")[0])
    assert max(len(links or []) for links in table["links"].to_pylist()) == MOST
    assert len(crawler.rows(pages)) == 20


def test_floods_in_the_head_end_the_page_alone(raw, crawler) -> None:
    raw.routes = {
        "/many": OK + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"Content-Length: 0\r\n\r\n",
        "/long": OK + b"X: " + b"y" * 10_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
        "/endless": forever(OK, b"X: " + b"y" * 1_000 + b"\r\n"),
        "/reason": b"HTTP/1.1 200 " + b"O" * 10_000_000 + b"\r\n\r\n",
        "/cookies": OK + b"Set-Cookie: a=b\r\n" * 50_000 + b"Content-Length: 0\r\n\r\n",
    }
    assert set(outcomes(crawler, raw).values()) == {"http_error"}


def test_no_cookie_is_ever_sent_back(raw, crawler) -> None:
    raw.routes = {f"/{n}": whole(PAGE, *(b"Set-Cookie: c%d=%s" % (k, b"v" * 1_000) for k in range(50))) for n in range(3)}
    assert set(outcomes(crawler, raw).values()) == {"ok"}
    assert not any(b"cookie" in head.lower() for head in raw.heads)


def test_a_robots_file_of_ten_megabytes_is_read_as_far_as_it_counts(raw, crawler) -> None:
    sent = [0]
    rules = b"User-agent: *\nDisallow: /closed\n" + b"Disallow: /*a*a*a*a*a*a*a*a*b$\n" * 400_000

    def large(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(rules))
        for start in range(0, len(rules), 1 << 16):
            connection.sendall(rules[start : start + (1 << 16)])
            sent[0] += 1 << 16

    raw.routes = {"/robots.txt": large, "/closed": whole(PAGE), f"/{'a' * 3_000}": whole(PAGE)}
    rows = crawler(*(f"http://a.test{path}" for path in raw.routes if path != "/robots.txt"), addresses={"*": raw.where})
    assert [row["outcome"] for _, row in sorted(rows.items())] == ["ok", "robots"]
    assert len(rules) > 10_000_000 and sent[0] < 8 << 20  # what the system's buffers took is not read


def test_framing_that_never_ends_costs_its_time_limit(raw, crawler) -> None:
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    raw.routes = {
        "/trailer": forever(chunked + b"5\r\nhello\r\n0\r\n", b"X: y\r\n", 0.02),
        "/extension": forever(chunked + b"5;", b"x" * 100, 0.02),
        "/size": forever(chunked, b"0", 0.02),
        "/empty-lines": forever(b"", b"\r\n", 0.02),
        "/continue": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        "/early-hints": forever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0.02),
        "/silence": forever(b"", b"", 0.1),
    }
    found = outcomes(crawler, raw, page_timeout_s=0.5, dead_after=99)
    assert set(found.values()) <= {"timeout", "http_error", "truncated", "dead_host"}, found
    assert found["/silence"] == found["/continue"] == "timeout"


def test_a_redirect_cannot_smuggle_lines_into_a_request(raw, crawler) -> None:
    targets = [
        b"/x%0d%0aX-Smuggled:%20yes",
        b"/x\rX-Smuggled: yes",
        b"/x\x0bX-Smuggled: yes",
        b"/x\n\tX-Smuggled: yes",
        b"/x HTTP/1.1\tX-Smuggled: yes",
    ]
    targets += ["/x\u2028X-Smuggled: yes".encode(), b"/x\xff\xfe\x80"]
    raw.routes = {f"/{n}": b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % t for n, t in enumerate(targets)}
    found = outcomes(crawler, raw, dead_after=99)
    assert set(found.values()) <= {"http_error", "bad_url"}
    for head in raw.heads:
        first, *rest = head.split(b"\r\n")
        assert first.count(b" ") == 2 and first.startswith(b"GET /") and first.endswith(b" HTTP/1.1")
        assert not any(line.lower().startswith(b"x-smuggled") for line in rest) and b"\n" not in head.replace(b"\r\n", b"")


def test_a_length_that_lies(raw, crawler) -> None:
    raw.routes = {
        "/short": OK + b"Content-Length: 5\r\n\r\n" + PAGE,
        "/none": OK + b"Content-Length: \r\n\r\n" + PAGE,
        "/negative": OK + b"Content-Length: -5\r\n\r\n" + PAGE,
        "/words": OK + b"Content-Length: five\r\n\r\n" + PAGE,
        "/two": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + PAGE,
        "/huge": OK + b"Content-Length: 99999999999999999999999\r\n\r\n" + PAGE,
        "/both": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    }
    found = outcomes(crawler, raw, dead_after=99, page_timeout_s=1.0)
    assert set(found.values()) <= {"http_error", "too_large", "ok", "truncated"}, found
    assert found["/short"] == found["/negative"] == found["/words"] == found["/two"] == "http_error"


def test_what_is_no_http_is_an_error_of_that_page(raw, crawler) -> None:
    raw.routes = {
        "/ssh": b"SSH-2.0-OpenSSH_9.6\r\n" * 3,
        "/noise": bytes(range(256)) * 40,
        "/html": PAGE * 3,
        "/old": b"HTTP/0.9 hello\r\n\r\n",
        "/upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + b"\0" * 99,
        "/status": b"HTTP/1.1 999999 Much\r\n\r\n",
        "/nul": OK + b"X: \0\r\nContent-Length: 0\r\n\r\n",
    }
    assert set(outcomes(crawler, raw, dead_after=99, page_timeout_s=1.0).values()) <= {"http_error", "timeout"}


@pytest.mark.skipif(not shutil.which("openssl"), reason="the certificate is made with openssl")
def test_a_server_without_a_valid_certificate_is_told_nothing(raw, crawler, tmp_path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*command, "-subj", "/CN=a.test", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    signed = Raw(context)
    signed.routes = raw.routes = {"/": whole(PAGE)}
    try:
        rows = crawler("https://signed.test/", "https://plain.test/", addresses={"signed.test": signed.where, "*": raw.where}, retries=0)
    finally:
        signed.close()
    assert {row["outcome"] for row in rows.values()} == {"dead_host"}
    assert "certificate" in rows["https://signed.test/"]["reason"].lower()
    assert not signed.heads and not raw.heads
