from __future__ import annotations

import bz2
import datetime
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep import schemas, shards
from data_prep.corpus import readers
from data_prep.corpus.documents import DOCUMENTS, SET_ASIDE, DocumentsConfig
from data_prep.corpus.extract import document_id
from infra.artifact import SourceFile
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store

PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}


def saved(path: Path, body: bytes) -> SourceFile:
    path.write_bytes(body)
    return SourceFile.of(path)


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(v, ensure_ascii=False).encode() + b"\n" for v in values)


@pytest.mark.parametrize("ending", PACKERS)
def test_json_lines_are_read_however_they_are_packed(ending: str, tmp_path: Path, rows, store, local) -> None:
    body = lines(
        {"text": "one é", "url": "http://a.test/x", "title": "T", "date": "2020-02-29T08:00"},
        {"text": "two"},
        {"text": "three", "id": "t3"},
    )
    source = saved(tmp_path / f"d.jsonl{ending}", PACKERS[ending](body))
    made = run(DOCUMENTS, DocumentsConfig((source,), shards=1), {}, store, local)
    first, second, third = rows(made.shards)
    assert first == {
        "id": document_id("http://a.test/x"),
        "url": "http://a.test/x",
        "host": "a.test",
        "title": "T",
        "text": "one é",
        "language": "",
        "date": "2020-02-29",
        "charset": "",
        "karma": None,
        "source": f"d.jsonl{ending}:1",
    }
    assert (second["text"], second["url"], third["id"]) == ("two", "", "t3")
    assert len(second["id"]) == 16
    assert shards.read(made.shards[0]).schema.remove_metadata() == schemas.DOCUMENTS


def test_every_bad_line_is_kept_aside_with_its_reason_and_its_neighbours_stay(tmp_path: Path, rows, store, local) -> None:
    body = (
        lines({"text": "good"})
        + b'{"text": "cut\n'
        + b"\xff\xfe{\n"
        + b"[1, 2]\n"
        + b"\n"
        + lines({"txt": 1}, {"text": 5}, {"text": " \n"})
    )
    body += b"[" * 100_000 + b"\n" + lines({"text": "nul \x00 and \ud800 end".encode("utf-8", "replace").decode()}, {"text": "last"})
    packed = gzip.compress(lines(*({"text": f"half {i * i}"} for i in range(20_000))))[:-20_000]
    sources = (saved(tmp_path / "bad.jsonl", body), saved(tmp_path / "cut.jsonl.gz", packed), saved(tmp_path / "not.parquet", b"PAR1 no"))
    made = run(DOCUMENTS, DocumentsConfig(sources, shards=2), {}, store, local)
    aside = {row["source"]: row["reason"] for row in rows(made.side("set_aside"))}
    cut = [source for source in aside if source.startswith("cut")]
    saved_lines = int(cut[0].split(":")[1]) - 1  # what stood before the cut, but for the reader's last block
    assert 5000 < saved_lines < 20_000
    assert aside == {
        "bad.jsonl:2": "bad_json",
        "bad.jsonl:3": "bad_utf8",
        "bad.jsonl:4": "not_object",
        "bad.jsonl:6": "no_text",
        "bad.jsonl:7": "no_text",
        "bad.jsonl:8": "empty",
        "bad.jsonl:9": "bad_json",
        cut[0]: "truncated",
        "not.parquet:1": "truncated",
    }
    texts = [row["text"] for row in rows(made.shards)]
    assert {t for t in texts if not t.startswith("half")} == {"good", "nul  and ? end", "last"}
    assert len(texts) == 3 + saved_lines
    assert made.counts["read"] == made.counts["kept"] + 9
    assert shards.read(made.side("set_aside")[0]).schema.remove_metadata() == SET_ASIDE


