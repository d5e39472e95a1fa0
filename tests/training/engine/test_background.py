"""Checkpoints written while training goes on: the same state as when it waits, whole when they are reported, and never silent."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from infra.compute import LocalCompute
from infra.errors import PipelineError
from infra.log import attach
from tests.training.engine.soak import Plan, Victim
from tests.training.engine.test_checkpoint import ALONE, Weights
from tests.training.engine.trial import Trial, run_all, settings
from training.engine.checkpoint import MANIFEST, Checkpoints, Keep, Point, verify
from training.engine.snapshot import frozen


def checkpoints_of(out: Path) -> dict[str, bytes]:
    root = out / ".checkpoints"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, every stage of ZeRO: all checkpoints of a run written beside it, and of one that waits for them."""
    root = tmp_path_factory.mktemp("both")
    trials = [
        Trial(root / f"{z}-{name}", settings(zero=z, micro_batch=3, background=background, keep=Keep(9)), "bert", dropout=0.1)
        for z in range(4)
        for name, background in (("beside", True), ("waiting", False))
    ]
    LocalCompute(2).gang("trial", partial(run_all, trials))
    return root


def alike(one: Path, other: Path) -> bool:
    return same(*(torch.load(path, weights_only=False) for path in (one, other)))


def same(one: object, other: object) -> bool:
    """Equal to the bit, through dicts, lists and tuples."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other or repr(one) == repr(other)


@pytest.mark.parametrize("zero", range(4))
def test_the_files_hold_the_same_as_when_training_waits(zero: int, both: Path) -> None:
    beside, waiting = (checkpoints_of(both / f"{zero}-{name}") for name in ("beside", "waiting"))
    assert sorted(beside) == sorted(waiting)
    assert {name.split("/")[0] for name in beside} == {"step-5", "step-10", "step-12", "last-good"}
    for name, content in beside.items():
        if name.endswith(".pt"):  # pickle writes a string again or points at it, by its identity: two runs may differ in that alone
            assert alike(both / f"{zero}-beside" / ".checkpoints" / name, both / f"{zero}-waiting" / ".checkpoints" / name), name
        elif not name.endswith(MANIFEST):  # it holds the files' hashes
            assert content == waiting[name], name


@pytest.mark.parametrize("zero", [0, 3])
def test_every_file_of_a_real_checkpoint_is_guarded_at_every_place(zero: int, both: Path, tmp_path: Path) -> None:
    """Each file cut and flipped at its ends and at places drawn by seed, and removed."""
    rng, whole = random.Random(zero), both / f"{zero}-beside" / ".checkpoints" / "step-10"
    copy = tmp_path / "step-10"
    shutil.copytree(whole, copy)
    assert verify(copy)["step"] == 10
    names = sorted(str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file())
    assert len(names) >= (2 if zero == 0 else 5)
    for name in names:
        path, content = copy / name, (whole / name).read_bytes()
        for at in {0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(20))}:
            flipped = bytearray(content)
            flipped[at] ^= 0x80  # never white space for white space
            for spoilt in (bytes(flipped), content[:at]):
                path.write_bytes(spoilt)
                with pytest.raises((OSError, ValueError, KeyError, TypeError)):
                    verify(copy)
        path.unlink()
        with pytest.raises(OSError):
            verify(copy)
        path.write_bytes(content)
    verify(copy)


class Slow(Weights):
    """Its file takes a while; told is what happened, in order."""

    def __init__(self, pause_s: float = 0.3) -> None:
        super().__init__(1.0, pause_s)


def test_training_goes_on_while_a_checkpoint_is_written_and_the_copy_does_not_change(tmp_path: Path) -> None:
    checkpoints, weights = Checkpoints(tmp_path, ALONE, background=True), Slow(0.5)
    began = time.monotonic()
    checkpoints.save(weights, Point(5, 500))
    weights.value += 1  # the next step
    assert time.monotonic() - began < 0.4 and not (tmp_path / "step-5").exists()
    checkpoints.wait()
    assert verify(tmp_path / "step-5")["tokens"] == 500
    assert torch.load(tmp_path / "step-5" / "state" / "b.pt")[0] == 1.0


def test_one_checkpoint_is_written_at_a_time(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, background=True)
    for step in (1, 2, 3):
        checkpoints.save(Slow(), Point(step, 0))
        assert sum(thread.name == "checkpoint" for thread in threading.enumerate()) <= 1
        assert len(list(tmp_path.glob("*.part"))) <= 1
    checkpoints.wait()
    assert sorted(f.name for f in tmp_path.glob("step-*")) == ["step-2", "step-3"]


def test_asked_for_now_it_is_there_when_save_returns(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, background=True)
    checkpoints.save(Slow(), Point(5, 0))
    checkpoints.save(Slow(), Point(7, 0), now=True)
    assert verify(tmp_path / "step-5")["step"] == 5 and verify(tmp_path / "step-7")["step"] == 7


class Broken(Weights):
    def save(self, folder: Path, apart: bool):
        def write() -> list[Path]:
            raise OSError(28, "No space left on device")

        return write


def test_a_failed_write_is_an_error_at_the_next_look_and_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, background=True)
    checkpoints.save(Weights(5), Point(5, 500))
    checkpoints.wait()
    checkpoints.save(Broken(), Point(10, 1000))
    assert checkpoints._thread is not None
    checkpoints._thread.join()
    with pytest.raises(PipelineError, match="could not be written.*No space left"):
        checkpoints.check()
    with pytest.raises(PipelineError, match="No space left"):
        checkpoints.save(Weights(15), Point(15, 1500))
    assert Checkpoints(tmp_path, ALONE).resume(Weights()) == Point(5, 500)


def kept(root: Path) -> list[int]:
    return sorted(int(f.name.removeprefix("step-")) for f in root.glob("step-*"))


def test_rotation_keeps_the_last_the_best_and_every_nth(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: None, 3: 2.0, 4: 1.5, 5: None, 6: 1.7, 7: 1.6, 8: None, 9: 1.55}
    stays = {(2, False, 0): [8, 9], (1, True, 0): [4, 9], (1, False, 3): [3, 6, 9], (2, True, 4): [4, 8, 9]}
    for (last, best, every), expected in stays.items():
        root = tmp_path / f"{last}{best}{every}"
        checkpoints = Checkpoints(root, ALONE, Keep(last, best, every))
        for step, loss in losses.items():
            checkpoints.save(Weights(step), Point(step, 0), loss)
        assert kept(root) == expected
        assert Checkpoints(root, ALONE).resume(Weights()).step == 9


def test_anchors_stay_and_going_back_forgets_what_came_after(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, Keep(1, anchors=10))
    for step in (0, 10, 15, 20, 25, 30, 35):
        checkpoints.save(Weights(step), Point(step, step))
    assert kept(tmp_path) == [10, 20, 30, 35]
    weights = Weights()
    assert checkpoints.back(weights, 20, 10).step == 20 and weights.value[0] == 20
    assert kept(tmp_path) == [10, 20] and (tmp_path / "last-good").read_text() == "step-20\n"
    (tmp_path / "step-10" / "state" / "a.pt").write_bytes(b"")
    assert checkpoints.back(weights, 10, 10).step == 20, "the one asked for is damaged: the nearest there is"
    (tmp_path / "step-20" / MANIFEST).unlink()
    with pytest.raises(PipelineError, match="no whole checkpoint to go back to"):
        checkpoints.back(weights, 10, 10)


def test_a_copy_keeps_what_is_shared_shared_and_nothing_else(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    state = {"views": [flat[:4], flat[4:].view(2, 4)], "own": nn.Parameter(torch.ones(3)), "again": flat, "names": ("a", {"b": flat})}
    copy = frozen(state)
    torch.save(state, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    flat.zero_()
    torch.save(copy, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == before
    assert copy["views"][1].untyped_storage().data_ptr() == copy["again"].untyped_storage().data_ptr()


@pytest.mark.slow
def test_killed_right_after_a_checkpoint_was_reported_nothing_is_lost(tmp_path: Path) -> None:
    """kill -9 of the driver and all ranks within milliseconds of the event; the next start goes on from that very step."""
    victim = Victim(tmp_path, Plan(steps=40, save_every=5, pace_s=0.05, stall_s=120))
    try:
        reported = _reported(victim, 15)
        ranks = victim.ranks()
        for process in (psutil.Process(victim.process.pid), *ranks):
            os.kill(process.pid, signal.SIGKILL)
        victim.process.wait()
        psutil.wait_procs(ranks, timeout=30)
        victim.start()
        victim.finish()
    finally:
        victim.process.kill()
    went_on = [e["message"] for e in victim.events() if "goes on from" in e.get("message", "")]
    assert len(went_on) == 1 and int(went_on[0].rsplit(" ", 1)[1]) == reported


def _reported(victim: Victim, step: int) -> int:
    """Waits for the event of a checkpoint of at least this step; the newest one's step."""
    ends, reported = time.monotonic() + 240, [-1]
    while reported[-1] < step:
        assert time.monotonic() < ends and victim.process.poll() is None
        events = victim.events() if (victim.root / "events.jsonl").exists() else []
        reported = [-1, *(e["step"] for e in events if e["kind"] == "checkpoint")]
    return reported[-1]


def test_a_checkpoint_is_told_when_it_is_whole(tmp_path: Path) -> None:
    seen: list[dict] = []

    def tell(told: dict) -> None:
        if told["kind"] == "checkpoint":
            seen.append(verify(Path(told["path"])))

    detach = attach(tell)
    Checkpoints(tmp_path, ALONE, background=True).save(Weights(5), Point(5, 500), now=True)
    detach()
    assert [one["step"] for one in seen] == [5]
