"""robots.txt against a second reading of RFC 9309, written here from its text and as slow as it likes."""

from __future__ import annotations

import re
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus import urls
from data_prep.corpus.crawling import robots

UNRESERVED = (string.ascii_letters + string.digits + "-._~").encode()


def octets(path: str) -> list[bytes]:
    """Section 2.2.2: a path in comparable pieces: what is not ASCII is escaped, what is escaped without need is not."""
    pieces = re.findall(rb"%[0-9A-Fa-f]{2}|.", path.encode(), re.DOTALL)
    plain = [bytes([int(p[1:], 16)]) if len(p) == 3 and int(p[1:], 16) in UNRESERVED else p.upper() if len(p) == 3 else p for p in pieces]
    return [p if len(p) == 3 or p[0] < 0x80 else b"%%%02X" % p[0] for p in plain]


def matches(pattern: list[bytes], path: list[bytes]) -> bool:
    """Section 2.2.3: from the first octet on; * is any run, $ at the end is the end."""
    if not pattern:
        return True
    if pattern == [b"$"]:
        return not path
    if pattern[0] == b"*":
        return any(matches(pattern[1:], path[start:]) for start in range(len(path) + 1))
    return bool(path) and pattern[0] == path[0] and matches(pattern[1:], path[1:])


def may(text: str, agent: str, path: str) -> bool:
    """Sections 2.2.1 and 2.2.2 by the letter."""
    groups: list[tuple[list[str], list[tuple[str, str]]]] = []
    for line in re.split(r"\r\n|\r|\n", text):
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            if not groups or groups[-1][1]:
                groups.append(([], []))
            token = re.match(r"\*|[A-Za-z_-]+", value)
            groups[-1][0].append(token[0].lower() if token else "")
        elif key in ("allow", "disallow") and groups:
            groups[-1][1].append((key, value))
    mine = [rule for names, rules in groups for rule in rules if agent.lower() in names]
    if not any(agent.lower() in names for names, _ in groups):
        mine = [rule for names, rules in groups for rule in rules if "*" in names]
    found = [(sum(map(len, octets(value))), key == "allow") for key, value in mine if value and matches(octets(value), octets(path))]
    return max(found)[1] if found else True


PIECES = ["/", "a", "b", "ab", "%61", "%2F", "%2f", "%C3%A9", "%c3%a9", "é", "~", "%7E", "-", ".html", "?q=1", "%3F"]
PATHS = st.lists(st.sampled_from(PIECES), max_size=5).map(lambda pieces: "/" + "".join(pieces))
PATTERNS = st.builds(
    lambda p, end: "/" + "".join(p) + end, st.lists(st.sampled_from([*PIECES, "*", "*"]), max_size=5), st.sampled_from(["", "$"])
)
NAMES = ["*", "textmill", "TextMill", "textmill/1.0", "text", "textmillbot", "mill", "other", "text mill", ""]
LINES = st.one_of(
    st.sampled_from(NAMES).map("User-agent: {}".format),
    st.tuples(st.sampled_from(["Allow: ", "Disallow: ", "DISALLOW:", " disallow : "]), st.one_of(PATTERNS, st.just(""))).map("".join),
    st.sampled_from(["", "# note", "Sitemap: http://a.test/map.xml", "Unknown: x", "no colon", "Host: a.test"]),
    st.tuples(PATTERNS).map(lambda p: f"Disallow: {p[0]} # why"),
)


@settings(max_examples=400)
@given(st.lists(LINES, max_size=10), PATHS, st.sampled_from(["\n", "\r\n", "\r"]))
def test_decisions_are_those_of_the_rfc(lines, path, end) -> None:
    text = end.join(["User-agent: *", *lines])
    assert (robots.rules("textmill", 200, text.encode()).forbids(f"http://a.test{path}") == "") == may(text, "textmill", path)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["Allow: ", "Disallow: "]), PATTERNS), max_size=6), PATHS)
