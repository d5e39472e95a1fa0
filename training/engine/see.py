"""Where the time of training goes, and what it reaches: rates, share of the device's ceiling, waits, memory.

None of it enters weights or checkpoints: in metrics.jsonl it stands under "speed" and "tokens_per_s", which differ from run to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from infra.log import event
from training.engine.ceiling import Ceiling, ceiling, probe_again
from training.engine.measure import real_tokens
from training.engine.rank import Rank
from training.feed.batch import Batch

COLLECTIVES = ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor")
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Known:
    """What is known of a training beside its tower.

    flops: of forward and backward, per token of a row of this length (training/cost.py). tokens_per_byte: of the held-out text,
    for a model of the next token alone: a masked model's loss is not that of a code for the text, so it has no bits per byte.
    """

    flops: Callable[[int], float] | None = None
    tokens_per_byte: float = 0.0


class Talk:
    """Seconds that this rank spent in collectives of a CPU group: its own sums and DeepSpeed's, the wait for slower ranks included.

    On a GPU a collective returns before it has run, so nothing is said there.
    """

    def __init__(self, place: Rank) -> None:
        self.measured = place.device.type == "cpu"
        self.seconds, self._depth = 0.0, 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts every collective is timed. DeepSpeed keeps references, so it begins before the group is joined."""
        before = {name: getattr(dist, name) for name in COLLECTIVES} if self.measured else {}
        for name, call in before.items():
            setattr(dist, name, self._timed(call))
        try:
            yield
        finally:
            for name, call in before.items():
                setattr(dist, name, call)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._inside():
                work = call(*args, **kwargs)
            return _Handle(work, self) if work is not None else None

        return timed

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """One collective may be made of others: only the outermost counts."""
        began, self._depth = time.perf_counter(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - began


class _Handle:
    """A collective under way, whose wait is timed."""

    def __init__(self, work: Any, talk: Talk) -> None:
        self._work, self._talk = work, talk

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        with self._talk._inside():
            return self._work.wait(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


class Meter:
    """Adds up between two told steps. Every rank keeps one; telling is a collective."""

    def __init__(self, place: Rank, talk: Talk, known: Known, precision: str) -> None:
        self.place, self.talk, self.flops, self.precision = place, talk, known.flops, precision
        self.ceiling = ceiling(place.device, precision) if known.flops else Ceiling(0.0, "")
        self._a_token: dict[int, float] = {}
        self._clear()
        self.starts()

    def _clear(self) -> None:
        self._real = self._computed = self._flop = self._waited = self._talked = self._seconds = 0.0

    def starts(self) -> None:
        """A step begins: talk and waits from here to passed() are its own, what saving and held-out tests take is not."""
        self._talk_before, self._wait = self.talk.seconds, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For the feed."""
        began = time.perf_counter()
        yield
        self._wait += time.perf_counter() - began

    def passed(self, batch: Batch, seconds: float) -> None:
        """One more step with this rank's share of its batch; seconds since it started."""
        length, tokens = batch.tokens_BL.shape[1], batch.tokens_BL.numel()
        if self.flops and length not in self._a_token:
            self._a_token[length] = self.flops(length)
        self._real += real_tokens(batch)
        self._computed += tokens
        self._flop += tokens * self._a_token.get(length, 0.0)
        self._waited += self._wait
        self._talked += self.talk.seconds - self._talk_before
        self._seconds += seconds

    def tell(self) -> dict[str, Any]:
        """Figures of the steps since the last time, over all ranks. Shares are of the ranks' time; peak_bytes is the fullest rank's."""
        peaks = [0.0] * self.place.world
        peaks[self.place.rank] = float(peak_bytes(self.place.device))
        mine = [self._real, self._computed, self._flop, self._waited, self._talked, self._seconds, self.ceiling.flops]
        real, computed, flop, waited, talked, seconds, most, *peaks = self.place.sum([*mine, *peaks])
        wall = seconds / self.place.world
        self._clear()
        if not wall:
            return {}
        told: dict[str, Any] = {"seconds": wall, "real_tokens_per_s": real / wall, "computed_tokens_per_s": computed / wall}
        told |= {"data_wait": waited / seconds, "peak_bytes": int(max(peaks))}
        if self.talk.measured:
            told["communication"] = talked / seconds
        if most:
            most = self._at_least(flop / wall, most)
            told |= {"mfu": flop / wall / most, "ceiling_flops": most, "ceiling": self.ceiling.source}
        return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in told.items()}

    def _at_least(self, reached: float, most: float) -> float:
        """The ranks' peak flop/s together: where training has reached more, the probe met a busy machine, and all ranks try again.

        A collective, entered by all ranks or by none: both figures are sums over them.
        """
        if reached <= most:
            return most
        found = self.place.sum([probe_again(self.place.device.type, self.precision)])[0]
        better = max(found, most, reached)
        self.ceiling = Ceiling(better / self.place.world, f"{self.ceiling.source}; corrected, as training reached more")
        if self.place.first:
            event(
                "warning",
                message=f"the peak tried at start, {most:.3g} flop/s, is less than training reached, {reached:.3g}: the machine was busy "
                f"then; MFU is of {better:.3g} flop/s from here on",
            )
        return better


def peak_bytes(device: torch.device) -> int:
    """The most this rank has held: resident memory of the whole process on a CPU, torch's own allocations on a GPU; 0: nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not STATUS.exists():
        return 0
    marks = [line.split() for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(marks[0][1]) * 1024 if marks else 0
