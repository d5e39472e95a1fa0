"""Meta-refresh stubs, against an HTML parser's view of them and the real ones of a real site."""

from __future__ import annotations

import re
import tarfile

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.corpus.stubs import FEW_CHARACTERS, meta_refresh

META = '<html><head><meta http-equiv="refresh" content="{}"></head><body>{}</body></html>'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("0; url=/there", (0.0, "/there")),
        ("0;URL='http://b.test/x?a=1&amp;b=2'", (0.0, "http://b.test/x?a=1&b=2")),
        ("5,url = next.html ", (5.0, "next.html")),
        ("3 /bare", (3.0, "/bare")),
        ("0; /bare?url=x", (0.0, "/bare?url=x")),
        (" 1.5;url=a b\n", (1.0, "a b")),
        (".9;url=/x", (0.0, "/x")),
        ("0;url=ht\ntp://b.test/", (0.0, "http://b.test/")),
        ("0", None),  # reloads itself
        ("0;", None),
        ("0;url=", None),
        ("url=/x", None),
        ("-1;url=/x", None),
        ("600;url=/x", None),  # wants to be read first
        ("9" * 400 + ";url=/x", None),
        ("", None),
    ],
)
def test_what_a_refresh_says(content: str, found) -> None:
    markup = META.format(content, "moved")
    assert meta_refresh(markup) == meta_refresh(markup.encode()) == found


@pytest.mark.parametrize(
    ("markup", "found"),
    [
        ("<META content='0;url=/x' HTTP-EQUIV=Refresh>", (0.0, "/x")),
        ("<meta name='a>b' content=x><meta http-equiv=refresh content=0;url=/x>", (0.0, "/x")),
        ("<base href='http://b.test/docs/'><meta http-equiv=refresh content='0;url=x'>", (0.0, "http://b.test/docs/x")),
        ("<base href='http://[bad'><meta http-equiv=refresh content='0;url=x'>", (0.0, "x")),
        ("<!-- <meta http-equiv=refresh content='0;url=/x'> -->", None),
        ("<script>var s = '<meta http-equiv=refresh content=\"0;url=/x\">'</script>", None),
        ("<script>never closed <meta http-equiv=refresh content='0;url=/x'>", None),
        ("<textarea><meta http-equiv=refresh content='0;url=/x'></textarea>", None),
        ("<meta name=refresh content='0;url=/x'>", None),
        ("<p>refresh yourself</p>", None),
        ("", None),
        ("\ufeff<meta http-equiv=refresh content='0;url=/x'>", (0.0, "/x")),
    ],
)
def test_where_it_stands_and_what_only_looks_like_one(markup: str, found) -> None:
    assert meta_refresh(markup) == meta_refresh(markup.encode()) == found
    assert meta_refresh(markup.encode("utf-16")) == found


def test_a_page_with_text_is_a_page() -> None:
    said = "0; url=/next"
    assert meta_refresh(META.format(said, "<p>" + "word " * (FEW_CHARACTERS // 5 - 1) + "</p>")) == (0.0, "/next")
    assert meta_refresh(META.format(said, "<p>" + "word " * (FEW_CHARACTERS // 5 + 2) + "</p>")) is None
    assert meta_refresh(META.format(said, "<script>" + "code(); " * 900 + "</script>moved")) == (0.0, "/next")
    assert meta_refresh(META.format(said, "<script>" + "code(); " * 9_000 + "</script>moved")) is None  # too long to be one
    assert meta_refresh(" " * 5_000 + META.format(said, "")) is None  # too far down


def test_the_263_stubs_of_a_real_site_and_no_page_of_it(data) -> None:
    stubs = pages = 0
    with tarfile.open(data / "web/site-flink.apache.org.tar.gz") as archive:
        for member in archive:
            if not member.name.endswith(".html"):
                continue
            markup = archive.extractfile(member).read()
            found = meta_refresh(markup)
            wanted = lxml.html.fromstring(markup).xpath("//meta[translate(@http-equiv, 'REFSH', 'refsh')='refresh']/@content")
            if wanted:
                stubs += 1
                assert found == (0.0, re.sub(r"^0; ?url=", "", wanted[0])), member.name
            else:
                pages += 1
                assert found is None, member.name
    assert (stubs, pages) == (263, 370)


def test_none_of_the_real_articles_is_a_stub(data) -> None:
    with tarfile.open(data / "web/snippet-pages/pages.tar.gz") as archive:
        assert not [m.name for m in archive if m.isfile() and meta_refresh(archive.extractfile(m).read())]


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)), st.sampled_from(["", "<meta http-equiv=refresh content='0;url=/x'"]))
def test_no_markup_breaks_it(markup, head) -> None:
    meta_refresh((head.encode() if isinstance(markup, bytes) else head) + markup)


@pytest.mark.timeout(20)  # a pattern that goes back and forth would take hours
@pytest.mark.parametrize("piece", ["<meta ", "<meta a=\"'", "<!--", "<script>", "<", "<meta http-equiv=refresh content='0", "<svg>"])
def test_hostile_markup_costs_little(piece: str) -> None:
    assert meta_refresh("refresh" + piece * (32_000 // len(piece))) is None
