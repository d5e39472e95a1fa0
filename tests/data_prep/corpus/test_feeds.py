# ruff: noqa: E501  # a row of a table is a line
"""Sitemaps and feeds: well-formed ones against the standard library's parser, broken and hostile ones by what must be left."""

from __future__ import annotations

import bz2
import gzip
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus import feeds

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
RSS = '<rss version="2.0"><channel><title>t</title><link>http://channel.test/</link>'
GOOD = [f"http://good.test/{n}?a=1&b=ü" for n in range(4)]


def as_url(url: str) -> str:
    return f"<url><loc>{url.replace('&', '&amp;')}</loc></url>\n"


def as_item(url: str) -> str:
    return (
        f"<item><title>a &lt;b&gt;</title><link>{url.replace('&', '&amp;')}</link><description><![CDATA[<p>x</p>]]></description></item>\n"
    )


def read(folder: Path, content: str | bytes, kind: str = "sitemap", name: str = "x.xml") -> list[feeds.Found]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = list(feeds.entries(path, kind))
    assert all((entry is None) == bool(line.reason) for line, entry in found)
    assert [line.number for line, _ in found] == list(range(1, len(found) + 1))
    return found


def urls_of(found: list[feeds.Found]) -> list[str]:
    return [entry.url for _, entry in found if entry]


def reasons(found: list[feeds.Found]) -> list[str]:
    return [line.reason for line, _ in found if line.reason]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("sitemap", HEAD + "<url><loc> http://a.test/ </loc><lastmod>2024-09-05T08:00:00+00:00</lastmod></url></urlset>", ("http://a.test/", "2024-09-05")),
        ("sitemap", HEAD + "<url><lastmod>2024-09</lastmod><loc>http://a.test/?a=1&amp;b=2</loc></url></urlset>", ("http://a.test/?a=1&b=2", "2024-09")),
        ("sitemap", "<urlset><url><loc>http://a.test/</loc></url></urlset>", ("http://a.test/", "")),
        ("sitemap", '<s:urlset xmlns:s="x"><s:url><s:loc><![CDATA[http://a.test/?a&b]]></s:loc></s:url></s:urlset>', ("http://a.test/?a&b", "")),
        (
            "sitemap",
            HEAD + '<url xmlns:i="y"><i:image><i:loc>http://a.test/1.jpg</i:loc></i:image><loc>http://a.test/</loc></url></urlset>',
            ("http://a.test/", ""),
        ),
        ("feed", RSS + "<item><link>http://a.test/</link><pubDate>Thu, 05 Sep 2024 08:00:00 +0200</pubDate></item></channel></rss>", ("http://a.test/", "2024-09-05")),
        ("feed", RSS + "<item><guid>http://a.test/</guid><pubDate>Mon, 01 Jan 0001 00:00:00 +0000</pubDate></item></channel></rss>", ("http://a.test/", "")),
        (
            "feed",
            RSS + '<item><atom:link xmlns:atom="http://www.w3.org/2005/Atom" rel="self" href="http://a.test/self"/><link>http://a.test/</link></item></channel></rss>',
            ("http://a.test/", ""),
        ),
        (
            "feed",
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/" xmlns:dc="d">'
            '<item rdf:about="http://a.test/"><link>http://a.test/</link><dc:date>2003-12-13T18:30:02Z</dc:date></item></rdf:RDF>',
            ("http://a.test/", "2003-12-13"),
        ),
        (
            "feed",
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><item rdf:about="http://a.test/"/></rdf:RDF>',
            ("http://a.test/", ""),
        ),
        (
            "feed",
            '<feed xmlns="http://www.w3.org/2005/Atom"><link href="http://a.test/home"/><entry><link rel="edit" href="http://a.test/e"/>'
            '<link href="http://a.test/1"/><updated>2003-12-13T18:30:02Z</updated><published>2001-01-01</published></entry></feed>',
            ("http://a.test/1", "2003-12-13"),
        ),
        (
            "feed",
            '<feed xmlns="http://www.w3.org/2005/Atom" xml:base="http://a.test/blog/"><entry xml:base="2003/"><link rel="alternate" href="1.html"/></entry></feed>',
            ("http://a.test/blog/2003/1.html", ""),
        ),
        ("feed", '<!DOCTYPE rss PUBLIC "-//Netscape//DTD RSS 0.91//EN" "http://a.test/rss.dtd">' + RSS + "<item><link>http://a.test/</link></item></channel></rss>", ("http://a.test/", "")),
    ],
)  # fmt: skip
def test_each_form_says_its_page_and_day(tmp_path, kind, text, expected) -> None:
    found = read(tmp_path, text, kind)
    assert [tuple(entry) for _, entry in found if entry] == [expected]
    assert reasons(found) == []


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("sitemap", HEAD + "<url><lastmod>2024</lastmod></url>" + as_url(GOOD[0]) + "</urlset>", ["no_url"]),
        ("sitemap", "<sitemapindex><sitemap><loc>http://a.test/s.xml</loc></sitemap></sitemapindex>", ["other_sitemap"]),
        ("sitemap", RSS + as_item(GOOD[0]) + "</channel></rss>", ["not_sitemap"]),
        ("feed", HEAD + as_url(GOOD[0]) + "</urlset>", ["not_feed"]),
        ("feed", RSS + '<item><guid isPermaLink="false">http://a.test/</guid></item></channel></rss>', ["no_url"]),
        ("sitemap", "<!DOCTYPE html><html><body><p>404<br></body></html>", ["not_xml"]),
        ("sitemap", "", ["not_xml"]),
        ("sitemap", b"\x89PNG\r\n\x1a\n\0\0", ["not_xml"]),
        ("sitemap", HEAD + as_url(GOOD[0]) + "<url><loc>http://cut.test/lo", ["open_record", "broken_xml"]),
        ("sitemap", HEAD + "<url><loc>http://a.test/<b>x</b></loc></url></urlset>", ["no_url"]),
        ("sitemap", (HEAD + "<url><loc>http://a.test/").encode() + b"\xff</loc></url></urlset>", ["bad_characters", "broken_xml"]),
    ],
)
def test_what_is_no_link_is_told_with_its_reason(tmp_path, kind, text, expected) -> None:
    found = read(tmp_path, text, kind)
    assert reasons(found) == expected
    assert not [url for url in urls_of(found) if url not in GOOD]


