"""Checkpoints that are whole or absent: written aside while training goes on, checked by hash, renamed; the older ones rotate out.

No generator's state is in them: every draw follows from seed, step and rank. What DeepSpeed saves (weights, optimiser, the scaler of
fp16's loss) is in each rank's share, the place in the data and what the guard has seen in the manifest.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from infra.artifact import digest
from infra.errors import ConfigError, PipelineError
from infra.hashing import xxh3
from infra.log import event
from training.engine.guard import ANCHORS, Watch
from training.engine.rank import Rank

MANIFEST = "manifest.json"
STATE = "state"  # the folder of an artifact that holds the checkpoint which a longer training goes on from
POINTER = "last-good"  # for people and other programs; this one looks at the manifests
GONE = ".gone"  # ends the name of one that is being deleted
POLL_S = 0.02


@dataclass(frozen=True)
class Lowest:
    """The lowest validation loss so far; stale: validations since then. None: nothing was measured yet."""

    loss: float | None = None
    stale: int = 0

    def after(self, loss: float) -> Lowest:
        """With one more validation; only a loss that is lower counts as better."""
        return Lowest(loss) if self.loss is None or loss < self.loss else Lowest(self.loss, self.stale + 1)


@dataclass(frozen=True)
class Point:
    """Where training stood: steps done and tokens seen. Data order, masks, dropout and rates follow from the step alone.

    watch: what the guard has seen; batches that it left out shift the data by their number.
    """

    step: int = 0
    tokens: int = 0
    watch: Watch = field(default_factory=Watch)
    lowest: Lowest = field(default_factory=Lowest)


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest `last`, the one with the best held-out loss, and every `every`-th step's (0: none).

    anchors: those of multiples of this many steps, the newest three, that a guard may go back to; 0: none.
    pinned: the step whose checkpoint a longer training goes on from; 0: none.
    """

    last: int = 2
    best: bool = False
    every: int = 0
    anchors: int = 0
    pinned: int = 0

    def __post_init__(self) -> None:
        if self.last < 1 or self.every < 0 or self.anchors < 0:
            raise ConfigError(f"keep {self.last} must be at least 1, keep_every {self.every} at least 0")

    def chosen(self, losses: dict[int, float | None]) -> set[int]:
        """The steps whose checkpoints stay. losses: the held-out loss by step, None where nobody measured."""
        steps = sorted(losses)
        stay = {*steps[-self.last :]} | ({self.pinned} & set(steps) if self.pinned else set())
        measured = [(loss, step) for step, loss in losses.items() if loss is not None]
        if self.best and measured:
            stay.add(min(measured)[1])
        if self.every:
            stay |= {step for step in steps if step and step % self.every == 0}
        if self.anchors:
            stay |= set([step for step in steps if step % self.anchors == 0][-ANCHORS:])
        return stay


class Stateful(Protocol):
    """What has a state in shares, one a rank, of a form that the stage of ZeRO decides."""

    @property
    def stage(self) -> int: ...

    def save(self, folder: Path, apart: bool) -> Callable[[], Iterable[Path]]:
        """What writes this rank's share and says which files it made; with `apart` it writes a copy and may be called at any time."""
        ...

    def load(self, folder: Path, world: int, stage: int) -> None: ...


