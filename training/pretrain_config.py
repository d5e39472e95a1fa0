"""What a recipe may say about pretraining, and what of it cannot be. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from infra.artifact import how
from infra.errors import ConfigError
from training.feed.ramp import Ramp


@dataclass(frozen=True)
class PretrainConfig:
    """What stands at None is as the family's paper has it; warm-up is kept as a share of the run.

    overrides: fields of BackboneConfig that differ from the size's, such as {"layers": 3, "dropout": 0.0}; masking: of Masking,
    such as {"unit": "word"} or {"static_copies": 10}.

    packed: short sequences share a row, so that less is computed for padding; the batches hold the same. curriculum: parts such as
    ({"share": 0.9, "length": 128}, {"share": 0.1, "length": 512}), each for its share of the steps, the last at `length`; a step's
    tokens stay the same. "paper": those of the family's paper, in proportion to `length`.

    mixture: weights of sources by patterns of their files' names, such as {"wiki*": 2, "*": 1}; exhausted: what a source does whose
    examples are used up, repeat or stop. documents_apart: the documents in a block do not see each other; restart_positions:
    positions begin anew with each.

    keep: how many of the newest checkpoints stay while training; keep_every: and that of every so many steps. A finished stage keeps
    none. keep_best: the model is that of the lowest validation loss, not of the last step.
    guard: fields of GuardConfig, such as {"on_spike": "rewind"}.
    stall_seconds: without progress, after which a rank ends itself and the ranks start again; 0: never.
    """

    family: str
    size: str
    tokens: int = 1_000_000  # the whole budget, padding included
    batch_tokens: int = 16_384  # of one step, over all ranks
    length: int = 128
    zero: int = how(1)  # how the ranks share the state out: may change while a training is stopped, as their number may
    precision: str = "fp32"
    lr: float | None = None
    schedule: str | None = None
    warmup: float | None = None  # below 1: share of all steps; from 1 on: steps
    min_ratio: float | None = None
    decay: float | None = None  # wsd, trapezoid, wsd_sqrt: the share of all steps, at the end, in which the rate falls; None: 0.1
    weight_decay: float | None = None
    clip: float | None = None
    mask_rate: float | None = None
    seed: int = 1
    overrides: dict[str, int | float | str | bool] = field(default_factory=dict)
    micro_batch: int = 0  # sequences a rank puts through the model at once; 0: as many as make 8192 tokens
    log_every: int = 10
    save_every: int = how(200)
    valid_every: int = 0  # 0: only at the end
    valid_batches: int = 8  # 0: all that is held out
    optimiser: str | None = None  # adamw, lamb or muon
    masking: dict[str, int | float | str | bool] = field(default_factory=dict)
    packed: bool = False
    curriculum: tuple[dict[str, float], ...] | str = ()
    mixture: dict[str, float] = field(default_factory=dict)
    exhausted: str = "repeat"
    documents_apart: bool = False
    restart_positions: bool = False
    feed_workers: int | None = how(None)  # threads that make the next batches; None: 1 beside a GPU, else 0
    keep: int = how(2)
    keep_best: bool = False
    patience: int = 0  # validations without a lower loss after which training ends; 0: never
    keep_every: int = how(0)
    save_seconds: float = how(60.0)  # and whenever this long has passed since the last checkpoint
    save_in_background: bool = how(True)  # from a copy of the rank's state in memory, while training goes on
    stall_seconds: float = how(1800.0)
    guard: dict[str, int | float | str] = field(default_factory=dict)
    activation_checkpointing: int = how(0)  # every so many-th layer keeps its input alone and is computed again; 1: all, 0: none
    offload: str = how("")  # "optimizer" (zero 1 to 3): its state in the host's memory; "parameters" (zero 3): the weights too
    compile: str = "auto"  # the layers, by torch.compile: always, never, or auto: on a GPU that has a compiler, under zero 0 to 2
    batch_ramp: dict[str, int] = field(default_factory=dict)  # {"start": 32_768, "tokens": 4_000_000_000}: a step's tokens grow from start
    keep_state: bool = False  # beside the model the state that a longer training goes on from
    profile: str = how("")  # N:M: steps N to M-1 are looked at by torch's profiler

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens", "length", "log_every", "save_every"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("micro_batch", "valid_every", "valid_batches", "feed_workers", "activation_checkpointing", "patience"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; it must be 0 or more")
        self._check_best()
        if self.batch_tokens % self.length:
            near = max(1, round(self.batch_tokens / self.length)) * self.length
            raise ConfigError(f"pretrain.batch_tokens {self.batch_tokens} is not a multiple of length {self.length}; {near} would be")
        if self.tokens < self.batch_tokens:
            raise ConfigError(f"pretrain.tokens {self.tokens} is less than one step of batch_tokens {self.batch_tokens}; raise it")
        if self.zero not in (0, 1, 2, 3):
            raise ConfigError(f"pretrain.zero is {self.zero}; ZeRO has the stages 0, 1, 2 and 3")
        if self.precision not in ("fp32", "bf16", "fp16", "auto"):
            raise ConfigError(f"pretrain.precision is {self.precision!r}; choose fp32, bf16, fp16 or auto")
        if self.compile not in ("auto", "always", "never"):
            raise ConfigError(f"pretrain.compile is {self.compile!r}; choose auto, always or never")
        if self.offload not in ("", "optimizer", "parameters"):
            raise ConfigError(f"pretrain.offload is {self.offload!r}; choose optimizer or parameters, or leave it out")
        if self.zero < {"": 0, "optimizer": 1, "parameters": 3}[self.offload]:
            least = 3 if self.offload == "parameters" else 1
            raise ConfigError(f"pretrain.offload of {self.offload} needs zero {least} or more, not {self.zero}")
        self._check_curriculum(self.curriculum)
        self._check_ramp()
        self.profile_window()

    def _check_best(self) -> None:
        for name in ("keep_best", "patience"):
            if getattr(self, name) and not self.valid_every:
                raise ConfigError(f"pretrain.{name} needs validations to compare: set pretrain.valid_every to a number of steps")

        if self.keep_state and self.patience:
            raise ConfigError(
                "pretrain.keep_state and patience do not go together: a training that may end early does not know which state a longer "
                "one needs; take one of the two out"
            )

    def _check_curriculum(self, parts: tuple[dict[str, float], ...] | str) -> None:
        if isinstance(parts, str):
            if parts != "paper":
                raise ConfigError(f"pretrain.curriculum is {parts!r}; say paper, or parts like {{share: 0.9, length: 128}}")
            return
        for part in parts:
            if set(part) != {"share", "length"} or part["length"] != int(part["length"]) or not (part["share"] > 0 < part["length"]):
                raise ConfigError(f"pretrain.curriculum: a part is like {{share: 0.9, length: 128}}, not {part}")
            if self.batch_tokens % int(part["length"]):
                raise ConfigError(
                    f"pretrain.batch_tokens {self.batch_tokens} is not a multiple of the curriculum's length {int(part['length'])}"
                )
        if parts and abs(sum(part["share"] for part in parts) - 1) > 1e-6:
            raise ConfigError(f"pretrain.curriculum: the shares add up to {sum(part['share'] for part in parts):g}, not to 1")
        if parts and int(parts[-1]["length"]) != self.length:
            raise ConfigError(f"pretrain.length is {self.length}, the curriculum ends at {int(parts[-1]['length'])}; set both alike")

    @property
    def parts(self) -> tuple[dict[str, float], ...]:
        """Those of the curriculum; of the family's paper where it says so. Raises ConfigError where that trained on one length."""
        if not isinstance(self.curriculum, str):
            return self.curriculum
        from training.families import catalog  # and torch with it: only where it is asked for

        found = catalog.family(self.family).curriculum(self.size, self.length)
        self._check_curriculum(found)
        return found

    def _check_ramp(self) -> None:
        said = self.batch_ramp
        if not said:
            return
        if set(said) != {"start", "tokens"} or not all(isinstance(value, int) and value > 0 for value in said.values()):
            raise ConfigError(f"pretrain.batch_ramp is like {{start: 32768, tokens: 4000000000}}, not {said}")
        unit = math.lcm(*self.lengths)
        if not unit <= said["start"] <= self.batch_tokens:
            raise ConfigError(
                f"pretrain.batch_ramp starts with steps of {said['start']} tokens: choose from {unit} (one sequence) up to batch_tokens "
                f"{self.batch_tokens}"
            )
        if said["tokens"] > self.tokens:
            raise ConfigError(f"pretrain.batch_ramp grows over {said['tokens']} tokens, more than the {self.tokens} of the whole run")
        try:
            _ = self.ramp
        except ValueError as error:
            raise ConfigError(f"pretrain.batch_ramp {said} makes {error}; raise start or lower tokens") from error

    @cached_property
    def ramp(self) -> Ramp:
        """Tokens of every step."""
        start, over = self.batch_ramp.get("start", 0), self.batch_ramp.get("tokens", 0)
        return Ramp(self.batch_tokens, start, over, math.lcm(*self.lengths) if self.batch_ramp else 1)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The length of each part of the training; `length` is the last's."""
        return tuple(int(part["length"]) for part in self.parts) or (self.length,)

    @property
    def batch_size(self) -> int:
        """Sequences of a full step, over all ranks."""
        return self.batch_tokens // self.length

    @property
    def smallest(self) -> tuple[str, int]:
        """Tokens of the smallest step, after the key that says so."""
        return ("batch_ramp.start", self.batch_ramp["start"]) if self.batch_ramp else ("batch_tokens", self.batch_tokens)

    @property
    def steps(self) -> int:
        return self.ramp.steps(self.tokens)

    def profile_window(self) -> tuple[int, int] | None:
        """The first step that is profiled, and the first after these; None when none is. Raises ConfigError."""
        if not self.profile:
            return None
        first, colon, end = self.profile.partition(":")
        if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
            raise ConfigError(f"pretrain.profile is {self.profile!r}; write it as FIRST:END, such as 10:14 for steps 10 to 13")
        if int(first) >= self.steps:
            raise ConfigError(f"pretrain.profile begins with step {int(first)}; this training ends with step {self.steps - 1}")
        return int(first), int(end)
