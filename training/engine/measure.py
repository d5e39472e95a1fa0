"""What training tells: metrics.jsonl, events, and how well the held-out examples are predicted."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from infra.log import event
from training.engine.rank import Rank
from training.engine.zero import Engine
from training.feed.batch import Batch
from training.feed.loader import Feed

METRICS = "metrics.jsonl"
Count = Callable[[Batch], dict[str, int]]


def micros(sequences: int, world: int, micro_batch: int) -> int:
    """Micro-batches of a step of so many: the fewest that keep every rank's within micro_batch; the same number on every rank."""
    return math.ceil(math.ceil(sequences / world) / micro_batch)


def cut(batch: Batch, parts: int) -> list[Batch]:
    """The batch in `parts` pieces of nearly equal size; a piece without a sequence is blank."""
    n = len(batch)
    pieces = [batch.rows(n * i // parts, n * (i + 1) // parts) for i in range(parts)]
    return [piece if len(piece) else batch.blank() for piece in pieces]


def real_tokens(batch: Batch) -> int:
    """Tokens that are not padding."""
    return batch.tokens_BL.numel() if batch.keep_BL is None else int(batch.keep_BL.sum())


@dataclass(frozen=True)
class Verdict:
    """Means over all held-out predictions, exact for any number of ranks."""

    loss: float
    parts: dict[str, float]
    accuracy: dict[str, float] = field(default_factory=dict)


class Exam:
    """The held-out examples, the same ones in the same order each time; dropout is off and no random number is drawn."""

    def __init__(self, feed: Feed, place: Rank, micro_batch: int, count: Count, batches: int = 0) -> None:
        self.feed, self.place, self.count = feed, place, count
        self.batches = min(batches or feed.steps_per_epoch, feed.steps_per_epoch)
        self.micros = micros(feed.batch_size, place.world, micro_batch)
        self._totals: dict[str, float] = {}

    @torch.no_grad()
    def take(self, engine: Engine) -> Verdict:
        engine.module.eval()
        totals = self._totals = self._totals or self._counted()
        told: dict[str, torch.Tensor] = {}
        for step in range(self.batches):
            for piece in cut(self._slice(step), self.micros):
                losses = engine.forward(replace(piece.to(self.place.device), denominators=totals))
                named = [("total", losses.total), *_named("part", losses.parts), *_named("hits", losses.hits)]
                for name, value in named:
                    told[name] = told.get(name, 0.0) + value.detach().double()
        engine.module.train()
        summed = dict(zip(told, self.place.sum([float(x) for x in told.values()]), strict=True))
        parts = {name.removeprefix("part "): x for name, x in summed.items() if name.startswith("part ")}
        hits = {name.removeprefix("hits "): x for name, x in summed.items() if name.startswith("hits ")}
        return Verdict(summed["total"], parts, {name: x / totals[name] for name, x in hits.items() if name in totals})

    def _slice(self, step: int) -> Batch:
        return self.feed.slice(step, self.place.rank, self.place.world)

    def _counted(self) -> dict[str, float]:
        """Predictions by name over the whole exam: what every piece's sums are divided by, so that they add up to the means."""
        counted: dict[str, int] = {}
        for step in range(self.batches):
            for name, n in self.count(self._slice(step)).items():
                counted[name] = counted.get(name, 0) + n
        return {name: max(1.0, n) for name, n in zip(counted, self.place.sum(list(counted.values())), strict=True)}


def _named(kind: str, values: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    return [(f"{kind} {name}", value) for name, value in values.items()]


class Journal:
    """metrics.jsonl, one line a told step, and the same as events. Only the first rank's journal writes."""

    def __init__(self, path: Path, stage: str, place: Rank, total: int, step: int) -> None:
        self.path, self.stage, self.total, self.first = path, stage, total, place.first
        self._tokens, self._seconds = 0, 0.0
        self.tokens_per_byte = 0.0  # of the held-out text, where bits per byte mean something
        if self.first:
            self.forget(step)

    def passed(self, tokens: int, seconds: float) -> None:
        """One more step, and how long it took without validation and checkpoints."""
        self._tokens, self._seconds = self._tokens + tokens, self._seconds + seconds

    def tell(self, step: int, verdict: Verdict | None, figures: dict[str, Any], **fields: Any) -> None:
        speed = round(self._tokens / self._seconds, 1) if self._seconds else 0.0
        self._tokens, self._seconds = 0, 0.0
        if not self.first:
            return
        line = {"step": step, **fields, "tokens_per_s": speed, "speed": figures}
        event("train", stage=self.stage, total=self.total, **line)
        if verdict is not None:
            line |= {"valid_loss": verdict.loss, "valid_parts": verdict.parts, "valid_accuracy": verdict.accuracy} | self._text(verdict)
            event(
                "eval",
                stage=self.stage,
                step=step,
                loss=verdict.loss,
                parts=verdict.parts,
                accuracy=verdict.accuracy,
                **self._text(verdict),
            )
        same = {name: line[name] for name in ("loss", "tokens_per_s") if name in line}  # who shows only the latest event shows these too
        event("progress", stage=self.stage, done=step + 1, total=self.total, unit="steps", **same)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _text(self, verdict: Verdict) -> dict[str, float]:
        """Of a model of the next token: perplexity, and bits per byte of the held-out text (its own tokens a byte times bits a token)."""
        nats = verdict.parts.get("next")
        if nats is None:
            return {}
        told = {"valid_perplexity": math.exp(min(nats, 700.0))}
        return told | ({"valid_bits_per_byte": nats / math.log(2) * self.tokens_per_byte} if self.tokens_per_byte else {})

    def last(self) -> tuple[float, dict[str, float]]:
        """Loss and parts of the last step that was told: the last of all when an earlier try got so far."""
        lines = read(self.path) if self.first else []
        return (lines[-1]["loss"], lines[-1]["parts"]) if lines else (math.nan, {})

    def forget(self, step: int) -> None:
        """Drop what was told after the checkpoint that is gone on from, and a line a try was killed in."""
        kept = [line for line in read(self.path) if line["step"] < step]
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        part.replace(self.path)


def take_over_metrics(source: Path, path: Path) -> None:
    """The lines of a training that is gone on from stand before one's own, which may stand there already."""
    if not path.exists():
        part = path.with_suffix(".part")
        shutil.copyfile(source, part)
        part.replace(path)


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; none when there is no file."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # only the last line can be torn, by a kill while it was written
    return lines