def test_they_stay_so_for_urls_as_the_crawler_spells_them(rules, path) -> None:
    text = "\n".join(["User-agent: textmill", *map("".join, rules)])
    url = urls.canonical(f"http://a.test{path}")
    assert url is not None
    assert (robots.rules("textmill", 200, text.encode()).forbids(url) == "") == may(text, "textmill", url.removeprefix("http://a.test"))


def test_only_line_breaks_break_lines() -> None:
    for mark in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029":
        text = f"User-agent: *\nAllow: /x # {mark}Disallow: /"
        assert robots.rules("textmill", 200, text.encode()).forbids("http://a.test/y") == ""


@pytest.mark.timeout(60)
def test_ten_megabytes_of_patterns_that_invite_going_back_and_forth() -> None:
    body = b"User-agent: *\n" + b"Disallow: /%s$\n" % (b"*a" * 200) * 30_000
    assert len(body) > 10_000_000
    began = time.process_time()
    rules = robots.rules("textmill", 200, body)
    for n in range(20):
        assert rules.forbids(f"http://a.test/{'a' * 4_000}b{n}") == ""
    assert rules.forbids(f"http://a.test/{'a' * 200}")
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", float("inf")),
        ("public", float("inf")),
        ("max-age=3600", 3_600.0),
        ('public, MAX-AGE = "7200"', 7_200.0),
        ("s-maxage=1", float("inf")),
        ("max-age=0", robots.SHORTEST_AGE_S),
        ("no-cache", robots.SHORTEST_AGE_S),
        ("private, no-store", robots.SHORTEST_AGE_S),
        ("max-age=-5", float("inf")),
        ("max-age=" + "9" * 40, 999_999_999.0),
    ],
)
def test_how_long_it_may_be_remembered(header, seconds) -> None:
    assert robots.rules("textmill", 200, b"", header).age_s == seconds


def test_it_is_asked_for_again_in_a_long_crawl_and_what_it_says_then_holds(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(b"<p>page", wait=0.03)
    web.routes["a.test", "/robots.txt"] = lambda before: reply(
        b"User-agent: *\n" + (b"Disallow: /" if before > 1 else b""), kind="text/plain"
    )
    rows = crawler(*(f"http://a.test/{n}" for n in range(10, 40)), robots_max_age_s=0.2)
    ends = [row["outcome"] for row in rows.values()]
    asked = sum(hit.path == "/robots.txt" for hit in web.hits)
    assert ends == ["ok"] * ends.count("ok") + ["robots"] * ends.count("robots")
    assert asked >= 3 and ends.count("ok") > 1 and ends.count("robots") > 1


def test_rules_that_cannot_be_renewed_hold_on(web, reply, crawler) -> None:
    """RFC 9309, section 2.4: a copy may be used for longer while the file is unreachable."""
    web.fallback = lambda host, path: reply(b"<p>page", wait=0.03)
    good = reply(b"User-agent: *\nDisallow: /2", kind="text/plain")
    web.routes["a.test", "/robots.txt"] = lambda before: reply(b"", 503) if before else good
    rows = crawler(*(f"http://a.test/{n}" for n in range(10, 30)), robots_max_age_s=0.1, retries=0)
    assert {url[-2:]: row["outcome"] for url, row in rows.items()} == {str(n): "robots" if n >= 20 else "ok" for n in range(10, 30)}
    assert sum(hit.path == "/robots.txt" for hit in web.hits) > 1


def test_five_redirects_are_followed_and_the_sixth_of_a_chain_means_no_rules(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(b"<p>page")
    for host, hops in (("five.test", 5), ("endless.test", 99)):
        for n in range(hops):
            here = "/robots.txt" if not n else f"/r{n}"
            web.routes[host, here] = reply(status=302, headers={"Location": f"/r{n + 1}"})
        web.routes[host, f"/r{hops}"] = reply(b"User-agent: *\nDisallow: /", kind="text/plain")
    rows = crawler("http://five.test/", "http://endless.test/")
    assert [rows[f"http://{host}.test/"]["outcome"] for host in ("five", "endless")] == ["robots", "ok"]
