from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from data_prep import schemas, shards
from data_prep.corpus import json_values, readers
from data_prep.corpus.documents import DOCUMENTS, SET_ASIDE, DocumentsConfig
from data_prep.corpus.extract import document_id
from infra.artifact import SourceFile
from infra.errors import ConfigError, StageFailed
from infra.log import attach
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


def test_halves_of_surrogate_pairs_are_removed_and_counted(tmp_path: Path, rows, store, local) -> None:
    body = b'{"text": "half \\ud83d of two \\udc00\\udc00", "title": "\\ud83d"}\n{"text": "whole \\ud83d\\ude00"}\n{"id": "\\ud83d"}\n'
    made = run(DOCUMENTS, DocumentsConfig((saved(tmp_path / "d.jsonl", body),), shards=2), {}, store, local)
    assert sorted(row["text"] for row in rows(made.shards)) == ["half  of two ", "whole \U0001f600"]
    assert made.counts["lone_surrogates"] == 4


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
    with pytest.raises(ConfigError, match=r"film\.mp4: its name does not show its format"):
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


# ---- formats -------------------------------------------------------------------------------------------------------------


def test_a_zstd_file_with_a_long_window_is_read(tmp_path: Path, rows, store, local) -> None:
    """`zstd --long=31`, as dumps are packed; the library's default refuses windows over 128 MiB."""
    options = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    writer = zstandard.ZstdCompressor(compression_params=options).compressobj()
    source = saved(tmp_path / "long.jsonl.zst", writer.compress(lines({"text": "one"}, {"text": "two"})) + writer.flush())
    assert zstandard.get_frame_parameters(Path(source.path).read_bytes()).window_size == 1 << 31
    made = run(DOCUMENTS, DocumentsConfig((source,), shards=1), {}, store, local)
    assert [row["text"] for row in rows(made.shards)] == ["one", "two"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"one", b"zwei \xc3\xa9", None], pa.binary()),
        pa.array([b"one", b"zwei \xc3\xa9", None], pa.large_binary()),
        pa.array(["one", "zwei é", None], pa.large_string()),
        pa.array(["one", "zwei é", None], pa.string_view()),
        pa.array(["one", "zwei é", None]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_every_type_of_text_column_is_read(column: pa.Array, tmp_path: Path, rows, store, local) -> None:
    pq.write_table(pa.table({"text": column, "id": pa.array([1, 2, 3])}), tmp_path / "t.parquet")
    made = run(DOCUMENTS, DocumentsConfig((SourceFile.of(tmp_path / "t.parquet"),), shards=1), {}, store, local)
    assert [(row["id"], row["text"]) for row in rows(made.shards)] == [("1", "one"), ("2", "zwei é")]
    assert made.counts["set_aside.no_text"] == 1


def test_bytes_that_are_no_text_cost_their_own_row(tmp_path: Path, rows, store, local) -> None:
    pq.write_table(pa.table({"text": pa.array([b"good", b"\xff\xfe\x00", b"also"])}), tmp_path / "t.parquet")
    made = run(DOCUMENTS, DocumentsConfig((SourceFile.of(tmp_path / "t.parquet"),), shards=1), {}, store, local)
    assert [row["text"] for row in rows(made.shards)] == ["good", "also"] and made.counts["set_aside.bad_utf8"] == 1


@pytest.mark.parametrize(("columns", "message"), [({"text": [1, 2]}, "is of type int64"), ({"body": ["a"]}, "its columns are body")])
def test_a_parquet_file_without_a_text_column_is_an_error(columns: dict, message: str, tmp_path: Path, store, local) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(StageFailed, match=message):
        run(DOCUMENTS, DocumentsConfig((SourceFile.of(tmp_path / "t.parquet"),), shards=1), {}, store, local)


RECORDS = [{"text": "one, [1]", "id": "a"}, {"text": "zwei {é}", "n": None}, {"text": 'three " ] }', "x": [{"y": 1}]}]


@pytest.mark.parametrize(
    ("body", "texts", "reasons"),
    [
        (json.dumps(RECORDS, indent=2), 3, {}),
        (json.dumps(RECORDS), 3, {}),
        ("\ufeff\n " + json.dumps(RECORDS, indent=1, ensure_ascii=False), 3, {}),
        ("\n".join(json.dumps(each, indent=2) for each in RECORDS), 3, {}),
        ("[\n" + ",\n".join(json.dumps(each) for each in RECORDS) + "\n]\n", 3, {}),
        (json.dumps([*RECORDS, 5, ["a"]]), 3, {"not_object": 2}),
        (json.dumps(RECORDS)[:-30], 2, {"truncated": 1}),
        (json.dumps(RECORDS).replace('"n": null', '"n": nul'), 1, {"bad_json": 1}),
        (json.dumps(RECORDS) + " and more", 3, {"bad_json": 1}),
        ("[1, 2]\n" + json.dumps(RECORDS[0]) + "\n", 1, {"not_object": 1}),
        ("[" * 100_000, 0, {"bad_json": 1}),
        ("[]", 0, {}),
    ],
)
def test_a_json_file_may_be_one_array_or_span_lines(body: str, texts: int, reasons: dict, tmp_path: Path, rows, store, local) -> None:
    source = saved(tmp_path / "a.json", body.encode())
    made = run(DOCUMENTS, DocumentsConfig((source,), shards=1), {}, store, local)
    assert [row["text"] for row in rows(made.shards)] == [record["text"] for record in RECORDS][:texts]
    assert {key.removeprefix("set_aside."): n for key, n in made.counts.items() if key.startswith("set_aside.")} == reasons


@settings(max_examples=150, deadline=None)
@drawn(
    st.lists(st.dictionaries(st.text(max_size=3), st.one_of(st.text(), st.floats(allow_nan=False), st.lists(st.booleans()))), max_size=6),
    st.sampled_from([None, 1, 4]),
    st.booleans(),
    st.integers(1, 40),
)
def test_values_are_those_of_json_however_they_are_read(records: list, indent: int | None, array: bool, size: int) -> None:
    text = json.dumps(records, indent=indent) if array else "\n".join(json.dumps(each, indent=indent) for each in records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "CHUNK", size)
        assert list(json_values.values(io.BytesIO(text.encode()))) == records


def test_a_format_may_be_named_whatever_the_file_is_called(tmp_path: Path, rows, store, local) -> None:
    source = saved(tmp_path / "export.dat", lines({"text": "one"}))
    made = run(DOCUMENTS, DocumentsConfig((source,), shards=1, format="json"), {}, store, local)
    assert [row["text"] for row in rows(made.shards)] == ["one"]
    with pytest.raises(ConfigError, match="format 'yaml' is none of json, parquet, text, mediawiki"):
        DocumentsConfig((source,), format="yaml")


def test_a_long_text_file_without_a_separator_and_an_empty_one_are_warned_of(tmp_path: Path, store, local) -> None:
    sources = (saved(tmp_path / "articles.txt", b"word and word\n" * 40_000), saved(tmp_path / "nothing.jsonl", b'{"body": 1}\n'))
    warnings: list[str] = []
    detach = attach(lambda event: warnings.append(event["message"]) if event["kind"] == "warning" else None)
    try:
        run(DOCUMENTS, DocumentsConfig(sources, shards=1), {}, store, local)
        run(DOCUMENTS, DocumentsConfig(sources[:1], shards=1, separator="\n\n"), {}, store, local)
    finally:
        detach()
    assert len(warnings) == 2
    assert "articles.txt is read as one document of 559,999 characters" in warnings[0] and "separator" in warnings[0]
    assert "nothing.jsonl: no document in it; 1 rows quarantined" in warnings[1]


WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">
  <siteinfo><base>https://en.example.org/wiki/Main_Page</base></siteinfo>
  <page><title>Old mill</title><ns>0</ns><id>7</id><revision><id>1</id><timestamp>2016-04-25T01:02:03Z</timestamp><text>{{Infobox
| name = Mill | picture = [[File:Mill.jpg|thumb|A [[wheel]]]]
}}
[[File:Old mill.jpg|thumb|left|The mill in [[1880]]]]
The '''old mill''' ({{lang|fr|moulin}}) is a [[watermill|mill]] on the [[river]].&lt;ref&gt;A book, p. 3&lt;/ref&gt; It has ''two'' wheels.

== History ==
It was built in 1702.&lt;!-- check --&gt;
* first owner
* second owner

{| class="wikitable"
! Year !! Owner
|-
| 1702 || Miller
|}
[[Category:Mills]]
[[fr:Vieux moulin]]
__NOTOC__</text></revision></page>
  <page><title>Mill</title><ns>0</ns><id>8</id><redirect title="Old mill" /><revision><text>#REDIRECT [[Old mill]]</text></revision></page>
  <page><title>Talk:Mill</title><ns>1</ns><id>9</id><revision><text>Hello</text></revision></page>
  <page><title>Empty &amp; gone?</title><ns>0</ns><id>10</id><revision><text></text></revision></page>
</mediawiki>"""


@pytest.mark.parametrize("name", ["dump.xml.bz2", "dump.xml"])
def test_a_mediawiki_export_gives_the_prose_of_its_articles(name: str, tmp_path: Path, rows, store, local) -> None:
    source = saved(tmp_path / name, bz2.compress(WIKI.encode()) if name.endswith("bz2") else WIKI.encode())
    made = run(DOCUMENTS, DocumentsConfig((source,), shards=1), {}, store, local)
    [row] = rows(made.shards)
    assert (row["id"], row["title"], row["url"], row["date"]) == ("7", "Old mill", "https://en.example.org/wiki/Old_mill", "2016-04-25")
    assert [line for line in row["text"].split("\n") if line] == [
        "The old mill is a mill on the river. It has two wheels.",
        "History",
        "It was built in 1702.",
        "first owner",
        "second owner",
    ]
    aside = {row["source"]: row["reason"] for row in rows(made.side("set_aside"))}
    assert aside == {f"{name}:2": "redirect", f"{name}:3": "other_namespace", f"{name}:4": "empty"}


def test_a_mediawiki_export_that_ends_early_keeps_its_whole_pages(tmp_path: Path, rows, store, local) -> None:
    source = saved(tmp_path / "cut.xml", WIKI[: WIKI.index("Talk:Mill")].encode())
    made = run(DOCUMENTS, DocumentsConfig((source,), shards=1), {}, store, local)
    assert [row["title"] for row in rows(made.shards)] == ["Old mill"]
    assert made.counts["set_aside.bad_xml"] == 1 and made.counts["set_aside.redirect"] == 1


def test_entities_of_a_hostile_export_are_not_expanded(tmp_path: Path, rows, store, local) -> None:
    (tmp_path / "secret").write_text("secret")
    bomb = f'<!DOCTYPE m [<!ENTITY a SYSTEM "file://{tmp_path}/secret"><!ENTITY b "&a;&a;">]>'
    page = "<page><title>T</title><ns>0</ns><id>1</id><revision><text>x &b; &a; y</text></revision></page>"
    source = saved(tmp_path / "evil.xml", f"{bomb}<mediawiki>{page}</mediawiki>".encode())
    made = run(DOCUMENTS, DocumentsConfig((source,), shards=1), {}, store, local)
    assert all("secret" not in row["text"] for row in rows(made.shards))
