"""Lists of hosts against a plain scan; domains against the vectors of the Public Suffix List project."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import publicsuffixlist
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.corpus import hosts, urls
from infra.artifact import SourceFile
from infra.errors import ConfigError

NAME = st.lists(st.sampled_from(["a", "b", "aa", "x-y", "com"]), min_size=1, max_size=4).map(".".join)


def listed(path: Path, text: str | bytes) -> SourceFile:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return SourceFile.of(path)


@given(st.lists(NAME | NAME.map(lambda name: f"*.{name}"), max_size=5), NAME)
def test_a_host_is_found_as_a_scan_of_the_patterns_finds_it(patterns, host) -> None:
    scanned = any(host == p or (p.startswith("*.") and (host.endswith(p[1:]) or host == p[2:])) for p in patterns)
    assert (host in hosts.Hosts(tuple(patterns))) == scanned


@given(st.lists(NAME, max_size=5), NAME)
def test_a_line_of_a_file_means_all_below_it(tmp_path_factory, names, host) -> None:
    file = listed(tmp_path_factory.mktemp("list") / "domains", "\n".join([*names, "good.test"]))
    below = hosts.Hosts(tuple(f"*.{name}" for name in names))
    assert (host in hosts.Hosts((), file)) == (host in below)


def test_the_forms_of_lists_that_are_passed_around(tmp_path) -> None:
    text = (
        "\ufeff# a comment\r\n\r\nplain.test\r\n  spaced.test  # why\nUPPER.test\n*.star.test\n.dot.test\nBÜCHER.example\n10.1.2.3\n"
        "0.0.0.0 sink.test other.test\n::1 six.test\nhttp://a.test/path\nnot a host\nunder_score.test\nxn--p1ai\n"
    )
    file = listed(tmp_path / "domains.gz", gzip.compress(text.encode()))
    found, unread = hosts.read_list(file)
    assert found == {
        "plain.test",
        "spaced.test",
        "upper.test",
        "star.test",
        "dot.test",
        "xn--bcher-kva.example",
        "10.1.2.3",
        "sink.test",
        "other.test",
        "six.test",
        "under_score.test",
        "xn--p1ai",
    }
    assert unread == 2
    both = hosts.Hosts(("a.test", "*.b.test"), file)
    inside = ["a.test", "b.test", "x.y.b.test", "www.plain.test", "10.1.2.3"]
    assert all(host in both for host in inside)
    assert not any(host in both for host in ["x.a.test", "ab.test", "implain.test", "test", "2.3", "110.1.2.3"])


@pytest.mark.parametrize("content", [b"<html> <body> 404\n", b"\x00\x01\x02 \xff\n", b"a b\nc d\n"])
def test_a_file_that_is_no_list_is_an_error_of_the_user(tmp_path, content) -> None:
    with pytest.raises(ConfigError, match="no line names a host"):
        hosts.read_list(listed(tmp_path / "list.txt", content))


def test_a_torn_or_giant_list_is_an_error_of_the_user(tmp_path, monkeypatch) -> None:
    whole = gzip.compress(b"".join(b"%d.test\n" % n for n in range(9999)))
    with pytest.raises(ConfigError, match=r"torn\.gz.*cannot be read"):
        hosts.read_list(listed(tmp_path / "torn.gz", whole[:500]))
    monkeypatch.setattr(hosts, "LARGEST_LIST", 1_000)
    with pytest.raises(ConfigError, match="at most"):
        hosts.read_list(listed(tmp_path / "giant.gz", whole))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_refused(tmp_path_factory, content) -> None:
    file = listed(tmp_path_factory.mktemp("list") / "x.txt", b"good.test\n" + content + b"\nlast.test\n")
    found, _ = hosts.read_list(file)
    assert {"good.test", "last.test"} <= found
    assert all(urls.host(name) == name for name in found)


def test_domains_are_those_of_the_list_s_own_test_vectors() -> None:
    text = (Path(publicsuffixlist.__file__).parent / "test_psl.txt").read_text(encoding="utf-8")
    vectors = re.findall(r"^checkPublicSuffix\('([^']+)', (?:null|'([^']+)')\);", text, re.MULTILINE)
    checked = 0
    for name, domain in vectors:
        if name.startswith("."):
            continue
        host = urls.host(name)
        assert hosts.domain(host) == (urls.host(domain) if domain else host), name
        checked += 1
    assert checked > 70


def test_an_address_is_its_own_domain() -> None:
    assert [hosts.domain(host) for host in ("10.1.2.3", "[::1]", "localhost", "a.test", "x.a.test")] == [
        "10.1.2.3",
        "[::1]",
        "localhost",
        "a.test",
        "a.test",
    ]


@pytest.mark.parametrize("pattern", ["http://a.test/", "a b", "", "*.", "*", "a.*.test", "a_b..c", "1.2.3.999"])
def test_what_is_no_pattern_is_refused(pattern) -> None:
    with pytest.raises(ConfigError, match="exclude: .* is no host"):
        hosts.check_pattern("exclude", pattern)
