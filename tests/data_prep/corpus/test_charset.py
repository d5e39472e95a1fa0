from __future__ import annotations

import codecs
import json
import tarfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import charset
from data_prep.corpus.child import Answer, Question, read_page

JAPANESE = "これは日本語で書かれたページです。港の朝はまだ静かで、漁師たちは村から下りてきていない。"
KOREAN = "이것은 한국어로 쓴 페이지입니다. 항구의 아침은 아직 조용하고 어부들은 마을에서 내려오지 않았다."
CHINESE = "这是用中文写的网页。清晨的港口一片寂静，渔夫们还没有从村子里下来修补他们的渔网。"
TAIWANESE = "這是用中文寫的網頁。清晨的港口一片寂靜，漁夫們還沒有從村子裡下來修補他們的漁網。"
POLISH = "Zażółć gęślą jaźń. Rybacy nie zeszli jeszcze ze wsi, żeby naprawić swoje sieci; łódź stała w porcie."
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Rybáři ještě nesešli z vesnice, aby opravili své sítě."
QUOTED = "“It’s quiet,” she said — the café’s façade was grey, and the €5 coffee cold…"
RUSSIAN = "Привет, дорогие друзья, гавань ещё тиха, и рыбаки не пришли чинить свои сети."
GREEK = "Αυτή είναι μια σελίδα στα ελληνικά, και το λιμάνι είναι ακόμα ήσυχο."
GOLDEN = [
    (JAPANESE, "shift_jis", "cp932"),
    (JAPANESE, "euc_jp", "euc_jp"),
    (JAPANESE, "iso2022_jp", "iso2022_jp"),
    (KOREAN, "euc_kr", "cp949"),
    (KOREAN + "뷁쀍", "cp949", "cp949"),
    (CHINESE, "gb18030", "gb18030"),
    (CHINESE, "gbk", "gb18030"),
    (TAIWANESE, "big5", "big5hkscs"),
    (POLISH, "cp1250", "cp1250"),
    (CZECH, "cp1250", "cp1250"),
    (POLISH, "iso8859_2", "iso8859-2"),
    (QUOTED, "cp1252", "cp1252"),
    (RUSSIAN, "koi8_r", "koi8-r"),
    (RUSSIAN, "cp1251", "cp1251"),
    (GREEK, "iso8859_7", "iso8859-7"),
    (KOREAN, "utf-16-le", "utf-16-le"),
    (QUOTED, "utf-16-be", "utf-16-be"),
    (KOREAN, "utf-8", "utf-8"),
]


def page(text: str, head: str = "") -> str:
    return f"<html><head>{head}</head><body><article><p>{text}</p></article></body></html>"


@pytest.mark.parametrize(("text", "written", "read"), GOLDEN)
def test_a_page_without_any_label_is_read_as_it_was_written(text: str, written: str, read: str) -> None:
    decoded = charset.decode(page(text).encode(written))
    assert (decoded.text, decoded.charset, decoded.lost) == (page(text), read, 0)


@pytest.mark.parametrize(("text", "written", "read"), GOLDEN)
@pytest.mark.parametrize("label", ["utf-8", "us-ascii", "windows-1252", "euc-kr", "no such thing"])
def test_a_document_says_which_codec_read_it_whatever_the_header_claims(text: str, written: str, read: str, label: str) -> None:
    answer = read_page(Question(label, "resiliparse", 1), page(text).encode(written))
    if answer.text == text:
        assert answer.charset == read or written in ("euc_kr", "cp949")
    else:  # bytes that are text in both: nobody can tell, and the label is believed
        codec = charset.codec_of(label)
        assert page(text).encode(written).decode(codec, "whatwg")
    if written.startswith("utf"):
        assert answer.text == text


def test_windows_1252_under_the_name_of_latin_1_keeps_its_quotes() -> None:
    for label in ("latin-1", "iso-8859-1", "ISO_8859-1", "us-ascii", "l1"):
        assert charset.decode(page(QUOTED).encode("cp1252"), label).text == page(QUOTED)
        assert charset.decode(page(QUOTED, f"<meta charset={label}>").encode("cp1252")).text == page(QUOTED, f"<meta charset={label}>")


