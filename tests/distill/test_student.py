"""A student starts as exactly the parts of its teacher that the recipe names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.student import layer_map, spread, start_from
from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.feed.batch import Batch
from training.objectives.tower import Tower


def test_half_of_twelve_layers_is_the_published_map() -> None:
    assert layer_map(12, 0) == spread(12, 6) == (0, 2, 4, 7, 9, 11)
    assert layer_map(4, 0) == (0, 3)
    assert layer_map(1, 0) == spread(2, 1) == (0,)


@given(st.integers(1, 48), st.integers(1, 48))
def test_a_spread_map_rises_from_the_first_layer_to_the_last(teacher: int, student: int) -> None:
    if student > teacher or teacher % student:
        with pytest.raises(ConfigError, match="cannot be taken evenly"):
            spread(teacher, student)
        return
    layers = spread(teacher, student)
    assert len(layers) == student == len(set(layers))
    assert layers == tuple(sorted(layers))
    assert student == 1 or (layers[0], layers[-1]) == (0, teacher - 1)


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1), (0, 4), (-1, 0)])
def test_a_map_that_is_none_is_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="must rise"):
        layer_map(4, layers)


def test_any_map_may_be_named() -> None:
    assert layer_map(4, (1, 2, 3)) == (1, 2, 3)


def test_with_all_layers_the_student_is_the_teacher(
    config: BackboneConfig, make_tower: Callable[..., Tower], make_batch: Callable[..., Batch]
) -> None:
    teacher = make_tower(config).eval()
    student = start_from(teacher, layer_map(4, (0, 1, 2, 3))).eval()
    batch = make_batch(config)
    batch.segments_BL = None  # one segment: the folded one
    mine, theirs = student.language_logits(batch), teacher.language_logits(batch)
    assert theirs.std() > 0.5
    torch.testing.assert_close(mine[batch.keep_BL], theirs[batch.keep_BL], atol=1e-5, rtol=0)


def test_each_layer_starts_from_its_own_layer_of_the_teacher(config: BackboneConfig, make_tower: Callable[..., Tower]) -> None:
    teacher = make_tower(config)
    student = start_from(teacher, layer_map(4, 0))
    for mine, place in zip(student.backbone.blocks, (0, 3), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, teacher.backbone.blocks[place].state_dict()[name]), name
    assert torch.equal(student.backbone.embedding.token.weight, teacher.backbone.embedding.token.weight)


def test_a_student_has_no_segments_no_second_head_and_its_own_memory(config: BackboneConfig, make_tower: Callable[..., Tower]) -> None:
    teacher = make_tower(config)
    student = start_from(teacher, layer_map(4, 0))
    assert student.config == replace(config, layers=2, segments=0)
    assert [head.name for head in student.heads] == ["next" if config.causal else "mlm"]
    assert student.heads[0].scores.weight is student.backbone.embedding.token.weight
    theirs = {p.data_ptr() for p in teacher.parameters()}
    assert not theirs & {p.data_ptr() for p in student.parameters()}


def test_layers_that_share_weights_cannot_be_taken_apart(make_tower: Callable[..., Tower], config: BackboneConfig) -> None:
    with pytest.raises(ConfigError, match="share their weights"):
        start_from(make_tower(replace(config, share="all")), (0, 3))
