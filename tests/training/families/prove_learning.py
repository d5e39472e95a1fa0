"""What the papers' comparisons show at a scale of CPU minutes; `make prove-gpu` runs the same larger.

The gates stand beside the comparisons in tests/training/prove.py; each table is printed (`pytest -s`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training import prove


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")


def told(name: str, root: Path) -> prove.Table:
    part = prove.PARTS[name]
    table = part.run(root, part.cpu)
    print(f"\n{table.markdown()}")
    return table


@pytest.mark.parametrize("part", ["families", "masking", "pairs", "probe"])
def test_it_shows(part: str, tmp_path: Path, data: Path) -> None:
    table = told(part, tmp_path)
    assert table.gates
    assert [said for said, holds in table.gates.items() if not holds] == []
