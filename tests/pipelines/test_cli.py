"""The command as a user meets it: quick, one clear line for what is wrong, exit codes that mean something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

HEAVY = {"torch", "ray", "prefect", "deepspeed", "pyarrow", "transformers", "matplotlib", "aiohttp"}


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = f"""
import sys, time
sys.argv = ["textmill", "--help"]
from pipelines.cli import main
try:
    main()
finally:
    print("HEAVY", sorted({HEAVY!r} & set(sys.modules)), time.process_time())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0
    line = told.stdout.rsplit("HEAVY ", 1)[1]
    assert line.startswith("[]"), line
    assert float(line.split()[-1]) < 1.0  # CPU seconds, Python's own start included; 0.25 on a quiet machine
    for command in ("run", "plan", "status", "report", "show", "verify", "generate", "fill", "predict", "export", "ui", "deploy", "doctor"):
        assert command in told.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("run", "small.yaml", "--plain", "--set", "corpus.filter.min_word=3"),
            "corpus.filter has no `min_word`; did you mean `min_words`?",
        ),
        (("run", "small.yaml", "--plain", "--set", "models.gpt.pretrain.overrides={width: 770}"), "width 770 is not a multiple of heads"),
        (("run", "small.yaml", "--until", "dedupe"), "did you mean `dedup`?"),
        (("run", "smal"), "no recipe 'smal'"),
        (("plan", "small.yaml", "--set", "x"), "write it as a.key=value"),
        (("status",), "no runs in"),
        (("export", "gpt", "out"), "no model is called 'gpt'"),
        (("deploy", "small.yaml", "--cron"), "requires an argument"),
        (("runn",), "No such command"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(recipe: Path, textmill, words: tuple[str, ...], line: str) -> None:
    told = textmill(*words)
    assert told.returncode == 2, told.stderr
    assert line in told.stderr and "Traceback" not in told.stderr
    assert not (recipe.parent / "workspace").exists()


def test_a_run_its_status_its_second_run_and_verify(recipe: Path, textmill) -> None:
    first = textmill("run", "small.yaml", "--plain", "--until", "blocks")
    assert first.returncode == 0, first.stderr
    assert "report  workspace/runs/" in first.stdout and "funnel" in first.stdout
    assert any(line.split()[1:3] == ["filter", "done"] for line in first.stdout.splitlines())
    status = json.loads(textmill("status", "--json").stdout)
    assert status["state"] == "done" and [row["state"] for row in status["stages"]] == ["done"] * 6
    second = textmill("run", "small.yaml", "--plain", "--until", "blocks")
    assert {row["state"] for row in json.loads(textmill("status", "--json").stdout)["stages"]} == {"cached"}
    assert "done" not in "".join(line for line in second.stdout.splitlines() if "s  " in line[:12])
    assert textmill("verify").returncode == 0
    plan = json.loads(textmill("plan", "small.yaml", "--until", "blocks", "--json").stdout)
    assert {step["action"] for step in plan} == {"reuse"}


def test_another_workspace_with_the_same_mirror_makes_nothing_anew(recipe: Path, textmill) -> None:
    shared = f"resources.mirror=file://{recipe.parent}/bucket"
    assert textmill("run", "small.yaml", "--plain", "--until", "dedup", "--set", shared).returncode == 0
    told = textmill("run", "small.yaml", "--plain", "--until", "dedup", "--set", shared, "--workspace", "elsewhere")
    assert told.returncode == 0, told.stderr
    status = json.loads(textmill("status", "--json", "--workspace", "elsewhere").stdout)
    assert {row["state"] for row in status["stages"]} == {"cached"}


def test_a_mirror_of_an_unknown_kind_is_refused_before_any_work(recipe: Path, textmill) -> None:
    told = textmill("run", "small.yaml", "--plain", "--set", "resources.mirror=nowhere://bucket")
    assert told.returncode == 2 and "resources.mirror nowhere://bucket" in told.stderr and "Traceback" not in told.stderr
    assert not (recipe.parent / "workspace" / "artifacts").exists()


def test_a_damaged_file_is_found_and_named_and_made_again(recipe: Path, textmill) -> None:
    assert textmill("run", "small.yaml", "--plain", "--until", "filter").returncode == 0
    shard = next((recipe.parent / "workspace" / "artifacts" / "filter").glob("*/*.arrow"))
    good = shard.read_bytes()
    shard.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])  # as long as it was
    told = textmill("verify")
    assert told.returncode == 3 and shard.name in told.stderr and "Traceback" not in told.stderr
    assert not shard.exists() and textmill("verify").returncode == 0
    assert textmill("run", "small.yaml", "--plain", "--until", "filter").returncode == 0
    assert shard.read_bytes() == good


def test_a_failed_stage_is_exit_code_3_and_the_status_says_why(recipe: Path, textmill) -> None:
    told = textmill("run", "small.yaml", "--plain", "--until", "tokenizer", "--set", "corpus.filter.min_words=5000")
    assert told.returncode in (2, 3)
    assert "Traceback" not in told.stderr and "no text to train on" in told.stderr
    status = json.loads(textmill("status", "--json").stdout)
    assert status["state"] == "failed" and status["stages"][-1]["state"] == "failed" and "no text" in status["error"]


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGTERM, 4, "preempted"), pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.prove)],
)
def test_a_signal_ends_the_run_in_order(recipe: Path, textmill, number: int, code: int, state: str) -> None:
    """Caught while its ranks train: no process is left, the status says it, and the same command resumes."""
    words = ["run", "small.yaml", "--plain", "--until", "pretrain", "--set", "models.gpt.pretrain.tokens=1e9"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words],
        cwd=recipe.parent,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # a shell's background job ignores it
    )
    try:
        wait_for(recipe.parent, '"kind": "train"')
        process.send_signal(number)
        _, told = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == code and "The same command resumes" in told and "Traceback" not in told
    assert json.loads(textmill("status", "--json").stdout)["state"] == state
    ends = time.monotonic() + 20  # multiprocessing's own helpers see that their parent is gone a moment later
    while (left := [line for line in processes() if str(recipe.parent) in line]) and time.monotonic() < ends:
        time.sleep(0.2)
    assert not left


def wait_for(folder: Path, text: str, seconds: float = 240) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if any(text in path.read_text() for path in folder.glob("workspace/runs/*/events.jsonl")):
            return
        time.sleep(0.2)
    raise AssertionError(f"no {text} in {seconds} s")


def processes() -> list[str]:
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        found.append(f"{process.info['cwd']} {process.info['cmdline']}")
    return found


def test_doctor_finds_this_installation_well(textmill) -> None:
    told = textmill("doctor", "--json")
    found = {item["what"]: item["state"] for item in json.loads(told.stdout)}
    assert found["prefect"] == "ok" and found["fastapi"] == "ok" and found["sqlalchemy"] == "ok"
    assert told.returncode == 0, [item for item in json.loads(told.stdout) if item["state"] == "bad"]
