"""What is listed goes, what is not stays, and shards without a listed document are the very same files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from data_prep import shards
from data_prep.corpus import takedown
from data_prep.corpus.takedown import TAKEDOWN, TakedownConfig
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store


def page(url: str, text: str) -> dict[str, str]:
    return {"url": url, "host": url.split("/")[2], "text": text}


def listing(tmp_path: Path, *lines: str) -> TakedownConfig:
    path = tmp_path / "takedown.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return TakedownConfig((SourceFile.of(path),))


@pytest.fixture
def documents(given: Callable[..., Artifact]) -> Artifact:
    return given(
        [
            [page("http://a.org/1", "one"), page("http://a.org/2?x=1", "two"), page("http://b.co.uk:8080/", "three")],
            [
                page("http://www.b.co.uk/", "four"),
                page("http://notb.co.uk/", "five"),
                page("http://xn--bcher-kva.example/", "six"),
            ],
            [page("http://c.net/", "seven"), {"url": "", "host": "", "text": "eight", "source": "book.txt:1"}],
        ]
    )


def left(artifact: Artifact) -> list[str]:
    return [text for shard in artifact.shards for text in shards.read(shard)["text"].to_pylist()]


def taken(artifact: Artifact) -> list[tuple[str, str]]:
    rows = [row for path in artifact.side("taken") for row in shards.read(path).to_pylist()]
    return [(row["rule"], row["value"]) for row in rows]


def go(store: Store, config: TakedownConfig, documents: Artifact) -> Artifact:
    return run(TAKEDOWN, config, {"documents": documents}, store, LocalCompute())


def test_a_page_goes_however_its_url_is_spelt(store: Store, tmp_path: Path, documents: Artifact) -> None:
    made = go(store, listing(tmp_path, "HTTP://A.org:80/./2?x=1&utm_source=mail#part", "# a comment", "", "http://a.org/3"), documents)
    assert left(made) == ["one", "three", "four", "five", "six", "seven", "eight"]
    assert taken(made) == [("url", "http://a.org/2?x=1")]
    assert made.counts == {"kept": 7, "listed": 2, "read": 8, "removed.url": 1}


def test_a_domain_takes_its_subdomains_and_ports_and_no_namesake(store: Store, tmp_path: Path, documents: Artifact) -> None:
    made = go(store, listing(tmp_path, "B.co.uk  # by letter of 3 May"), documents)
    assert left(made) == ["one", "two", "five", "six", "seven", "eight"]
    assert made.counts["removed.domain"] == 2


def test_a_text_goes_by_its_hash_and_a_document_by_its_id(store: Store, tmp_path: Path, documents: Artifact) -> None:
    name = shards.read(documents.shards[2])["id"].to_pylist()[1]
    made = go(store, listing(tmp_path, "SHA256:" + hashlib.sha256(b"five").hexdigest().upper(), f"id:{name}"), documents)
    assert left(made) == ["one", "two", "three", "four", "six", "seven"]
    assert made.counts["removed.text"] == made.counts["removed.id"] == 1


def test_untouched_shards_are_the_same_files_and_what_went_leaves_no_text(store: Store, tmp_path: Path, documents: Artifact) -> None:
    made = go(store, listing(tmp_path, "http://c.net/"), documents)
    same = [new.samefile(old) for new, old in zip(made.shards, documents.shards, strict=True)]
    assert same == [True, True, False]
    assert b"seven" not in b"".join(path.read_bytes() for path in made.path.rglob("*.arrow") if not path.samefile(documents.shards[0]))


def test_an_international_name_goes_in_either_spelling(store: Store, tmp_path: Path, documents: Artifact) -> None:
    assert "six" not in left(go(store, listing(tmp_path, "bücher.example"), documents))
    assert "six" not in left(go(store, listing(tmp_path, "xn--bcher-kva.example"), documents))


def test_an_empty_list_takes_nothing(store: Store, tmp_path: Path, documents: Artifact) -> None:
    made = go(store, listing(tmp_path, "# nothing yet"), documents)
    assert len(left(made)) == 8
    assert made.counts == {"kept": 8, "listed": 0, "read": 8}


@pytest.mark.parametrize("line", ["localhost", "sha256:abc", "http://", "two words", "https://user@host/", "a..b", "-"])
def test_an_entry_that_cannot_be_understood_is_refused_with_its_line(store: Store, tmp_path: Path, documents: Artifact, line: str) -> None:
    config = listing(tmp_path, "http://a.org/1", line)
    with pytest.raises(ConfigError, match=r"takedown\.txt:2"):
        go(store, config, documents)
    assert not store.made("takedown")


@given(st.text(max_size=40))
@example("*.com")
@example("例え.jp")
@example("[::1]")
def test_any_line_is_an_entry_or_none_and_its_normal_form_is_stable(line: str) -> None:
    kind, value = takedown.entry(line)
    assert kind in ("", *takedown.RULES)
    assert bool(kind) == bool(value)
    if kind in ("url", "domain"):
        assert takedown.entry(value if kind == "url" or "." in value else f"*.{value}") == (kind, value)
