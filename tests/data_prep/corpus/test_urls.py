from __future__ import annotations

import ipaddress
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from url_normalize import url_normalize

from data_prep.corpus import urls

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
        "http:///path",
        "http://user:pw@example.com/",
        "http://example.com:99999/",
        "http://ex ample.com/",
        "http://a\\@b/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.0.0.1/",
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


def test_media_is_told_by_its_ending() -> None:
    assert urls.is_media("http://e.test/a.JPG") and urls.is_media("http://e.test/a.tar.gz?x=1")
    assert not any(
        map(urls.is_media, ["http://e.test/", "http://e.test/a.html", "http://e.test/jpg", "http://jpg.test/", "http://e.test/?a.jpg"])
    )
