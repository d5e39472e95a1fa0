"""A response's body with its content codings undone: as it comes, as tolerant as browsers are, and never beyond a limit.

Codings that nobody registered (`none`, `utf-8`) do nothing. Several codings are undone one after another (RFC 9110, section 8.4). Bytes
behind the end of a compressed stream are ignored.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

import brotli
import zstandard

ACCEPTED = "gzip, deflate, br, zstd"
STEP = 1 << 18  # bytes asked of a decompressor at a time
ZSTD_STEP = 1 << 10  # bytes given: it unpacks all it is given, and a block of 4 bytes can hold 128 KiB
ZSTD_WINDOW = 8 << 20  # RFC 8878, section 3.1.1.1.2: what decoders are recommended to support
MOST_CODINGS = 5  # curl's limit
SNIFFED = 512  # bytes by which `lenient` tells text from a compressed stream
GZIP = b"\x1f\x8b"
ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60)))  # frames, and skippable ones

Take = Callable[[bytes], None]


class TooLarge(Exception):
    """More bytes on the wire than allowed."""


class Bomb(Exception):
    """More bytes once unpacked than allowed."""


class Undecodable(Exception):
    """The body is not what its Content-Encoding says."""


class _Unpacker(Protocol):
    @property
    def ended(self) -> bool: ...
    def feed(self, data: bytes, take: Take) -> None: ...


class Body:
    """Accepts the bytes of the wire; `data` is the decoded body."""

    def __init__(self, encoding: str, wire_limit: int, limit: int, *, lenient: bool = False) -> None:
        """encoding: the values of all Content-Encoding fields, with commas between. lenient: a body that is plainly not in the named
        coding is taken as it is; archives hold such bodies, decoded by who wrote them. Raises Undecodable.
        """
        self.wire, self.wire_limit, self.limit = 0, wire_limit, limit
        self.parts: list[bytes] = []
        names = [text for name in encoding.split(",") if (text := name.partition(";")[0].strip(" \t\"'").lower())]
        self.codings = [name for name in names if name in UNPACKERS]
        self.unknown = [name for name in names if name not in UNPACKERS and name != "identity"]
        if len(self.codings) > MOST_CODINGS:
            raise Undecodable(f"content-encoding {encoding[:60]!r}: more than {MOST_CODINGS} codings")
        self.layers: list[_Unpacker] = [UNPACKERS[name]() for name in reversed(self.codings)]
        if lenient:
            self.layers = [_Lenient(layer) for layer in self.layers]
        self.sizes = [0] * (len(self.layers) + 1)  # bytes that entered each layer, and the decoded body
        self.takes: list[Take] = [partial(self._enter, number) for number in range(len(self.layers))] + [self._take]

    def feed(self, data: bytes) -> None:
        """Raises TooLarge, Bomb or Undecodable as soon as it is known."""
        self.wire += len(data)
        if self.wire > self.wire_limit:
            raise TooLarge(f"more than {self.wire_limit} bytes")
        self.takes[0](data)

    @property
    def data(self) -> bytes:
        return b"".join(self.parts) if len(self.parts) != 1 else self.parts[0]

    @property
    def whole(self) -> bool:
        """False when a compressed stream has not ended."""
        return not self.wire or all(layer.ended for layer in self.layers)

    def _enter(self, number: int, data: bytes) -> None:
        if not data:
            return
        self._count(number, data)
        try:
            self.layers[number].feed(data, self.takes[number + 1])
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise Undecodable(f"is no {self.codings[-1 - number]}: {error}") from error

    def _take(self, data: bytes) -> None:
        self._count(len(self.layers), data)
        self.parts.append(data)

    def _count(self, number: int, data: bytes) -> None:
        self.sizes[number] += len(data)
        if self.sizes[number] > self.limit and (number or not self.layers):
            raise Bomb(f"more than {self.limit} bytes when unpacked from {self.wire} of {', '.join(self.codings) or 'plain'}")


class _Gzip:
    """Members one after another are one body (RFC 1952, section 2.2); zeros and other bytes behind them are ignored."""

    def __init__(self) -> None:
        self.inflate = zlib.decompressobj(31)
        self.ended = self.over = False
        self.behind, self.new = b"", False  # new: no byte of this member came out yet

    def feed(self, data: bytes, take: Take) -> None:
        while data and not self.over:
            if self.inflate.eof and not (data := self._next_member(data)):
                return
            try:
                plain = self.inflate.decompress(data, STEP)
            except zlib.error:
                if not self.new:
                    raise
                self.over = True  # bytes behind the last member that begin as a member does
                return
            self.new = self.new and not plain
            take(plain)
            data = self.inflate.unused_data or self.inflate.unconsumed_tail
            self.ended = self.ended or self.inflate.eof

    def _next_member(self, data: bytes) -> bytes:
        """The bytes of the member that follows, or nothing: there is none, or not enough of it to know."""
        data, self.behind = (self.behind + data).lstrip(b"\0"), b""
        if len(data) < len(GZIP):
            self.behind = data
            return b""
        self.over = not data.startswith(GZIP)
        self.inflate, self.new = zlib.decompressobj(31), True
        return b"" if self.over else data


class _Deflate:
    """ "deflate" means zlib (RFC 9110, section 8.4.1.2), but many servers send the bare stream: it is tried when zlib fails."""

    def __init__(self) -> None:
        self.inflate = zlib.decompressobj()
        self.start: bytes | None = b""  # what came, until something comes out

    @property
    def ended(self) -> bool:
        return self.inflate.eof

    def feed(self, data: bytes, take: Take) -> None:
        while data and not self.inflate.eof:
            if self.start is not None:
                self.start += data
            try:
                plain = self.inflate.decompress(data, STEP)
            except zlib.error:
                if self.start is None:
                    raise
                data, self.start = self.start, None
                self.inflate = zlib.decompressobj(-15)
                continue
            if plain:
                self.start = None
                take(plain)
            data = self.inflate.unconsumed_tail


class _Brotli:
    """The library fails on bytes behind the end and keeps what it had decoded: then the stream is decoded again, byte by byte."""

    def __init__(self) -> None:
        self.unpack = brotli.Decompressor()
        self.fed: list[bytes] = []

    @property
    def ended(self) -> bool:
        return bool(self.unpack.is_finished())

    def feed(self, data: bytes, take: Take) -> None:
        if self.ended:
            return
        sizes: list[int] = []

        def counted(plain: bytes) -> None:
            sizes.append(len(plain))
            take(plain)

        try:
            self._feed(data, counted)
            self.fed.append(data)
        except brotli.error:
            self._again(data, sum(sizes), take)

    def _feed(self, data: bytes, take: Take) -> None:
        take(self.unpack.process(data, output_buffer_limit=STEP))
        while not self.unpack.can_accept_more_data():
            take(self.unpack.process(b"", output_buffer_limit=STEP))

    def _again(self, last: bytes, had: int, take: Take) -> None:
        """had: bytes that came out of the last piece already."""
        self.unpack = brotli.Decompressor()
        for data in self.fed:
            self._feed(data, lambda _: None)

        def rest(plain: bytes) -> None:
            nonlocal had
            skipped = min(had, len(plain))
            had -= skipped
            take(plain[skipped:])

        for place in range(len(last)):
            if self.ended:
                return
            self._feed(last[place : place + 1], rest)


class _Zstd:
    """Frames one after another are one body (RFC 8878, section 3); other bytes behind them are ignored."""

    def __init__(self) -> None:
        self.unpack = self._frame()
        self.ended = self.over = False
        self.behind = b""

    def feed(self, data: bytes, take: Take) -> None:
        for start in range(0, len(data), ZSTD_STEP):
            piece = data[start : start + ZSTD_STEP]
            while piece and not self.over:
                if self.unpack.eof and not (piece := self._next_frame(piece)):
                    break
                take(self.unpack.decompress(piece))
                self.ended = self.unpack.eof
                piece = self.unpack.unused_data if self.unpack.eof else b""

    def _next_frame(self, data: bytes) -> bytes:
        data, self.behind = self.behind + data, b""
        if len(data) < 4:
            self.behind = data
            return b""
        self.over = not data.startswith(ZSTD)
        if self.over:
            return b""
        self.unpack = self._frame()
        return data

    @staticmethod
    def _frame() -> zstandard.ZstdDecompressionObj:
        return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()


class _Lenient:
    """Decides by the first bytes whether they are in the coding at all."""

    def __init__(self, unpacker: _Unpacker) -> None:
        self.unpacker, self.start, self.decided, self.plain = unpacker, b"", False, False

    @property
    def ended(self) -> bool:
        return self.plain or not self.decided or self.unpacker.ended

    def feed(self, data: bytes, take: Take) -> None:
        if not self.decided:
            data = self.start = self.start + data
            self.plain = self._is_plain(data)
            self.decided = True
        if self.plain:
            take(data)
        else:
            self.unpacker.feed(data, take)

    def _is_plain(self, data: bytes) -> bool:
        if isinstance(self.unpacker, _Gzip):
            return not data.startswith(GZIP)
        if isinstance(self.unpacker, _Zstd):
            return not data.startswith(ZSTD)
        return is_text(data)


def is_text(data: bytes) -> bool:
    """Whether bytes begin as text does: no control characters but those of lines, in any encoding that extends ASCII, or a UTF-16 mark."""
    start = data[:SNIFFED]
    return start[:2] in (b"\xff\xfe", b"\xfe\xff") or not start.translate(None, _TEXT)


_TEXT = bytes((*b"\t\n\f\r\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)))
UNPACKERS: dict[str, Callable[[], _Unpacker]] = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate, "br": _Brotli, "zstd": _Zstd}
