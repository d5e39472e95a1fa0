"""Every crash point of a push to a mirror, and of a pull from it: `make prove PROVE=tests/faults/prove_mirror_kills.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

from infra.compute import LocalCompute
from infra.mirror import Mirror
from infra.stage import run
from infra.store import Store
from tests.faults.crash_points import Snapshot, content, every_point
from tests.infra.test_mirror import CONFIG, TOY


def mirrored(root: Path, name: str) -> Store:
    return Store(root / name, Mirror(f"file://{root}/bucket"))


def build(root: Path) -> None:
    """Build, commit and push."""
    run(TOY, CONFIG, {}, mirrored(root, "here"), LocalCompute())


def pull(root: Path) -> None:
    """Another workspace finds what is on the mirror."""
    assert mirrored(root, "there").find(TOY.name, TOY.key(CONFIG, {}))


def look(root: Path) -> Snapshot:
    """The mirror as others see it: what the manifests list. Names that a killed push left are no part of any artifact."""
    assert mirrored(root, "fresh").find(TOY.name, TOY.key(CONFIG, {}))
    found = content(root / "fresh")
    shutil.rmtree(root / "fresh")
    hidden = [path.name for name in ("here", "there") for path in (root / name).glob("*/.*")]
    assert not hidden, hidden
    return {**found, **content(root, without=("bucket",))}


def test_a_push_killed_at_any_point_is_completed_by_the_next_run(tmp_path: Path) -> None:
    report = every_point(tmp_path, lambda root: root.mkdir(parents=True), build, look)
    assert report.tried == report.points > 15
    print(f"push: {report.points} points in {report.seconds:.0f} s")


def test_a_pull_killed_at_any_point_is_completed_by_the_next_run(tmp_path: Path) -> None:
    def pushed(root: Path) -> None:
        root.mkdir(parents=True)
        build(root)

    report = every_point(tmp_path, pushed, pull, look)
    assert report.tried == report.points > 4
    print(f"pull: {report.points} points in {report.seconds:.0f} s")
