"""The GPU's benchmark where there is no GPU: it says so, and what it would run runs on a CPU from a few packages alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent / "benchmarks"
ABSENT = ("ray", "prefect", "transformers", "datasets", "tokenizers", "sentencepiece", "tiktoken", "fastapi", "httpx", "lxml", "typer")
ALONE = f"""
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, {str(BENCHMARKS)!r})
sys.argv = ["bench_gpu.py", *sys.argv[1:]]
runpy.run_path({str(BENCHMARKS / "bench_gpu.py")!r}, run_name="__main__")
"""


def test_without_a_gpu_it_says_so_and_exits_with_two() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, str(BENCHMARKS / "bench_gpu.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no GPU" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.prove
@pytest.mark.parametrize("name", ["ZeRO-2", "BERT, tiny, ZeRO-1, packed"])
def test_a_row_runs_without_ray_prefect_and_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from dataclasses import asdict

    import bench_gpu

    row = next(row for row in bench_gpu.rows(tiny=True) if row.name.endswith(name) or row.name == name)
    done = subprocess.run([sys.executable, "-c", ALONE, "--row", json.dumps(asdict(row))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < found["best"] <= found["median"] and 0 < found["real"] <= found["computed"] and found["flops"] > 1e9
    assert "%" in bench_gpu.told_of(row, found, {"plain": 1.0}, 0.5)
