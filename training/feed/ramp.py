"""Steps that grow: a small batch first, the full one later, a pure function of the step. Nothing here imports torch.

Brown et al. 2020, appendix B: "gradually increase the batch size linearly from a small value (32k tokens) to the full value over
the first 4-12 billion tokens of training".
"""

from __future__ import annotations

from dataclasses import dataclass, field

LONGEST = 1_000_000  # steps of a ramp: each is kept as one number


@dataclass(frozen=True)
class Ramp:
    """Tokens of a step: from `start` to `full` in proportion to the tokens seen before it, until `over` of them are; then `full`.

    A step is of whole units (the tokens of the longest row), rounded down. over 0: every step is full.
    """

    full: int
    start: int = 0
    over: int = 0
    unit: int = 1
    firsts: tuple[int, ...] = field(init=False, repr=False, compare=False)  # tokens before each growing step and before the first full one

    def __post_init__(self) -> None:
        seen, firsts = 0, [0]
        while seen < self.over and (size := self._size(seen)) < self.full:
            if len(firsts) > LONGEST:
                raise ValueError(f"a ramp of more than {LONGEST} steps")
            seen += size
            firsts.append(seen)
        object.__setattr__(self, "firsts", tuple(firsts))

    def _size(self, seen: int) -> int:
        return min(self.full, (self.start + (self.full - self.start) * seen // self.over) // self.unit * self.unit)

    def tokens(self, step: int) -> int:
        """Of one step."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Tokens of all steps before this one."""
        grown = len(self.firsts) - 1
        return self.firsts[step] if step <= grown else self.firsts[-1] + (step - grown) * self.full

    def places(self, step: int, length: int) -> list[int]:
        """Where each growing step, and the first full one, stands in the stream of a feed of rows of `length` that begins with `step`."""
        return [(self.before(one) - self.before(step)) // length for one in range(step, max(step, len(self.firsts) - 1) + 1)]

    def steps(self, tokens: int) -> int:
        """How many steps come nearest to so many tokens; at least one."""
        grown = len(self.firsts) - 1
        if tokens >= self.firsts[-1]:
            return max(1, grown + round((tokens - self.firsts[-1]) / self.full))
        return max(1, min(range(grown + 1), key=lambda step: abs(self.firsts[step] - tokens)))
