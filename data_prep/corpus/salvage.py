"""What can still be unpacked of a gzip file that is cut or damaged: everything up to the damage, and from the next member on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

GZIP = b"\x1f\x8b\x08"
CHUNK = 1 << 16
FINE = 1 << 4  # bytes given to it at a time where all that it makes of them may be lost
STEP = 1 << 20  # bytes asked of the decompressor at a time
LARGEST, RATIO = 1 << 30, 200  # a file may unpack to a GiB, and beyond that to so many times its size; text reaches 20 times


@dataclass(frozen=True)
class Lost:
    """The packed bytes that could not be unpacked. damaged: whether anything is missing; a cut checksum alone takes no bytes."""

    bytes: int = 0
    damaged: bool = False


def unpacked(data: Any, plain: BinaryIO) -> Lost:
    """Write to plain what data (bytes or a mmap) holds; behind damage, two line ends and what the next member holds.

    A file that unpacks to more than any archive of pages does is damaged from there on.
    """
    limit = max(LARGEST, RATIO * len(data))
    place = lost = 0
    damaged = False
    while place < len(data):
        if data[place : place + 3] != GZIP:
            following = _found(data, place)
            if data[place:following].strip(b"\0\r\n"):
                lost, damaged = lost + following - place, True
            place = following
            continue
        end, whole = _member(data, place, plain, limit)
        place = end
        if not whole:
            damaged = True
            place = _found(data, end) if plain.tell() <= limit else len(data)
            lost += place - end
            plain.write(b"\n\n")
    return Lost(lost, damaged)


def _found(data: Any, start: int) -> int:
    place = data.find(GZIP, start)
    return len(data) if place < 0 else int(place)


def _member(data: Any, start: int, plain: BinaryIO, limit: int) -> tuple[int, bool]:
    """Unpack one member; the place behind it, or where its damage begins, and whether it is complete."""
    inflate, place = zlib.decompressobj(31), start  # place: how far it has been given
    chunk = b""
    while plain.tell() <= limit:
        if not chunk:
            chunk = data[place : place + CHUNK]
            place += len(chunk)
        if not chunk:
            break
        before = inflate.copy()
        try:
            plain.write(inflate.decompress(chunk, STEP))
        except zlib.error:
            good = place - len(chunk) + _to_the_last_byte(before, chunk, plain)
            return max(start + 1, good), False
        if inflate.eof:
            return place - len(inflate.unused_data), True
        chunk = inflate.unconsumed_tail
    plain.write(inflate.flush())
    return place, False


def _to_the_last_byte(inflate: Any, chunk: bytes, plain: BinaryIO) -> int:
    """Unpack up to the damage; how many bytes of the chunk that is."""
    for place in range(len(chunk)):
        try:
            plain.write(inflate.decompress(chunk[place : place + 1]))
        except zlib.error:
            return place
    return len(chunk)


def beginning(packed: bytes, most: int) -> bytes:
    """What the first bytes of a gzip file hold, up to the damage, if there is any; about `most` bytes of it."""
    inflate, plain = zlib.decompressobj(31), bytearray()
    for place in range(0, len(packed), FINE):
        try:
            plain += inflate.decompress(packed[place : place + FINE])
        except zlib.error:
            return bytes(plain)
        if inflate.eof or len(plain) > most:
            break
    return bytes(plain + inflate.flush())