class Checkpoints:
    """The folder step-N holds every rank's share of the state after N steps; its manifest is written last.

    background: files are written, hashed and synced by a thread, one checkpoint at a time, while training goes on.
    """

    def __init__(self, root: Path, place: Rank, keep: Keep | None = None, background: bool = False) -> None:
        self.root, self.place, self.keep, self.background = root, place, keep or Keep(), background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, engine: Stateful, point: Point, valid_loss: float | None = None, now: bool = False) -> None:
        """All ranks. now: return when the checkpoint is whole, on disk, and the older ones are gone; else maybe before."""
        self.wait()
        final, part = self.root / f"step-{point.step}", self.root / f"step-{point.step}.part"
        if self.place.sum([float(self.place.first and (final / MANIFEST).exists())])[0]:
            return  # the same step has the same state, and this one is whole: resume would have removed it otherwise
        if self.place.first:
            for stale in (part, final, *self.root.glob(f"step-*{GONE}")):  # what a killed attempt left
                shutil.rmtree(stale, ignore_errors=True)
            part.mkdir(parents=True)
            _sync(self.root.parent)
        self.place.sum([0.0])
        apart = self.background and not now
        write = engine.save(part, apart)
        record = {**asdict(point), "world": self.place.world, "zero": engine.stage, "valid_loss": valid_loss}
        if apart:
            self._thread = threading.Thread(target=self._finish, args=(write, part, final, record), name="checkpoint", daemon=True)
            self._thread.start()
        else:
            self._finish(write, part, final, record)
            self.wait()

    def check(self) -> None:
        """Raises PipelineError when a checkpoint could not be written; costs nothing."""
        if self._error is not None:
            raise PipelineError(f"{self.root}: a checkpoint could not be written: {self._error}") from self._error

    def wait(self) -> None:
        """All ranks; returns when no checkpoint is being written any more. Raises PipelineError when one could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
        self.place.sum([0.0])

    def resume(self, engine: Stateful) -> Point:
        """Load the newest checkpoint that is complete; the start when there is none. All ranks take the same one.

        A kill after that one got its name left the pointer and the older ones as they were: both are put right.
        """
        point = self._load(engine, max)
        if point is not None and self.place.first:
            self._point_to(point.step)
            self._rotate()
        self.place.sum([0.0])
        return point or Point()

    def begin(self, engine: Stateful, state: Path) -> Point:
        """Load what `publish` kept of a finished training: its place in the data, but not its lowest validation loss. All ranks.

        Raises PipelineError, on all ranks, when it is damaged.
        """
        kept, damage = Checkpoints(state, self.place), ""
        if self.place.first:
            damage = next((kept._damage(step) for step in kept._steps()), "it holds no checkpoint")
        if self.place.sum([float(bool(damage))])[0]:
            raise PipelineError(f"{state}, the state that is to be gone on from, is damaged ({damage or 'the first rank says why'})")
        point = kept._load(engine, max)
        assert point is not None, "it was whole a moment ago"
        return replace(point, lowest=Lowest())

    def publish(self, step: int, state: Path) -> None:
        """Keep the checkpoint of a step in the folder `state`, by links to its files. The first rank's work.

        Raises PipelineError when it is damaged or gone.
        """
        if damage := self._damage(step):
            raise PipelineError(
                f"{self._folder(step)}, the state that pretrain.keep_state keeps, is damaged ({damage}); "
                f"delete {self.root} to train again from the start"
            )
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(self._folder(step), state / f"step-{step}", copy_function=_link)

    def back(self, engine: Stateful, target: int, every: int) -> Point:
        """Load the checkpoint of step `target`, or the nearest of a multiple of `every` below it, else above; forget all later ones.

        Raises PipelineError when there is none.
        """
        self.wait()

        def best(steps: Iterable[int]) -> int:
            anchors = [step for step in steps if step % every == 0]
            return max((step for step in anchors if step <= target), default=min(anchors, default=-1))

        point = self._load(engine, best)
        if point is None:
            raise PipelineError(f"{self.root}: there is no whole checkpoint to go back to")
        if self.place.first:
            for step in self._steps():
                if step > point.step:  # of a course that is left now
                    self._remove(step)
            self._point_to(point.step)
        self.place.sum([0.0])
        return point

    def best(self, engine: Stateful, now: int) -> Point | None:
        """Load the checkpoint of the lowest validation loss; None, nothing loaded, when it is that of step `now`, or none was measured.

        All ranks. Of equal losses the earliest counts. Raises PipelineError, on all ranks, when that checkpoint is damaged: the next
        best would be another model.
        """
        self.wait()
        losses = self._losses() if self.place.first else {}
        measured = [(loss, step) for step, loss in losses.items() if loss is not None]
        step = min(measured)[1] if measured else now
        damage = "" if step == now else self._damage(step)
        step, damaged = (int(x) for x in self.place.sum([float(step if self.place.first else 0), float(bool(damage))]))
        if damaged:
            told = f" ({damage})" if damage else ""
            raise PipelineError(
                f"{self._folder(step)}, the checkpoint of the lowest validation loss, is damaged{told}; "
                f"delete {self.root} to train again from the start"
            )
        return None if step == now else self._load(engine, lambda _: step)

    def _damage(self, step: int) -> str:
        try:
            verify(self._folder(step))
        except (OSError, ValueError, KeyError, TypeError) as error:
            return str(error) or type(error).__name__
        return ""

    def _losses(self) -> dict[int, float | None]:
        """The validation loss of every checkpoint; None where nobody measured, or its manifest is damaged."""
        losses: dict[int, float | None] = {}
        for step in self._steps():
            try:
                losses[step] = _record(self._folder(step)).get("valid_loss")
            except (OSError, ValueError, KeyError, TypeError):
                losses[step] = None
        return losses

    def _load(self, engine: Stateful, choose: Callable[[list[int]], int]) -> Point | None:
        """The chosen one of the whole checkpoints. All ranks; only the first looks whether it is whole."""
        found = self._whole(choose) if self.place.first else None
        there, step = (int(x) for x in self.place.sum([float(found is not None), float(found["step"] if found else 0)]))
        if not there:
            return None
        record = _record(self._folder(step))
        stage = record.get("zero", engine.stage)  # before manifests said it, another stage was another training
        engine.load(self._folder(step), record["world"], stage)
        return Point(record["step"], record["tokens"], Watch.of(record.get("watch", {})), Lowest(**record.get("lowest", {})))

    def _whole(self, choose: Callable[[list[int]], int]) -> dict[str, Any] | None:
        """The first choice whose every file is what its manifest says; damaged ones are told of and removed."""
        while (steps := self._steps()) and (step := choose(steps)) in steps:
            try:
                return verify(self._folder(step))
            except (OSError, ValueError, KeyError, TypeError) as error:
                event("warning", message=f"checkpoint step-{step} is damaged ({error}); the one before it is used")
                self._remove(step)
        return None

    def _finish(self, write: Callable[[], Iterable[Path]], part: Path, final: Path, record: dict[str, Any]) -> None:
        """This rank's files on the disk; on the first rank, when all have theirs: seal, rename, rotate."""
        began = time.monotonic()
        try:
            entries = {str(path.relative_to(part)): _entry(path) for path in write()}
            _hand_in(part, self.place.rank, {"files": entries})
            if self.place.first:
                _seal(part, record, _collect(part, self.place.world))
                part.rename(final)
                _sync(self.root)
                self._point_to(record["step"])
                self._rotate()
                event("checkpoint", step=record["step"], path=str(final), seconds=round(time.monotonic() - began, 3))
        except BaseException as error:  # raised by the training's own thread at its next look
            self._error = error
            if not self.place.first and part.exists():
                _hand_in(part, self.place.rank, {"error": str(error)})

    def _point_to(self, step: int) -> None:
        part = self.root / f"{POINTER}.part"
        part.write_text(f"step-{step}\n")
        _sync(part)
        part.rename(self.root / POINTER)
        _sync(self.root)

    def _rotate(self) -> None:
        losses = self._losses()  # None for damaged ones: resume tells of them
        for step in set(losses) - self.keep.chosen(losses):
            self._remove(step)

    def _remove(self, step: int) -> None:
        """Rename, then delete: a kill while it is deleted leaves no half of a checkpoint under its name."""
        gone = self.root / f"step-{step}{GONE}"
        shutil.rmtree(gone, ignore_errors=True)
        self._folder(step).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _steps(self) -> list[int]:
        return sorted(_step(f) for f in self.root.glob("step-*") if f.name.removeprefix("step-").isdigit())

    def _folder(self, step: int) -> Path:
        return self.root / f"step-{step}"


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises OSError, KeyError, TypeError or ValueError for any other."""
    record = _record(folder)
    if record["step"] != _step(folder):
        raise ValueError(f"its manifest is of step {record['step']}")
    for name, said in record["files"].items():
        path = folder / name
        if path.stat().st_size != said["bytes"] or digest(path) != said["xxh3"]:
            raise ValueError(f"{name} is not what was written")
    return record


def _record(folder: Path) -> dict[str, Any]:
    sealed = json.loads((folder / MANIFEST).read_text())
    record: dict[str, Any] = sealed["record"]
    if sealed["xxh3"] != _seal_of(record):
        raise ValueError("its manifest is not what was written")
    return record


def _link(source: str, target: str) -> None:
    """A second name of the same file; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _entry(path: Path) -> dict[str, Any]:
    """Size and hash of a file that is on the disk itself from now on."""
    _sync(path)
    return {"bytes": path.stat().st_size, "xxh3": digest(path)}