@pytest.mark.parametrize("name", ["cut.jsonl.zst", "cut.txt.zst"])
def test_a_zstd_file_without_its_end_is_told_and_its_whole_lines_stay(name: str, tmp_path: Path, rows, store, local) -> None:
    packed = zstandard.compress(lines(*({"text": f"half {i * i}"} for i in range(200_000))))
    made = run(DOCUMENTS, DocumentsConfig((saved(tmp_path / name, packed[: len(packed) // 2]),), shards=1), {}, store, local)
    texts = [row["text"] for row in rows(made.shards)]
    assert texts == [f"half {i * i}" for i in range(len(texts))]
    assert (1000 < len(texts) < 200_000) if "jsonl" in name else not texts
    assert [(row["reason"], row["source"]) for row in rows(made.side("set_aside"))] == [("truncated", f"{name}:{len(texts) + 1}")]


def test_parquet_and_plain_text_are_read_too(tmp_path: Path, rows, store, local) -> None:
    pq.write_table(
        pa.table({"body": ["a", None, "c"], "link": ["http://p.test/1", None, "http://p.test/3"], "n": [1, 2, 3]}), tmp_path / "p.parquet"
    )
    plain = saved(tmp_path / "book.txt.gz", gzip.compress("Zeile eins\r\nZeile zwei\n====\nmehr".encode("cp1252")))
    config = DocumentsConfig((SourceFile.of(tmp_path / "p.parquet"), plain), text="body", url="link", separator="====\n", shards=1)
    made = run(DOCUMENTS, config, {}, store, local)
    assert [(r["text"], r["source"]) for r in rows(made.shards)] == [
        ("a", "p.parquet:1"),
        ("c", "p.parquet:3"),
        ("Zeile eins\nZeile zwei", "book.txt.gz:1"),
        ("mehr", "book.txt.gz:2"),
    ]
    assert made.counts["set_aside.no_text"] == 1


@drawn(st.lists(st.binary(max_size=60), max_size=12))
def test_no_bytes_can_stop_the_reader_and_every_line_is_answered(body: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(b"\n".join(body))
        got = list(readers.rows(str(path), "jsonl", ["text"]))
    real = [i for i, line in enumerate(b"\n".join(body).split(b"\n"), 1) if line.strip()]
    assert [row.number for row in got] == real
    assert all(row.reason or isinstance(row.fields, dict) for row in got)


@drawn(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=20))
def test_texts_that_were_written_are_the_texts_that_are_read(texts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl.gz"
        path.write_bytes(gzip.compress(b"".join(json.dumps({"text": t}).encode() + b"\n" for t in texts)))
        assert [row.fields["text"] for row in readers.rows(str(path), "jsonl", ["text"])] == texts


def test_dealing_is_even_complete_and_the_same_every_time(tmp_path: Path, rows, content, local) -> None:
    sources = tuple(
        saved(tmp_path / f"{n}.jsonl", lines(*({"text": f"{n} {i}"} for i in range(size)))) for n, size in enumerate((13, 0, 29))
    )
    made = [run(DOCUMENTS, DocumentsConfig(sources, shards=4), {}, Store(tmp_path / name), local) for name in "ab"]
    assert content(made[0]) == content(made[1])
    sizes = [shards.read(path).num_rows for path in made[0].shards]
    assert (sum(sizes), max(sizes) - min(sizes)) == (42, 1)
    assert sorted(r["text"] for r in rows(made[0].shards)) == sorted(f"{n} {i}" for n, size in ((0, 13), (2, 29)) for i in range(size))


def test_parts_of_bounded_size_change_nothing(tmp_path: Path, content, local, monkeypatch) -> None:
    from data_prep.corpus import documents

    source = saved(tmp_path / "d.jsonl", lines(*({"text": f"text {i}"} for i in range(50))))
    whole = run(DOCUMENTS, DocumentsConfig((source,), shards=3), {}, Store(tmp_path / "a"), local)
    monkeypatch.setattr(documents, "PART_CHARACTERS", 40)
    parts = run(DOCUMENTS, DocumentsConfig((source,), shards=3), {}, Store(tmp_path / "b"), local)
    assert content(whole) == content(parts)


def test_the_place_of_a_file_is_no_part_of_the_fingerprint(tmp_path: Path, store, local) -> None:
    made = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        made.append(run(DOCUMENTS, DocumentsConfig((saved(tmp_path / folder / "d.jsonl", lines({"text": "x"})),)), {}, store, local))
    assert made[0].fingerprint == made[1].fingerprint


def test_files_that_cannot_be_documents_are_refused_before_any_work(tmp_path: Path) -> None:
    source = saved(tmp_path / "film.mp4", b"")
    with pytest.raises(ConfigError, match=r"film\.mp4: its name does not say"):
        DocumentsConfig((source,))
    with pytest.raises(ConfigError, match="no file"):
        DocumentsConfig(())
    with pytest.raises(ConfigError, match="at least 1"):
        DocumentsConfig((saved(tmp_path / "a.jsonl", b""),), shards=0)


def test_real_collections_are_read_whole(data: Path, rows, store, local) -> None:
    names = ("text/en/state-of-the-union.jsonl.gz", "text/en/tinyshakespeare.txt.gz", "text/en/cc-en-head-0091.jsonl.gz")
    sources = tuple(SourceFile.of(data / name) for name in names)
    made = run(DOCUMENTS, DocumentsConfig(sources, shards=3), {}, store, local)
    assert (made.counts["read"], made.counts["kept"]) == (76, 76)
    assert len({row["id"] for row in rows(made.shards)}) == 76
    made = run(DOCUMENTS, DocumentsConfig(sources[2:], url="id", id="", shards=3), {}, store, local)
    assert all(row["url"].startswith("http") and row["host"] for row in rows(made.shards))


def test_a_day_in_a_column_of_another_name_or_type_is_read_and_what_is_no_day_is_none(tmp_path: Path, rows, store, local) -> None:
    days = [datetime.date(2020, 2, 29), None, datetime.date(1880, 1, 1)]
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"], "day": pa.array(days)}), path)
    sources = (
        SourceFile.of(path),
        saved(tmp_path / "e.jsonl", lines({"text": "d", "day": 20200229}, {"text": "e", "day": ["2020-02-29"]})),
    )
    made = run(DOCUMENTS, DocumentsConfig(sources, date="day", shards=1), {}, store, local)
    assert [row["date"] for row in rows(made.shards)] == ["2020-02-29", "", "", "2020-02-29", ""]
