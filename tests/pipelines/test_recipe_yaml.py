"""Strict YAML with lines: held against ruamel's own loader on generated documents."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from infra.errors import ConfigError
from pipelines import recipe_yaml

WORDS = st.text("abcxyz_", min_size=1, max_size=6)
TEXT = st.text("abcxzäé한 ", max_size=8)  # of marks and line ends ruamel itself writes some that it reads otherwise (?0, U+0085)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=12)


@given(st.dictionaries(WORDS, VALUES, max_size=4))
def test_what_ruamel_writes_is_read_back_as_it_was(value: dict) -> None:
    text = StringIO()
    YAML(typ="safe", pure=True).dump(value, text)
    assert recipe_yaml.read(text.getvalue(), "x.yaml").value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("6e-4", 6e-4), ("1e6", 1e6), ("3_000_000", 3_000_000), ("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("~", None),
     ("'5'", "5"), ("0x10", 16), ("012", 12), ("1.5", 1.5), ("-3", -3), ("1:30", "1:30"), ("2026-11-21", "2026-11-21"), ("e5", "e5")],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = recipe_yaml.read(f"key: {text}", "x.yaml").value["key"]
    assert found == value and type(found) is type(value)


def test_every_key_knows_its_line() -> None:
    document = recipe_yaml.read("a: 1\nb:\n  c: 2\n  d:\n    - e: 3\n    - e: 4\n", "x.yaml")
    assert document.place(("b", "c")) == "x.yaml:3"
    assert document.place(("b", "d", 1, "e")) == "x.yaml:6"
    assert document.place(("b", "d", 1, "missing")) == "x.yaml:6"


def test_a_key_given_twice_is_told_with_both_lines() -> None:
    document = recipe_yaml.read("a: 1\nb: 2\na: 3\n", "x.yaml")
    assert document.problems == ["x.yaml:3: `a` is given twice (first in line 1); keep one of them"]


@pytest.mark.parametrize("text", ["a: [1", "a:\n - b\n c", "- 1", "a: *nothing", "just words", "a: 1\n---\nb: 2"])
def test_what_is_no_recipe_is_refused_with_the_file_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml"):
        recipe_yaml.read(text, "x.yaml")


def test_settings_reach_lists_and_make_sections_on_the_way() -> None:
    document = recipe_yaml.read("corpus:\n  sources:\n    - {kind: urls}\n", "x.yaml")
    for text in ("corpus.sources.0.kind=warc", "models.gpt.size=tiny", "corpus.filter.languages=[en, no]", "seed=1e3"):
        key, value = recipe_yaml.setting(text)
        document.put(key, value, f"--set {text}")
    assert document.value == {
        "corpus": {"sources": [{"kind": "warc"}], "filter": {"languages": ["en", "no"]}}, "models": {"gpt": {"size": "tiny"}}, "seed": 1000.0,  # noqa: E501
    }  # fmt: skip
    assert document.place(("corpus", "sources", 0, "kind")).startswith("--set corpus.sources.0")


@pytest.mark.parametrize("text", ["min_words", "=3", "a..b=3", "a=[1"])
def test_a_setting_that_is_none_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        recipe_yaml.setting(text)


@given(st.text(max_size=60))
def test_no_text_makes_the_reader_fall(text: str) -> None:
    try:
        recipe_yaml.read(text, "x.yaml")
    except ConfigError:
        return
