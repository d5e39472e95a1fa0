"""Archives and HTTP answers with damage and oddities, from a seed: for the suite in small, for `tests.prove_ingest` in large."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from dataclasses import dataclass, field

import brotli
import zstandard

WORDS = [
    "tide",
    "moon",
    "harbour",
    "lamp",
    "항구",
    "море",
    "海",
    "WARC/1.0",
    "HTTP/1.1",
    "\r\n",
    "\n",
    "<p>",
    "&amp;",
    "http://a.test/",
    "0x1f",
]


@dataclass
class Made:
    """pages: URL and body of each record; touched: the records whose bytes damage has reached."""

    data: bytes
    pages: list[tuple[str, bytes]]
    touched: set[int] = field(default_factory=set)


def text(dice: random.Random, size: int) -> bytes:
    return " ".join(dice.choices(WORDS, k=max(1, size // 6))).encode()[:size]


def body(dice: random.Random, most: int) -> bytes:
    size = dice.choice((0, 1, dice.randrange(200), dice.randrange(most)))
    return dice.randbytes(size) if dice.random() < 0.3 else b"<!doctype html>" + text(dice, size)


def response(dice: random.Random, content: bytes) -> bytes:
    """An HTTP answer as archives hold it; content comes back from it."""
    end = dice.choice((b"\r\n", b"\r\n", b"\n"))
    head = [b"HTTP/1.%d 200 OK" % dice.randrange(2), b"Content-Type: text/html; charset=utf-8"]
    coding = dice.choice(("", "", "gzip", "decoded", "chunked", "dechunked", "length"))
    if coding == "gzip":
        head, content = [*head, b"Content-Encoding: gzip"], gzip.compress(content, mtime=0)
    elif coding == "decoded" and not content.startswith(b"\x1f\x8b"):
        head.append(b"content-encoding: gzip")
    elif coding == "chunked":
        head, content = [*head, b"Transfer-Encoding: chunked"], chunked(dice, content)
    elif coding == "dechunked" and content[:1] not in b"0123456789abcdefABCDEF \t":
        head.append(b"Transfer-Encoding: chunked")
    elif coding == "length":
        head.append(b"Content-Length: %d" % (len(content) + dice.randrange(9)))
    return end.join(head) + end * 2 + content


def chunked(dice: random.Random, content: bytes, *, end: bytes = b"\r\n") -> bytes:
    parts = []
    while content:
        size = dice.randrange(1, len(content) + 1)
        extension = dice.choice((b"", b"", b";a=b", b' ; name="x"'))
        parts.append(b"%x%s%s%s%s" % (size, extension, end, content[:size], end))
        content = content[size:]
    return b"".join(parts) + b"0" + end * 2


def record(kind: bytes, url: bytes, block: bytes) -> bytes:
    head = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: %s\r\nContent-Type: application/http; msgtype=response\r\n" % (kind, url)
    return head + b"Content-Length: %d\r\n\r\n" % len(block) + block + b"\r\n\r\n"


def archive(seed: int, packing: str, most: int = 3_000) -> Made:
    """A WARC file of some 12 pages, with other records between them; packing: plain, gz (a member a record), piece (one member)."""
    dice = random.Random(seed)
    pages, pieces = [], [record(b"warcinfo", b"", b"software: test\r\n")]
    for number in range(dice.randrange(3, 12)):
        url, content = f"{dice.choice(('http', 'HTTPS'))}://h.test/{seed}/{number}", body(dice, most)
        pages.append((url, content))
        pieces.append(record(b"response", url.encode(), response(dice, content)))
        if dice.random() < 0.3:
            pieces.append(record(dice.choice((b"request", b"metadata", b"unknown")), url.encode(), b"GET / HTTP/1.1\r\n\r\n"))
    if packing == "gz":
        pieces = [gzip.compress(piece, mtime=0) for piece in pieces]
    data = b"".join(pieces)
    return Made(gzip.compress(data, mtime=0) if packing == "piece" else data, pages, set())


def damaged(made: Made, seed: int, packing: str) -> Made:
    """The same with one to four faults, and the pages that they reach."""
    dice, data, starts = random.Random(seed), bytearray(made.data), starts_of(made, packing)
    touched: set[int] = set()
    for place in sorted((dice.randrange(len(data)) for _ in range(dice.randrange(1, 5))), reverse=True):
        fault, size = dice.choice(("flip", "insert", "delete", "overwrite", "zero", "cut")), dice.randrange(1, 60)
        if fault == "cut" and dice.random() < 0.7:
            fault = "flip"
        stop = {"flip": place + 1, "insert": place + 1, "cut": len(made.data)}.get(fault, place + size)
        touched |= {n for n, (first, last) in starts.items() if first < stop and last > place - (fault == "insert")}
        if fault == "flip":
            data[place] ^= 1 << dice.randrange(8)
        elif fault == "insert":
            data[place:place] = dice.randbytes(size)
        elif fault == "delete":
            del data[place : place + size]
        elif fault == "cut":
            del data[place:]
        else:
            fill = dice.randbytes(size) if fault == "overwrite" else bytes(size)
            data[place : place + size] = fill[: max(0, len(data) - place)]
    return Made(bytes(data), made.pages, touched)


def starts_of(made: Made, packing: str) -> dict[int, tuple[int, int]]:
    """Where each page's record lies in the undamaged file; {} when it is packed as one piece."""
    if packing == "piece":
        return {}
    found, place = {}, 0
    numbers = {url: number for number, (url, _) in enumerate(made.pages)}
    while place < len(made.data):
        if packing == "gz":
            inflate = zlib.decompressobj(31)
            plain = inflate.decompress(made.data[place:])
            end = len(made.data) - len(inflate.unused_data)
        else:
            head = made.data.index(b"\r\n\r\n", place) + 4
            plain = made.data[place:head]
            end = head + int(plain.split(b"Content-Length: ")[1].split(b"\r\n")[0]) + 4
        if b"WARC-Type: response" in plain.partition(b"\r\n\r\n")[0]:
            found[numbers[plain.split(b"WARC-Target-URI: ")[1].split(b"\r\n")[0].decode()]] = (place, end)
        place = end
    return found


