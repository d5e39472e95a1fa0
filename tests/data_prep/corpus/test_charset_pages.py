"""The encoding of pages in many languages: the HTML standard's own cases, contradicted headers, and pages that declare nothing."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from data_prep.corpus import charset

EAST_ASIAN = {  # by label: the language's file, and the codec it is written in
    "euc-kr": ("kor", "cp949"),
    "shift_jis": ("jpn", "cp932"),
    "big5": ("cmn_hant", "big5hkscs"),
    "gb18030": ("cmn_hans", "gb18030"),
}
WRITTEN = (  # languages and the encodings that their pages are found in
    *(("kor", "cp949"), ("jpn", "cp932"), ("jpn", "euc_jp"), ("cmn_hans", "gb18030"), ("cmn_hant", "big5hkscs")),
    *(("rus", "cp1251"), ("rus", "koi8_r"), ("ukr", "cp1251"), ("bul", "cp1251"), ("ell_monotonic", "iso8859_7")),
    *(("heb", "cp1255"), ("arb", "cp1256"), ("tha", "cp874"), ("ces", "cp1250"), ("pol", "iso8859_2")),
    *(("hun", "cp1250"), ("tur", "cp1254"), ("deu", "cp1252"), ("fra", "cp1252")),
)
CYRILLIC = frozenset(("cp1251", "koi8-r", "koi8-u", "iso8859-5", "ibm866", "cp866", "mac-cyrillic"))
DAMAGEABLE = (  # languages and the encodings with characters of several bytes, in which one byte of a page is damaged
    *(("kor", "cp949"), ("jpn", "cp932"), ("jpn", "euc_jp"), ("jpn", "iso2022_jp"), ("cmn_hans", "gb18030"), ("cmn_hant", "big5hkscs")),
    *((name, "utf-8") for name in ("kor", "jpn", "cmn_hans", "rus", "ell_monotonic", "deu", "fra", "ces", "vie", "tha", "arb", "hin")),
)
HEADERS = ("iso-8859-1", "windows-1252", "windows-1251", "utf-8")


@pytest.fixture(scope="module")
def languages(data: Path) -> dict[str, str]:
    """The Universal Declaration of Human Rights by language, on one line."""
    with gzip.open(data / "text/other/udhr.jsonl.gz", "rt") as file:
        rows = map(json.loads, file)
        return {Path(row["id"]).stem: " ".join(row["text"].split()) for row in rows}


def page(text: str, label: str = "") -> str:
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={label}">' if label else ""
    return f"<html><head>{meta}<title>A page</title></head><body><div class=main><p>{text}</p></div></body></html>"


def parts(text: str, length: int, most: int, codec: str) -> list[str]:
    """So many parts of a text at most, evenly spaced, that the codec can write and that are not ASCII."""
    step = max(length, len(text) // most)
    found = [text[at : at + length] for at in range(0, len(text) - length + 1, step)][:most]
    return [part for part in found if not part.isascii() and part.encode(codec, "ignore").decode(codec) == part]


def test_the_standards_own_pages_have_their_encodings(data: Path) -> None:
    seen = Counter()
    for name in ("html5lib-encoding-tests1.dat", "html5lib-encoding-tests2.dat"):
        for case in (data / "standards" / name).read_bytes().split(b"#data\n")[1:]:
            body, _, wanted = case.partition(b"\n#encoding\n")
            codec, found = charset.codec_of(wanted.split(b"\n")[0].decode()), charset.decode(body)
            if found.source == "detected":  # the standard leaves this to us and defaults to windows-1252: the same text
                assert codec == "cp1252" and found.text == body.decode("cp1252"), body
            else:
                assert found.charset == codec, body
            seen[found.source] += 1
    assert seen == {"meta": 47, "detected": 32, "bom": 2}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("label", EAST_ASIAN)
def test_no_header_makes_mojibake_of_east_asian_pages(languages: dict[str, str], label: str, header: str) -> None:
    language, codec = EAST_ASIAN[label]
    for length, has_meta in ((40, True), (200, True), (200, False), (1000, True), (1000, False)):
        for part in parts(languages[language], length, 4, codec):
            markup = page(part, label if has_meta else "")
            assert charset.decode(markup.encode(codec), header).text == markup


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("language", "codec"), [("fra", "cp1252"), ("deu", "cp1252"), ("rus", "cp1251")])
def test_the_guard_leaves_true_headers_alone(languages: dict[str, str], language: str, codec: str, header: str) -> None:
    if charset.codec_of(header) != codec:
        header = codec
    for length in (40, 200, 1000):
        for part in parts(languages[language], length, 6, codec):
            assert charset.decode(page(part).encode(codec), header).text == page(part)


@pytest.mark.parametrize(("length", "floor"), [(10, 0.88), (25, 0.97), (60, 0.985), (200, 0.99), (1000, 1.0)])
def test_pages_that_declare_nothing_are_read_at_every_length(languages: dict[str, str], length: int, floor: float) -> None:
    right, wrong = 0, Counter()
    for language, codec in WRITTEN:
        for part in parts(languages[language], length, 24, codec):
            found = charset.decode(page(part).encode(codec))
            if found.text == page(part):
                right += 1
            else:
                wrong[codec, found.charset] += 1
    assert right >= floor * (right + wrong.total()), wrong
    assert not any(codec == "cp949" and found in CYRILLIC for codec, found in wrong), wrong


def damaged(body: bytes, kind: str, rng: random.Random) -> bytes:
    """A body that ends early, lacks a byte that is no ASCII, or has one more, inside or outside of a word."""
    if kind == "cut":
        return body[: rng.randrange(len(body) // 2, len(body))]
    if kind == "lost":
        at = rng.choice([at for at, byte in enumerate(body) if byte >= 0x80] or range(len(body)))
        return body[:at] + body[at + 1 :]
    odd = bytes([rng.choice((0x80, 0x81, 0x8D, 0x90, 0x9D, 0xA0, 0xE9, 0xFF))])
    spaces = [at for at, byte in enumerate(body) if byte == 0x20] if kind == "odd apart" else range(len(body) + 1)
    at = rng.choice(spaces or [0])
    return body[:at] + (b" " + odd if kind == "odd apart" else odd) + body[at:]


@pytest.mark.parametrize(("length", "floor"), [(25, 0.88), (60, 0.92), (200, 0.95), (1000, 0.99)])
@pytest.mark.parametrize("header", ["", "iso-8859-1"])
def test_one_damaged_byte_leaves_a_page_in_its_encoding(languages: dict[str, str], header: str, length: int, floor: float) -> None:
    right, wrong = 0, Counter()
    start, end = page("\0").encode().split(b"\0")
    for language, codec in DAMAGEABLE:
        for number, part in enumerate(parts(languages[language], length, 12, codec)):
            for kind in ("cut", "lost", "odd", "odd apart"):
                rng = random.Random(f"{language} {codec} {number} {kind}")
                body = start + damaged(part.encode(codec), kind, rng) + (b"" if kind == "cut" else end)
                found = charset.decode(body, header)
                if found.text == body.decode(codec, "whatwg"):
                    right += 1
                else:
                    wrong[codec, kind, found.charset] += 1
    assert right >= floor * (right + wrong.total()), wrong


@pytest.mark.parametrize("length", [60, 200, 1000])
def test_a_byte_that_windows_1252_lacks_leaves_the_page_in_it(languages: dict[str, str], length: int) -> None:
    for language in ("deu", "fra", "spa"):
        for part in parts(languages[language], length, 12, "cp1252"):
            body = page(part).encode("cp1252").replace(b"<p>", b"<p>\x81 ")
            assert charset.decode(body).text == body.decode("cp1252", "whatwg"), part


@pytest.mark.parametrize("header", ["", "iso-8859-1", "utf-8", "euc-kr"])
def test_iso_2022_jp_is_known_by_its_escapes(languages: dict[str, str], header: str) -> None:
    for part in parts(languages["jpn"], 40, 8, "iso2022_jp"):
        markup = page(part)
        assert charset.decode(markup.encode("iso2022_jp"), header).text == markup
    assert charset.decode(b"<p>10 \x1b$B and more</p>", "utf-8").charset == "utf-8"
