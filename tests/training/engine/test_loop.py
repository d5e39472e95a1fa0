"""Training ends with the same weights however often it is killed; what goes wrong is said with the step."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from infra.compute import LocalCompute
from infra.errors import ConfigError, Preempted, StageFailed
from infra.log import attach
from tests.training.engine.trial import LENGTH, VOCAB, Numbers, Seen, Trial, bert, gpt, run_all, settings
from training.engine.first_loss import total as guessing
from training.engine.loop import LoopConfig
from training.engine.measure import cut, micros, read
from training.engine.optim import OptimConfig
from training.feed.batch import IGNORE, Batch
from training.objectives.tower import Losses, Tower

STEPS = 20


def go(ranks: int, trials: list[Trial], restarts: int = 0) -> list[Seen]:
    seen = LocalCompute(ranks, restarts).gang("trial", partial(run_all, trials))[0]
    assert seen is not None
    return seen


def equal(one: Seen, other: Seen) -> bool:
    return set(one.weights) == set(other.weights) and all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Seen]:
    """20 undisturbed steps on two ranks with dropout, by ZeRO stage, without any validation."""
    root: Path = tmp_path_factory.mktemp("straight")
    trials = [Trial(root / f"{z}", settings(steps=STEPS, zero=z, micro_batch=3), "bert", dropout=0.1) for z in range(4)]
    return dict(enumerate(go(2, trials)))


def test_a_rank_killed_at_step_12_leaves_no_trace_in_the_weights(tmp_path: Path, straight: dict[int, Seen]) -> None:
    """kill -9 under two stages in turn; validation runs in this one and must not move a random number either."""
    trials = [
        Trial(
            tmp_path / f"{z}",
            settings(steps=STEPS, zero=z, micro_batch=3, valid_every=4),
            "bert",
            dropout=0.1,
            feed={"kill_at": 12, "mark": str(tmp_path / f"killed-{z}")},
            valid=True,
        )
        for z in (1, 2)
    ]
    told: list[dict] = []
    detach = attach(told.append)
    seen = go(2, trials, restarts=3)
    detach()
    assert len(list(tmp_path.glob("killed-*"))) == 2
    assert sum("goes on from step 10" in e.get("message", "") for e in told) == 2
    for trial, one in zip(trials, seen, strict=True):
        assert equal(one, straight[trial.config.zero]), trial.config.zero
        assert one.losses == straight[trial.config.zero].losses
        assert [line["step"] for line in one.lines] == list(range(STEPS)), "each step is told once, those after the checkpoint anew"
        assert [line["step"] for line in one.lines if "valid_loss" in line] == [3, 7, 11, 15, 19]


@pytest.mark.prove
def test_another_number_of_ranks_continues_the_same_curve(tmp_path: Path) -> None:
    """Two ranks fail after step 12 (checkpoint at 10), one goes on; every stage."""
    trials = [Trial(tmp_path / f"{z}", settings(steps=STEPS, zero=z), "bert", feed={"fail_at": 12}) for z in range(4)]
    for trial in trials:
        with pytest.raises(StageFailed, match="disk were gone"):
            go(2, [trial])
    whole = [Trial(tmp_path / f"{z}-whole", settings(steps=STEPS, zero=z), "bert") for z in range(4)]
    seen = go(1, [Trial(t.out, t.config, t.kind) for t in trials] + whole)
    for one, undisturbed in zip(seen[:4], seen[4:], strict=True):
        assert one.losses == pytest.approx(undisturbed.losses, abs=1e-5)
        for name, value in undisturbed.weights.items():
            torch.testing.assert_close(one.weights[name], value, atol=1e-4, rtol=1e-3, msg=name)


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path, straight: dict[int, Seen]) -> None:
    trial = Trial(
        tmp_path, settings(steps=STEPS, zero=2, micro_batch=3), "bert", dropout=0.1, feed={"term_at": 7, "mark": str(tmp_path / "asked")}
    )
    with pytest.raises(Preempted, match="saved after step 7 of 20"):
        go(2, [trial])
    finished, once_more = go(2, [trial, trial])  # the second finds everything done, as after a kill during export
    assert equal(finished, straight[2]) and equal(once_more, straight[2])
    assert once_more.loss == finished.loss == straight[2].losses[-1]


class Poisoned(Tower):
    """The loss is NaN, on the last rank alone, in the batch whose first token says so."""

    def forward(self, batch: Batch) -> Losses:
        losses = super().forward(batch)
        poison = torch.where(batch.tokens_BL[0, 0] == POISON, math.nan, 1.0)
        return Losses(losses.total * poison, losses.parts)


class Steep(Tower):
    """The loss is finite and its gradient is not."""

    def forward(self, batch: Batch) -> Losses:
        losses = super().forward(batch)
        if batch.tokens_BL[0, 0] == POISON:
            x = losses.total * 0.0
            return Losses(losses.total + torch.sqrt(x) - torch.sqrt(x.detach()), losses.parts)
        return losses


def first_token_of_last_rank(step: int) -> int:
    return int(Numbers("gpt").slice(step, 1, 2).tokens_BL[0, 0])


POISON = first_token_of_last_rank(6)


def spoilt(kind: type[Tower]) -> Tower:
    tower = gpt()
    return kind(tower.backbone, tower.heads)


@pytest.mark.parametrize(
    ("kind", "zero"),
    [(Poisoned, 0), *(pytest.param(kind, zero, marks=pytest.mark.prove) for kind, zero in [(Poisoned, 1), (Steep, 0), (Steep, 2)])],
)
def test_what_is_not_finite_on_one_rank_ends_all_before_the_weights_are_touched(tmp_path: Path, kind: type[Tower], zero: int) -> None:
    bad = next(
        step for step in range(12) if POISON in (first_token_of_last_rank(step), int(Numbers("gpt").slice(step, 0, 2).tokens_BL[0, 0]))
    )
    trial = Trial(tmp_path, settings(zero=zero), make=partial(spoilt, kind))
    with pytest.raises(StageFailed, match=rf"(not finite|nan) at step {bad};? ?.*00000.arrow row {bad}"):
        go(2, [trial])
    assert (tmp_path / ".checkpoints" / f"step-{bad}" / "manifest.json").exists()
    cured = go(2, [Trial(tmp_path, settings(zero=zero))])[0]
    assert all(math.isfinite(x) for x in cured.losses) and len(cured.losses) == 12


def loud() -> Tower:
    tower = gpt()
    nn.init.normal_(tower.backbone.embedding.token.weight, std=2.0)
    return tower


def test_a_first_loss_far_from_guessing_is_an_error_unless_weights_were_imported(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"guessing gives 3\.8712; the model, its labels"):
        go(1, [Trial(tmp_path / "a", settings(), make=loud)])
    told: list[dict] = []
    detach = attach(told.append)
    go(1, [Trial(tmp_path / "b", settings(steps=2), make=loud, imported=True)])
    detach()
    assert any("do worse than guessing" in e.get("message", "") for e in told)


class Tilted(Tower):
    """The loss of the pair is ten times too large, as if it were summed and not averaged; the total is hardly worse."""

    def forward(self, batch: Batch) -> Losses:
        losses = super().forward(batch)
        return Losses(losses.total, {**losses.parts, "pair": losses.parts["pair"] * 10})


def tilted() -> Tower:
    tower = bert()
    return Tilted(tower.backbone, tower.heads)


def made_in_shares() -> Tower:
    """Under zero.Init a weight is nothing when it is drawn, and keeps what torch's own layer put there."""
    import deepspeed

    with deepspeed.zero.Init():
        return gpt()


