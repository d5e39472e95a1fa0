from __future__ import annotations

import datetime
import email.utils
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import charset, dates

OTHER = '<meta property="article:modified_time" content="2021-01-01"><meta name="viewport" content="width=2021-01-01">'


@pytest.mark.parametrize(
    "stated",
    [
        '<meta property="article:published_time" content="2020-02-29T23:59:00-08:00">',
        "<META CONTENT=2020-02-29 NAME=DC.date.issued>",
        "<meta itemprop='datePublished' content='2020-02-29'>",
        '<meta name="citation_publication_date" content="2020/02/29" />',
        '<meta name="pubdate" content="20200229">',
        '<meta name="date" content="Sat, 29 Feb 2020 08:00:00 GMT">',
        '<script type="application/ld+json">{"datePublished" : "2020-02-29T08:00Z", "dateModified": "2021-01-01"}</script>',
        '<script type="application/ld+json">[{"broken": }, {"datePublished":"2020-02-29"}]</script>',
        '<body><span itemprop="datePublished" content="2020-02-29">yesterday</span>',
        '<body><time class=x itemprop="datePublished dateCreated" datetime="2020-02-29">Feb 29</time>',
        '<body><p itemprop="datePublished">2020-02-29, 8 o\'clock</p>',
        "<body><time datetime='2019-01-01'></time><article><time>then</time><time datetime='2020-02-29 08:00'>now</time></article>",
        "<body><main><time datetime=2020.02.29>29.2.</time></main>",
    ],
)
def test_every_usual_way_to_state_a_date_is_understood(stated: str) -> None:
    assert dates.stated(f"<html><head>{OTHER}{stated}") == "2020-02-29"


def test_what_is_more_telling_comes_first() -> None:
    ways = [
        '<meta property="article:published_time" content="2001-01-01">',
        '<script type="application/ld+json">{"datePublished": "2002-02-02"}</script>',
        '<i itemprop="datePublished" content="2003-03-03"></i>',
        '<meta name="dc.date.issued" content="2004-04-04">',
        '<meta name="date" content="2005-05-05">',
        '<article><time datetime="2006-06-06"></time></article>',
    ]
    for start in range(len(ways)):
        assert dates.stated("".join(reversed(ways[start:]))) == f"200{start + 1}-0{start + 1}-0{start + 1}"


@pytest.mark.parametrize(
    "said",
    [
        *("", "2020", "2020-02", "2020-13-01", "2020-02-30", "1989-12-31", "2101-01-01", "0000-00-00", "2020-02-299", "02/29/2020"),
        *("29.02.2020", "1582934400", "yesterday", "2020-02/29", "\u0662\u0660\u0662\u0660", "Sat, 31 Feb 2020 08:00:00 GMT", "9" * 400),
        "Mon, 99999999999999999999 Feb 2020",
    ],
)
def test_what_is_no_day_of_the_calendar_is_no_date(said: str) -> None:
    assert dates.valid(said) == ""
    assert dates.stated(f'<meta name="date" content="{said}"><meta name="created" content="1999-09-09">') == "1999-09-09"


def test_a_page_that_states_none_has_none_though_it_holds_days() -> None:
    page = "<p>On 2020-02-29 the harbour froze.</p><time datetime='2020-02-29'></time><a href='/2020/02/29/x'>datePublished 2020-02-29</a>"
    assert dates.stated(f"<html><head>{OTHER}</head><body>{page}") == ""


@drawn(
    st.dates(datetime.date(1990, 1, 1), datetime.date(2100, 12, 31)),
    st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%Y.%m.%dT10:00:00Z"]),
)
def test_every_day_is_read_back(day: datetime.date, form: str) -> None:
    assert dates.valid(day.strftime(form)) == day.isoformat()
    noon = datetime.datetime(day.year, day.month, day.day, 12, tzinfo=datetime.UTC)
    assert dates.valid(email.utils.format_datetime(noon)) == day.isoformat()


@drawn(st.text(alphabet="<>meta time/=\"'datePublishedcontent: ,-0123456789\x00é", max_size=300))
def test_no_markup_makes_it_fail_and_what_comes_out_is_a_day(markup: str) -> None:
    found = dates.stated(markup + markup.replace("x", "<meta name=date content="))
    assert not found or datetime.date.fromisoformat(found).year in dates.YEARS


HOSTILE = ["<meta ", "<time ", "datePublished", '<x itemprop="datePublished"', '<meta a="', '"datePublished" ', "<meta " + "a" * 900 + ">"]


@pytest.mark.timeout(60)  # a quadratic search would take hours
@pytest.mark.parametrize("part", HOSTILE)
def test_a_hostile_page_costs_no_more_than_its_length(part: str) -> None:
    assert dates.stated("<article>" + part * (2_000_000 // len(part))) == ""


def test_real_pages_agree_with_what_a_browser_reads_from_them(data: Path) -> None:
    compared = 0
    with tarfile.open(data / "web/readability-pages/pages.tar.gz") as archive:
        files = {member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive if member.isfile()}
    for name in sorted(name for name in files if name.endswith("expected-metadata.json")):
        expected = json.loads(files[name]).get("publishedTime")
        if expected:
            page = charset.decode(files[name.replace("expected-metadata.json", "source.html")]).text
            assert dates.stated(page) == dates.valid(expected), name
            compared += 1
    assert compared >= 23
