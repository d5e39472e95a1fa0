"""A student with the teacher's width and fewer of its layers, started from the teacher's own weights.

Sanh et al. 2019, section 3: half the layers, no segment embedding, no pooler. The reference code drops the teacher's segment
table and with it a vector that every input had added to it; here its row 0 is folded into the position table, so a student
with all the teacher's layers *is* the teacher on one-segment input.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone
from training.objectives.language import LanguageHead
from training.objectives.tower import Tower


def spread(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """Layers evenly from the first to the last: 12 to 6 is (0, 2, 4, 7, 9, 11), the published map; 4 to 2 is (0, 3)."""
    if not 1 <= student_layers <= teacher_layers or teacher_layers % student_layers:
        raise ConfigError(
            f"{student_layers} layers cannot be taken evenly from {teacher_layers}; "
            f"choose a divisor of {teacher_layers}, or name the layers to keep"
        )
    if student_layers == 1:
        return (0,)
    step = (teacher_layers - 1) / (student_layers - 1)
    return tuple(int(index * step + 0.5) for index in range(student_layers))


def layer_map(teacher_layers: int, layers: int | tuple[int, ...]) -> tuple[int, ...]:
    """Which teacher layer each student layer starts from: 0 = half of them; a number = that many, spread; or the map itself."""
    if isinstance(layers, int):
        return spread(teacher_layers, layers or max(1, teacher_layers // 2))
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= teacher_layers:
        raise ConfigError(f"layers {list(layers)} must rise, each once, within 0..{teacher_layers - 1}: the teacher has {teacher_layers}")
    return tuple(layers)


def student_config(teacher: BackboneConfig, layers: tuple[int, ...]) -> BackboneConfig:
    """The teacher's shape with these layers only, and without segments; a table of one row (RoBERTa) says nothing and may stay."""
    if teacher.share != "none":
        raise ConfigError(f"the teacher's layers share their weights ({teacher.share}): there are no separate layers to take")
    return replace(teacher, layers=len(layers), segments=teacher.segments if teacher.segments == 1 else 0)


def empty_student(teacher: BackboneConfig, layers: tuple[int, ...], head: str) -> Tower:
    """The student's shape with fresh weights; `head` is "mlm" or "next"."""
    backbone = Backbone(student_config(teacher, layers))
    return Tower(backbone, [LanguageHead(head, backbone)])


def start_from(teacher: Tower, layers: tuple[int, ...]) -> Tower:
    """A student that begins as the teacher's embeddings, the chosen layers and the language head."""
    head = teacher.language_head()
    student = empty_student(teacher.config, layers, head.name)
    student.backbone.embedding.load_state_dict(folded(teacher.backbone.embedding))
    for mine, place in zip(student.backbone.blocks, layers, strict=True):
        mine.load_state_dict(teacher.backbone.blocks[place].state_dict())
    student.backbone.norm.load_state_dict(teacher.backbone.norm.state_dict())
    student.heads[0].load_state_dict(head.state_dict())
    return student


@torch.no_grad()
def folded(embedding: nn.Module) -> dict[str, Tensor]:
    """An embedding's state without segments: position and segment 0 are added before the norm, so one table can hold both."""
    state = {name: value.clone() for name, value in embedding.state_dict().items()}
    if len(state.get("segment.weight", ())) > 1:
        state["position.weight"] += state.pop("segment.weight")[0]
    return state
