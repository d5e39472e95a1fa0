"""Which examples step s is made of: computed from (seed, s), never stored, the same for every number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError
from training.feed.batch import Batch
from training.feed.masking import Masking
from training.feed.mixture import Mixing, Mixture
from training.feed.packing import move, pack
from training.feed.permutation import permute
from training.feed.random import U64, also, fold
from training.feed.views import I64

OBJECTIVES = ("next", "mlm", "mlm+nsp", "mlm+sop")
WINDOW = 4096  # examples planned together: numpy's cost per call is paid once for all of them
SHUFFLE, DRAW, DRAW_VALID = 1, 2, 3  # streams of random numbers that share nothing
Plan = Mapping[str, NDArray[Any]]  # columns of equal length, one row an example


@dataclass(frozen=True)
class FeedConfig:
    """length: positions of a sequence. blocks: the block's length ("mlm" also takes block + 2: framed by [CLS] and [SEP]).

    packed: several short sequences in a row of `length`, each seen by itself. apart: the documents in a block do not see each
    other; restart: positions begin anew with each of them.
    """

    batch_size: int
    length: int
    seed: int = 0
    objective: str = "next"
    masking: Masking = field(default_factory=Masking)
    mask_rate: float | None = None  # where said, it stands in for masking's rate
    packed: bool = False
    apart: bool = False
    restart: bool = False
    mixing: Mixing = field(default_factory=lambda: Mixing({}))

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"feed.objective {self.objective!r} is none of {', '.join(OBJECTIVES)}")
        if self.batch_size < 1 or self.length < 2:
            raise ConfigError(f"feed: batch_size {self.batch_size} and length {self.length} must be at least 1 and 2")
        if self.packed and self.objective == "next":
            raise ConfigError("packed rows are for masks: blocks in which the next token is predicted have no padding to save")
        if self.restart and not self.apart:
            raise ConfigError("positions that restart with each document need documents that do not see each other: set documents_apart")
        if self.mask_rate is not None:
            object.__setattr__(self, "masking", replace(self.masking, rate=self.mask_rate))


class Feed(Protocol):
    """What the loop asks for. Nothing in it moves: any step may be asked for, in any order, again."""

    steps_per_epoch: int  # rounded up; the stream of train examples runs on over the edge of an epoch
    examples: int
    batch_size: int  # sequences in a global batch

    def slice(self, step: int, rank: int, world: int) -> Batch:
        """This rank's rows of global batch `step`: rows [B*rank//world, B*(rank+1)//world) of the same B for every world.
        In the last batch of a valid feed B may be smaller than batch_size, and so a rank's share may be empty."""
        ...

    def trace(self, step: int) -> list[tuple[str, int]]:
        """Which documents the global batch of `step` holds: (shard name, row in encode's documents side)."""
        ...


def sequences(feed: Feed, step: int) -> int:
    """In the global batch of a step: the feed's own word, where its batches are not all alike."""
    own = getattr(feed, "sequences", None)
    return int(own(step)) if own else feed.batch_size


class Source(Protocol):
    """What a feed is made from: examples that can be planned in bulk and then assembled. pad: the id of padding in packed rows."""

    examples: int
    pad: int

    def plan(self, index: I64, key: U64, epoch: U64) -> Plan:
        """Where the examples are stored and what is drawn for them; key: one for each; epoch: the key that all of an epoch share."""
        ...

    def lengths(self, plan: Plan) -> I64:
        """Real tokens of each example, as assembled."""
        ...

    def assemble(self, plan: Plan) -> Batch: ...

    def documents(self, plan: Plan) -> list[tuple[str, int]]: ...