def test_a_part_that_is_wired_wrongly_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"the first loss of pair is \d\.\d+, guessing gives 0\.6931"):
        go(1, [Trial(tmp_path, settings(steps=2), "bert", make=tilted)])


@pytest.mark.slow
def test_weights_that_were_drawn_while_shared_out_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"guessing gives 3\.8712; the model, its labels or its initialisation"):
        go(2, [Trial(tmp_path, settings(steps=2, zero=3), make=made_in_shares)])


def test_guessing_is_the_sum_of_the_heads_logarithms() -> None:
    assert guessing(bert()) == pytest.approx(math.log(VOCAB) + math.log(2))
    assert guessing(gpt()) == pytest.approx(math.log(VOCAB))
    assert guessing(nn.Linear(1, 1)) == 0


def test_one_batch_is_learnt_by_heart_and_the_events_tell_it(tmp_path: Path) -> None:
    config = settings(steps=120, optimiser=OptimConfig(lr=1e-2, warmup=5, weight_decay=0.0), log_every=20, save_every=1000)
    told: list[dict] = []
    detach = attach(told.append)
    seen = go(2, [Trial(tmp_path / kind, config, kind, feed={"same": True}, valid=True) for kind in ("gpt", "bert")])
    detach()
    for one in seen:
        assert one.losses[-1] < 0.1
        assert [line["step"] for line in one.lines] == [0, 20, 40, 60, 80, 100, 119]
        assert one.lines[-1]["tokens_per_s"] > 0
    assert seen[0].lines[-1]["tokens"] == 120 * 10 * LENGTH
    assert seen[1].lines[-1]["tokens"] == 120 * int(Numbers("bert").whole(0).keep_BL.sum()), "padding is not counted"
    trained = [e for e in told if e["kind"] == "train"]
    assert len(trained) == 14 and {"stage", "step", "total", "loss", "parts", "lr", "tokens_per_s"} <= set(trained[0])
    assert [e["done"] for e in told if e["kind"] == "progress"][-1] == 120