PACK = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "x-gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=1),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
LINES = (
    b"X-Frame-Options: DENY",
    b"no colon here",
    b": empty name",
    b"X Space: in name",
    b"X-Folded: one\r\n two\r\n\tthree",
    b"X-Raw: \xc7\xd7\xb1\xb8 \xff",
    b"X-Spaces  :  before the colon",
    b"Set-Cookie: a=1; Path=/",
    b"Date: never",
    b"X-Empty:",
    b"Connection: close",
)


@dataclass
class Answer:
    """wire: an HTTP answer, byte by byte; content: its decoded body; cut: whether it ends early."""

    wire: bytes
    content: bytes
    cut: bool = False
    pieces: int = 1 << 16


def answer(seed: int, most: int = 4_000) -> Answer:
    dice = random.Random(seed)
    content = b"<!doctype html><title>%d</title>" % seed + text(dice, dice.choice((0, 40, dice.randrange(most))))
    end = dice.choice((b"\r\n", b"\r\n", b"\r\n", b"\n"))
    head = [dice.choice((b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1  200  Very  Well"))]
    head.append(
        dice.choice((b"Content-Type: text/html", b"content-type:text/html;charset=UTF-8", b'CONTENT-TYPE: text/html; charset="utf-8"'))
    )
    head += dice.sample(LINES, dice.randrange(4))
    if dice.random() < 0.1:
        head.append(b"X-Long: " + b"v" * dice.randrange(60_000))
    codings = dice.choice(((), (), ("gzip",), ("deflate",), ("br",), ("zstd",), ("deflate", "gzip"), ("x-gzip",), ("br", "gzip")))
    wire = content
    for coding in codings:
        wire = PACK[coding](wire)
    if codings:
        head.append(b"Content-Encoding: " + ", ".join(codings).encode())
    elif dice.random() < 0.1:
        head.append(b"Content-Encoding: " + dice.choice((b"none", b"identity", b"utf-8", b"")))
    framing = dice.choice(("length", "length", "chunked", "close"))
    if framing == "length":
        head += [b"Content-Length: %d" % len(wire)] * dice.choice((1, 1, 1, 2))
    elif framing == "chunked":
        head.append(b"Transfer-Encoding: " + dice.choice((b"chunked", b"Chunked", b"chunked ")))
        wire = chunked(dice, wire)
    if dice.random() < 0.3:
        first, rest = head[0], head[1:]
        dice.shuffle(rest)
        head = [first, *rest]
    whole = end.join(head) + end * 2 + wire
    cut = dice.random() < 0.2 and (framing != "close" or bool(codings)) and len(wire) > 1
    if cut:
        whole = whole[: len(whole) - dice.randrange(1, len(wire))]
    return Answer(whole, content, cut, dice.choice((1 << 16, 1 << 16, 1_000, 97)))


def noise(seed: int, most: int = 4_000) -> bytes:
    """An answer with random faults: nothing is promised of it."""
    dice, data = random.Random(seed), bytearray(answer(seed, most).wire)
    for _ in range(dice.randrange(1, 9)):
        data[dice.randrange(min(len(data), dice.choice((60, 400, len(data)))))] = dice.randrange(256)
    return bytes(data)


class Server:
    """Answers /N with the N-th of `answers` (bytes, and the size of its pieces), and everything else with 404; then it hangs up."""

    def __init__(self, answers: list[tuple[bytes, int]]) -> None:
        self.answers = answers

    async def __aenter__(self) -> Server:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].removeprefix(b"/")
            wire, size = self.answers[int(path)] if path.isdigit() else (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 1 << 16)
            for start in range(0, len(wire), size):
                writer.write(wire[start : start + size])
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
