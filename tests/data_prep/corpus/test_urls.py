# a row of a table is a line
from __future__ import annotations

import csv
import gzip
import html
import io
import ipaddress
import json
import re
from urllib.parse import unquote, urljoin, urlsplit

import ada_url
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from url_normalize import url_normalize
from w3lib.url import canonicalize_url

from data_prep.corpus import urls
from data_prep.corpus.trackers import KNOWN
from infra.errors import ConfigError

PIECES = st.sampled_from(
    [
        "http://",
        "HTTPS://",
        "a.test",
        "BÜCHER.de",
        "例え.jp",
        ":80",
        ":443",
        ":8080",
        "/",
        "//",
        ".",
        "..",
        "%41",
        "%",
        "%2",
        "%2f",
        "%zz",
        "%C3%BC",
        "ü",
        " ",
        "?",
        "&",
        "=",
        "#",
        "utm_source=x",
        "gclid",
        "a",
        "B",
        "~",
        ";",
        "@",
        "[",
        "]",
        "::1",
        "\\",
        "\t",
        "\n",
        "|",
        "\ud800",
        "\x00",
        "127.1",
        "0x7f",
    ]
)
ODD = st.one_of(
    st.text(), st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=12).map(lambda p: "http://a.test/" + "".join(p))
)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTP://Example.COM/", "http://example.com/"),
        ("http://example.com", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:443/", "https://example.com/"),
        ("http://example.com./", "http://example.com/"),
        ("http://example.com/#top", "http://example.com/"),
        ("http://example.com/?", "http://example.com/"),
        ("  http://example.com/ \n", "http://example.com/"),
        ("http://example.com/a/./b/../c", "http://example.com/a/c"),
        ("http://example.com/../../a", "http://example.com/a"),
        ("http://example.com/%7Euser/%c3%bc", "http://example.com/~user/%C3%BC"),
        ("http://example.com/ü?q=ü", "http://example.com/%C3%BC?q=%C3%BC"),
        ("http://example.com/a b", "http://example.com/a%20b"),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://straße.example/", "http://xn--strae-oqa.example/"),
        ("http://☃.example/", "http://xn--n3h.example/"),
        ("http://[2001:DB8:0::1]:80/", "http://[2001:db8::1]/"),
        ("http://example.com/?utm_source=a&b=1&UTM_Medium=c&fbclid=d", "http://example.com/?b=1"),
        ("http://example.com/?gclid=x", "http://example.com/"),
        ("http://example.com/?b=1&utm_campaign=x&c=2&yclid=3", "http://example.com/?b=1&c=2"),
        ("http://example.com/?b=1&&c", "http://example.com/?b=1&&c"),
        ("http://EXAMPLE.com:0080/A/%2e%2e/B", "http://example.com/B"),
        ("http://example.com/%e4%bd%a0?%7e", "http://example.com/%E4%BD%A0?~"),
        ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah/"),
        ("http://한국.test/", "http://xn--3e0b707e.test/"),
        ("http://XN--BCHER-KVA.example/", "http://xn--bcher-kva.example/"),
        ("http://bu\u0308cher.example/", "http://xn--bcher-kva.example/"),
        ("http://ｅｘａｍｐｌｅ.com/", "http://example.com/"),
        ("http://example。com/", "http://example.com/"),
        ("http://127.0.0.1:80/", "http://127.0.0.1/"),
        ("ht\ntp://example.com/a\tb", "http://example.com/ab"),
        ("http:///path", "http://path/"),
        ("http:\\\\a.test\\b?c\\d", "http://a.test/b?c\\d"),
        ("http://a\\@b/", "http://a/@b/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0x7f.0.0.1/", "http://127.0.0.1/"),
    ],
)
def test_spellings_of_one_resource_are_one(url: str, same: str) -> None:
    assert urls.canonical(url) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://e.test/a", "http://e.test/a/"),
        ("http://e.test/a//b", "http://e.test/a/b"),
        ("http://e.test/A", "http://e.test/a"),
        ("http://e.test/?a=1&b=2", "http://e.test/?b=2&a=1"),
        ("http://e.test/?a", "http://e.test/?a="),
        ("http://e.test/a%2Fb", "http://e.test/a/b"),
        ("http://e.test/?a=1%262", "http://e.test/?a=1&2"),
        ("http://e.test/?a=1+2", "http://e.test/?a=1%202"),
        ("http://e.test/", "https://e.test/"),
        ("http://e.test/", "http://www.e.test/"),
        ("http://e.test/", "http://e.test:8080/"),
        ("http://e.test/?xutm_source=1", "http://e.test/"),
        ("http://e.test/a;b", "http://e.test/a"),
    ],
)
def test_what_a_server_may_answer_differently_stays_apart(one: str, other: str) -> None:
    assert urls.canonical(one) != urls.canonical(other)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http://user:pw@example.com/",
        "http://example.com:99999/",
        "http://ex ample.com/",
        "http://1.2.3.999/",
        "http://[::1/",
        "http://e..test/",
        "http://-/",
        "http://e.test/" + "a" * 5000,
        "http://e.test/\ud800",
    ],
)
def test_what_is_no_web_address_is_none(url: str) -> None:
    assert urls.canonical(url) is None


