"""The student learns, the teacher does not move, and what is measured is what was meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill.student import layer_map, start_from
from distill.tower import Alphas, TeacherStudent, check_match
from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.feed.batch import IGNORE, Batch
from training.objectives.tower import Tower

MakeTower, MakeBatch = Callable[..., Tower], Callable[..., Batch]


@pytest.fixture
def pair(config: BackboneConfig, make_tower: MakeTower) -> TeacherStudent:
    """In training mode, dropout off in the student so that two passes can be compared."""
    teacher = make_tower(config)
    student = start_from(teacher, layer_map(4, 0))
    for part in student.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    for block in student.backbone.blocks:
        block.attention.dropout = 0.0
    return TeacherStudent(teacher, student, Alphas()).train()


def head_name(config: BackboneConfig) -> str:
    return "next" if config.causal else "mlm"


def test_the_total_is_distilberts_weighted_sum(pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch) -> None:
    batch = make_batch(config)
    losses, keep, name = pair(batch), batch.keep_BL, head_name(config)
    s, t = pair.student.language_logits(batch), pair.teacher.language_logits(batch)
    soft = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(s[keep] / 2, -1), F.softmax(t[keep] / 2, -1)) * 4
    hard = F.cross_entropy(s.flatten(0, 1), batch.labels[name].flatten(), ignore_index=IGNORE)
    ones = torch.ones(int(keep.sum()))
    cosine = nn.CosineEmbeddingLoss()(pair.student.hidden(batch).last_BLD[keep], pair.teacher.hidden(batch).last_BLD[keep], ones)
    assert [float(x) for x in losses.parts.values()] == pytest.approx([float(x.detach()) for x in (soft, hard, cosine)], abs=1e-5)
    torch.testing.assert_close(losses.total, 5 * soft + 2 * hard + cosine)


def test_the_teacher_is_still_without_gradient_and_never_a_child(
    pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch
) -> None:
    before = {name: value.clone() for name, value in pair.teacher.state_dict().items()}
    optimiser = torch.optim.AdamW(pair.parameters(), 1e-2)
    first, second = pair.teach(make_batch(config)).last_BLD, pair.teach(make_batch(config)).last_BLD
    assert torch.equal(first, second)
    for step in range(5):
        pair(make_batch(config, seed=step)).total.backward()
        optimiser.step()
    assert not pair.teacher.training and pair.student.training
    assert all(p.grad is None and not p.requires_grad for p in pair.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in pair.teacher.state_dict().items())
    assert {id(p) for p in pair.parameters()} == {id(p) for p in pair.student.parameters()}
    assert all(name.startswith("student.") for name in pair.state_dict())


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(
    make_tower: MakeTower, make_batch: MakeBatch, config: BackboneConfig
) -> None:
    plain = replace(config, dropout=0.0)
    teacher = make_tower(plain)
    batch = make_batch(plain)
    batch.segments_BL = None
    losses = TeacherStudent(teacher, start_from(teacher, (0, 1, 2, 3)), Alphas()).train()(batch)
    assert float(losses.parts["kd"]) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.parts["cosine"]) == pytest.approx(0.0, abs=1e-5)


def test_padding_changes_no_loss(pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch) -> None:
    batch, name = make_batch(config), head_name(config)
    wider = Batch(
        F.pad(batch.tokens_BL, (0, 6)),
        None if batch.segments_BL is None else F.pad(batch.segments_BL, (0, 6)),
        F.pad(batch.keep_BL, (0, 6)),
        {name: F.pad(batch.labels[name], (0, 6), value=IGNORE)},
    )
    for part, value in pair(batch).parts.items():
        assert float(value) == pytest.approx(float(pair(wider).parts[part]), abs=1e-5), part


def test_micro_batches_with_the_global_counts_add_up_to_the_whole(
    pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch
) -> None:
    batch = make_batch(config)
    whole, counts = pair(batch), pair.counts(batch)
    assert counts == {head_name(config): batch.count(head_name(config)), "kd": int(batch.keep_BL.sum()), "cosine": int(batch.keep_BL.sum())}
    parts = [batch.rows(0, 2), batch.rows(2, 6)]
    for part in parts:
        part.denominators = {name: float(n) for name, n in counts.items()}
    torch.testing.assert_close(sum(pair(part).total for part in parts), whole.total)


def test_a_causal_student_is_asked_for_the_token_that_comes_next(make_tower: MakeTower) -> None:
    """The shift happens once, in the feed: logits at t answer for token t + 1, and the mask moves with the labels."""
    config = BackboneConfig(vocab=60, width=32, layers=2, heads=4, positions=12, causal=True, norm="pre", embedding_norm=False, dropout=0.0)
    teacher = make_tower(config)
    tokens = torch.randint(4, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens, labels={"next": torch.cat([tokens[:, 1:], torch.full((3, 1), IGNORE)], 1)})
    pair = TeacherStudent(teacher, start_from(teacher, (0, 1)), Alphas()).train()
    logits = teacher.language_logits(batch)
    shifted = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert float(pair(batch).parts["next"]) == pytest.approx(float(shifted), abs=1e-5)


def test_in_evaluation_only_the_data_is_scored(pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch) -> None:
    batch, name = make_batch(config), head_name(config)
    pair.eval()
    mine, plain = pair(batch), pair.student(batch)
    torch.testing.assert_close(mine.total, plain.total)
    assert set(mine.parts) == set(pair.counts(batch)) == {name}
    assert int(mine.hits[name]) == int(plain.hits[name])


def test_padded_columns_of_the_vocabulary_take_no_part(pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch) -> None:
    batch = make_batch(config)
    batch.tokens_BL = batch.tokens_BL.clamp(max=49)
    batch.labels = {name: labels.clamp(max=49) for name, labels in batch.labels.items()}
    narrow = TeacherStudent(pair.teacher, pair.student, Alphas(), vocab=50).train()
    before = {name: float(value) for name, value in narrow(batch).parts.items()}
    with torch.no_grad():
        for tower in (pair.teacher, pair.student):
            tower.backbone.embedding.token.weight[50:] = 9.0
    assert {name: float(value) for name, value in narrow(batch).parts.items()} == pytest.approx(before, abs=1e-6)


def test_soft_targets_may_be_kept_to_the_predicted_places(pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch) -> None:
    batch, name = make_batch(config), head_name(config)
    narrow = TeacherStudent(pair.teacher, pair.student, Alphas(), only_predicted=True).train()
    assert narrow.counts(batch)["kd"] == batch.count(name) < pair.counts(batch)["kd"]
    assert float(narrow(batch).parts[name]) == pytest.approx(float(pair(batch).parts[name]), abs=1e-6)


def test_the_teacher_follows_the_student_to_its_precision(pair: TeacherStudent, config: BackboneConfig, make_batch: MakeBatch) -> None:
    pair.to(torch.bfloat16)
    losses = pair(make_batch(config))
    assert losses.total.dtype == torch.float32 and torch.isfinite(losses.total)
    assert next(pair.teacher.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("change", [{"vocab": 61}, {"width": 64}, {"positions": 99}])
def test_a_student_that_cannot_be_compared_is_refused(config: BackboneConfig, change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="teacher"):
        check_match(config, replace(config, **change))


@pytest.mark.parametrize("alphas", [{"kd": -1.0}, {"kd": 0.0, "data": 0.0, "cosine": 0.0}])
def test_weights_that_mean_nothing_are_refused(alphas: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="none may be negative"):
        Alphas(**alphas)