def _hand_in(folder: Path, rank: int, said: dict[str, Any]) -> None:
    """A rank's word that its files are written, or why not; the first rank reads it."""
    part = folder / f"rank-{rank}.json.part"
    part.write_text(json.dumps(said))
    part.rename(folder / f"rank-{rank}.json")


def _collect(folder: Path, world: int) -> dict[str, Any]:
    """Every file's entry, when all ranks have handed in theirs. A rank that dies takes the gang with it, and this wait."""
    entries: dict[str, Any] = {}
    for rank in range(world):
        path = folder / f"rank-{rank}.json"
        while not path.exists():
            time.sleep(POLL_S)
        said = json.loads(path.read_text())
        if "error" in said:
            raise OSError(f"rank {rank}: {said['error']}")
        entries |= said["files"]
        path.unlink()
    return entries


def _seal(folder: Path, record: dict[str, Any], entries: dict[str, Any]) -> None:
    """What nobody handed in hashed too, then the manifest that vouches for everything."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries |= {name: _entry(path) for path in files if (name := str(path.relative_to(folder))) not in entries}
    part = folder / (MANIFEST + ".part")
    whole = {**record, "files": entries}
    part.write_text(json.dumps({"record": whole, "xxh3": _seal_of(whole)}, indent=1, sort_keys=True))
    _sync(part)
    part.rename(folder / MANIFEST)
    for inner in {path.parent for path in files} | {folder}:
        _sync(inner)


def _seal_of(record: dict[str, Any]) -> str:
    return xxh3(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
