"""Every crash point of every data stage, one after another: `make prove PROVE=tests/faults/prove_crash_points.py`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.crash_points import every_point
from tests.faults.tiny import CASES, Tiny, tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    with tiny(tmp_path_factory.mktemp("tiny")) as made:
        yield made


@pytest.mark.parametrize("label", CASES)
def test_a_kill_at_any_point_ends_in_the_same_bytes(corpus: Tiny, tmp_path: Path, label: str, record_property) -> None:
    """Every third time the rerun is killed, too, somewhere."""
    rng = random.Random(label)

    def again(point: int, points: int) -> int | None:
        return rng.randrange(points) if point % 3 == 0 else None

    report = every_point(tmp_path, partial(corpus.prepare, label), partial(corpus.work, label), partial(corpus.look, label), again=again)
    assert report.tried == report.points
    record_property("points", report.points)
    print(f"{label}: {report.points} points in {report.seconds:.0f} s")