def test_an_index_s_files_are_listed_to_be_fetched_by_somebody(tmp_path) -> None:
    found = read(tmp_path, "<sitemapindex><sitemap><loc>http://a.test/s.xml</loc></sitemap></sitemapindex>")
    assert [line.shown for line, _ in found] == ["http://a.test/s.xml"]


def test_mistakes_that_feeds_often_have_cost_nothing(tmp_path) -> None:
    text = (
        RSS
        + "<item><title>Bread & butter &eacute; &nbsp;</title><link>http://a.test/?x=1&y=2&copy=3</link></item>"
        + "<item><media:thumbnail url='x'/><link><![CDATA[http://a.test/2?x=1&y=2]]></link><description><![CDATA[about <item>s and </item>s]]></description></item>"
        + "<item><title>\x0b</title><link>http://a.test/3?x=1&amp;y=2</link></item></channel></rss>"
    )
    found = read(tmp_path, text, "feed")
    assert urls_of(found) == ["http://a.test/?x=1&y=2&copy=3", "http://a.test/2?x=1&y=2", "http://a.test/3?x=1&y=2"]
    assert reasons(found)[-1] == "broken_xml"


def test_a_record_within_a_comment_or_text_of_a_sound_file_is_none(tmp_path) -> None:
    text = HEAD + f"<!-- {as_url('http://hidden.test/')} -->" + as_url(GOOD[0]) + "</urlset>"
    assert urls_of(read(tmp_path, text)) == [GOOD[0]]
    text = (
        RSS
        + f"<item><link>http://a.test/</link><description><![CDATA[{as_item('http://x.test/').replace(']]>', '')}]]></description></item></channel></rss>"
    )
    assert urls_of(read(tmp_path, text, "feed")) == ["http://a.test/"]