@settings(max_examples=800, deadline=None)
@given(ODD)
def test_a_canonical_url_is_its_own_canonical_form(text: str) -> None:
    once = urls.canonical(text)
    if once is not None:
        assert urls.canonical(once) == once
        assert once.isascii() and once.isprintable() and " " not in once
        assert urls.authority(once) == urlsplit(once).netloc
        assert urls.joined(once, once) == once


@settings(max_examples=200, deadline=None)
@given(st.from_regex(r"http://[a-z]{1,5}\.test(/[a-zA-Z0-9.%~ü]{0,6}){1,4}(\?[a-z]=[a-zA-Z0-9]{0,4})?", fullmatch=True))
def test_another_library_sees_the_same_resource(url: str) -> None:
    ours = urls.canonical(url)
    assert ours is not None
    if "//" not in urlsplit(ours).path:  # url-normalize merges those, which loses pages
        assert url_normalize(ours) == url_normalize(url)


@settings(max_examples=1_000, deadline=None)
@given(
    ODD
    | st.from_regex(
        r"https?://[a-zA-Z0-9._-]{1,70}(:\d{1,3})?(/[a-zA-Z0-9.~;=@%-]{0,6}){0,4}(\?([a-z_]{1,7}=[a-z]{0,2}&?){0,4})?(#.{0,3})?",
        fullmatch=True,
    )
    | st.lists(
        st.sampled_from(["utm_source=x", "utm_x", "fbclid=1", "a=1", "&", "mc_cid=2", "_hsenc=3", "igshid", "b", "yclid=", "?"]), max_size=6
    ).map(lambda parts: "http://a.test/?" + "&".join(parts)),
    st.booleans(),
)
def test_the_short_way_ends_where_the_long_one_does(text: str, keep_tracking: bool) -> None:
    assert urls.canonical(text, keep_tracking=keep_tracking) == urls._spelt_out(text.strip(), keep_tracking)


@pytest.mark.parametrize(
    ("url", "ours", "url_normalize_s", "w3lib_s"),
    [
        # capitals of scheme and host, and a default port, say nothing: w3lib keeps the port
        ("HTTP://Example.COM/a?b=1", "http://example.com/a?b=1", "http://example.com/a?b=1", "http://example.com/a?b=1"),
        ("http://e.test:80/", "http://e.test/", "http://e.test/", "http://e.test:80/"),
        # a fragment is for the browser: url-normalize keeps it
        ("http://e.test/a#b", "http://e.test/a", "http://e.test/a#b", "http://e.test/a"),
        # doubled slashes and the order, number and form of parameters are the server's to read
        ("http://e.test/a//b", "http://e.test/a//b", "http://e.test/a/b", "http://e.test/a//b"),
        ("http://e.test/?b=2&a=1", "http://e.test/?b=2&a=1", "http://e.test/?b=2&a=1", "http://e.test/?a=1&b=2"),
        ("http://e.test/?b", "http://e.test/?b", "http://e.test/?b", "http://e.test/?b="),
        ("http://e.test/?a=1+2", "http://e.test/?a=1+2", "http://e.test/?a=1+2", "http://e.test/?a=1+2"),
        ("http://e.test/?a=1%202", "http://e.test/?a=1%202", "http://e.test/?a=1%202", "http://e.test/?a=1+2"),
        # dots in a path are resolved before it is sent (RFC 3986, section 6.2.2.3)
        ("http://e.test/a/../b", "http://e.test/b", "http://e.test/b", "http://e.test/b"),
        # an escape that need not be one is the character (section 6.2.2.2)
        ("http://e.test/%7Ea", "http://e.test/~a", "http://e.test/~a", "http://e.test/~a"),
        # what only tracks is left out
        ("http://e.test/?utm_source=x", "http://e.test/", "http://e.test/?utm_source=x", "http://e.test/?utm_source=x"),
        # a last dot names the same host
        ("https://e.test./", "https://e.test/", "https://e.test/", "https://e.test./"),
        # other scripts are written as IDNA 2008 says: ß is a letter of its own
        ("http://straße.test/", "http://xn--strae-oqa.test/", "http://xn--strae-oqa.test/", "http://strasse.test/"),
        # a password is not carried along
        ("http://u:p@e.test/", None, "http://u:p@e.test/", "http://u:p@e.test/"),
        # without a scheme it is no URL of a list
        ("e.test/a", None, "https://e.test/a", "e.test/a"),
    ],
)  # fmt: skip
def test_where_libraries_differ_and_why(url, ours, url_normalize_s, w3lib_s) -> None:
    assert (urls.canonical(url), url_normalize(url), canonicalize_url(url)) == (ours, url_normalize_s, w3lib_s)


