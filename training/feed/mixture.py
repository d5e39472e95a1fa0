"""Examples of several sources in given proportions: which source stands at a place is computed, never drawn or stored.

Sources alternate in a fixed pattern as long as the sum of their weights in whole numbers. Tijdeman's rule makes it ("The chairman
assignment problem", Discrete Mathematics 32, 1980): at every place the number of examples of each source differs from its share
by less than one. Each source has its own permutation and its own epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

import numpy as np

from infra.errors import ConfigError
from training.feed.permutation import permute
from training.feed.random import fold
from training.feed.views import I64, edges

EXHAUSTED = ("repeat", "stop")
LONGEST_PATTERN = 10_000  # places; longer ones come from weights with many digits
MIXED = 4  # a stream of random numbers beside those of order.py


@dataclass(frozen=True)
class Mixing:
    """weights: of each source, by a pattern of the names of the files its documents came from ("wiki*"); of several patterns that
    fit the longest counts, and documents that none fits are left out. exhausted: what a source does when all its examples were
    seen: repeat (shuffled anew, at once) or stop (the others go on in their proportions; when all are through, all begin anew).
    """

    weights: Mapping[str, float]
    exhausted: str = "repeat"

    def __post_init__(self) -> None:
        if self.exhausted not in EXHAUSTED:
            raise ConfigError(f"pretrain.exhausted {self.exhausted!r} is neither repeat nor stop")
        for name, weight in self.weights.items():
            if not (isinstance(weight, int | float) and 0 < weight < math.inf):
                raise ConfigError(f"pretrain.mixture gives {name!r} the weight {weight!r}; it must be a number above 0")
        if self.weights:
            whole(self.weights.values())

    def name_of(self, origin: str) -> str | None:
        """The pattern that decides for documents of this file: of those that fit the longest, then the first by name."""
        fitting = [name for name in self.weights if fnmatchcase(origin, name)]
        return min(fitting, key=lambda name: (-len(name), name)) if fitting else None


def whole(weights: Iterable[float]) -> list[int]:
    """The same proportions in the smallest whole numbers."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(one.denominator for one in exact))
    counts = [int(one * scale) for one in exact]
    counts = [count // math.gcd(*counts) for count in counts]
    if sum(counts) > LONGEST_PATTERN:
        raise ConfigError(f"pretrain.mixture: these weights repeat only after {sum(counts)} examples; give them fewer digits")
    return counts


@dataclass(frozen=True)
class Runs:
    """The examples of one source: runs of neighbouring rows."""

    firsts: I64
    starts: I64  # of each run among the source's own examples, and their number

    @classmethod
    def of(cls, chosen: Sequence[tuple[int, int]]) -> Runs:
        """From (first row, number of rows) of each run."""
        return cls(np.array([first for first, _ in chosen], np.int64), edges([number for _, number in chosen]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def at(self, index: I64) -> I64:
        run = np.searchsorted(self.starts, index, side="right") - 1
        return self.firsts[run] + index - self.starts[run]


class Pattern:
    """The order in which sources alternate: choice[r] stands at place r of it, before[k, r] of source k stand in front of that."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = np.array(counts, np.int64)
        self.length = int(self.counts.sum())
        self.choice = np.array(_tijdeman(counts), np.int64)
        taken = self.choice == np.arange(len(counts))[:, None]
        self.before = np.concatenate([np.zeros((len(counts), 1), np.int64), np.cumsum(taken, 1)], 1)

    def taken(self, place: I64, source: int) -> I64:
        """How many of a source stand in front of each place."""
        rounds, within = np.divmod(place, self.length)
        found: I64 = rounds * self.counts[source] + self.before[source, within]
        return found

    def place_of(self, source: int, number: int) -> int:
        """Where a source's example of this number stands."""
        rounds, within = divmod(number, int(self.counts[source]))
        return rounds * self.length + int(np.flatnonzero(self.choice == source)[within])


def _tijdeman(counts: Sequence[int]) -> list[int]:
    """Among the sources that may come without running ahead, the one whose deadline is next. All in whole numbers."""
    total, slack = sum(counts), 2 * max(len([c for c in counts if c]), 2) - 2
    taken, pattern = [0] * len(counts), []
    for place in range(1, total + 1):
        behind = [slack * (place * count - done * total) for count, done in zip(counts, taken, strict=True)]
        ready = [k for k, count in enumerate(counts) if count and behind[k] >= total] or [k for k, count in enumerate(counts) if count]
        chosen = min(ready, key=lambda k: (Fraction((slack - 1) * total - behind[k], counts[k]), k))
        taken[chosen] += 1
        pattern.append(chosen)
    return pattern


@dataclass(frozen=True)
class Phase:
    """A stretch of the stream in which the same sources alternate; taken: what each had given before it."""

    start: int
    pattern: Pattern
    taken: tuple[int, ...]


class Mixture:
    """An order of examples (StepFeed.order) over several sources."""

    def __init__(self, sources: Sequence[Runs], weights: Sequence[float], exhausted: str, seed: int) -> None:
        self.sources, self.seed = list(sources), seed
        self.examples = sum(len(source) for source in sources)
        counts = whole(weights)
        self.phases = [Phase(0, Pattern(counts), (0,) * len(counts))] if exhausted == "repeat" else list(self._phases(counts))
        self.round = self.examples if exhausted == "stop" else 0  # places after which all sources begin anew; 0: each for itself

    def _phases(self, counts: Sequence[int]) -> Iterable[Phase]:
        start, taken, left = 0, [0] * len(counts), [len(source) for source in self.sources]
        while any(left):
            pattern = Pattern(_smallest([count if n else 0 for count, n in zip(counts, left, strict=True)]))
            yield Phase(start, pattern, tuple(taken))
            length = min(pattern.place_of(k, n - 1) for k, n in enumerate(left) if n) + 1
            for k in range(len(counts)):
                given = int(pattern.taken(np.array([length]), k)[0]) if left[k] else 0
                taken[k], left[k] = taken[k] + given, left[k] - given
            start += length

    def __call__(self, places: I64) -> tuple[I64, I64]:
        """(epoch, example) at each place of the stream."""
        rounds, within = np.divmod(places, self.round) if self.round else (np.zeros_like(places), places)
        epoch, example = np.zeros_like(places), np.zeros_like(places)
        phase_of = np.searchsorted([phase.start for phase in self.phases], within, side="right") - 1
        for number, phase in enumerate(self.phases):
            here = np.flatnonzero(phase_of == number)
            offset = within[here] - phase.start
            chosen = phase.pattern.choice[offset % phase.pattern.length]
            for k, source in enumerate(self.sources):
                mine = here[chosen == k]
                if not len(mine):
                    continue
                turn, index = np.divmod(phase.taken[k] + phase.pattern.taken(offset[chosen == k], k), len(source))
                epoch[mine] = turn + rounds[mine]
                example[mine] = source.at(permute(index, len(source), fold(self.seed, MIXED, k, epoch[mine])))
        return epoch, example


def _smallest(counts: Sequence[int]) -> list[int]:
    return [count // math.gcd(*counts) for count in counts]