GARBAGE = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["<", ">", "&", "</urlset>", "<!--", "-->", "<![CDATA[", "]]>", "<url>", "</url>", "<loc>", "</loc>", "<?xml", "?>", "<a b='", '"', "&x;", "\0", "<!DOCTYPE x ["]
        ),
        max_size=8,
    ).map("".join),
).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=40)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(GARBAGE, st.integers(0, 4))
def test_garbage_between_records_costs_no_neighbour(tmp_path_factory, garbage: bytes, place: int) -> None:
    folder = tmp_path_factory.mktemp("map")
    parts = [as_url(url).encode() for url in GOOD]
    text = HEAD.encode() + b"".join([*parts[:place], garbage, *parts[place:]]) + b"</urlset>"
    assert [url for url in urls_of(read(folder, text)) if url in GOOD] == GOOD


@settings(max_examples=150, deadline=None)
@given(GARBAGE, st.integers(0, 4))
def test_garbage_between_items_of_a_feed_costs_no_neighbour(tmp_path_factory, garbage: bytes, place: int) -> None:
    folder = tmp_path_factory.mktemp("feed")
    parts = [as_item(url).encode() for url in GOOD]
    text = RSS.encode() + b"".join([*parts[:place], garbage, *parts[place:]]) + b"</channel></rss>"
    found = [url for url in urls_of(read(folder, text, "feed")) if url in GOOD]
    assert Counter(found) >= Counter(GOOD)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace"))),
    st.sampled_from(["sitemap", "feed"]),
)
def test_any_bytes_end_in_records_with_reasons(tmp_path_factory, content, kind) -> None:
    found = read(tmp_path_factory.mktemp("any"), content, kind)
    assert not urls_of(found) or b"<" in content


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1), max_size=8),
    st.sampled_from(["utf-8", "utf-16", "iso-8859-1"]),
)
def test_what_an_xml_writer_writes_is_read_back(tmp_path_factory, texts, encoding) -> None:
    wanted = [f"http://a.test/{text.strip()}x" for text in texts if "\ufffd" not in text and "\ufffe" not in text and "\uffff" not in text]
    root = ElementTree.Element("urlset")
    for url in wanted:
        ElementTree.SubElement(ElementTree.SubElement(root, "url"), "loc").text = url
    found = read(tmp_path_factory.mktemp("back"), ElementTree.tostring(root, encoding=encoding, xml_declaration=True))
    assert urls_of(found) == wanted and reasons(found) == []


def test_a_broken_file_in_another_encoding_is_read(tmp_path) -> None:
    text = HEAD.replace("UTF-8", "ISO-8859-1") + as_url("http://a.test/é") + "&"
    assert urls_of(read(tmp_path, text.encode("latin-1"))) == ["http://a.test/é"]
    text = HEAD.replace("UTF-8", "UTF-16") + as_url("http://a.test/é") + "&"
    assert urls_of(read(tmp_path, text.encode("utf-16"))) == ["http://a.test/é"]


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
SECRET = "file:///etc/passwd"


@pytest.mark.parametrize(
    "doctype",
    [
        f'<!DOCTYPE urlset [<!ENTITY l0 "ha">{LAUGHS}]>',
        f'<!DOCTYPE urlset [<!ENTITY l0 "ha">{LAUGHS}<!ATTLIST url a CDATA "&l11;">]>',
        f'<!DOCTYPE urlset [<!ENTITY % p0 "ha">{LAUGHS.replace("ENTITY l", "ENTITY % p").replace("&l", "%p")} %p11;]>',
        f'<!DOCTYPE urlset [<!ENTITY l11 SYSTEM "{SECRET}">]>',
        f'<!DOCTYPE urlset [<!ENTITY % x SYSTEM "{SECRET}"> %x; <!ENTITY l11 "x">]>',
        f'<!DOCTYPE urlset SYSTEM "{SECRET}">',
        '<!DOCTYPE urlset [<!ENTITY l11 "&l11;">]>',
    ],
)
@pytest.mark.parametrize("place", ["<url><loc>http://evil.test/&l11;</loc></url>", "<url x='&l11;'><loc>http://evil.test/</loc></url>"])
def test_entities_are_never_expanded_nor_files_opened(tmp_path, doctype, place) -> None:
    tracemalloc.start()
    found = read(tmp_path, f'<?xml version="1.0"?>{doctype}<urlset>{place}{as_url(GOOD[0])}</urlset>')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert GOOD[0] in urls_of(found) and (reasons(found) or " SYSTEM" in doctype)
    assert not any("root:" in url or "haha" in url for url in urls_of(found))
    assert all(len(line.text) < 2_000 for line, _ in found) and peak < 5_000_000


