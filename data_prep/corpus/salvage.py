"""What can still be unpacked of a gzip file that is cut or damaged: everything up to the damage, to the byte."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 16
FINE = 1 << 4  # bytes given to it at a time where all that it makes of them may be lost
STEP = 1 << 20  # bytes asked of the decompressor at a time
LARGEST, RATIO = 1 << 30, 200  # a file may unpack to a GiB, and beyond that to so many times its size; text reaches 20 times


def unpacked(source: Path, target: Path) -> bool:
    """Write what source holds to target; False when something at its end is lost, or it is larger than any archive of pages."""
    limit = max(LARGEST, RATIO * source.stat().st_size)
    inflate = zlib.decompressobj(31)
    with source.open("rb") as packed, target.open("wb") as plain:
        while chunk := packed.read(CHUNK):
            while chunk:
                before = inflate.copy()
                try:
                    plain.write(inflate.decompress(chunk, STEP))
                except zlib.error:
                    _to_the_last_byte(before, chunk, plain)
                    return False
                chunk = inflate.unused_data or inflate.unconsumed_tail
                if inflate.eof and chunk:
                    if not chunk.strip(b"\0"):
                        break
                    inflate = zlib.decompressobj(31)
                elif inflate.eof:
                    break
            if inflate.eof:
                inflate = zlib.decompressobj(31) if packed.peek(1) else inflate
            if plain.tell() > limit:
                return False
        plain.write(inflate.flush())
    return inflate.eof


def _to_the_last_byte(inflate: Any, chunk: bytes, plain: BinaryIO) -> None:
    for place in range(len(chunk)):
        try:
            plain.write(inflate.decompress(chunk[place : place + 1]))
        except zlib.error:
            return


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