@pytest.mark.parametrize(
    ("mark", "codec"), [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")]
)
def test_a_mark_outdoes_header_and_meta(mark: bytes, codec: str) -> None:
    lying = page(KOREAN, "<meta charset='windows-1250'>")
    answer = read_page(Question("shift_jis", "resiliparse", 1), mark + lying.encode(codec))
    assert (answer.text, answer.charset) == (KOREAN, codec)


def test_mojibake_is_not_made_worse_and_not_guessed_away() -> None:
    broken = QUOTED.encode().decode("cp1252", "replace").replace("\ufffd", "")
    assert charset.decode(page(broken).encode(), "utf-8").text == page(broken)


@pytest.mark.parametrize("hole", [b"\x00", b"\xed\xa0\x80", b"\xff", b"\xc3", b"\xf5\x80\x80\x80", b"&#xD800;", b"&#0;", b"&#x110000;"])
def test_holes_cost_themselves_and_never_the_page(hole: bytes) -> None:
    before, after = page(KOREAN + " - " + QUOTED).split(" - ")
    for engine in ("best", "trafilatura", "resiliparse"):
        answer = read_page(Question("utf-8", engine, 1), before.encode() + b" - " + hole + b" - " + after.encode())
        assert KOREAN in answer.text and QUOTED in answer.text
        answer.text.encode()


def test_a_lone_surrogate_in_utf_16_is_one_lost_character() -> None:
    decoded = charset.decode(codecs.BOM_UTF16_LE + "before".encode("utf-16-le") + b"\x00\xd8" + "after".encode("utf-16-le"))
    assert decoded.lost == 1 and decoded.is_text
    assert decoded.text == "before\ufffdafter"


def test_noise_is_counted_as_undecodable() -> None:
    noise = bytes(range(128, 256)) * 40
    assert read_page(Question("utf-8", "best", 1), b"\xef\xbb\xbf" + noise) == Answer(reason="undecodable")


def test_the_pages_of_the_snippet_set_that_are_not_utf_8_are_read_without_loss(data: Path) -> None:
    told = json.loads((data / "web/snippet-pages/evaldata.json").read_text())
    with tarfile.open(data / "web/snippet-pages/pages.tar.gz") as archive:
        files = {member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive if member.isfile()}
    others, damaged = 0, 0
    for entry in told.values():
        body = files[entry["file"]]
        try:
            body.decode()
            continue
        except UnicodeDecodeError:
            decoded = charset.decode(body)
        others += decoded.charset != "utf-8"
        damaged += decoded.charset == "utf-8"
        assert decoded.is_text and (decoded.lost == 0 or decoded.charset == "utf-8")
        text = read_page(Question("", "resiliparse", 1), body).text
        assert sum(wanted in text for wanted in entry["with"]) >= len(entry["with"]) - 1, entry["file"]
    assert (others, damaged) == (13, 2)


accents = st.text(alphabet="aeiou cnsžéüñöāกあがぎ한글각\u0301\u0308\u0327\u3099\u1100\u1161 .<p>", min_size=1, max_size=120)


@drawn(accents, st.sampled_from(["best", "trafilatura", "resiliparse"]), st.booleans())
def test_composed_and_decomposed_pages_give_the_same_answer(text: str, engine: str, is_html: bool) -> None:
    pages = [unicodedata.normalize(form, page(f"{text} {POLISH} {KOREAN}")).encode() for form in ("NFC", "NFD")]
    composed, decomposed = (read_page(Question("utf-8", engine, 1, is_html), body) for body in pages)
    assert composed == decomposed
    assert unicodedata.is_normalized("NFC", composed.text)


def test_a_stroke_does_not_take_a_tag_away() -> None:
    assert read_page(Question("utf-8", "resiliparse", 1), f"<p>\u0338{KOREAN}</p>".encode()).text.endswith(KOREAN)


@drawn(st.binary(max_size=400), st.sampled_from(["", "utf-8", "euc-kr", "utf-16", "x-user-defined", "\x00"]), st.booleans())
def test_any_bytes_in_any_charset_have_a_valid_answer(body: bytes, label: str, is_html: bool) -> None:
    for engine in ("best", "resiliparse"):
        answer = read_page(Question(label, engine, 1, is_html), body)
        assert bool(answer.text) != bool(answer.reason)
        assert answer.reason in ("", "empty", "undecodable", "meta_refresh", "soft_404")
        (answer.text + answer.title + answer.charset).encode()
        assert answer == read_page(Question(label, engine, 1, is_html), body)
