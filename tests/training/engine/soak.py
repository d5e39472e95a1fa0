"""A training that is killed again and again, in every way, ends with the weights of the undisturbed one.

    python -m tests.training.engine.soak --blows 20        # about 5 minutes on 2 cores

The driver is a process that trains BERT with dropout on two ranks and starts them again when they die, as a stage does; the soak
starts the driver again when it dies, as a user would. Blows fall at steps drawn by seed, when the metrics say that they are reached:

rank    kill -9 of one rank          driver  kill -9 of the driver, its ranks end with it
ranks   kill -9 of all ranks         torn    kill -9 of everything, then one byte of the newest checkpoint is flipped or cut away
stall   SIGSTOP of one rank          term    SIGTERM to the driver's ranks, which save and leave: the driver ends with code 4
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil

import infra.gang
from infra.compute import LocalCompute
from infra.errors import PipelineError
from infra.log import attach
from tests.training.engine.trial import Trial, run_all, settings
from training.engine.checkpoint import MANIFEST
from training.engine.measure import METRICS, read

KINDS = ("rank", "ranks", "driver", "stall", "torn", "term")
PATIENCE_S = 120.0


@dataclass
class Plan:
    """What is trained and how. pace_s: a step takes at least so long, so that blows fall where they are meant to."""

    steps: int = 400
    zero: int = 2
    ranks: int = 2
    save_every: int = 10
    pace_s: float = 0.02
    stall_s: float = 8.0
    dropout: float = 0.1
    seed: int = 6


@dataclass
class Told:
    """What the soak saw."""

    blows: list[tuple[str, int]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    damaged: int = 0
    wall_s: float = 0.0
    equal: bool = False

    def redone(self) -> list[int]:
        """Steps done twice, by blow: from where the run went on to where it was struck."""
        return [max(0, struck - back) for (_, struck), back in zip(self.blows, self.resumed, strict=False)]


def drive(root: Path, plan: Plan) -> None:
    """The driver: a gang that may lose its ranks again and again. Events go to a file, the weights to another."""
    infra.gang.GRACE_S = 4.0  # a stopped process does not hear SIGTERM
    log = (root / "events.jsonl").open("a", buffering=1)
    attach(lambda told: print(json.dumps(told), file=log))
    config = settings(steps=plan.steps, zero=plan.zero, micro_batch=3, save_every=plan.save_every, stall_seconds=plan.stall_s, log_every=1)
    trial = Trial(root / "out", config, "bert", dropout=plan.dropout, feed={"pace_s": plan.pace_s})
    try:
        seen = LocalCompute(plan.ranks, restarts=99).gang("soak", partial(run_all, [trial]))[0]
    except PipelineError as error:
        raise SystemExit(error.exit_code) from error
    np.savez(root / "weights.part.npz", **seen[0].arrays)
    (root / "weights.part.npz").rename(root / "weights.npz")


class Victim:
    """A driver process under blows. As a context manager it ends the process, which would start its ranks again for ever."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root, self.plan = root, plan
        root.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        words = [f"{name}={value}" for name, value in vars(self.plan).items()]
        command = [sys.executable, "-m", "tests.training.engine.soak", "--drive", str(self.root), *words]
        self.process = subprocess.Popen(command, stderr=(self.root / "stderr").open("a"))

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            everyone = [*psutil.Process(self.process.pid).children(recursive=True)]
            self.process.kill()
            self.process.wait()
            _signal(everyone, signal.SIGKILL)

    def step(self) -> int:
        lines = read(self.root / "out" / METRICS)
        return lines[-1]["step"] if lines else -1

    def reach(self, step: int) -> None:
        ends = time.monotonic() + PATIENCE_S
        while self.step() < step:
            assert self.process.poll() is None, (
                f"the driver ended with code {self.process.returncode} before step {step}; {self.root}/stderr"
            )
            assert time.monotonic() < ends, f"step {step} is not reached"
            time.sleep(0.003)

    def ranks(self) -> list[psutil.Process]:
        """In no order that anything depends on."""
        return [one for one in psutil.Process(self.process.pid).children() if "spawn_main" in " ".join(one.cmdline())]

    def strike(self, kind: str, rng: random.Random) -> None:
        """One blow; afterwards a driver is at work again."""
        ranks = self.ranks()
        if kind in ("rank", "stall"):
            os.kill(rng.choice(ranks).pid, signal.SIGKILL if kind == "rank" else signal.SIGSTOP)
        elif kind == "ranks":
            _signal(ranks, signal.SIGKILL)
        elif kind == "term":
            _signal(ranks, signal.SIGTERM)
            assert self.process.wait(PATIENCE_S) == 4, self.process.returncode
            self.start()
        else:
            self.process.kill()
            if kind == "torn":
                _signal(ranks, signal.SIGKILL)
            self.process.wait()
            psutil.wait_procs(ranks, timeout=30)
            if kind == "torn":
                tear(self.root / "out" / ".checkpoints", rng)
            self.start()

    def finish(self) -> dict[str, np.ndarray]:
        assert self.process.wait(PATIENCE_S + self.plan.steps) == 0, (self.root / "stderr").read_text()[-2000:]
        with np.load(self.root / "weights.npz") as found:
            return dict(found)

    def events(self) -> list[dict]:
        lines = (self.root / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]


