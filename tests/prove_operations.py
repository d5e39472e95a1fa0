"""A reboot, as far as one machine can show it: server, worker and a scheduled run are killed at once, then `textmill ui`.

Not collected by `make test`: `make prove`, or `python -m pytest tests/prove_operations.py`. About two minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.prefect_api import Api

TEXTS = "the page of a text and data from that link are in this model for it with which we have not been at the language of words".split()  # noqa: SIM905
RECIPE = """\
name: long
corpus:
  sources:
    - {kind: documents, path: docs.jsonl}
  filter: {min_words: 20}
tokenizers:
  bytes: {kind: byte_bpe, vocab: 300}
models:
  gpt: {family: gpt2, size: tiny, tokenizer: bytes, pretrain: {tokens: 3e6, batch_tokens: 512, length: 32, lr: 6e-4}}
"""


def until(true: Callable[[], Any], seconds: float = 180.0) -> Any:
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends
        time.sleep(1)
    return found


@pytest.mark.timeout(900)
def test_after_a_reboot_one_command_brings_everything_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {"TEXTMILL_HOME": str(home)}
    rows = [{"text": " ".join(TEXTS[n % 7 :] + TEXTS[: n % 11] + [str(n)])} for n in range(60)]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "long.yaml").write_text(RECIPE)

    def textmill(*words: str) -> str:
        command = [sys.executable, "-m", "pipelines.cli", *words]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def pid(name: str) -> int:
        return int(json.loads((home / f"{name}.json").read_text())["pid"])

    def runs() -> dict[str, str]:
        return {run["name"]: run["state_name"] for run in api.every("flow_runs") if run["state_type"] != "SCHEDULED"}

    try:
        textmill("deploy", "long.yaml", "--interval", "1m", "--no-ray")
        api = Api(json.loads((home / "server.json").read_text())["api"])
        first = until(lambda: [name for name, state in runs().items() if state == "Running" and "long" in name])[0]
        until(lambda: "Skipped" in runs().values())  # the next minute's: the first is still at work
        driver = json.loads((tmp_path / "workspace" / "runs" / first / "status.json").read_text())["pid"]
        for victim in (pid("worker"), pid("server"), driver):
            os.kill(victim, signal.SIGKILL)
        told = textmill("ui")
        assert "runs the schedules" in told
        up = time.monotonic()
        until(lambda: runs().get(first) == "Crashed")
        assert time.monotonic() - up < 120
        # the lock went with its process, and nothing piled up: one run works, all others are over
        until(lambda: [name for name, state in runs().items() if state == "Running" and "long" in name])
        assert list(runs().values()).count("Running") == 1
        textmill("schedule", "pause", "long")
        assert not [run for run in api.every("flow_runs") if run["state_type"] == "SCHEDULED"]
    finally:
        textmill("ui", "--stop")
