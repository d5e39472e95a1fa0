"""Every row of the table of exit states, with the real command, without Prefect, with it, and with Ray too."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import ending
from pipelines.ending import ExitState
from tests.pipelines import ends
from tests.pipelines.ends import Run, Scene

pytestmark = [pytest.mark.timeout(400)]
GUIDE = Path(__file__).parents[2] / "docs/guides/exit-states.md"
MODES = [
    "plain",
    pytest.param("prefect", marks=pytest.mark.prefect),
    pytest.param("ray", marks=[pytest.mark.prefect, pytest.mark.ray]),
]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Whether a run that ended is what its row says."""

    def ended(run: Run, mode: str, row: ExitState, message: str = "") -> None:
        code = run.wait()
        assert code == row.code, (code, run.err(), run.out())
        assert run.status()["state"] == row.state
        said = run.err()
        assert message in said and all(line in said for line in row.remedy.splitlines()), said
        assert "Traceback" not in said and "state-dump" not in said + run.out()
        assert said.count("\n") <= 4, said
        if mode != "plain":
            assert ends.flow_run(request.getfixturevalue("server"), run.path().name)["state_name"] == row.prefect
        assert not run.strays(), run.strays(0)

    return ended


@pytest.fixture(autouse=True)
def _server(request: pytest.FixtureRequest) -> None:
    """The session's server for the modes that need one; its address is in this process's environment."""
    if "mode" in request.fixturenames and request.getfixturevalue("mode") != "plain":
        request.getfixturevalue("server")


@pytest.mark.parametrize("mode", MODES)
def test_sigterm(mode: str, scene: Scene, check: Any) -> None:
    run = scene.start(mode)
    run.until_held()
    run.send(signal.SIGTERM)
    check(run, mode, ending.TERMINATED, "stopped by SIGTERM")


@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c(mode: str, scene: Scene, check: Any) -> None:
    run = scene.start(mode)
    run.until_held()
    run.send(signal.SIGINT)
    check(run, mode, ending.INTERRUPTED, "interrupted")


@pytest.mark.parametrize("mode", MODES[1:])
def test_cancelled_through_prefect(mode: str, scene: Scene, check: Any, server: str) -> None:
    run = scene.start(mode)
    run.until_held()
    ends.cancel(server, ends.flow_run(server, run.path().name)["id"])
    check(run, mode, ending.CANCELLED, "cancelled through Prefect")


@pytest.mark.ray
@pytest.mark.prefect
@pytest.mark.parametrize("mode", ["ray"])
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_ray_is_lost(victim: str, mode: str, scene: Scene, check: Any) -> None:
    run = scene.start(mode)
    run.until_held()
    run.kill(victim)
    check(run, mode, ending.RAY_LOST, f"crawl: lost Ray on this machine: Ray's {victim} (process ")


def test_the_guide_shows_the_table() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in GUIDE.read_text().splitlines() if re.match(r"\| [^-]", line)]
    said = [
        [row.cause, str(row.code), row.state, row.prefect, f"`{row.message}`" if row.message else "", row.remedy] for row in ending.TABLE
    ]
    assert rows[1:] == said