def _signal(processes: list[psutil.Process], number: int) -> None:
    for one in processes:
        try:
            one.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def newest(root: Path) -> Path:
    """The checkpoint of the most steps."""
    return max((f for f in root.glob("step-*") if (f / MANIFEST).exists()), key=lambda f: int(f.name.removeprefix("step-")))


def tear(root: Path, rng: random.Random) -> None:
    """One byte of one file of the newest checkpoint is another, or the file ends there."""
    path = rng.choice(sorted(p for p in newest(root).rglob("*") if p.is_file() and p.name != MANIFEST))
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content if rng.random() < 0.5 else content[:at])


def soak(root: Path, plan: Plan, kinds: list[str]) -> Told:
    """The undisturbed run, and the one that suffers these blows, in this order, at steps drawn by the plan's seed."""
    rng, told = random.Random(plan.seed), Told()
    with Victim(root / "undisturbed", plan) as calm:
        undisturbed = calm.finish()
    margin = 2 * plan.save_every + 1  # so that there are two checkpoints to tear one of
    steps = sorted(rng.sample(range(margin, plan.steps - 5), len(kinds)))
    began = time.monotonic()
    with Victim(root / "struck", plan) as victim:
        for kind, step in zip(kinds, steps, strict=True):
            _one_blow(victim, kind, step, rng, told)
        weights = victim.finish()
    told.wall_s = time.monotonic() - began
    told.damaged = sum("is damaged" in e.get("message", "") for e in victim.events())
    told.equal = set(weights) == set(undisturbed) and all(np.array_equal(x, undisturbed[name]) for name, x in weights.items())
    lines, straight = (read(root / name / "out" / METRICS) for name in ("struck", "undisturbed"))
    told.equal &= [line["loss"] for line in lines] == [line["loss"] for line in straight]
    return told


def _one_blow(victim: Victim, kind: str, step: int, rng: random.Random, told: Told) -> None:
    """Strike at a step, and wait until the run went on."""
    victim.reach(step)
    told.blows.append((kind, victim.step()))
    victim.strike(kind, rng)
    notes = len(told.resumed) + 1
    ends = time.monotonic() + PATIENCE_S
    while len(found := _resumed(victim.events())) < notes:
        assert victim.process.poll() is None and time.monotonic() < ends, (kind, step, victim.process.returncode)
        time.sleep(0.05)
    told.resumed = found


def _resumed(events: list[dict]) -> list[int]:
    return [int(e["message"].rsplit(" ", 1)[1]) for e in events if "goes on from step" in e.get("message", "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drive", type=Path, help="used by the soak itself")
    parser.add_argument("--blows", type=int, default=20)
    parser.add_argument("--zero", type=int, default=2)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("plan", nargs="*")
    asked = parser.parse_args()
    if asked.drive:
        said = dict(word.split("=") for word in asked.plan)
        drive(asked.drive, Plan(**{name: type(getattr(Plan(), name))(value) for name, value in said.items()}))
        return
    plan = Plan(zero=asked.zero, seed=asked.seed)
    kinds = [KINDS[n % len(KINDS)] for n in range(asked.blows)]
    random.Random(asked.seed).shuffle(kinds)
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        told = soak(Path(folder), plan, kinds)
    for (kind, step), back, redone in zip(told.blows, told.resumed, told.redone(), strict=True):
        print(f"{kind:<7} after step {step:>4}: on from step {back:>4}, {redone:>3} steps again")
    by_kind = ", ".join(f"{sum(k == kind for k, _ in told.blows)} {kind}" for kind in KINDS)
    print(f"{len(told.blows)} blows ({by_kind}), {told.damaged} torn checkpoints noticed, {sum(told.redone())} steps done again")
    print(f"{told.wall_s:.0f} s; weights and losses {'are' if told.equal else 'ARE NOT'} those of the undisturbed run")
    raise SystemExit(not told.equal)


if __name__ == "__main__":
    main()
