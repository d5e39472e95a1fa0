"""A checkpoint is whole or absent: torn at any byte it is noticed, and the one before it is used."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.log import attach
from training.engine.checkpoint import Checkpoints, Keep, Lowest, Point, _seal_of, verify
from training.engine.rank import Rank
from training.engine.snapshot import frozen

ALONE = Rank(0, 1, torch.device("cpu"))


class Weights:
    """The simplest thing with a state."""

    def __init__(self, value: float = 0.0, pause_s: float = 0.0, stage: int = 1) -> None:
        self.value, self.pause_s, self.world, self.stage, self.saved_under = torch.full((64,), value), pause_s, 0, stage, -1

    def save(self, folder: Path, apart: bool) -> Callable[[], list[Path]]:
        value = frozen({"value": self.value})["value"] if apart else self.value

        def write() -> list[Path]:
            (folder / "state").mkdir()
            torch.save(value, folder / "state" / "a.pt")
            time.sleep(self.pause_s)
            torch.save(value, folder / "state" / "b.pt")
            return [folder / "state" / "a.pt", folder / "state" / "b.pt"]

        return write

    def load(self, folder: Path, world: int, stage: int) -> None:
        a, b = (torch.load(folder / "state" / name, weights_only=True) for name in ("a.pt", "b.pt"))
        assert torch.equal(a, b)
        self.value, self.world, self.saved_under = a, world, stage


def saved(root: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(root, ALONE)
    for step in steps:
        checkpoints.save(Weights(step), Point(step, step * 100))
    return checkpoints


def test_the_newest_is_loaded_with_its_step_tokens_and_world(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10)
    weights = Weights()
    assert Checkpoints(tmp_path, ALONE).resume(weights) == Point(10, 1000)
    assert weights.value[0] == 10 and weights.world == 1


def test_the_stage_it_was_saved_under_is_told_and_ones_own_where_nobody_said(tmp_path: Path) -> None:
    Checkpoints(tmp_path, ALONE).save(Weights(5, stage=3), Point(5, 500))
    weights = Weights(stage=2)
    assert Checkpoints(tmp_path, ALONE).resume(weights) == Point(5, 500) and weights.saved_under == 3
    manifest = tmp_path / "step-5" / "manifest.json"
    record = json.loads(manifest.read_text())["record"]
    del record["zero"]
    manifest.write_text(json.dumps({"record": record, "xxh3": _seal_of(record)}))
    assert Checkpoints(tmp_path, ALONE).resume(weights) == Point(5, 500) and weights.saved_under == 2


def test_without_a_checkpoint_training_starts_at_the_start(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", ALONE).resume(Weights()) == Point(0, 0)


def test_the_last_two_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 8, 9, 10, 11)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["last-good", "step-10", "step-11"]
    assert (tmp_path / "last-good").read_text() == "step-11\n"


def test_saving_the_same_step_again_leaves_the_whole_one_alone(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 5)
    before = (tmp_path / "step-5" / "manifest.json").stat().st_mtime_ns
    checkpoints.save(Weights(99), Point(5, 500))
    assert (tmp_path / "step-5" / "manifest.json").stat().st_mtime_ns == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), how=st.sampled_from(["cut", "flip", "remove"]))
def test_a_checkpoint_torn_at_any_byte_gives_way_to_the_one_before(tmp_path: Path, data: st.DataObject, how: str) -> None:
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    saved(root, 5, 10)
    victim = root / "step-10" / data.draw(st.sampled_from(["manifest.json", "state/a.pt", "state/b.pt"]))
    content = bytearray(victim.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if how == "cut":
        victim.write_bytes(content[:at])
    elif how == "remove":
        victim.unlink()
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        victim.write_bytes(content)
    told: list[dict] = []
    detach = attach(told.append)
    weights = Weights()
    point = Checkpoints(root, ALONE).resume(weights)
    detach()
    if point.step == 10:  # a flipped bit of the manifest may make a space a newline
        assert victim.name == "manifest.json" and how == "flip"
        assert weights.value[0] == 10
    else:
        assert point == Point(5, 500) and weights.value[0] == 5
        assert any("step-10 is damaged" in e.get("message", "") for e in told)


def save_slowly(root: str) -> None:
    Checkpoints(Path(root), ALONE).save(Weights(10, pause_s=60), Point(10, 1000))


def test_killed_while_saving_the_one_before_is_used_and_the_next_save_clears_up(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    process = mp.get_context("spawn").Process(target=save_slowly, args=(str(tmp_path),))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "step-10.part" / "state" / "a.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    weights = Weights()
    assert Checkpoints(tmp_path, ALONE).resume(weights) == Point(5, 500)
    saved(tmp_path, 10)
    assert not (tmp_path / "step-10.part").exists()
    assert verify(tmp_path / "step-10")["tokens"] == 1000


def test_a_manifest_under_a_wrong_name_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    (tmp_path / "step-5").rename(tmp_path / "step-7")
    with pytest.raises(ValueError, match="of step 5"):
        verify(tmp_path / "step-7")


def test_the_manifest_names_every_file_with_size_and_hash(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    record = json.loads((tmp_path / "step-5" / "manifest.json").read_text())["record"]
    assert sorted(record["files"]) == ["state/a.pt", "state/b.pt"]
    assert all(entry["bytes"] > 0 and len(entry["xxh3"]) == 32 for entry in record["files"].values())


def test_the_best_is_loaded_and_how_long_no_loss_was_lower_is_in_every_checkpoint(tmp_path: Path) -> None:
    checkpoints, lowest = Checkpoints(tmp_path, ALONE, Keep(last=1, best=True)), Lowest()
    for step, loss in ((5, 2.0), (10, 1.5), (15, 1.5), (20, 1.9)):
        lowest = lowest.after(loss)
        checkpoints.save(Weights(step), Point(step, step * 100, lowest=lowest), valid_loss=loss)
    weights = Weights()
    assert Checkpoints(tmp_path, ALONE).resume(weights).lowest == Lowest(1.5, 2)
    best = checkpoints.best(weights, now=20)
    assert best is not None and best.step == 10 and weights.value[0] == 10
    assert checkpoints.best(weights, now=10) is None, "the engine holds it already"
    assert Checkpoints(tmp_path / "none", ALONE).best(weights, now=0) is None
