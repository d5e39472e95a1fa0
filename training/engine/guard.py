"""What watches a training's numbers: losses and gradients that are not finite or jump, and what is done then.

A spike is judged as Hampel's identifier does (1974): above the running median by some median absolute deviations, which the spikes
of the window itself do not blur. Six deviations over 128 steps are OLMo-core's (its SkipStepOptimizer, there with mean and standard
deviation). Going back about 100 steps and leaving batches out is PaLM's (Chowdhery et al. 2022, section 5.1).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from infra.errors import ConfigError

POLICIES = ("warn", "stop", "rewind")
NORMAL = 1.4826  # median absolute deviations of a normal distribution that make a standard deviation
FLOOR = 0.01  # of the median: what a deviation is at least, so that a curve without noise raises no alarm
ANCHORS = 3  # checkpoints to go back to that are kept


@dataclass(frozen=True)
class GuardConfig:
    """on_spike: warn tells of a spike and goes on; stop ends with the state saved; rewind goes back and leaves batches out.

    What is not finite ends the training under warn too. A step is judged by the `window` steps before it, once half of them are
    there, and is a spike `deviations` above their median. rewind_steps: about how far back; every so many steps there is a
    checkpoint to go back to. skip: batches left out, the offending one and those just before it. After max_rewinds: stop.
    """

    on_spike: str = "warn"
    window: int = 128
    deviations: float = 6.0
    rewind_steps: int = 100
    skip: int = 1
    max_rewinds: int = 3

    def __post_init__(self) -> None:
        if self.on_spike not in POLICIES:
            raise ConfigError(f"guard.on_spike {self.on_spike!r} is none of {', '.join(POLICIES)}")
        for name, least in (("window", 4), ("rewind_steps", 1), ("skip", 1), ("max_rewinds", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"guard.{name} {value!r} must be a whole number of at least {least}")
        if not self.deviations > 0:
            raise ConfigError(f"guard.deviations {self.deviations} must be above 0")

    @property
    def every(self) -> int:
        """Steps between the checkpoints that are made to go back to; 0: none are."""
        return self.rewind_steps if self.on_spike == "rewind" else 0

    def target(self, step: int) -> int:
        """The checkpoint to go back to from a step: half to one and a half times rewind_steps before it."""
        return max(0, (step - self.rewind_steps // 2) // self.rewind_steps * self.rewind_steps)


@dataclass(frozen=True)
class Watch:
    """What a guard knows after a step, part of the checkpoint: so a resumed run judges and leaves out as the undisturbed one.

    left_out: the batches never trained on, by number. losses, norms: of the last steps.
    """

    left_out: tuple[int, ...] = ()
    rewinds: int = 0
    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Watch:
        """From a manifest's JSON."""
        lists: dict[str, tuple[Any, ...]] = {name: tuple(said.get(name, ())) for name in ("left_out", "losses", "norms")}
        return cls(rewinds=int(said.get("rewinds", 0)), **lists)


class Spike(Exception):
    """A step went wrong. moved: the weights have already followed its gradient; finite: and it is only larger than usual."""

    def __init__(self, said: str, *, moved: bool = False, finite: bool = True) -> None:
        super().__init__(said)
        self.moved, self.finite = moved, finite


class Guard:
    """Looks at every step's loss and gradient norm; every rank's sees the same numbers and says the same."""

    def __init__(self, config: GuardConfig, watch: Watch) -> None:
        self.config = config
        self.take(watch)

    def take(self, watch: Watch) -> None:
        """Go on from what a checkpoint says."""
        self.left_out, self.rewinds = watch.left_out, watch.rewinds
        self._seen = {
            name: deque(values, maxlen=self.config.window) for name, values in (("loss", watch.losses), ("gradient norm", watch.norms))
        }

    @property
    def watch(self) -> Watch:
        return Watch(self.left_out, self.rewinds, tuple(self._seen["loss"]), tuple(self._seen["gradient norm"]))

    def batch(self, step: int) -> int:
        """The number of the batch a step trains on: batches that are left out count as if they did not exist."""
        return batch_of(step, self.left_out)

    def look(self, name: str, value: float, moved: bool = False) -> str:
        """What is wrong with a value and may be gone on from, or "". Raises Spike for what may not."""
        if not math.isfinite(value):
            raise Spike(f"the {name} is {value}", moved=moved, finite=False)
        limit = threshold(self._seen[name], self.config.window, self.config.deviations)
        if value <= limit:
            return ""
        said = f"the {name} is {value:.4g}, more than {limit:.4g}, which is {self.config.deviations:g} deviations above the usual"
        if self.config.on_spike != "warn":
            raise Spike(said, moved=moved)
        return said

    def passed(self, loss: float, norm: float) -> None:
        self._seen["loss"].append(loss)
        self._seen["gradient norm"].append(norm)

    def may_rewind(self) -> bool:
        return self.config.on_spike == "rewind" and self.rewinds < self.config.max_rewinds

    def rewind(self, watch: Watch, step: int, anchor: int) -> tuple[int, ...]:
        """Back at the checkpoint of step `anchor`, which knew `watch`, because of `step`. Returns the batches now left out in addition."""
        window = tuple(self.batch(one) for one in range(max(anchor, step - self.config.skip + 1), step + 1))
        left_out, rewinds = tuple(sorted({*self.left_out, *window})), self.rewinds + 1
        self.take(watch)
        self.left_out, self.rewinds = left_out, rewinds  # an earlier spike between there and here stays left out
        return window


def threshold(seen: Iterable[float], window: int, deviations: float) -> float:
    """The most a value may be after these; infinity while fewer than half a window are known."""
    values = list(seen)
    if len(values) < (window + 1) // 2:
        return math.inf
    middle = median(values)
    spread = NORMAL * median(abs(value - middle) for value in values)
    return middle + deviations * max(spread, FLOOR * abs(middle))


def batch_of(step: int, left_out: Iterable[int]) -> int:
    """The step-th of the batches that are not left out."""
    number = step
    for one in sorted(left_out):
        number += one <= number
    return number
