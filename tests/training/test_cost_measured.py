"""Memory that a plan foretells against what the system says a rank held, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_a_ranks_memory_is_within_a_tenth_of_what_was_foretold(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT of 13.9M parameters in bf16: half a gigabyte, so that pages and libraries count little."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells a process's highest mark and lets it begin anew")
    from dataclasses import replace

    import bench_plan

    case = replace(bench_plan.MODELS[0], stage=stage)
    assert case.foretold().total == pytest.approx(bench_plan.run(case)["peak"], rel=0.1)
