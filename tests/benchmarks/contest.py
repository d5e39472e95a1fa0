"""Steps of several programs in turns, each program in a process of its own: no heap, thread pool or compiler is shared.

A benchmark names contestants by a word and a dictionary; `serve` in the same file makes the step that they stand for. What a step
returns is how many tokens it was worth. A program that cannot be started (no compiler) is left out, and its reason is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PROBE_SECONDS = 2.0
Step = Callable[[], float]  # returns the tokens it was worth


@dataclass
class Contestant:
    """One program. flops: of a token of its, as we count them; 0 where its share of the ceiling is not told."""

    name: str
    spec: dict[str, Any]
    flops: float = 0.0
    cpu: list[float] = field(default_factory=list)  # tokens a CPU second, by round
    wall: list[float] = field(default_factory=list)  # tokens a second
    excuse: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self, file: str) -> None:
        command = [sys.executable, file, "--serve", json.dumps(self.spec)]
        env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # spinning threads would take the others' time
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, word: str) -> dict[str, Any]:
        """Raises nothing: what went wrong is kept as the excuse, and nothing more is asked."""
        if self.excuse or not self.process or not self.process.stdin or not self.process.stdout:
            return {}
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
            told: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        except (OSError, ValueError):
            told = {}
        self.excuse = "" if told else "its process ended"
        self.excuse = told.get("excuse", self.excuse)
        return told

    def step(self, counted: bool) -> None:
        told = self.ask("step")
        if counted and not self.excuse:
            self.cpu.append(told["tokens"] / told["cpu"])
            self.wall.append(told["tokens"] / told["wall"])

    def close(self) -> None:
        if self.process and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()


def run(group: list[Contestant], rounds: int, file: str, warm: int = 2) -> list[Contestant]:
    """Everybody's steps in turns; the first `warm` rounds are not counted. Those that could not run are told of and left out."""
    try:
        for one in group:
            one.start(file)
        for turn in range(warm + rounds):
            for one in group:
                one.step(counted=turn >= warm)
    finally:
        for one in group:
            one.close()
    for one in group:
        if one.excuse:
            print(f"(left out: {one.name}: {one.excuse})", flush=True)
    return [one for one in group if not one.excuse]


def rows(group: list[Contestant], labels: list[str], ceiling: float) -> list[str]:
    """Markdown rows; the first of the group is the one that ratios are against. Ratios: best of rounds, and median round by round."""
    lines, first = [], group[0]
    for one in group:
        median = statistics.median(own / peer for own, peer in zip(one.wall, first.wall, strict=True))
        share = f"{max(one.wall) * one.flops / ceiling:.0%}" if one.flops else ""
        cells = [*labels, one.name, f"{max(one.cpu):,.0f}", f"{max(one.cpu) / max(first.cpu):.2f}", f"{max(one.wall):,.0f}"]
        lines.append("| " + " | ".join([*cells, f"{max(one.wall) / max(first.wall):.2f}", f"{median:.2f}", share]) + " |")
    return lines


HEADER = "step | tokens / CPU-s | ratio | tokens / s wall | ratio | median ratio | of the ceiling |"


def header(labels: list[str]) -> str:
    whole = "| " + " | ".join(labels) + " | " + HEADER
    return whole + "\n" + "|---" * (whole.count("|") - 1) + "|"


def ceiling(precision: str, threads: int, seconds: float = PROBE_SECONDS) -> float:
    """flop/s of products of matrices, tried for `seconds` in a process of its own."""
    code = (
        f"import torch; torch.set_num_threads({threads})\n"
        "from training.engine.rank import choose_matmul_mode; choose_matmul_mode()\n"
        f"from training.engine.ceiling import probe; print(probe('cpu', {precision!r}, {seconds}).flops)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def serve(spec: dict[str, Any], make: Callable[[dict[str, Any]], Step]) -> None:
    """Answer each line on standard input with one step's figures. Whatever libraries print goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    step: Step | None = None
    for _ in sys.stdin:
        try:
            step = step or make(spec)
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = step()
            answer(tokens=tokens, cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
        except Exception as error:  # told to whoever waits, who prints it
            answer(excuse=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300])


def parser(doc: str | None) -> argparse.ArgumentParser:
    """What every such benchmark can be told."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--only", default="", help="labels to run, comma between them, such as gpt,bf16")
    made.add_argument("--serve", default="", help=argparse.SUPPRESS)
    return made


def wanted(only: str, *labels: str) -> bool:
    """Whether every word of --only is a label of this group."""
    return all(word in labels for word in only.split(",") if word)
