# ruff: noqa: E501  # a row of a table is a line
from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus import dumps
from infra.errors import ConfigError

HEADER = b"score,title,url,selftext,is_self"
GOOD = [
    b"4,one,http://a.test/1,,False",
    b'5,"two, and more",http://a.test/2,,False',
    b'6,"a ""quoted"" word",http://a.test/3,"over\ntwo lines",False',
]
GOOD_URLS = [f"http://a.test/{n}" for n in (1, 2, 3)]
PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data[:50]) + zstandard.ZstdCompressor().compress(data[50:]),
}


def as_lines(*texts: bytes) -> list[dumps.Line]:
    whole = b"\n".join(texts).split(b"\n")
    return [dumps.Line(number, text) for number, text in enumerate(whole, 1) if text.strip()]


def urls_of(found) -> list[str]:
    return [post.url for _, post in found if post is not None]


@pytest.mark.parametrize("packing", PACKERS)
def test_every_packing_is_opened(tmp_path, packing) -> None:
    record = {"url": "http://a.test/", "score": 3}
    (path := tmp_path / f"RS_2013-01.jsonl{packing}").write_bytes(
        PACKERS[packing]("".join(json.dumps(record | {"id": n}) + "\n" for n in range(20)).encode())
    )
    assert urls_of(dumps.submissions(path)) == ["http://a.test/"] * 20
    (path := tmp_path / f"posts.csv{packing}").write_bytes(PACKERS[packing](b"\n".join((HEADER, *GOOD))))
    assert [line.number for line, _ in dumps.submissions(path)] == [2, 3, 4]
    assert urls_of(dumps.submissions(path)) == GOOD_URLS


@pytest.mark.parametrize("packing", [".gz", ".xz", ".bz2", ".zst"])
def test_a_cut_or_damaged_file_gives_what_can_be_read_and_says_so(tmp_path, packing) -> None:
    text = b"".join(json.dumps({"url": f"http://a.test/{n * 7919 % 99991}", "score": n}).encode() + b"\n" for n in range(20_000))
    packed = PACKERS[packing](text)
    (path := tmp_path / f"x.jsonl{packing}").write_bytes(packed[: len(packed) // 2])
    found = list(dumps.submissions(path))
    assert [line.reason for line, _ in found if line.reason] == ["damaged_file"]
    assert len(urls_of(found)) > 1_000 or packing == ".bz2"  # all of this is one block of bzip2
    (path := tmp_path / f"y.jsonl{packing}").write_bytes(b"not packed at all")
    found = list(dumps.submissions(path))
    assert [line.reason for line, _ in found] == ["damaged_file"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"url": "http://a/", "score": 3}, ("http://a/", 3, False, False, False)),
        ({"url": "http://a/", "ups": "7", "downs": 2}, ("http://a/", 7, False, False, False)),
        ({"url": "http://a/", "score": "3.0", "ups": 9}, ("http://a/", 3, False, False, False)),
        ({"url": "http://a/", "score": 3, "over_18": "True"}, ("http://a/", 3, False, True, False)),
        ({"url": "http://a/", "score": 3, "over_18": "False", "is_self": "False"}, ("http://a/", 3, False, False, False)),
        ({"url": "http://a/", "score": 3, "is_self": 1}, ("http://a/", 3, True, False, False)),
        ({"url": "http://a/", "score": 3, "domain": "self.Python"}, ("http://a/", 3, True, False, False)),
        ({"url": "http://thread/", "url_overridden_by_dest": "http://a/", "score": 3}, ("http://a/", 3, False, False, False)),
        ({"url": "http://a/", "score": 3, "selftext": "[deleted]"}, ("http://a/", 3, False, False, False)),
        ({"url": "http://a/", "score": 3, "selftext": "[deleted]", "is_self": True}, ("http://a/", 3, True, False, True)),
        ({"url": "http://self.com/", "score": 3, "domain": "self.com"}, ("http://self.com/", 3, False, False, False)),
        (
            {"url": "http://self.x.org/", "score": 3, "domain": "self.x.org"},
            ("http://self.x.org/", 3, False, False, False),
        ),
        (
            {"url": "http://self.news/", "score": 3, "domain": "self.news"},
            ("http://self.news/", 3, False, False, False),
        ),
        ({"url": "http://r/", "score": 3, "domain": "self.News"}, ("http://r/", 3, True, False, False)),
        ({"url": "http://a/", "score": 3, "id": "1abc"}, ("http://a/", 3, False, False, False, "1abc")),
        ({"url": "http://a/", "score": 3, "removed_by_category": "moderator"}, ("http://a/", 3, False, False, True)),
        ({"url": "", "score": 3}, ("", 3, False, False, True)),
        ({"url": "http://a/?x=1&amp;y=2&amp;z", "score": 3}, ("http://a/?x=1&y=2&z", 3, False, False, False)),
        ({"url": "http://a/?x=1&amp;amp;y=2", "score": 3}, ("http://a/?x=1&y=2", 3, False, False, False)),
        ({"url": "http://a/?x=1&amp;y=2&z", "score": 3}, ("http://a/?x=1&y=2&z", 3, False, False, False)),
        ({"url": "http://a/?x=1&lt=2&gt;", "score": 3}, ("http://a/?x=1&lt=2&gt;", 3, False, False, False)),
        ({"url": "http://a/?x=&amp;lt;&lt;", "score": 3}, ("http://a/?x=<<", 3, False, False, False)),
        (
            {"url": "/r/x/comments/1/", "score": 5, "crosspost_parent_list": [{"url": "http://a/", "score": 99}]},
            ("http://a/", 5, False, False, False),
        ),
        (
            {"url": "/r/x/", "score": 5, "crosspost_parent_list": [{"url": "http://a/", "over_18": True}]},
            ("http://a/", 5, False, True, False),
        ),
        ({"url": "http://a/", "score": 5, "crosspost_parent_list": []}, ("http://a/", 5, False, False, False)),
        ({"url": "http://a/", "score": 5, "crosspost_parent_list": "[]"}, ("http://a/", 5, False, False, False)),
        (
            {"url": "/r/x/", "score": 5, "crosspost_parent_list": [{"url": "http://a/", "is_self": True}]},
            ("http://a/", 5, True, False, False),
        ),
    ],
)
def test_old_and_new_fields_say_the_same(record, expected) -> None:
    assert dumps.post(record) == dumps.Post(*expected)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3))
