"""kill -9 of a run's whole process tree, Ray and Prefect included; the same command then resumes. Every stage: prove_kill.py."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.end_to_end import mini
from tests.end_to_end.mini import Place, content

PATIENCE_S = 300
TRAININGS = ("gpt", "bert", "half", "package half")
SAVED = 5  # the recipe's save_every: a training that was killed goes on from there or later


def kill_tree(process: psutil.Process) -> None:
    """Stop all before any is killed, so that none can start another or be lost to init; then wait until the others are gone."""
    tree = {process}
    while True:
        for one in tree:
            try:
                one.suspend()
            except psutil.NoSuchProcess:
                continue
        more = {child for one in tree for child in _children(one)} - tree
        if not more:
            break
        tree |= more
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree - {process}, timeout=30)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def strike(place: Place, label: str, wait: float, words: tuple[str, ...] = mini.RUN, ready: Callable[[], bool] = lambda: True) -> None:
    """Start the run; kill everything some time into the stage, and not before it is ready."""
    before = set(place.workspace.glob("runs/*"))
    process = place.start(*words)
    began, ends = 0.0, time.monotonic() + PATIENCE_S
    while not began or time.monotonic() < began + wait or not ready():
        assert process.poll() is None, f"over before {label} began: {process.communicate()[1]}"
        assert time.monotonic() < ends, f"{label} has not begun"
        if not began and any(_is_in(run, label) for run in set(place.workspace.glob("runs/*")) - before):
            began = time.monotonic()
        time.sleep(0.002)
    kill_tree(psutil.Process(process.pid))
    process.communicate()
    assert process.returncode == -9


def _is_in(run: Path, label: str) -> bool:
    """Whether the stage has begun; a training, when it is past its first checkpoint."""
    path = run / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    begun = [n for n, one in enumerate(told) if one["kind"] == "stage" and one["label"] == label]
    if not begun or label not in TRAININGS:
        return bool(begun)
    return any(one["kind"] == "train" and one["step"] > SAVED for one in told[begun[0] :])


def _untimed(artifact: Path) -> dict[str, object]:
    """Every file's hash; of the metrics what they say, without the speed they were made at and what it was like."""
    found: dict[str, object] = dict(content(artifact))
    if found.pop("metrics.jsonl", None):
        lines = (artifact / "metrics.jsonl").read_text().splitlines()
        found["metrics.jsonl"] = [{k: v for k, v in json.loads(line).items() if k not in ("tokens_per_s", "speed")} for line in lines]
    return found


@pytest.mark.ray
@pytest.mark.prefect
def test_killed_with_ray_and_prefect_the_same_command_goes_on(finished: Place, tmp_path: Path) -> None:
    """The blow takes Ray's processes and the Prefect server, which the run started, along with it."""
    place = finished.twin(tmp_path / "ray", "site", "links", "crawl")
    rows = {row["label"]: row for row in finished.rows()}
    words = ("run", "mini.yaml", "--until", "dedup", "--set", "resources.cpus=2")
    try:
        strike(place, "extract", 0.5, words)
        assert not place.made(rows["extract"]).exists()
        alive = [one for one in psutil.process_iter(["cwd"]) if str(one.info["cwd"]).startswith(str(place.folder))]
        assert not alive, alive
        for row in place.run(*words):
            assert content(place.made(row)) == content(finished.made(rows[row["label"]])), row["label"]
        assert place.states() == {
            **dict.fromkeys(("site", "links", "crawl"), "cached"),
            **dict.fromkeys(("extract", "filter", "dedup"), "done"),
        }
    finally:
        place.call("ui", "--stop")
