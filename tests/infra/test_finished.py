"""Records of finished files: what they vouch for is retained, and damage of a record costs no other file."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra import finished


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A shard with a side output, each with its record; the shard's vouches for both."""
    side, main = tmp_path / "side" / "00000.arrow", tmp_path / "00000.arrow"
    side.parent.mkdir()
    side.write_bytes(b"side")
    finished.record(side)
    main.write_bytes(b"main")
    finished.record(main, [side])
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.arrow")}


@pytest.mark.parametrize(
    ("old", "new"), [('"bytes": 4', '"bytes": 5'), ('"xxh3": "', '"xxh3": "0'), ("00000.arrow", "00001.arrow"), ("{", "")]
)
def test_a_damaged_record_of_a_side_output_costs_only_the_record(scratch: Path, old: str, new: str) -> None:
    """It cost the side output, and the shard counted as finished without it: a stage was committed with a file too few."""
    record = finished.record_path(scratch / "side/00000.arrow")
    record.write_text(record.read_text().replace(old, new))
    assert finished.sweep(scratch) == []
    assert names(scratch) == {"00000.arrow", "side/00000.arrow"} and finished.is_recorded(scratch / "00000.arrow")


def test_a_damaged_record_that_names_another_file_does_not_remove_it(scratch: Path) -> None:
    record = finished.record_path(scratch / "side/00000.arrow")
    record.write_text(record.read_text().replace("00000.arrow", "../00000.arrow"))
    finished.sweep(scratch)
    assert names(scratch) == {"00000.arrow", "side/00000.arrow"}


@pytest.mark.parametrize("harmed", ["00000.arrow", "side/00000.arrow"])
def test_a_damaged_file_takes_the_shard_with_it(scratch: Path, harmed: str) -> None:
    (scratch / harmed).write_bytes(b"harm")
    assert finished.sweep(scratch) == [harmed]
    assert harmed not in names(scratch) and not finished.is_recorded(scratch / "00000.arrow")
    assert not finished.is_recorded(scratch / harmed)
