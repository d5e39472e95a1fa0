"""Fifty steps of each kind of model under every stage of ZeRO, on two and four ranks, follow the curve of one plain process."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from infra.compute import LocalCompute
from tests.training.engine.trial import ALL_TOWERS, VOCAB, Numbers, Seen, Trial, plain, run_all, settings, together
from training.engine.loop import LoopConfig
from training.engine.optim import OptimConfig

STEPS, RANKS = 50, (2, 4)
pytestmark = pytest.mark.slow


def config(**changes: object) -> LoopConfig:
    """Uneven shares: 10 rows over 4 ranks, or over 2 in micro-batches of 3."""
    said = {"steps": STEPS, "micro_batch": 3, "optimiser": OptimConfig(lr=1e-3, warmup=5), "clip": 0.5, "save_every": 999}
    return settings(**{**said, **changes})


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, int], Seen]:
    """By (ranks, kind, stage): one gang for each number of ranks, which trains everything one after another."""
    root: Path = tmp_path_factory.mktemp("curves")
    seen = {}
    for ranks in RANKS:
        names = [(ranks, kind, stage) for kind in ALL_TOWERS for stage in range(4)]
        trials = [Trial(root / f"{ranks}-{kind}-{stage}", config(zero=stage), kind) for ranks, kind, stage in names]
        seen |= zip(names, LocalCompute(ranks).gang("curves", partial(run_all, trials))[0], strict=True)
    return seen


@pytest.mark.parametrize("kind", ALL_TOWERS)
def test_every_stage_on_any_number_of_ranks_gives_one_processs_curve(kind: str, curves: dict[tuple[int, str, int], Seen]) -> None:
    losses, norms, weights = plain(kind, config())
    assert max(losses) - min(losses) > 0.05 and len(losses) == STEPS, "there is a curve"
    for ranks in RANKS:
        for stage in range(4):
            seen = curves[ranks, kind, stage]
            assert seen.losses == pytest.approx(losses, rel=1e-5), (ranks, stage)
            assert [line["norm"] for line in seen.lines] == pytest.approx(norms, rel=2e-3), (ranks, stage)
            assert set(seen.arrays) == set(weights)
            for name, value in weights.items():
                np.testing.assert_allclose(seen.arrays[name], value.numpy(), atol=5e-4, rtol=1e-2, err_msg=f"{ranks} {stage} {name}")


@pytest.mark.parametrize("kind", ALL_TOWERS)
def test_what_is_one_weight_in_the_tower_is_one_after_training(kind: str, curves: dict[tuple[int, str, int], Seen]) -> None:
    """Tied embeddings everywhere, ALBERT's layers, the embedding of ELECTRA's two towers."""
    mine = together(dict(ALL_TOWERS[kind]().named_parameters(remove_duplicate=False)))
    assert any("backbone.embedding.token.weight" in names for names in mine)
    for (_, of, stage), seen in curves.items():
        if of == kind:
            assert seen.one_storage == mine, stage


def test_the_masks_are_as_ragged_as_they_can_be() -> None:
    """The first rank predicts ten times what the last does, so a mean of means would be another number."""
    counts = [Numbers("bert").slice(0, rank, 4).count("mlm") for rank in range(4)]
    assert max(counts) > 4 * max(1, min(counts))


@pytest.mark.parametrize("kind", ALL_TOWERS)
def test_every_loss_begins_where_guessing_is(kind: str, curves: dict[tuple[int, str, int], Seen]) -> None:
    """ln V, ln 2; under ZeRO 3 too, whose weights are shared out after they were drawn."""
    for (_, of, stage), seen in curves.items():
        if of == kind:
            theory = {"next": math.log(VOCAB), "mlm": math.log(VOCAB), "pair": math.log(2), "rtd": math.log(2)}
            parts = seen.lines[0]["parts"]
            assert parts == pytest.approx({name: theory[name] for name in parts}, rel=0.05), stage
