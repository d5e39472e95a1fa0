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


GROUPS = [
    # other records do not end a group (section 2.2.4), whatever they are
    ("User-agent: textmill\nCrawl-delay: 1\nUser-agent: other\nDisallow: /p", "/p", False),
    ("User-agent: textmill\nSitemap: http://a.test/s\nClean-param: x\nUser-agent: other\nDisallow: /p", "/p", False),
    ("User-agent: textmill\nRequest-rate: 1/5\nHost: a.test\n\nDisallow: /p", "/p", False),
    ("User-agent: textmill\nDisallow: /x\nCrawl-delay: 1\nUser-agent: other\nDisallow: /p", "/p", True),
    ("User-agent: other\nCrawl-delay: 9\nUser-agent: *\nDisallow: /p", "/p", False),
    ("\xef\xbbUser-agent: *\nDisallow: /p", "/p", False),
]


@pytest.mark.parametrize(("text", "path", "allowed"), GROUPS)
def test_only_rules_end_a_group(text: str, path: str, allowed: bool) -> None:
    assert (robots.rules("textmill", 200, text.encode("latin-1")).forbids(f"http://a.test{path}") == "") == allowed


def test_a_delay_is_that_of_the_agents_named_before_it() -> None:
    text = b"User-agent: slow\nCrawl-delay: 900\nUser-agent: *\nCrawl-delay: 2\nDisallow: /p"
    assert robots.rules("textmill", 200, text).delay_s == 2.0
    assert robots.rules("slow", 200, text).delay_s == 900.0


@pytest.mark.parametrize("encoding", ["utf-8", "euc-kr", "cp932", "gb18030", "cp1251", "iso-8859-1"])
def test_a_path_that_is_not_utf_8_is_compared_octet_by_octet(encoding: str) -> None:
    name = {"cp1251": "тайна", "iso-8859-1": "à-propos\xa0"}.get(encoding, "海港")
    octets = name.encode(encoding)
    rules = robots.rules("textmill", 200, b"User-agent: *\nDisallow: /" + octets + b"\nAllow: /" + octets + b"/open")
    escaped = "".join(f"%{octet:02X}" for octet in octets)
    assert rules.forbids(f"http://a.test/{escaped}/x") and not rules.forbids(f"http://a.test/{escaped}/open")
    assert not rules.forbids("http://a.test/other")


NOT_OURS = {  # of Google's own tests, what goes beyond RFC 9309 or leaves it
    ("GoogleOnly_AcceptUserAgentUpToFirstSpace", "Foo Bar"): "an agent of two words, which crawl.agent refuses",
    ("ID_Encoding", "http://foo.bar/foo/bar/ツ"): "a URL that is not escaped, which no canonical URL is",
    ("ID_Encoding", "http://foo.bar/foo/bar/baz"): "section 2.2.2 has %62 and b compared alike; Google's parser does not",
    ("GoogleOnly_IndexHTMLisDirectory", "http://foo.com/allowed-slash/"): "index.html is not the directory in the RFC",
}


def google_cases(source: str):
    """(test, robots.txt, agent, URL, allowed) of every expectation in the C++ file that is made of literals."""
    literal = r"(?:\"(?:[^\"\\]|\\.)*\"\s*)+"

    def text(raw: str) -> str:
        return "".join(re.findall(r"\"((?:[^\"\\]|\\.)*)\"", raw)).replace("\\n", "\n")

    for test, body in re.findall(r"^TEST\(RobotsUnittest, (\w+)\) \{(.*?)^\}", source, re.DOTALL | re.MULTILINE):
        known: dict[str, str] = {}
        for found in re.finditer(
            rf"(?:const absl::string_view|(?:const )?std::string) (\w+) =\s*({literal});"
            rf"|EXPECT_(TRUE|FALSE)\(\s*IsUserAgentAllowed\(\s*(\w+),\s*({literal}),\s*({literal}|\w+)\)\)",
            body,
        ):
            if found[1]:
                known[found[1]] = text(found[2])
            else:
                url = text(found[6]) if found[6].startswith('"') else known[found[6]]
                yield test, known[found[4]], text(found[5]), url, found[3] == "TRUE"


def test_google_s_own_cases_are_decided_as_google_decides_them(data) -> None:
    cases = list(google_cases((data / "standards/google-robots_test.cc").read_text()))
    assert len(cases) > 120
    wrong = []
    for test, text, agent, url, allowed in cases:
        if (test, agent) in NOT_OURS or (test, url) in NOT_OURS or not agent or not url:
            continue  # a parser asked for no page
        if (robots.rules(agent, 200, text.encode()).forbids(str(urls.canonical(url))) == "") != allowed:
            wrong.append((test, text, agent, url))
    assert not wrong
