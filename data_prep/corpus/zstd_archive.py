"""What can be unpacked of a zstd file of frames (.warc.zst): everything up to damage, and from the next frame on.

A dictionary for all frames may be in a skippable frame at the start, itself packed or not (Zstandard Compression for WARC Files 1.0).
"""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import zstandard

from data_prep.corpus.salvage import GZIP, LARGEST, RATIO, Lost
from data_prep.packed import WIDEST_WINDOW

FRAME = b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1
DICTIONARY = b"\x5d\x2a\x4d\x18"  # a skippable frame with a dictionary
SKIPPABLE_HEAD = 8  # bytes of magic number and length (RFC 8878, section 3.1.2)
LARGEST_DICTIONARY = 100 << 20  # bytes of an unpacked dictionary
GIVEN = 1 << 10  # bytes given at a time: all that they hold is unpacked, and a block of 4 bytes can hold 128 KiB
RETRIES = 8  # times the file's size that may be read in damaged frames before reading resumes where the damage was noticed
_START = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")


def is_zstd(data: Any) -> bool:
    """Whether a file (bytes or a mmap) starts with a frame, or with a skippable one; where its start is damaged, by what comes first."""
    if _START.match(data):
        return True
    if data[:3] == GZIP or data[:5] == b"WARC/":
        return False
    first = data.find(FRAME)
    return first >= 0 and data.find(GZIP, 0, first) < 0 and data.find(b"WARC/", 0, first) < 0


def unpacked(data: Any, plain: BinaryIO) -> Lost:
    """Write to plain what data (bytes or a mmap) holds; behind damage, two line ends and what the next frame holds.

    A file that unpacks to more than any archive of pages does is damaged from there on.
    """
    limit = max(LARGEST, RATIO * len(data))
    decompressor = _decompressor(data)
    place = lost = tried = 0
    damaged = False
    while place < len(data):
        found = _START.match(data, place)
        if found and found[0] != FRAME:
            end = place + SKIPPABLE_HEAD + int.from_bytes(data[place + 4 : place + SKIPPABLE_HEAD], "little")
            damaged, place = damaged or end > len(data), min(end, len(data))
            continue
        end, complete = _frame(data, place, decompressor, plain, limit) if found else (place, False)
        if not complete:
            tried += end - place
            again = place + 1 if tried <= RETRIES * len(data) else end  # a damaged length may have taken in the frames behind it
            following = _START.search(data, max(again, place + 1)) if plain.tell() <= limit else None
            end, start = following.start() if following else len(data), end
            if found or data[start:end].strip(b"\0\r\n"):
                lost, damaged = lost + max(0, end - start), True
                plain.write(b"\n\n")
        place = end
    return Lost(lost, damaged)


def _decompressor(data: Any) -> zstandard.ZstdDecompressor:
    """With the dictionary that the file starts with; one that cannot be read leaves the frames that need it damaged."""
    if data[:4] == DICTIONARY:
        held = data[SKIPPABLE_HEAD : SKIPPABLE_HEAD + int.from_bytes(data[4:SKIPPABLE_HEAD], "little")]
        if held[:4] == FRAME:
            try:
                with zstandard.ZstdDecompressor(max_window_size=LARGEST_DICTIONARY).stream_reader(held) as reader:
                    held = reader.read(LARGEST_DICTIONARY)
            except zstandard.ZstdError:
                held = b""
        if held:
            return zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(held), max_window_size=WIDEST_WINDOW)
    return zstandard.ZstdDecompressor(max_window_size=WIDEST_WINDOW)


def _frame(data: Any, start: int, decompressor: zstandard.ZstdDecompressor, plain: BinaryIO, limit: int) -> tuple[int, bool]:
    """Unpack one frame; the place behind it, or where its damage was noticed, and whether it is complete."""
    frame, place = decompressor.decompressobj(), start
    while place < len(data) and plain.tell() <= limit:
        piece = data[place : place + GIVEN]
        try:
            plain.write(frame.decompress(piece))
        except (zstandard.ZstdError, MemoryError):
            return (start + 1 if place == start else place), False
        place += len(piece)
        if frame.eof:
            return place - len(frame.unused_data), True
    return place, False
