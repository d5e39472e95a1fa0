"""Flip a bit of one file, run a stage, and see that nothing was built from it: for files of inputs, and of unfinished work."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from infra.errors import DamagedInput
from infra.store import Store
from tests.faults.crash_points import KILLED, Snapshot, forked
from tests.faults.tiny import CASES, Tiny


@dataclass
class Flips:
    """tried: bits flipped; detected: those that ended the stage before it built; harmless: those that changed no byte of the output."""

    tried: int = 0
    detected: int = 0
    harmless: int = 0
    kinds: list[str] = field(default_factory=list)

    def __iadd__(self, other: Flips) -> Flips:
        self.tried, self.detected, self.harmless = self.tried + other.tried, self.detected + other.detected, self.harmless + other.harmless
        self.kinds = sorted({*self.kinds, *other.kinds})
        return self


def flip(path: Path, rng: random.Random) -> str:
    """Flip one bit; the name of the kind of file. The file keeps its size and its inode."""
    size = path.stat().st_size
    at, bit = rng.randrange(size), 1 << rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))
    return path.suffix or path.name


def _raises_damaged(corpus: Tiny, label: str, root: Path) -> None:
    try:
        corpus.work(label, root)
    except DamagedInput:
        return
    raise AssertionError("the stage was done")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip_inputs(corpus: Tiny, label: str, folder: Path, sample: int = 0) -> Flips:
    """One bit in each file (or a sample) of the artifacts that a stage reads: the stage must not be done, unless its output is equal.

    Whatever was flipped is out of the way afterwards, with the artifact it is in.
    """
    rng, found = random.Random(f"inputs {label}"), Flips()
    wanted = _outcome(corpus, label, folder / "calm")
    inputs = [corpus.made[one] for one in CASES[label].inputs.values()]
    files = [(one, path.relative_to(one.path)) for one in inputs for path in _files(one.path)]
    for source, name in rng.sample(files, sample) if sample else files:
        root = folder / "flipped"
        shutil.rmtree(root, ignore_errors=True)
        corpus.prepare(label, root)
        found.kinds = sorted({*found.kinds, flip(root / source.stage / source.fingerprint / name, rng)})
        found.tried += 1
        ended = forked(partial(_raises_damaged, corpus, label, root), root)
        gone = not (root / source.stage / source.fingerprint).exists()
        built = Store(root).here(CASES[label].stage.name, corpus.made[label].fingerprint) is not None
        if ended.code == 0 or (gone and not built):  # a manifest that says nothing true is found when the input is looked up
            assert gone and not built, f"{name}: the damaged artifact is still in its place"
            found.detected += 1
        else:
            assert _artifact(corpus, label, root) == wanted, (
                f"{name} of {source.stage}: another output was built from a flipped bit\n{ended.error}"
            )
            found.harmless += 1
    return found


def flip_scratch(corpus: Tiny, label: str, folder: Path, sample: int = 0, parts: int = 3) -> Flips:
    """Kill a stage at some points, flip one bit in a file it left, run it again: the output is equal."""
    rng, found = random.Random(f"scratch {label}"), Flips()
    calm = folder / "calm"
    corpus.prepare(label, calm)
    undisturbed = forked(partial(corpus.work, label, calm), calm)
    assert undisturbed.code == 0, undisturbed.error
    wanted = corpus.look(label, calm)
    for part in range(1, parts):
        point = len(undisturbed.operations) * part // parts
        dead = folder / f"dead-{part}"
        corpus.prepare(label, dead)
        assert forked(partial(corpus.work, label, dead), dead, point).code == KILLED
        scratch = dead / CASES[label].stage.name
        files = [path.relative_to(dead) for path in _files(scratch) if path.relative_to(scratch).parts[0].startswith(".")]
        for name in rng.sample(files, min(sample, len(files))) if sample else files:
            root = folder / "flipped"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(dead, root)
            found.kinds = sorted({*found.kinds, flip(root / name, rng)})
            found.tried += 1
            ended = forked(partial(corpus.work, label, root), root)
            assert ended.code == 0, f"{name}: {ended.error}"
            assert corpus.look(label, root) == wanted, f"{name}: a flipped bit of unfinished work changed the output"
            found.harmless += 1
    return found


def _outcome(corpus: Tiny, label: str, root: Path) -> Snapshot:
    corpus.prepare(label, root)
    ended = forked(partial(corpus.work, label, root), root)
    assert ended.code == 0, ended.error
    return _artifact(corpus, label, root)


def _artifact(corpus: Tiny, label: str, root: Path) -> Snapshot:
    stage = CASES[label].stage.name
    prefix = f"{stage}/{corpus.made[label].fingerprint}/"
    return {name: value for name, value in corpus.look(label, root).items() if name.startswith((prefix, prefix.partition("/")[2]))}
