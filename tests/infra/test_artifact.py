"""Fingerprints change when, and only when, what they name changes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.artifact import Artifact, SourceFile, fingerprint, how
from infra.errors import ArtifactError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@dataclass(frozen=True)
class Config:
    words: int = 5
    names: tuple[str, ...] = ("a",)
    workers: int = how(1)


@given(JSON)
def test_a_fingerprint_survives_a_round_trip_through_json(value: object) -> None:
    assert fingerprint(value) == fingerprint(json.loads(json.dumps(value)))


def test_the_order_of_keys_does_not_matter_and_the_order_of_a_list_does() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_a_config_is_its_fields() -> None:
    assert fingerprint(Config()) == fingerprint(Config(words=5))
    assert fingerprint(Config()) != fingerprint(Config(words=6))


def test_how_work_is_done_is_no_part_of_a_fingerprint() -> None:
    assert fingerprint(Config(workers=8)) == fingerprint(Config())


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), object()], ids=["set", "path", "object"])
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no stable form"):
        fingerprint(value)


def test_a_source_file_counts_by_content_not_by_place(tmp_path: Path) -> None:
    for folder, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "links.csv").write_text(text)
    one, two, three = (SourceFile.of(tmp_path / f / "links.csv") for f in "abc")
    assert fingerprint(one) == fingerprint(two) != fingerprint(three)


def test_a_missing_source_file_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.csv: cannot be read"):
        SourceFile.of(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("seed", ["0", "1"])
def test_fingerprints_do_not_depend_on_pythons_hash_seed(seed: str) -> None:
    code = "from infra.artifact import fingerprint; print(fingerprint({'b': [1.5, 'ü'], 'a': None}))"
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == fingerprint({"a": None, "b": [1.5, "ü"]})


def test_a_manifest_that_is_no_json_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest.json cannot be read"):
        _ = Artifact("s", "f", tmp_path).manifest
