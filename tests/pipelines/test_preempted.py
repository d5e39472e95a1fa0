"""SIGTERM to the real command while it trains: it saves and leaves with code 4, and the same command ends with the same file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.pipelines.conftest import Textmill

WORDS = ["run", "small.yaml", "--plain", "--until", "pretrain", "--set", "models.gpt.pretrain.tokens=1e5"]
WORDS += ["--set", "models.gpt.pretrain.overrides={dropout: 0.1}", "--set", "models.gpt.pretrain.log_every=1"]


def told(folder: Path) -> list[dict]:
    lines = [line for path in folder.glob("runs/*/events.jsonl") for line in path.read_text().splitlines() if line.endswith("}")]
    return [json.loads(line) for line in lines]


def model(folder: Path) -> bytes:
    (found,) = folder.glob("artifacts/pretrain/*/model/model.safetensors")
    return found.read_bytes()


@pytest.mark.slow
def test_a_preempted_run_ends_with_the_very_same_model(recipe: Path, textmill: Textmill) -> None:
    straight = textmill(*WORDS, "--workspace", "straight")
    assert straight.returncode == 0, straight.stderr
    environment = {**os.environ, "TEXTMILL_HOME": str(recipe.parent / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines.cli", *WORDS, "--workspace", "struck"]
    process = subprocess.Popen(command, cwd=recipe.parent, env=environment, stderr=subprocess.PIPE, text=True)
    ends = time.monotonic() + 240
    while not any(event["kind"] == "train" and event["step"] >= 20 for event in told(recipe.parent / "struck")):
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=180)
    assert process.returncode == 4 and "The same command resumes" in said, said
    again = textmill(*WORDS, "--workspace", "struck")
    assert again.returncode == 0, again.stderr
    notes = [event["message"] for event in told(recipe.parent / "struck") if "goes on from step" in event.get("message", "")]
    assert len(notes) == 1 and int(notes[0].rsplit(" ", 1)[1]) > 20, notes
    assert model(recipe.parent / "struck") == model(recipe.parent / "straight")


def strange(rng: Random) -> str:
    """Text that no model of the others' words expects."""
    return " ".join("".join(rng.choice("0123456789#%&@xzqj") for _ in range(6)) for _ in range(24)) + "."


@pytest.mark.slow
def test_a_recipe_whose_guard_goes_back_leaves_the_strange_batches_out(recipe: Path, textmill: Textmill) -> None:
    """One document of sixty is noise: when its blocks come the loss jumps, and the run ends without them."""
    with (recipe.parent / "docs.jsonl").open("a") as file:
        file.write(json.dumps({"text": strange(Random(5))}) + "\n")
    guard = "{on_spike: rewind, window: 16, deviations: 10, rewind_steps: 5, max_rewinds: 60}"
    words = ["models.gpt.pretrain.batch_tokens=128", "models.gpt.pretrain.tokens=2e4", f"models.gpt.pretrain.guard={guard}"]
    words += ["models.gpt.pretrain.lr=5e-3", "models.gpt.pretrain.log_every=1", "seed=2"]  # of which the noise comes when enough is known
    done = textmill("run", "small.yaml", "--plain", "--until", "pretrain", *[part for word in words for part in ("--set", word)])
    assert done.returncode == 0, done.stderr[-2000:]
    folder = recipe.parent / "workspace"
    (card,) = (json.loads(path.read_text()) for path in folder.glob("artifacts/pretrain/*/card.json"))
    back = [event["message"] for event in told(folder) if "back to step" in event.get("message", "")]
    assert back and card["left_out"] and card["steps"] == 156
    assert all("the step's first documents are" in said for said in back)
    steps = [
        json.loads(line)["step"] for path in folder.glob("artifacts/pretrain/*/metrics.jsonl") for line in path.read_text().splitlines()
    ]
    assert steps == list(range(156)), "told once, in the course that was kept"