def test_a_bad_json_line_costs_itself_alone(bad: bytes, place: int) -> None:
    good = [json.dumps({"url": url, "score": 3}).encode() for url in GOOD_URLS]
    lines = as_lines(*good[:place], bad.replace(b"\n", b" "), *good[place:])
    assert [url for url in urls_of(dumps.json_posts(lines)) if url in GOOD_URLS] == GOOD_URLS
    assert len(list(dumps.json_posts(lines))) == len(lines)


NASTY = st.lists(
    st.sampled_from([b'"', b",", b'""', b'","', b"4", b"http://b.test/", b"\n", b"x", b"\xff", b"\0", b"\r"]), max_size=14
).map(b"".join)


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.binary(max_size=200), NASTY), st.integers(0, 3))
def test_a_bad_csv_line_costs_itself_alone(bad: bytes, place: int) -> None:
    lines = as_lines(HEADER, *GOOD[:place], bad, *GOOD[place:])
    assert [url for url in urls_of(dumps.csv_posts("x.csv", lines)) if url in GOOD_URLS] == GOOD_URLS


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 99), st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), st.booleans()), max_size=12)
)
def test_what_a_csv_writer_writes_is_read_back(rows) -> None:
    (file := io.StringIO(newline="")).write(HEADER.decode() + "\n")
    csv.writer(file, lineterminator="\n").writerows([n, text, f"http://a.test/{i}", text, flag] for i, (n, text, flag) in enumerate(rows))
    found = [post for _, post in dumps.csv_posts("x.csv", as_lines(file.getvalue().encode()))]
    assert [(post.karma, post.url, post.is_self) for post in found if post] == [
        (n, f"http://a.test/{i}", flag) for i, (n, _, flag) in enumerate(rows)
    ]


def test_lines_that_are_too_long_are_told_and_passed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dumps, "LONGEST_LINE", 100)
    (path := tmp_path / "x.jsonl").write_bytes(
        b'{"url": "http://a/", "score": 3}\n' + b"x" * 1_000 + b'\n{"url": "http://b/", "score": 3}\n'
    )
    assert [(line.number, line.reason, bool(post)) for line, post in dumps.submissions(path)] == [
        (1, "", True),
        (2, "too_long", False),
        (3, "", True),
    ]


