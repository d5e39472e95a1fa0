"""A response's body, unpacked as it comes and never beyond what is allowed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import brotli
import zstandard

ACCEPTED = "gzip, deflate, br, zstd"
STEP = 1 << 18  # bytes asked of a decompressor at a time
ZSTD_STEP = 1 << 10  # bytes given: it unpacks all it is given, and a block of 4 bytes can hold 128 KiB
ZSTD_WINDOW = 8 << 20  # RFC 8878, section 3.1.1.1.2: what decoders are recommended to support


class TooLarge(Exception):
    """More bytes on the wire than allowed."""


class Bomb(Exception):
    """More bytes once unpacked than allowed."""


class Undecodable(Exception):
    """The body is not what its Content-Encoding says, or is packed in a way we do not know."""


class _Unpacker(Protocol):
    @property
    def ended(self) -> bool: ...
    def feed(self, data: bytes, take: Callable[[bytes], None]) -> None: ...


class Body:
    """Give it the wire's bytes; `data` is what they say."""

    def __init__(self, encoding: str, wire_limit: int, limit: int) -> None:
        self.wire, self.wire_limit, self.limit = 0, wire_limit, limit
        self.parts: list[bytes] = []
        self.size = 0
        names = [name.strip().lower() for name in encoding.split(",") if name.strip().lower() not in ("", "identity")]
        if len(names) > 1 or (names and names[0] not in UNPACKERS):
            raise Undecodable(f"content-encoding {encoding[:60]!r}")
        self.coding = names[0] if names else ""
        self.unpacker: _Unpacker | None = UNPACKERS[self.coding]() if self.coding else None

    def feed(self, data: bytes) -> None:
        """Raises TooLarge, Bomb or Undecodable as soon as it is known."""
        self.wire += len(data)
        if self.wire > self.wire_limit:
            raise TooLarge(f"more than {self.wire_limit} bytes")
        if self.unpacker is None:
            self._take(data)
            return
        try:
            self.unpacker.feed(data, self._take)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise Undecodable(f"is no {self.coding}: {error}") from error

    @property
    def data(self) -> bytes:
        return b"".join(self.parts) if len(self.parts) != 1 else self.parts[0]

    @property
    def whole(self) -> bool:
        """False when the packing says that more should have come."""
        return self.unpacker is None or not self.wire or self.unpacker.ended

    def _take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.limit:
            raise Bomb(f"more than {self.limit} bytes when unpacked from {self.wire} of {self.coding or 'plain'}")
        self.parts.append(data)


class _Gzip:
    """Members one after another are one body (RFC 1952, section 2.2)."""

    def __init__(self) -> None:
        self.inflate = zlib.decompressobj(31)

    @property
    def ended(self) -> bool:
        return self.inflate.eof

    def feed(self, data: bytes, take: Callable[[bytes], None]) -> None:
        while data:
            if self.inflate.eof:
                if not data.strip(b"\0"):  # padding after the last member
                    return
                self.inflate = zlib.decompressobj(31)
            take(self.inflate.decompress(data, STEP))
            data = self.inflate.unused_data or self.inflate.unconsumed_tail


class _Deflate:
    """ "deflate" means zlib (RFC 9110, section 8.4.1.2), but many servers send the bare stream."""

    def __init__(self) -> None:
        self.inflate = zlib.decompressobj()
        self.begun = False

    @property
    def ended(self) -> bool:
        return self.inflate.eof

    def feed(self, data: bytes, take: Callable[[bytes], None]) -> None:
        while data and not self.inflate.eof:
            try:
                take(self.inflate.decompress(data, STEP))
            except zlib.error:
                if self.begun:
                    raise
                self.inflate = zlib.decompressobj(-15)
                take(self.inflate.decompress(data, STEP))
            self.begun = True
            data = self.inflate.unconsumed_tail


class _Brotli:
    def __init__(self) -> None:
        self.unpack = brotli.Decompressor()

    @property
    def ended(self) -> bool:
        return bool(self.unpack.is_finished())

    def feed(self, data: bytes, take: Callable[[bytes], None]) -> None:
        take(self.unpack.process(data, output_buffer_limit=STEP))
        while not self.unpack.can_accept_more_data():
            take(self.unpack.process(b"", output_buffer_limit=STEP))


class _Zstd:
    def __init__(self) -> None:
        self.unpack = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj(read_across_frames=True)

    @property
    def ended(self) -> bool:
        return True  # across frames it cannot tell

    def feed(self, data: bytes, take: Callable[[bytes], None]) -> None:
        for start in range(0, len(data), ZSTD_STEP):
            take(self.unpack.decompress(data[start : start + ZSTD_STEP]))


UNPACKERS: dict[str, Callable[[], _Unpacker]] = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate, "br": _Brotli, "zstd": _Zstd}