@settings(max_examples=200, deadline=None)
@given(
    st.from_regex(r"http://[a-z]{1,5}\.test(/[a-zA-Z0-9~ü-]{1,6}){1,4}(\?[a-c]=[a-zA-Z0-9]{1,4}(&[d-f]=[a-z0-9]{1,4})?)?", fullmatch=True)
)
def test_a_second_library_sees_the_same_resource(url: str) -> None:
    ours = urls.canonical(url)
    assert ours is not None and canonicalize_url(ours) == canonicalize_url(url) == ours


def without_differences(url: str) -> str:
    """Every escape undone, however often it was done; then slashes once, and without empty parameters and empty values."""
    path, _, query = unquote(unquote(url)).partition("?")
    return re.sub("/+", "/", path + "?" + "&".join(part.rstrip("=") for part in query.split("&") if part))


def test_real_urls_differ_from_another_library_s_only_in_ways_that_are_named(data) -> None:
    """Every URL of the 2013 dump: ours and url-normalize's, made equal in the ways of the table above, are the same.

    Left out are those with `#!`: url-normalize writes them in a form (`_escaped_fragment_`) that servers stopped answering in 2015.
    """
    count = different = 0
    for path in sorted((data / "urls/reddit-top-2013").glob("*.csv.gz")):
        for row in csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline="")):
            url = html.unescape(row["url"])
            ours = urls.canonical(url, keep_tracking=True) if url.startswith("http") and "#!" not in url else None
            if ours is not None:
                theirs = str(urls.canonical(url_normalize(url), keep_tracking=True))
                count += 1
                different += without_differences(ours) != without_differences(theirs)
    assert count > 20_000 and different == 0


@given(st.ip_addresses())
def test_an_address_is_a_host(address) -> None:
    text = f"[{address}]" if address.version == 6 else str(address)
    assert ipaddress.ip_address(urls.split_authority(str(urls.canonical(f"http://{text}:81/")))[0]) == address


@settings(max_examples=200, deadline=None)
@given(st.from_regex(r"([a-z.;]{0,3}/)?([a-z.;]{1,3}/){0,3}[a-z]{0,3}(\?[a-z]=[0-9])?", fullmatch=True))
def test_links_are_joined_as_the_standard_library_does(reference: str) -> None:
    base = "http://e.test/one/two/three"
    if ";/" not in reference and "//" not in reference:
        assert urls.joined(base, reference) == urls.canonical(urljoin(base, reference))


def test_links_are_joined_to_their_page() -> None:
    assert urls.joined("http://e.test/a//b/c;d", "e;") == "http://e.test/a//b/e;"
    assert urls.joined("http://e.test/a?b", "") == urls.joined("http://e.test/a?b", "#c") == "http://e.test/a?b"
    assert urls.joined("http://e.test/a/b?c", "../d#e") == "http://e.test/d"
    assert urls.joined("http://e.test/a", "//other.test/x") == "http://other.test/x"
    assert urls.joined("http://e.test/a", "mailto:me@e.test") is None
    assert urls.joined("http://e.test/a", "http://[broken") is None
    assert urls.joined("http://e.test/a", "?utm_source=x", keep_tracking=True) == "http://e.test/a?utm_source=x"


