"""A run that meets a damaged input goes through its chain again: what was quarantined is rebuilt, what is sound is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from infra.artifact import Artifact
from infra.errors import ArtifactError, DamagedInput
from infra.log import event
from pipelines.growth import Growth

T = TypeVar("T")
MOST = 2  # times that one artifact is rebuilt in a run


def rebuilding(growth: Growth, build: Callable[[Mapping[str, Artifact]], T]) -> T:
    """build(what the run builds on), until no input is damaged.

    Raises ArtifactError when what an earlier date left is damaged, which that date has to rebuild, or when one artifact is damaged
    again and again.
    """
    met: Counter[str] = Counter()
    earlier: Mapping[str, Artifact] = growth.earlier
    while True:
        try:
            return build(earlier)
        except DamagedInput as error:
            met[error.damaged] += 1
            if met[error.damaged] > MOST:
                raise ArtifactError(f"{error}: it was rebuilt {MOST} times and damaged each time; check the disk and the memory") from error
            event("note", message=f"{error.damaged or 'an input'} was damaged: the run starts over and rebuilds it")
            earlier = growth.again()
