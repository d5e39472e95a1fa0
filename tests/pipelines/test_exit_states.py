"""Every row of the table of exit states, with the real command, without Prefect, with it, and with Ray too."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines import ending
from pipelines.ending import ExitState
from tests.pipelines import ends
from tests.pipelines.ends import Run, Scene

pytestmark = [pytest.mark.timeout(400)]
GUIDE = Path(__file__).parents[2] / "docs/guides/exit-states.md"
PREFECT = pytest.param("prefect", marks=pytest.mark.prefect)
RAY = pytest.param("ray", marks=[pytest.mark.prefect, pytest.mark.ray])
# Not in CI, which has two rows with Ray and some with Prefect: `make cluster` and `make prove` run all of them.
SLOW_PREFECT = pytest.param("prefect", marks=[pytest.mark.prefect, pytest.mark.prove])
SLOW_RAY = pytest.param("ray", marks=[pytest.mark.prefect, pytest.mark.ray, pytest.mark.cluster])
MODES = ["plain", SLOW_PREFECT, SLOW_RAY]


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
        assert message in said and (row in (ending.DONE, ending.CONFIG) or f"textmill: {row.remedy}\n" in said), said
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


@pytest.mark.parametrize("mode", ["plain", PREFECT, RAY])
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


@pytest.mark.parametrize("mode", [PREFECT, SLOW_RAY])
def test_cancelled_through_prefect(mode: str, scene: Scene, check: Any, server: str) -> None:
    run = scene.start(mode)
    run.until_held()
    ends.cancel(server, ends.flow_run(server, run.path().name)["id"])
    check(run, mode, ending.CANCELLED, "cancelled through Prefect")


@pytest.mark.parametrize(
    ("victim", "mode"), [pytest.param("raylet", "ray", marks=RAY.marks), pytest.param("gcs_server", "ray", marks=SLOW_RAY.marks)]
)
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


@pytest.mark.parametrize("mode", MODES)
def test_done(mode: str, scene: Scene, check: Any) -> None:
    scene.gate.set()
    check(scene.start(mode, until="crawl"), mode, ending.DONE)


@pytest.mark.parametrize("mode", MODES)
def test_the_recipe_turns_out_to_be_of_no_use(mode: str, scene: Scene, check: Any) -> None:
    scene.gate.set()
    check(scene.start(mode, "--set", "corpus.filter.min_words=5000", until="tokenizer"), mode, ending.CONFIG, "no text to train on")


@pytest.mark.parametrize("mode", ["plain", PREFECT, SLOW_RAY])
def test_a_stage_fails(mode: str, scene: Scene, check: Any) -> None:
    """Where a shard is to be written there is a directory."""
    run = scene.start(mode)
    run.until_held()
    for scratch in filter(Path.is_dir, (scene.directory / "workspace/artifacts/crawl").glob(".*")):
        for name in ("00000.arrow", "00001.arrow"):
            (scratch / name / "in the way").mkdir(parents=True, exist_ok=True)
    scene.gate.set()
    check(run, mode, ending.FAILED, "crawl: ")


@pytest.mark.parametrize("mode", MODES)
def test_an_artifact_is_damaged(mode: str, scene: Scene, check: Any) -> None:
    """A bit of an artifact on the mirror has flipped: it is not used, and the run does not build another under its name there."""
    scene.gate.set()
    where = ["--set", f"resources.mirror={(scene.directory / 'mirror').as_uri()}"]
    assert scene.start("plain", *where, until="extract").wait() == 0
    shutil.rmtree(scene.directory / "workspace")
    for stage in ("links", "crawl"):  # so that there is work before the damage is met
        shutil.rmtree(scene.directory / "mirror" / stage)
    [damaged] = (scene.directory / "mirror/extract").glob("*/00000.arrow")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    check(scene.start(mode, *where), mode, ending.DAMAGED, "00000.arrow does not hash to what its manifest says; remove ")
    assert not list((scene.directory / "workspace/artifacts/extract").glob("[!.]*"))


@pytest.mark.parametrize("mode", ["plain", "ray"])
def test_a_recipe_that_cannot_be_carried_out_starts_nothing(mode: str, scene: Scene) -> None:
    run = scene.start(mode, "--set", "corpus.filter.min_wrds=3")
    assert run.wait() == ending.CONFIG.code and "min_words" in run.err()
    assert not (scene.directory / "workspace").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-such-host.invalid:6379"])
def test_a_ray_address_where_nothing_answers_is_refused_in_seconds(address: str, scene: Scene) -> None:
    began = time.monotonic()
    run = scene.start("ray", "--ray", address)
    assert run.wait() == ending.RAY_ADDRESS.code and f"no Ray cluster answers at {address}" in run.err()
    assert time.monotonic() - began < 30, "the check itself takes three seconds"
    assert not (scene.directory / "workspace").exists()


@pytest.mark.parametrize("mode", ["plain", PREFECT, SLOW_RAY])
def test_killed(mode: str, scene: Scene, request: pytest.FixtureRequest) -> None:
    """Nobody is left to write a state: `textmill status` sees that the process is gone, and its own processes end."""
    from pipelines import rundir

    run = scene.start(mode)
    run.until_held()
    run.send(signal.SIGKILL)
    assert run.wait() == 128 - ending.KILLED.code and rundir.status(run.path())["state"] == ending.KILLED.state
    assert not run.strays(60), run.strays(0)


@pytest.mark.parametrize("mode", MODES)
def test_the_disk_is_full(mode: str, scene: Scene, check: Any) -> None:
    with small_disk(scene.directory / "workspace", "3m"):
        run = scene.start(mode)
        run.until_held()
        with suppress(OSError), (scene.directory / "workspace/filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        scene.gate.set()
        check(run, mode, ending.DISK_FULL, "MiB free")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A disk of so many bytes at this path."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting is not allowed here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("mode", MODES)
def test_memory_runs_out_in_a_rank(mode: str, scene: Scene, check: Any) -> None:
    """The first matrix of the model needs 48 GiB, more than the address space that the rank may have."""
    scene.gate.set()
    wide = "models.gpt.pretrain.overrides={width: 65536, layers: 1}"
    run = scene.start(mode, "--set", wide, "--set", "resources.ranks=1", until="pretrain", TEXTMILL_TEST_ADDRESS_SPACE=str(9 << 30))
    check(run, mode, ending.NO_RAM, "pretrain: 1 of 1 ranks failed")


@pytest.mark.parametrize("mode", [SLOW_RAY])
def test_rays_memory_monitor_kills_the_workers(mode: str, scene: Scene, check: Any) -> None:
    run = scene.start(mode, RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="100")
    check(run, mode, ending.NO_RAM, "Ray's memory monitor killed its worker")


@pytest.mark.parametrize(
    ("back", "mode"),
    [
        pytest.param(True, "prefect", marks=PREFECT.marks),
        pytest.param(True, "ray", marks=SLOW_RAY.marks),
        pytest.param(False, "prefect", marks=SLOW_PREFECT.marks),
        pytest.param(False, "ray", marks=SLOW_RAY.marks),
    ],
)
def test_the_prefect_server_is_lost(back: bool, mode: str, scene: Scene, tmp_path: Path) -> None:
    """The work goes on at its pace; a server that comes back learns what it missed."""
    with ends.own_server(tmp_path / "home") as server:
        run = scene.start(mode, **server.environment)
        run.until_held()
        server.kill()
        run.until(lambda: "does not answer" in run.out())
        if back:
            server.start()
            run.until(lambda: "answers again" in run.out())
        began = time.monotonic()
        scene.gate.set()
        assert run.wait() == ending.PREFECT_LOST.code, run.err() + run.out()
        took = time.monotonic() - began
        assert run.status()["state"] == ending.PREFECT_LOST.state
        assert run.out().count("does not answer") == 1 and not run.err(), run.err()
        stages = {row["label"]: row["seconds"] for row in json.loads((run.path() / "stages.json").read_text())}
        assert took < 30 + 2 * sum(stages[name] for name in ("extract", "filter", "dedup")), (took, stages)
        if not back:
            server.start()
        flow = ends.flow_run(server.api, run.path().name)
        assert flow["state_name"] == ("Completed" if back else ending.PREFECT_LOST.prefect)
        if back:
            assert ends.task_runs(server.api, flow["id"]) == dict.fromkeys(("links", "crawl", "extract", "filter", "dedup"), "Completed")
