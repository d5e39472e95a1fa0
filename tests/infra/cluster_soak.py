"""A training on a Ray cluster that is killed in every way ends with the weights of the undisturbed one.

    python -m tests.infra.cluster_soak --blows 8        # about 4 minutes on 2 cores

BERT with dropout on two ranks, one on each of two nodes. The driver starts its ranks again when they die, on a node that came back;
the soak starts the driver again when it dies, as a user would.

rank    kill -9 of one rank          raylet  kill -9 of the process that is the second node; another node joins
ranks   kill -9 of all ranks         driver  kill -9 of the driver, its ranks end with it
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
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from infra.errors import PipelineError
from infra.log import attach
from infra.ray_compute import RayCompute
from tests.infra.nodes import HEALTH, ROOT, Nodes
from tests.training.engine.trial import Trial, run_all, settings
from training.engine.measure import METRICS, read

KINDS = ("rank", "raylet", "driver", "ranks")
PATIENCE_S = 180.0


@dataclass
class Plan:
    """What is trained and how. pace_s: a step takes at least so long, so that blows fall where they are meant to."""

    steps: int = 200
    zero: int = 2
    ranks: int = 2
    min_ranks: int = 2
    save_every: int = 10
    pace_s: float = 0.05
    dropout: float = 0.1
    seed: int = 6


@dataclass
class Told:
    blows: list[tuple[str, int]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)  # from each blow to the first step after it
    wall_s: float = 0.0
    equal: bool = False


def drive(root: Path, address: str, plan: Plan) -> None:
    """The driver's program. Events go to a file, the weights to another."""
    log = (root / "events.jsonl").open("a", buffering=1)
    attach(lambda told: print(json.dumps(told), file=log))
    config = settings(steps=plan.steps, zero=plan.zero, micro_batch=3, save_every=plan.save_every, log_every=1)
    trial = Trial(root / "out", config, "bert", dropout=plan.dropout, feed={"pace_s": plan.pace_s})
    with RayCompute(address, ranks=plan.ranks, min_ranks=plan.min_ranks, restarts=9) as compute:
        try:
            seen = compute.gang("soak", partial(run_all, [trial]))[0]
        except PipelineError as error:
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from error
    np.savez(root / "weights.part.npz", **seen[0].arrays)
    (root / "weights.part.npz").rename(root / "weights.npz")


class Driver:
    """A driver's process and what it says."""

    def __init__(self, root: Path, nodes: Nodes, plan: Plan) -> None:
        self.root, self.nodes, self.plan = root, nodes, plan
        root.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        words = [f"{name}={value}" for name, value in vars(self.plan).items()]
        program = [sys.executable, "-m", "tests.infra.cluster_soak", "--drive", str(self.root), "--address", self.nodes.address]
        command = [*self.nodes.inside, *program, *words]
        environment = {**os.environ, **HEALTH, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=(self.root / "stderr").open("a"))
        self.nodes.drivers.append(self.process)

    @staticmethod
    def lines_of(root: Path) -> list[dict]:
        return read(root / "out" / METRICS)

    def lines(self) -> list[dict]:
        return self.lines_of(self.root)

    def step(self) -> int:
        lines = self.lines()
        return lines[-1]["step"] if lines else -1

    def reach(self, step: int) -> None:
        ends = time.monotonic() + PATIENCE_S
        while self.step() < step:
            assert self.process.poll() is None, f"code {self.process.returncode} before step {step}: {self.said()}"
            assert time.monotonic() < ends, f"step {step} is not reached: {self.said()}"
            time.sleep(0.01)

    def recover(self, before: int) -> None:
        """Until the training that went on for the `before`-th time and once more has done a step since."""
        ends = time.monotonic() + PATIENCE_S
        while len(found := self.resumed()) <= before:
            assert self.process.poll() is None, f"code {self.process.returncode}: {self.said()}"
            assert time.monotonic() < ends, f"it does not go on: {self.said()}"
            time.sleep(0.01)
        self.reach(found[before])  # its lines after that step are gone and written again

    def said(self) -> str:
        return "\n".join([(self.root / "stderr").read_text()[-2000:], *(str(e.get("message", e["kind"])) for e in self.events()[-8:])])

    def strike(self, kind: str, rng: random.Random) -> None:
        if kind in ("rank", "ranks"):
            ranks = self.nodes.ranks()
            for one in [rng.choice(ranks)] if kind == "rank" else ranks:
                _kill(one)
        elif kind == "raylet":
            self.nodes.nodes[-1].kill_raylet()
            self.nodes.add(1)
        else:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.start()

    def finish(self) -> dict[str, np.ndarray]:
        assert self.process.wait(PATIENCE_S + self.plan.steps) == 0, self.said()
        with np.load(self.root / "weights.npz") as found:
            return dict(found)

    def events(self) -> list[dict]:
        path = self.root / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def resumed(self) -> list[int]:
        return [int(e["message"].rsplit(" ", 1)[1]) for e in self.events() if "goes on from step" in e.get("message", "")]


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def soak(root: Path, plan: Plan, kinds: list[str]) -> Told:
    """The undisturbed run, and the one that suffers these blows, in this order, at steps drawn by the plan's seed."""
    rng, told = random.Random(plan.seed), Told()
    with Nodes(1, 1) as nodes:
        undisturbed = Driver(root / "undisturbed", nodes, plan).finish()
        steps = sorted(rng.sample(range(plan.save_every + 1, plan.steps - 5), len(kinds)))
        began, victim = time.monotonic(), Driver(root / "struck", nodes, plan)
        for kind, step in zip(kinds, steps, strict=True):
            victim.reach(step)
            struck, at, before = time.monotonic(), victim.step(), len(victim.resumed())
            victim.strike(kind, rng)
            victim.recover(before)
            told.blows.append((kind, at))
            told.gaps_s.append(time.monotonic() - struck)
        weights = victim.finish()
        told.wall_s, told.resumed = time.monotonic() - began, victim.resumed()
    told.equal = set(weights) == set(undisturbed) and all(np.array_equal(x, undisturbed[name]) for name, x in weights.items())
    straight = read(root / "undisturbed" / "out" / METRICS)
    told.equal &= [line["loss"] for line in victim.lines()] == [line["loss"] for line in straight]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drive", type=Path, help="used by the soak itself")
    parser.add_argument("--address", default="")
    parser.add_argument("--blows", type=int, default=8)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("plan", nargs="*")
    asked = parser.parse_args()
    if asked.drive:
        said = dict(word.split("=") for word in asked.plan)
        drive(asked.drive, asked.address, Plan(**{name: type(getattr(Plan(), name))(value) for name, value in said.items()}))
        return
    plan = Plan(seed=asked.seed)
    kinds = [KINDS[n % len(KINDS)] for n in range(asked.blows)]
    random.Random(asked.seed).shuffle(kinds)
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        told = soak(Path(folder), plan, kinds)
    for (kind, step), gap in zip(told.blows, told.gaps_s, strict=True):
        print(f"{kind:<7} after step {step:>4}: {gap:5.1f} s until the next step")
    print(f"resumed from steps {told.resumed}; {told.wall_s:.0f} s in all")
    print(f"weights and losses {'are' if told.equal else 'ARE NOT'} those of the undisturbed run")
    raise SystemExit(not told.equal)


if __name__ == "__main__":
    main()