def test_browsers_own_cases_of_urls_are_parsed_as_browsers_do(data) -> None:
    """Every case of the web platform tests that leads to an http(s) URL or to none, beside what this module refuses on purpose."""
    count = 0
    for case in json.loads((data / "standards/wpt-urltestdata.json").read_text()):
        if isinstance(case, str) or any("\ud800" <= c <= "\udfff" for c in case["input"]):
            continue
        base = case["base"] or "about:blank"
        got = urls.joined(base, case["input"], keep_tracking=True)
        if case.get("failure") or not case["href"].startswith(("http:", "https:")):
            assert got is None, case
            count += 1
        elif not case["username"] and not case["password"] and urls.HOST.fullmatch(case["hostname"].removesuffix(".")):
            assert got == urls.canonical(case["href"], keep_tracking=True) is not None, case
            plain = ada_url.URL(got)
            assert plain.href == got  # a browser asks for just this
            wanted = ada_url.URL(case["href"])
            assert (unquote(plain.pathname), plain.port) == (unquote(wanted.pathname), wanted.port)
            assert unquote(plain.search) == unquote(wanted.search.removesuffix("?") if wanted.search == "?" else wanted.search)
            count += 1
    assert count > 500


@settings(max_examples=400, deadline=None)
@given(ODD)
def test_what_is_asked_for_is_what_a_browser_reads(text: str) -> None:
    found = urls.joined("http://base.test/a/b?c", text, keep_tracking=True)
    assert found is None or ada_url.URL(found).href == found


@pytest.mark.parametrize(
    ("encoding", "link", "found"),
    [
        ("euc-kr", "/글/항구.html", "/%EA%B8%80/%ED%95%AD%EA%B5%AC.html"),
        ("euc-kr", "/list?cat=항구", "/list?cat=%C7%D7%B1%B8"),
        ("cp932", "/a?q=表", "/a?q=%95\\"),
        ("windows-1251", "?q=море&n=1#море", "/dir/page?q=%EC%EE%F0%E5&n=1"),
        ("iso-8859-1", "?q=항", "/dir/page?q=%26%2354637%3B"),
        ("gb18030", "?q=海", "/dir/page?q=%BA%A3"),
        ("utf-16-le", "?q=é", "/dir/page?q=%C3%A9"),
        ("utf-8", "?q=é", "/dir/page?q=%C3%A9"),
    ],
)
def test_a_query_is_written_in_the_page_s_encoding_and_a_path_in_utf_8(encoding: str, link: str, found: str) -> None:
    assert urls.joined("http://e.test/dir/page", link, encoding=encoding) == f"http://e.test{found}"


def test_parameters_that_only_track_are_left_out_and_a_recipe_may_name_its_own() -> None:
    known = "_ga=1 gad_source=1 gbraid=x wbraid=x igsh=x li_fat_id=x ref_src=x s_kwcid=x srsltid=x ttclid=x vero_id=x utm_id=x mtm_cid=1"
    for parameter in known.split():
        assert urls.canonical(f"http://e.test/a?{parameter}&b=1") == "http://e.test/a?b=1"
        assert urls.canonical(f"http://e.test/a?{parameter}", keep_tracking=True) == f"http://e.test/a?{parameter}"
    for parameter in ["gad=1", "ref=x", "id=3", "s=x", "source=x", "xutm_source=1", "p=1", "page=2", "v=abc"]:
        assert urls.canonical(f"http://e.test/a?{parameter}") == f"http://e.test/a?{parameter}"
    own = KNOWN.and_own(["Ref", "aff_*"])
    assert urls.canonical("http://e.test/a?ref=1&aff_id=2&AFF_x&reference=3&utm_id=4", trackers=own) == "http://e.test/a?reference=3"
    with pytest.raises(ConfigError, match=r"tracking_parameters: 'a=b' is not the name"):
        KNOWN.and_own(["a=b"])


def test_media_is_told_by_its_ending() -> None:
    assert urls.is_media("http://e.test/a.JPG") and urls.is_media("http://e.test/a.tar.gz?x=1")
    assert not any(
        map(urls.is_media, ["http://e.test/", "http://e.test/a.html", "http://e.test/jpg", "http://jpg.test/", "http://e.test/?a.jpg"])
    )
