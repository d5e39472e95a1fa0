"""A student that listens to its teacher and to the data: one more tower, so the loop that trains it is the one loop.

The teacher is not a child of the module: its weights are never trained, shared out, saved or exported. It is in evaluation mode
and sees the very batch the student sees, masks and all (with its segments: that is how it was taught to read pairs).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.losses import hidden_cosine, lessons
from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.transformer import Hidden
from training.feed.batch import IGNORE, Batch
from training.objectives.tower import Head, Losses, Tower, weigh

KD, COSINE = "kd", "cosine"  # the names of the two losses that need a teacher


@dataclass(frozen=True)
class Alphas:
    """How much each loss counts. The defaults are the command in the README of DistilBERT's code; the paper gives none."""

    kd: float = 5.0
    data: float = 2.0
    cosine: float = 1.0

    def __post_init__(self) -> None:
        if min(self.kd, self.data, self.cosine) < 0 or self.kd + self.data + self.cosine <= 0:
            raise ConfigError(f"kd {self.kd}, data {self.data}, cosine {self.cosine}: none may be negative, one must be above 0")


class TeacherStudent(nn.Module):
    """Three losses: the teacher's soft targets and last hidden states at every real token, the data's own labels.

    vocab: ids the tokenizer has; columns beyond it (a padded embedding) take no part in any softmax.
    only_predicted: soft targets at the masked places only (DistilBERT's restrict_ce_to_mask).
    """

    teacher: Tower

    def __init__(
        self, teacher: Tower, student: Tower, alphas: Alphas, *, temperature: float = 2.0, vocab: int = 0, only_predicted: bool = False
    ) -> None:
        super().__init__()
        check_match(teacher.config, student.config)
        self.student, self.alphas, self.temperature, self.only_predicted = student, alphas, temperature, only_predicted
        self.vocab = vocab or student.config.vocab
        object.__setattr__(self, "teacher", teacher.eval().requires_grad_(False))  # past nn.Module: not a child

    @property
    def config(self) -> BackboneConfig:
        return self.student.config

    def forward(self, batch: Batch) -> Losses:
        head = self.student.language_head()
        labels_BL = batch.labels[head.name]
        if not self.training:  # validation is about the data: the student's own loss, comparable with any other model's
            return self.own(batch, head, labels_BL)
        at_BL, seen_BL = self.places(batch, labels_BL), real(batch)
        hidden, taught = self.student.hidden(batch), self.teach(batch)
        s_NV, labels_N = self.columns(head.logits(hidden, at_BL)), labels_BL[at_BL]  # what is predicted is real: no label is lost
        with torch.no_grad():
            t_NV = self.columns(self.teacher.language_head().logits(taught, at_BL))
        over = batch.denominators.get
        soft, true = lessons(s_NV, t_NV, labels_N, self.temperature, soft_over=over(KD), true_over=over(head.name))
        cosine = hidden_cosine(hidden.last_BLD[seen_BL], taught.last_BLD[seen_BL], over(COSINE))
        return weigh({KD: (self.alphas.kd, soft), head.name: (self.alphas.data, true), COSINE: (self.alphas.cosine, cosine)})

    def own(self, batch: Batch, head: Head, labels_BL: Tensor) -> Losses:
        loss, right = head.judge(self.student.hidden(batch), labels_BL, batch.denominators.get(head.name))
        return weigh({head.name: (1.0, loss)}, {} if right is None else {head.name: right})

    @torch.no_grad()
    def teach(self, batch: Batch) -> Hidden:
        """The teacher's hidden states. It follows the student to its device and precision; the engine does not know it."""
        like = next(self.student.parameters())
        mine = next(self.teacher.parameters())
        if mine.device != like.device or mine.dtype != like.dtype:
            self.teacher.to(device=like.device, dtype=like.dtype)
        return self.teacher.hidden(batch)

    def places(self, batch: Batch, labels_BL: Tensor) -> Tensor:
        return labels_BL != IGNORE if self.only_predicted else real(batch)

    def columns(self, logits: Tensor) -> Tensor:
        return logits[..., : self.vocab]

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many places each loss sums over: what the loop makes denominators of."""
        head = self.student.language_head()
        labels_BL = batch.labels[head.name]
        own = {head.name: int((labels_BL != IGNORE).sum())}
        return own | {KD: int(self.places(batch, labels_BL).sum()), COSINE: int(real(batch).sum())} if self.training else own


def real(batch: Batch) -> Tensor:
    """Where a real token stands."""
    return torch.ones_like(batch.tokens_BL, dtype=torch.bool) if batch.keep_BL is None else batch.keep_BL.bool()


def check_match(teacher: BackboneConfig, student: BackboneConfig) -> None:
    """Raises ConfigError: hidden states and guesses can only be compared when these sizes are the same."""
    for name in ("vocab", "width", "causal"):
        if getattr(teacher, name) != getattr(student, name):
            mine, theirs = getattr(student, name), getattr(teacher, name)
            raise ConfigError(f"the teacher's {name} is {theirs}, the student's {mine}; this method needs them alike")
    if student.positions > teacher.positions:
        raise ConfigError(f"the student reads {student.positions} positions, its teacher only {teacher.positions}")
