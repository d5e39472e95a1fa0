"""WARC files packed with zstd: a frame per record or one for all, with and without a dictionary, damaged anywhere."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import zstd_archive
from data_prep.corpus.extract import EXTRACT, ExtractConfig
from data_prep.corpus.warc import WARC, WarcConfig
from infra.artifact import SourceFile
from infra.errors import ArtifactError
from infra.stage import run

WORDS = [
    "the",
    "harbor",
    "lay",
    "still",
    "in",
    "the",
    "early",
    "light",
    "and",
    "the",
    "boats",
    "had",
    "not",
    "yet",
    "come",
    "down",
    "from",
    "the",
    "village",
    "to",
    "the",
    "sea",
]


def record(number: int) -> bytes:
    text = " ".join(WORDS[(number * at + at // 7) % len(WORDS)] for at in range(200))
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + f"<p>page {number}: {text}</p>".encode()
    head = f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: http://h.test/{number}\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


RECORDS = [record(number) for number in range(5)]
DICTIONARY = zstandard.ZstdCompressionDict(b"".join(record(number) for number in range(5, 9)))


def skippable(content: bytes, kind: int = 0x5D) -> bytes:
    return bytes((kind, 0x2A, 0x4D, 0x18)) + struct.pack("<I", len(content)) + content


def frames(with_dictionary: bool = False) -> list[bytes]:
    pack = zstandard.ZstdCompressor(dict_data=DICTIONARY if with_dictionary else None, write_checksum=True)
    return [pack.compress(each) for each in RECORDS]


def unpacked(data: bytes) -> tuple[bytes, zstd_archive.Lost]:
    plain = io.BytesIO()
    lost = zstd_archive.unpacked(data, plain)
    return plain.getvalue(), lost


def pages(path: Path, rows, store, local):
    made = run(WARC, WarcConfig((SourceFile.of(path),)), {}, store, local)
    return made, [row["url"][-1] for row in rows(made.shards)]


ARCHIVES = {
    "a frame per record": lambda: b"".join(frames()),
    "one frame": lambda: zstandard.ZstdCompressor().compress(b"".join(RECORDS)),
    "a dictionary": lambda: skippable(DICTIONARY.as_bytes()) + b"".join(frames(True)),
    "a packed dictionary": lambda: skippable(zstandard.ZstdCompressor().compress(DICTIONARY.as_bytes())) + b"".join(frames(True)),
    "other skippable frames": lambda: skippable(b"index", 0x50) + skippable(b"", 0x5F).join(frames()),
    "an unknown size": lambda: b"".join(_streamed(each) for each in RECORDS),
}


def _streamed(content: bytes) -> bytes:
    pack = zstandard.ZstdCompressor().compressobj()
    return pack.compress(content) + pack.flush()


@pytest.mark.parametrize("kind", ARCHIVES)
def test_every_record_becomes_a_page_and_its_text_a_document(kind: str, tmp_path: Path, rows, store, local) -> None:
    path = tmp_path / "crawl.warc.zst"
    path.write_bytes(ARCHIVES[kind]())
    made, found = pages(path, rows, store, local)
    assert found == list("01234")
    assert made.counts["bytes_read"] == len(b"".join(RECORDS)) == made.counts["bytes_delivered"]
    documents = run(EXTRACT, ExtractConfig(engine="resiliparse"), {"pages": made}, store, local)
    assert [row["text"][:7] for row in rows(documents.shards)] == [f"page {number}:" for number in range(5)]


@pytest.mark.parametrize("with_dictionary", [False, True])
@pytest.mark.parametrize("fault", ["flip", "head", "cut", "last cut"])
def test_a_damaged_frame_costs_its_record_alone(fault: str, with_dictionary: bool, tmp_path: Path, rows, store, local) -> None:
    packed = frames(with_dictionary)
    damaged = 4 if fault == "last cut" else 2
    broken = bytearray(packed[damaged])
    if fault == "flip":
        broken[len(broken) // 2] ^= 0xFF
    elif fault == "head":
        broken[:6] = b"#" * 6
    else:
        broken = broken[: len(broken) // 2]
    start = skippable(DICTIONARY.as_bytes()) if with_dictionary else b""
    path = tmp_path / "crawl.warc.zst"
    path.write_bytes(start + b"".join([*packed[:damaged], bytes(broken), *packed[damaged + 1 :]]))
    made, found = pages(path, rows, store, local)
    assert found == [each for each in "01234" if each != str(damaged)]
    assert made.counts["set_aside.corrupt_record"] == 1
    assert made.counts["bytes_read"] == made.counts["bytes_delivered"] + made.counts["bytes_quarantined"] + made.counts["bytes_skipped"]


def test_a_dictionary_that_cannot_be_read_is_an_error_and_no_crash(tmp_path: Path, rows, store, local) -> None:
    path = tmp_path / "crawl.warc.zst"
    path.write_bytes(skippable(zstd_archive.FRAME + b"nothing") + b"".join(frames(True)))
    with pytest.raises(ArtifactError, match="no page in 1 file"):
        pages(path, rows, store, local)


def test_a_file_that_unpacks_to_more_than_any_archive_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_archive, "LARGEST", 1 << 20)
    monkeypatch.setattr(zstd_archive, "RATIO", 1)
    plain, lost = unpacked(frames()[0] + zstandard.ZstdCompressor().compress(bytes(1 << 28)))
    assert lost.damaged and RECORDS[0] in plain and len(plain) < 64 << 20


@drawn(st.integers(0, 4), st.floats(0, 1), st.integers(1, 255), st.booleans())
def test_one_changed_byte_costs_one_record_at_most(which: int, where: float, change: int, with_dictionary: bool) -> None:
    packed = frames(with_dictionary)
    broken = bytearray(packed[which])
    broken[int(where * (len(broken) - 1))] ^= change
    packed[which] = bytes(broken)
    plain, lost = unpacked((skippable(DICTIONARY.as_bytes()) if with_dictionary else b"") + b"".join(packed))
    assert all(each in plain for number, each in enumerate(RECORDS) if number != which)
    assert lost.damaged or RECORDS[which] in plain
    assert lost.bytes <= len(broken)


@drawn(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_are_read_to_their_end(junk: bytes, at: int) -> None:
    data = b"".join(frames()[:2])
    unpacked(data[:at] + junk + data[at:])
    unpacked(junk)
