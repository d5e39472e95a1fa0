"""The whole mill under a wall clock that is set back and forth, plainly, under Prefect and with Ray: `make prove`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.end_to_end import mini
from tests.end_to_end.mini import Place, counts, pages
from tests.faults.clock import Restless, jumping
from tests.faults.test_kill import _untimed
from tests.pipelines import ends
from tests.pipelines.conftest import server
from tests.pipelines.ends import Scene

__all__ = ["server"]
RAY = pytest.param("ray", marks=[pytest.mark.prefect, pytest.mark.ray])


def same(here: Path, there: Path) -> bool:
    if here.parent.name == "crawl":
        return pages(here) == pages(there) and counts(here) == counts(there)
    return _untimed(here) == _untimed(there)


@pytest.mark.timeout(1200)
def test_every_stage_makes_the_same_bytes(finished: Place, tmp_path: Path) -> None:
    place = Restless.make(tmp_path / "restless")
    assert isinstance(place, Restless)
    began = time.monotonic()
    rows = place.run(*mini.RUN)
    print(f"{time.monotonic() - began:.0f} s under a jumping clock")
    for row, calm in zip(rows, finished.rows(), strict=True):
        assert (row["label"], row["fingerprint"]) == (calm["label"], calm["fingerprint"])
        if row["stage"] != "evaluate":
            assert same(place.made(row), finished.made(calm)), row["label"]
    assert place.call("verify").returncode == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", [pytest.param("prefect", marks=pytest.mark.prefect), RAY])
def test_a_run_under_prefect_ends_in_time(mode: str, tmp_path: Path, server: str) -> None:
    """The run's own process, its Ray cluster and its ranks jump; the server does not."""
    ended = {}
    for kind, environment in (("calm", {}), ("restless", jumping(tmp_path / "clock"))):
        scene = Scene(tmp_path / kind)
        scene.gate.set()
        began = time.monotonic()
        run = scene.start(mode, until="dedup", **environment)
        assert run.wait() == 0, run.err() + run.out()
        print(f"{mode}, {kind}: {time.monotonic() - began:.0f} s")
        assert run.status()["state"] == "done" and not run.strays()
        assert ends.flow_run(server, run.path().name)["state_name"] == "Completed"
        ended[kind] = {path.parent.name: path for path in (scene.directory / "workspace/artifacts").glob("*/[!.]*")}
        scene.close()
    assert ended["calm"].keys() == ended["restless"].keys() >= {"links", "crawl", "extract", "filter", "dedup"}
    for stage in ("links", "crawl", "filter", "dedup"):
        assert same(ended["restless"][stage], ended["calm"][stage]), stage
