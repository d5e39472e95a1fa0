"""Damaged members cost linear time, however they are nested."""

from __future__ import annotations

import gzip
import random
import zlib
from typing import Any

import pytest
from isal import isal_zlib

from data_prep.corpus import warc_records
from data_prep.corpus.warc_records import spans

RECORD = b"WARC/1.0\r\nWARC-Type: resource\r\nWARC-Target-URI: http://a/%d\r\nContent-Length: 3\r\n\r\nabc\r\n\r\n"


def nested(count: int) -> bytes:
    """Gzip members, each of which begins a stored block that covers everything behind it; no checksum holds."""
    data = b""
    for number in range(count):
        content = RECORD % number + data
        if len(content) >> 8 == 0xF5:  # the byte before the head would be a line end, and the head one of a second record
            content += bytes(256)
        blocks = [content[at : at + 0xFFFF] for at in range(0, len(content), 0xFFFF)]
        stored = b"".join(
            bytes([block is blocks[-1]]) + len(block).to_bytes(2, "little") + (len(block) ^ 0xFFFF).to_bytes(2, "little") + block
            for block in blocks
        )
        data = b"\x1f\x8b\x08" + bytes(7) + stored + bytes(8)
    return data


class CountingZlib:
    """The zlib module, or igzip's, counting the bytes that it returns."""

    def __init__(self, module: Any) -> None:
        self.unpacked, self.module, self.error = 0, module, module.error

    def decompressobj(self, wbits: int):
        counting, inflate = self, self.module.decompressobj(wbits)

        class Counting:
            eof = property(lambda _: inflate.eof)
            unused_data = property(lambda _: inflate.unused_data)
            unconsumed_tail = property(lambda _: inflate.unconsumed_tail)

            def decompress(self, data: bytes, most: int = 0) -> bytes:
                found = inflate.decompress(data, most)
                counting.unpacked += len(found)
                return found

        return Counting()


def test_nested_damaged_members_are_not_read_in_quadratic_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counting, quick = CountingZlib(zlib), CountingZlib(isal_zlib)
    monkeypatch.setattr(warc_records, "zlib", counting)
    monkeypatch.setattr(warc_records, "isal_zlib", quick)
    monkeypatch.setattr(warc_records, "LONGEST_BLOCK", 1 << 18)
    good = gzip.compress(RECORD % 7)
    data = nested(3_000) + good * 3
    found = list(spans(data))
    assert [span.start for span in found[1:]] == [span.end for span in found[:-1]]
    assert (found[0].start, found[-1].end) == (0, len(data))
    assert [span.record.url for span in found if span.record] == ["http://a/7"] * 3
    assert counting.unpacked + quick.unpacked < 30 * len(data)  # all nested members in full: more than 1,000 times the file


def test_members_are_read_as_zlib_reads_them_whatever_their_bytes() -> None:
    draw = random.Random(7)
    for _ in range(3_000):
        member = bytearray(gzip.compress(RECORD % draw.randrange(9) + draw.randbytes(draw.randrange(40)), draw.choice((0, 1, 6)), mtime=0))
        for _ in range(draw.randrange(3)):
            member[draw.randrange(len(member))] ^= 1 << draw.randrange(8)
        data = bytes(member[: draw.choice((len(member), draw.randrange(1, len(member) + 1)))]) + b"behind"
        inflate, expected = zlib.decompressobj(31), None
        try:
            plain = inflate.decompress(data)
            expected = (plain, len(data) - len(inflate.unused_data)) if inflate.eof else None
        except zlib.error:
            pass
        assert warc_records._whole_member(data, 0, warc_records.Effort(1 << 30)) == expected
