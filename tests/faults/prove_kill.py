"""kill -9 of the whole process tree in every stage of the chain, one after another in one workspace.

Nothing may show afterwards that it happened: fingerprints, data shards and models are those of the undisturbed run.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from infra.finished import is_recorded
from tests.end_to_end import mini
from tests.end_to_end.mini import DATA, Place, Row, counts, pages
from tests.faults.test_kill import SAVED, TRAININGS, _untimed, strike

SEED = 20
STAGES = ("site", "links", "crawl", "extract", "filter", "dedup", "tokenizer bytes", "encode pieces", "blocks bytes 64", "pairs pieces 64")
PIECEWISE = ("site", "crawl", "extract", "filter", "encode", "blocks", "pairs")  # a finished shard of theirs is not made again

Killed = tuple[Place, dict[str, dict[str, tuple[int, int]]]]


def finished_pieces(scratch: Path) -> dict[str, tuple[int, int]]:
    """Main shards in a folder: a shard that is written a second time is another file."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in scratch.glob("*.arrow")}


def recorded_pieces(artifact: Path) -> dict[str, tuple[int, int]]:
    """The finished pieces of an artifact that is not committed: those with a record."""
    scratch = artifact.with_name(f".{artifact.name}")
    return {name: found for name, found in finished_pieces(scratch).items() if is_recorded(scratch / name)}


def _may_be_killed(artifact: Path) -> bool:
    """Whether a shard is finished; also when all are, and the kill comes too late."""
    return artifact.exists() or bool(recorded_pieces(artifact))


def killed_in(labels: tuple[str, ...], finished: Place, folder: Path) -> Iterator[Killed]:
    """A workspace where the run was killed once in each of these stages, and what stood finished at each death."""
    place = Place.make(folder)
    rng, rows = random.Random(SEED), {row["label"]: row for row in finished.rows()}
    stood: dict[str, dict[str, tuple[int, int]]] = {}
    for label in labels:
        artifact, sharded = place.made(rows[label]), rows[label]["stage"] in PIECEWISE
        wait = 0.0 if sharded else rng.random() * (0.3 if label in TRAININGS else 0.8 * rows[label]["seconds"])
        ready = partial(_may_be_killed, artifact) if sharded else lambda: True
        for _ in range(5):
            strike(place, label, wait, ready=ready)
            if not artifact.exists():
                break
            shutil.rmtree(artifact)  # the blow came too late: the stage once more, and quicker
            wait /= 3
        else:
            pytest.fail(f"{label} is too quick to be killed")
        stood[label] = recorded_pieces(artifact)
        assert place.states()[label] == "running", (label, place.events()[-3:])
    yield place, stood
    left = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] and p.info["cwd"].startswith(str(place.folder))]
    assert not left, left


@pytest.fixture(scope="module")
def blows(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    yield from killed_in((*STAGES, *TRAININGS, "evaluate half"), finished, tmp_path_factory.mktemp("killed"))


@pytest.mark.timeout(3600)
def test_killed_in_its_stages_the_run_ends_as_if_nothing_had_been(blows, finished: Place) -> None:
    place, stood = blows
    status = json.loads(place.call("status", "--json").stdout)
    assert status["state"] == "killed"
    rows = place.run(*mini.RUN)
    assert [_identity(row) for row in rows] == [_identity(row) for row in finished.rows()]
    for row, undisturbed in zip(rows, finished.rows(), strict=True):
        here, there = place.made(row), finished.made(undisturbed)
        if row["stage"] == "crawl":
            assert pages(here) == pages(there)
        elif row["stage"] != "evaluate":
            assert _untimed(here) == _untimed(there), row["label"]
            assert counts(here) == counts(there), row["label"]
        else:
            assert json.loads((here / "scores.json").read_text()) == json.loads((there / "scores.json").read_text())
    assert {row["stage"] for row in rows} >= {*DATA, "pretrain", "distill", "finetune", "evaluate"}
    assert place.call("verify").returncode == 0
    _nothing_is_left_behind(place)
    _finished_pieces_were_kept(place, {row["label"]: row for row in rows}, stood)


@pytest.mark.timeout(3600)
def test_a_killed_training_went_on_from_its_checkpoint(blows) -> None:
    """The run after each blow reports no step at or before the last checkpoint."""
    place, stood = blows
    for label in stood.keys() & set(TRAININGS):
        runs = [steps for folder in sorted(place.workspace.glob("runs/*")) if (steps := _steps(folder, label))]
        assert len(runs) >= 2 and runs[0][0] == 0, (label, runs)
        for first, second in pairwise(runs):
            assert SAVED <= second[0] <= first[-1] + 1, (label, runs)


def _steps(run: Path, label: str) -> list[int]:
    stage, steps, inside = "", [], False
    for line in (run / "events.jsonl").read_text().splitlines():
        told = json.loads(line)
        if told["kind"] == "stage":
            inside, stage = told["label"] == label, told["stage"]
        elif told["kind"] == "train" and inside and told["stage"] == stage:
            steps.append(told["step"])
    return steps


def _identity(row: Row) -> tuple[str, str, str]:
    return row["label"], row["stage"], row["fingerprint"]


def _nothing_is_left_behind(place: Place) -> None:
    hidden = [path.name for path in place.workspace.glob("artifacts/*/.*")]
    assert not hidden, hidden


def _finished_pieces_were_kept(place: Place, rows: dict[str, Row], stood: dict[str, dict[str, tuple[int, int]]]) -> None:
    for label, pieces in stood.items():
        if rows[label]["stage"] not in PIECEWISE:
            continue
        now = finished_pieces(place.made(rows[label]))
        assert {name: now.get(name) for name in pieces} == pieces, label
        assert pieces, f"{label} was killed before a shard was finished"
