"""A flipped bit in every file that any data stage reads, and in every file of unfinished work: `make prove`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bit_flips import flip_inputs, flip_scratch
from tests.faults.tiny import CASES, Tiny, tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    with tiny(tmp_path_factory.mktemp("tiny")) as made:
        yield made


@pytest.mark.parametrize("label", [label for label, case in CASES.items() if case.inputs])
def test_nothing_is_built_from_a_flipped_bit(corpus: Tiny, tmp_path: Path, label: str) -> None:
    found = flip_inputs(corpus, label, tmp_path)
    assert found.tried == found.detected + found.harmless > 0
    print(f"{label}: {found}")


@pytest.mark.parametrize("label", CASES)
def test_a_flipped_bit_of_unfinished_work_changes_nothing(corpus: Tiny, tmp_path: Path, label: str) -> None:
    found = flip_scratch(corpus, label, tmp_path, sample=12)
    assert found.tried == found.harmless > 0
    print(f"{label}: {found}")
