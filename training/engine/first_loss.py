"""The first loss of a training against the uniform baseline: a model that has learned nothing must do as badly as chance."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from infra.errors import PipelineError
from infra.log import event

TOLERANCE = 0.05  # how far the first loss may lie from the baseline, relative to it


def total(tower: nn.Module) -> float:
    """The loss of a model that knows nothing: each head's weight times its uniform baseline; 0 where nobody can say."""
    return sum(head.weight * by_head(tower)[head.name] for head in getattr(tower, "heads", []))


def by_head(tower: nn.Module) -> dict[str, float]:
    """The uniform baseline of each head: the logarithm of its choices."""
    return {head.name: math.log(max(2, head.scores.out_features)) for head in getattr(tower, "heads", [])}


def check(
    stage: str, tower: nn.Module, loss: float, parts: Mapping[str, float], counted: Mapping[str, float], *, imported: bool, first: bool
) -> None:
    """Compare the total and every component: this catches most wiring errors. Raises PipelineError; a warning for imported weights.

    A component of few predictions may lie farther off: of n labels the mean is uncertain by about 1 / sqrt(n).
    """
    expected = {"": (loss, total(tower), TOLERANCE)}
    for name, value in by_head(tower).items():
        if name in parts and counted.get(name):
            expected[f" of {name}"] = parts[name], value, TOLERANCE + 1 / math.sqrt(counted[name])
    for name, (actual, chance, far) in expected.items():
        if abs(actual / chance - 1) <= far or (imported and actual <= chance):
            continue
        said = f"{stage}: the first loss{name} is {actual:.4f}, guessing gives {chance:.4f}"
        if not imported:
            raise PipelineError(f"{said}; the model, its labels or its initialisation are wired wrongly")
        if first:
            event("warning", message=f"{said}: the imported weights do worse than guessing")