@pytest.mark.parametrize("piece", ["<![CDATA[", "<!--", "<url>", "<url ", "<url><loc>", "</url>", "&amp;", "<a>", "]]>", "<url><![CDATA["])
def test_a_file_of_one_mark_over_and_over_is_read_in_time(tmp_path, piece) -> None:
    text = HEAD + piece * 200_000 + as_url(GOOD[0]) + "]]> -->" + as_url(GOOD[1])
    found = urls_of(read(tmp_path, text))
    assert GOOD[1] in found


@pytest.mark.parametrize(("name", "pack"), [("x.xml.gz", gzip.compress), ("x.xml.bz2", bz2.compress), ("x.xml.zst", zstandard.compress)])
def test_packed_cut_and_bombs(tmp_path, monkeypatch, name, pack) -> None:
    text = (HEAD + "".join(as_url(f"http://a.test/{n * 7919 % 99991}") for n in range(20_000)) + "</urlset>").encode()
    packed = pack(text)
    assert len(urls_of(read(tmp_path, packed, name=name))) == 20_000
    cut = read(tmp_path, packed[: len(packed) // 2], name=name)
    assert reasons(cut)[-1] == "damaged_file"
    assert len(urls_of(cut)) > 5_000 or name.endswith("bz2")
    monkeypatch.setattr(feeds, "LARGEST", 500_000)
    bomb = read(tmp_path, pack(text + b" " * 8_000_000), name=name)
    assert reasons(bomb)[-1] == "too_large"
    assert len(urls_of(bomb)) > 5_000


def test_the_real_sitemaps_and_feeds_of_a_site(tmp_path, data) -> None:
    with tarfile.open(data / "web/site-flink.apache.org.tar.gz") as tar:
        tar.extractall(tmp_path, [member for member in tar if member.name.endswith(".xml")], filter="data")
    counted = {}
    for path in sorted(tmp_path.rglob("*.xml")):
        kind = "sitemap" if path.name == "sitemap.xml" else "feed"
        root = ElementTree.parse(path).getroot()  # our own data: trusted
        if kind == "sitemap":
            expected = [loc.text for loc in root.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")]
        else:
            expected = [item.findtext("link") for item in root.iter("item")]
        found = read(path.parent, path.read_bytes(), kind, path.name)
        assert [line.shown for line, _ in found] == expected
        counted[str(path.relative_to(tmp_path))] = (len(urls_of(found)), len(reasons(found)))
        broken = path.read_bytes().replace(b"</urlset>", b"").replace(b"</sitemapindex>", b"").replace(b"</rss>", b"")
        assert [line.shown for line, _ in read(path.parent, broken, kind, path.name)][: len(expected)] == expected
    names = ("sitemap.xml", "en/sitemap.xml", "zh/sitemap.xml", "index.xml", "posts/index.xml")
    assert [counted[name] for name in names] == [(0, 2), (291, 0), (53, 0), (283, 0), (237, 0)]


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-09-05", "2024-09-05"),
        ("2024-09-05T08:00:00+09:00", "2024-09-05"),
        ("2024", "2024"),
        ("Thu, 05 Sep 2024 08:00:00 GMT", "2024-09-05"),
        ("5 Sep 24 08:00 EST", "2024-09-05"),
        ("Mon, 01 Jan 0001 00:00:00 +0000", ""),
        ("0001-01-01T00:00:00Z", ""),
        ("yesterday", ""),
        ("", ""),
        ("99999999999999999999", "9999"),
    ],
)
def test_days(text, day) -> None:
    assert feeds.day(text) == day


@given(st.text(max_size=40))
def test_any_text_is_a_day_or_none(text) -> None:
    assert feeds.day(text) == "" or feeds.DAY.fullmatch(feeds.day(text))