@pytest.mark.slow
def test_the_exam_is_the_mean_over_all_predictions_on_any_number_of_ranks(tmp_path: Path) -> None:
    """Its last batch is uneven, and with 3 ranks some have less than others; held against one plain pass."""
    torch.manual_seed(7)
    tower, feed = bert().eval(), Numbers("bert", batch_size=7)
    batches = [feed.whole(step) for step in range(3)]
    totals = {name: float(sum(b.count(name) for b in batches)) for name in ("mlm", "pair")}
    for b in batches:
        b.denominators.update(totals)
    with torch.no_grad():
        expected = sum(float(tower(b).total) for b in batches)
        right = sum(int(tower(b).hits["mlm"]) for b in batches) / totals["mlm"]
    frozen = OptimConfig(lr=1e-30, weight_decay=0.0)
    for ranks in (1, 3):
        line = go(ranks, [Trial(tmp_path / str(ranks), settings(steps=1, zero=3, micro_batch=2, optimiser=frozen), "bert", valid=True)])[
            0
        ].lines[0]
        assert line["valid_loss"] == pytest.approx(expected, abs=1e-5)
        assert line["valid_accuracy"]["mlm"] == pytest.approx(right)


def test_more_ranks_than_sequences_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="cannot be shared by 2 ranks"):
        go(2, [Trial(tmp_path, settings(), feed={"batch_size": 1})])


def test_a_torn_last_line_of_the_metrics_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 0}) + "\n" + '{"step": 1, "lo')
    assert read(tmp_path / "metrics.jsonl") == [{"step": 0}]


def test_pieces_cover_the_batch_and_the_empty_ones_predict_nothing() -> None:
    batch = Numbers("bert").whole(0)
    assert torch.equal(torch.cat([p.tokens_BL for p in cut(batch, 3)]), batch.tokens_BL)
    lone = cut(batch.rows(0, 1), 2)
    assert [len(p) for p in lone] == [1, 1] and all((x == IGNORE).all() for x in lone[0].labels.values())
    assert torch.isfinite(bert()(batch.blank()).total)
    assert micros(10, world=3, micro_batch=2) == 2


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"micro_batch": 0}, {"zero": 5}, {"precision": "int8"}])
def test_a_loop_that_cannot_run_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        LoopConfig(**{"steps": 1, "micro_batch": 1, **wrong})