@pytest.mark.parametrize("header", [b"title,link\n1,2\n", b"\x89PNG\n", b"url,title\n"])
def test_a_csv_that_is_no_dump_is_an_error_of_the_user(tmp_path, header) -> None:
    (path := tmp_path / "x.csv").write_bytes(header)
    with pytest.raises(ConfigError, match=r"x\.csv.*url.*score"):
        dumps.check_header(path)
    assert dumps.form(path) == "csv"


def test_an_empty_dump_holds_nothing(tmp_path) -> None:
    (path := tmp_path / "x.csv").write_bytes(b"")
    dumps.check_header(path)
    assert list(dumps.submissions(path)) == []


ONE_FRAME = {
    **PACKERS,
    ".zst": zstandard.ZstdCompressor(write_content_size=False).compress,
    ".zstd": zstandard.ZstdCompressor(write_checksum=True, level=19).compress,
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([".gz", ".xz", ".bz2", ".zst", ".zstd"]), st.floats(0, 1, exclude_max=True), st.integers(1, 800))
def test_a_file_cut_anywhere_gives_whole_posts_and_says_that_it_is_cut(tmp_path_factory, packing, share, lines) -> None:
    posts = [json.dumps({"url": f"http://a.test/{n * 7919 % 997}", "score": n}).encode() + b"\n" for n in range(lines)]
    whole = ONE_FRAME[packing](b"".join(posts))
    (path := tmp_path_factory.mktemp("cut") / f"x.jsonl{packing}").write_bytes(whole[: max(1, int(share * len(whole)))])
    found = list(dumps.submissions(path))
    read = urls_of(found)
    assert read == [json.loads(post)["url"] for post in posts[: len(read)]]
    assert [line.reason for line, _ in found if line.reason] == ["damaged_file"]
    path.write_bytes(whole)
    assert len(urls_of(dumps.submissions(path))) == lines == len(list(dumps.submissions(path)))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([".gz", ".xz", ".bz2", ".zst"]), st.binary(max_size=60), st.floats(0, 1), st.booleans())
def test_a_damaged_file_never_crashes(tmp_path_factory, packing, garbage, share, over) -> None:
    posts = [json.dumps({"url": f"http://a.test/{n * 7919 % 997}", "score": n}).encode() + b"\n" for n in range(40)]
    whole = PACKERS[packing](b"".join(posts))
    place = int(share * len(whole))
    (path := tmp_path_factory.mktemp("bad") / f"x.jsonl{packing}").write_bytes(
        whole[:place] + garbage + whole[place + len(garbage) * over :]
    )
    lines = [line for line, _ in dumps.submissions(path)]
    assert [line.number for line in lines] == sorted({line.number for line in lines})


ODD_LINES = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(lambda text: text.encode("utf-16")),
    st.text(max_size=40).map(lambda text: text.encode("cp949", "replace")),
    st.integers(1, 3_000).map(lambda size: b"x" * size),
    st.integers(1, 300).map(lambda depth: b"[" * depth * 1_000),
    st.sampled_from([b"\0" * 500, b"\r", b"\r\n\r\n", b"\x1a", b"\xef\xbb\xbf", b"{}", b"null", b'"', b"{" * 50, b'{"url": "http://b.test/", "score": 1e999}']),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(ODD_LINES, max_size=4), st.integers(0, 3), st.sampled_from(["", ".gz", ".zst"]))
def test_odd_lines_in_a_file_cost_no_neighbour(tmp_path_factory, odd, place, packing) -> None:
    good = [json.dumps({"url": url, "score": 3, "title": "ü"}, ensure_ascii=False).encode() for url in GOOD_URLS]
    text = b"\n".join([*good[:place], *odd, *good[place:]])
    (path := tmp_path_factory.mktemp("odd") / f"x.jsonl{packing}").write_bytes(PACKERS[packing](text))
    longest, dumps.LONGEST_LINE = dumps.LONGEST_LINE, 1_000
    try:
        found = list(dumps.submissions(path))
    finally:
        dumps.LONGEST_LINE = longest
    assert [url for url in urls_of(found) if url in GOOD_URLS] == GOOD_URLS
    assert len(found) == len([line for line in text.split(b"\n") if line.strip()])