class StepFeed:
    """A Feed over a source. train: each epoch shuffled by its own permutation, its own draws. valid: in order, one fixed draw.

    copies: epochs after which the draws (not the order) begin again; 0: never. mixture: the order of
    examples of several sources. packed: the width of the rows that sequences share; 0: each has its own.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        shuffled: bool,
        copies: int = 0,
        *,
        mixture: Mixture | None = None,
        packed: int = 0,
    ) -> None:
        self.source, self.batch_size, self.seed, self.shuffled, self.copies = source, batch_size, seed, shuffled, copies
        self.mixture, self.packed = mixture, packed
        self.grown: tuple[int, ...] = (0,)
        self.examples = mixture.examples if mixture else source.examples
        self.steps_per_epoch = -(-self.examples // batch_size)
        self._window = min(WINDOW, max(self.examples, batch_size))
        self._planned: dict[int, Plan] = {}  # a memory of two windows; what it holds is a function of the window's number

    def grow(self, firsts: Sequence[int]) -> StepFeed:
        """Let the first steps be smaller: firsts are the places in the stream where each begins, and the first full one."""
        self.grown = tuple(firsts)
        return self

    def sequences(self, step: int) -> int:
        """In the global batch of a step."""
        start, stop = self.bounds(step)
        return stop - start

    def slice(self, step: int, rank: int, world: int) -> Batch:
        if not 0 <= rank < world or step < 0:
            raise ConfigError(f"feed: no rank {rank} of {world} at step {step}")
        start, stop = self.bounds(step)
        if self.packed:
            return self._packed(self._plan(start, stop), rank, world)
        size = stop - start
        return self.source.assemble(self._plan(start + size * rank // world, start + size * (rank + 1) // world))

    def _packed(self, plan: Plan, rank: int, world: int) -> Batch:
        lengths = self.source.lengths(plan)
        mine, layout = pack(lengths, self.packed).share(rank, world)
        padded = self.source.assemble({name: column[mine] for name, column in plan.items()})
        return move(padded, lengths[mine], layout, self.source.pad)

    def trace(self, step: int) -> list[tuple[str, int]]:
        return self.source.documents(self._plan(*self.bounds(step)))

    def about(self, step: int) -> dict[str, int]:
        """Where a step stands: its epoch (of a mixture: how often as many examples have gone by), how many sequences it has."""
        start, stop = self.bounds(step)
        return {"sequences": stop - start, "epoch": start // self.examples}

    def bounds(self, step: int) -> tuple[int, int]:
        """Places in the stream of examples. A valid feed begins again after its last, partial batch."""
        if self.shuffled:
            return self._first(step), self._first(step + 1)
        start = step % self.steps_per_epoch * self.batch_size
        return start, min(start + self.batch_size, self.examples)

    def _first(self, step: int) -> int:
        full = step - len(self.grown) + 1
        return self.grown[step] if full <= 0 else self.grown[-1] + full * self.batch_size

    def order(self, places: I64) -> tuple[I64, I64]:
        """(epoch, example) at each place of the stream."""
        if self.mixture:
            return self.mixture(places)
        epoch, index = np.divmod(places, self.examples)
        return epoch, permute(index, self.examples, fold(self.seed, SHUFFLE, epoch)) if self.shuffled else index

    def _plan(self, start: int, stop: int) -> Plan:
        if start == stop:
            return {name: column[:0] for name, column in self._window_of(0).items()}
        parts = []
        while start < stop:
            number = start // self._window
            end = min(stop, (number + 1) * self._window)
            part = slice(start - number * self._window, end - number * self._window)
            parts.append({name: column[part] for name, column in self._window_of(number).items()})
            start = end
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _window_of(self, number: int) -> Plan:
        plan = self._planned.get(number)  # a local name: another thread may replace the memory at any time
        if plan is None:
            places = np.arange(number * self._window, (number + 1) * self._window, dtype=np.int64)
            if not self.shuffled:
                places = places[places < self.examples]
            epoch, index = self.order(places)
            copy = epoch % self.copies if self.copies else epoch
            keys = fold(self.seed, DRAW if self.shuffled else DRAW_VALID, np.broadcast_to(copy, index.shape))
            plan = self.source.plan(index, also(keys, index), keys)
            self._planned = {n: p for n, p in self._planned.items() if n == number - 1} | {number: plan}
        return plan
