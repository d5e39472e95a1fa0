"""The one training loop. It knows no family, no objective, no way of distilling: a tower turns a batch into losses.

A step is a pure function of the weights and its number: the batch, masks, dropout and the rate all follow from it. Losses are
divided by counts over all ranks and micro-batches, so sharing a batch out differently changes rounding and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from infra.errors import ConfigError, PipelineError, Preempted
from infra.finished import OF_DISKS, naming
from infra.log import event
from training.backbone.transformer import compiled, recompute
from training.engine import first_loss
from training.engine.able import COMPILE, check, compiles
from training.engine.checkpoint import STATE, Checkpoints, Keep, Point
from training.engine.guard import Guard, GuardConfig, Spike
from training.engine.heap import held
from training.engine.measure import METRICS, Exam, Journal, Verdict, cut, micros, real_tokens
from training.engine.optim import OptimConfig, lr_at
from training.engine.profile import Profiler
from training.engine.rank import Rank, choose_matmul_mode, here, key_of, precision_here, reseed
from training.engine.scaling import Overflow
from training.engine.see import Known, Meter, Talk
from training.engine.stall import StallWatch
from training.engine.stopping import asked_to_stop
from training.engine.zero import Engine, ZeroConfig, join
from training.feed.batch import Batch
from training.feed.order import Feed, sequences
from training.feed.ramp import Ramp

CHECKPOINTS = ".checkpoints"
PEER_GRACE_S = 3.0
TRACED = 3  # documents named when a step goes wrong


@dataclass(frozen=True)
class LoopConfig:
    """micro_batch bounds memory: sequences a rank puts through the tower at once. valid_every 0: only at the end."""

    steps: int
    micro_batch: int
    zero: int = 1
    precision: str = "fp32"  # or "bf16", "fp16", or "auto": bf16 where the hardware multiplies it
    optimiser: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    log_every: int = 10
    save_every: int = 200
    save_seconds: float = 60.0  # and whenever this long has passed since the last one: what a kill can cost
    valid_every: int = 0
    valid_batches: int = 0  # 0: all of them
    patience: int = 0  # validations without a lower loss after which training ends; 0: never
    clip: float = 1.0
    guard: GuardConfig = field(default_factory=GuardConfig)
    keep: Keep = field(default_factory=Keep)
    background: bool = True  # checkpoints are written while training goes on, from a copy of the rank's state in memory
    stall_seconds: float = 1800.0  # without a finished micro-batch, after which a rank ends itself; 0: never
    recompute: int = 0  # every so many-th layer keeps its input alone for the backward pass; 0: none
    offload: str = ""  # as ZeroConfig's
    compile: str = "never"  # the layers, by torch.compile: "always", or "auto": where it pays (able.py)
    ramp: Ramp | None = None  # steps that grow: the rate follows the tokens seen (GPT-3's schedule is in tokens), not the steps done
    profile: tuple[int, int] | None = None  # the first step that is looked at closely, and the first that is not any more

    def __post_init__(self) -> None:
        for name in ("steps", "micro_batch", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1")
        if self.save_seconds <= 0 or self.stall_seconds < 0:
            raise ConfigError(f"save_seconds {self.save_seconds} must be above 0, stall_seconds {self.stall_seconds} at least 0")
        if self.compile not in COMPILE:
            raise ConfigError(f"compile {self.compile!r} is none of {', '.join(COMPILE)}")
        ZeroConfig(self.zero, precision_here(self.precision), 1, self.clip, offload=self.offload)

    def lr(self, step: int) -> float:
        """The rate of a step."""
        return lr_at(self.optimiser, self.done(step), self.steps)

    def done(self, step: int) -> float:
        """What the schedule counts as the steps before this one."""
        return step if self.ramp is None else self.steps * self.ramp.before(step) / self.ramp.before(self.steps)

    def engine(self, accumulation: int) -> ZeroConfig:
        return ZeroConfig(self.zero, precision_here(self.precision), accumulation, self.clip, self.optimiser, self.offload)


@dataclass
class Trained:
    """weights: float32, by the tower's own names, on rank 0; None on the others."""

    weights: dict[str, Tensor] | None
    steps: int
    tokens: int
    loss: float
    parts: dict[str, float]
    valid: Verdict | None = None
    left_out: tuple[int, ...] = ()  # batches the guard went back for and left out
    best: Best | None = None  # with keep.best: whose weights these are


class Best(NamedTuple):
    """step: after how many steps the weights stood so. last_loss: the validation loss after the last step."""

    step: int
    last_loss: float


def train(
    make_tower: Callable[[], nn.Module],
    make_feed: Callable[[], Feed],
    make_valid: Callable[[], Feed] | None,
    config: LoopConfig,
    out: Path,
    stage: str,
    imported: bool = False,
    known: Known | None = None,
    extended: Path | None = None,
) -> Trained:
    """Train in this rank, from out's newest checkpoint on; all ranks of a gang call it alike.

    imported: the tower comes with learnt weights, so a first loss below guessing is right. extended: the folder of a finished training,
    whose kept state is gone on from where out has no checkpoint. Raises Preempted after SIGTERM,
    with the state saved, and PipelineError when a loss or gradient is not finite, with the state before that step saved.
    """
    place, known = here(), known or Known()
    talk = Talk(place)
    with talk.listening(), held():
        tower, feed = ready(make_tower, config, place), make_feed()
        valid = make_valid() if make_valid else None
        if feed.batch_size < place.world:
            raise ConfigError(
                f"{stage}: a batch of {feed.batch_size} sequences cannot be shared by {place.world} ranks; raise batch_tokens"
            )
        try:
            watching = StallWatch(config.stall_seconds, out / f"stalled-rank-{place.rank}.txt", stage)
            with naming(out, OF_DISKS), asked_to_stop() as stop, watching as watch:
                begin = partial(_Run, tower, feed, valid, config=config, out=out, stage=stage, place=place)
                run = begin(stop=stop, imported=imported, watch=watch, extended=extended)
                run.journal.tokens_per_byte = known.tokens_per_byte
                return run.all(Meter(place, talk, known, precision_here(config.precision)))
        except RuntimeError:
            if place.world > 1:  # a killed peer breaks our collectives at once: let the launcher see its death before this echo
                time.sleep(PEER_GRACE_S)
            raise


def ready(make_tower: Callable[[], nn.Module], config: LoopConfig, place: Rank) -> nn.Module:
    """The tower as it will be trained, in a rank that has joined the others. Raises ConfigError for what this machine cannot do."""
    check(config.precision, config.compile, config.zero, place.device)
    join(place)
    choose_matmul_mode()
    torch.manual_seed(config.seed)
    tower = recompute(make_tower(), config.recompute)
    return compiled(tower) if compiles(config.compile, config.zero, place.device) else tower


class Wish(NamedTuple):
    """What some rank asks of all."""

    stop: bool
    save: bool


class _Run:
    def __init__(
        self,
        tower: nn.Module,
        feed: Feed,
        valid: Feed | None,
        *,
        config: LoopConfig,
        out: Path,
        stage: str,
        place: Rank,
        stop: threading.Event,
        imported: bool,
        watch: StallWatch,
        extended: Path | None,
    ) -> None:
        self.watch = watch
        self.feed, self.config, self.place, self.stop, self.stage = feed, config, place, stop, stage
        self.out, self.tower, self.imported, self.guessing = out, tower, imported, first_loss.total(tower)
        most = micros(feed.batch_size, place.world, config.micro_batch)
        self.engine = Engine(tower, config.engine(most), place, config.micro_batch)
        self.exam = Exam(valid, place, config.micro_batch, self._count, config.valid_batches) if valid and valid.examples else None
        keep = replace(config.keep, anchors=config.guard.every)
        self.checkpoints = Checkpoints(out / CHECKPOINTS, place, keep, config.background)
        self.point = self.checkpoints.resume(self.engine)
        if extended and not self.point.step:
            self.point = self.checkpoints.begin(self.engine, extended / STATE)
        self.end = self.point.step if self._stale() else config.steps
        self.guard = Guard(config.guard, self.point.watch)
        self.saved = time.monotonic()
        self.profiler = Profiler(config.profile, out, place, stage)
        self.journal = Journal(out / METRICS, stage, place, config.steps, self.point.step)
        if self.point.step and place.first:
            event("note", message=f"{stage}: goes on from step {self.point.step}")

    def all(self, meter: Meter) -> Trained:
        """Every step that is left; then the last verdict and the weights."""
        loss, parts, verdict = *self.journal.last(), None
        if self.guard.config.every and not self.point.step:
            self.checkpoints.save(self.engine, self.point)  # so that there is something to go back to from the first steps
        ahead = self._slice(self.point.step)
        counts = self._summed(ahead) if ahead else {}
        self.engine.module.train()
        while ahead is not None:
            self.profiler.before(self.point.step)
            batch, step, counted, began = ahead, self.point.step, counts, time.perf_counter()
            meter.starts()
            tokens, lr = int(counts["tokens"]), self.config.lr(step)
            told = self._forward_backward(ahead, counts, step)
            with meter.waiting():
                ahead = self._slice(step + 1)
            loss, parts, counts, wish = self._agree(told, ahead)
            try:
                norm = self._update(step, loss, lr)
            except Spike as spike:
                self._go_back(step, spike)
                ahead = self._slice(self.point.step)
                counts = self._summed(ahead) if ahead else {}
                continue
            self.point = Point(step + 1, self.point.tokens + tokens, self.guard.watch, self.point.lowest)
            self.journal.passed(tokens, took := time.perf_counter() - began)
            meter.passed(batch, took)
            if step == 0 and self.guessing:
                first_loss.check(self.stage, self.tower, loss, parts, counted, imported=self.imported, first=self.place.first)
            more = {} if norm is None else {"norm": norm}
            if self.config.precision == "fp16":
                more["loss_scale"] = self.engine.scale
            verdict = self._tell(step, meter, loss=loss, parts=parts, lr=lr, **more, tokens=self.point.tokens)
            if verdict is not None and self._ends_early(verdict):
                ahead = None
            self._save(wish, verdict)
        self.profiler.close(self.point.step)
        if verdict is None and self.exam:  # everything was done by an earlier try that was killed before the end
            verdict = self.exam.take(self.engine)
        steps, tokens = self.point.step, self.point.tokens
        best, verdict = self._best(verdict)
        return Trained(self.engine.weights(self.out), steps, tokens, loss, parts, verdict, self.guard.left_out, best)

    def _stale(self) -> bool:
        return 0 < self.config.patience <= self.point.lowest.stale

    def _ends_early(self, verdict: Verdict) -> bool:
        """Whether this validation was one too many without a lower loss. A resumed training counts on from its checkpoint."""
        self.point = replace(self.point, lowest=self.point.lowest.after(verdict.loss))
        if not self._stale() or self.point.step == self.end:
            return False
        self.end = self.point.step
        if self.place.first:
            said = f"the validation loss has not fallen below {self.point.lowest.loss:.4f} in {self.config.patience} validations"
            event("note", message=f"{self.stage}: stops after step {self.end} of {self.config.steps}: {said}")
        return True

    def _best(self, verdict: Verdict | None) -> tuple[Best | None, Verdict | None]:
        """Take the weights of the lowest validation loss into the engine, where the recipe keeps the best; and what they measure."""
        if not self.config.keep.best or self.exam is None or verdict is None:
            return None, verdict
        best = self.checkpoints.best(self.engine, self.point.step)
        if best is None:
            return Best(self.point.step, verdict.loss), verdict
        lowest = self.exam.take(self.engine)
        if self.place.first:
            event(
                "note",
                message=f"{self.stage}: the weights are those of step {best.step}, whose validation loss is {lowest.loss:.4f}; "
                f"after step {self.point.step} it was {verdict.loss:.4f}",
            )
        return Best(best.step, verdict.loss), lowest

    def _slice(self, step: int) -> Batch | None:
        """This rank's share of a step's batch; None after the last step."""
        return self.feed.slice(self.guard.batch(step), self.place.rank, self.place.world) if step < self.end else None

    def _count(self, batch: Batch) -> dict[str, int]:
        """Predictions by the name of their loss; a tower that knows no better predicts its labels."""
        counts = getattr(self.tower, "counts", None)
        counted: dict[str, int] = counts(batch) if counts else {name: batch.count(name) for name in sorted(batch.labels)}
        return counted

    def _counts(self, batch: Batch | None) -> dict[str, float]:
        return {} if batch is None else {**self._count(batch), "tokens": real_tokens(batch)}

    def _summed(self, batch: Batch) -> dict[str, float]:
        counted = self._counts(batch)
        return dict(zip(counted, self.place.sum(list(counted.values())), strict=True))

    def _forward_backward(self, batch: Batch, counts: dict[str, float], step: int) -> dict[str, Tensor]:
        """Gradients of this rank's share, and its losses summed over micro-batches."""
        # DeepSpeed takes means over ranks: with these denominators they become the exact global mean.
        denominators = {name: max(1.0, n) / self.place.world for name, n in counts.items() if name != "tokens"}
        pieces = cut(batch, micros(sequences(self.feed, self.guard.batch(step)), self.place.world, self.config.micro_batch))
        told: dict[str, Tensor] = {}
        draws = key_of(self.config.seed, step)
        for index, piece in enumerate(pieces):
            self.engine.begin(last=piece is pieces[-1])
            reseed(self.config.seed, step, self.place.rank, index)
            losses = self.engine.forward(replace(piece.to(self.place.device), denominators=denominators, draws=draws))
            self.engine.backward(losses.total)
            for name, value in {"total": losses.total, **losses.parts}.items():
                told[name] = told.get(name, 0.0) + value.detach().double()
            self.watch.beat()
        return told

    def _agree(self, told: dict[str, Tensor], ahead: Batch | None) -> tuple[float, dict[str, float], dict[str, float], Wish]:
        """The step's losses, the next step's counts and what any rank wishes, over all ranks in one sum."""
        following = self._counts(ahead)
        losses = (torch.stack(list(told.values())) / self.place.world).tolist()
        late = self.place.first and time.monotonic() - self.saved > self.config.save_seconds
        stop, save, *summed = self.place.sum([float(self.stop.is_set()), float(late), *losses, *following.values()])
        total, *parts = summed[: len(told)]
        counts = dict(zip(following, summed[len(told) :], strict=True))
        return total, dict(zip(list(told)[1:], parts, strict=True)), counts, Wish(stop > 0, save > 0)

    def _update(self, step: int, loss: float, lr: float) -> float | None:
        """Move the weights and return the gradient's norm; None, nothing moved, where it overflowed fp16.

        Raises Spike, on all ranks, when the step must not count.
        """
        self._warn(step, self.guard.look("loss", loss))
        try:
            norm = self.engine.step(lr)
        except Overflow:
            return None
        except FloatingPointError as error:
            raise Spike(str(error), finite=False) from error
        self._warn(step, self.guard.look("gradient norm", norm, moved=True))
        self.guard.passed(loss, norm)
        return norm

    def _warn(self, step: int, said: str) -> None:
        if said and self.place.first:
            event("warning", message=f"{self.stage}: {said}, at step {step}; its first documents are {self._documents(step)}")

    def _documents(self, step: int) -> str:
        return ", ".join(f"{shard} row {row}" for shard, row in self.feed.trace(self.guard.batch(step))[:TRACED])

    def _go_back(self, step: int, spike: Spike) -> None:
        """To the guard's checkpoint, without the batches before the spike, where the recipe says so; else end with the state saved."""
        if not self.guard.may_rewind():
            if not spike.moved:
                self.checkpoints.save(self.engine, self.point, now=True)
            self.checkpoints.wait()
            raise PipelineError(self._why(step, spike)) from spike
        documents, guard = self._documents(step), self.guard
        self.engine.discard()
        anchor = self.checkpoints.back(self.engine, guard.config.target(step), guard.config.every)
        batches = guard.rewind(anchor.watch, step, anchor.step)
        self.point = replace(anchor, watch=guard.watch)
        if self.place.first:
            self.journal.forget(anchor.step)
            event(
                "warning",
                message=f"{self.stage}: {spike} at step {step}; back to step {anchor.step} ({guard.rewinds} of {guard.config.max_rewinds}) "
                f"without the batches {batches[0]} to {batches[-1]}; the step's first documents are {documents}",
            )

    def _why(self, step: int, spike: Spike) -> str:
        state = "the last checkpoint is from before it" if spike.moved else "the state before it is saved"
        back = f" after going back {self.guard.rewinds} times" if self.guard.rewinds else ""
        return (
            f"{self.stage}: {spike} at step {step}{back}; {state}. Lower lr or warm up longer; "
            f"the step's first documents are {self._documents(step)}"
        )

    def _tell(self, step: int, meter: Meter, **fields: object) -> Verdict | None:
        last, every = step + 1 == self.config.steps, self.config.valid_every
        due = self.exam and (last or (every and (step + 1) % every == 0))
        verdict = self.exam.take(self.engine) if self.exam and due else None
        if verdict or last or step % self.config.log_every == 0:
            left_out = {"left_out": self.guard.left_out} if self.guard.left_out else {}
            self.journal.tell(step, verdict, meter.tell(), **fields, **left_out)
        return verdict

    def _save(self, wish: Wish, verdict: Verdict | None) -> None:
        self.watch.beat()
        self.checkpoints.check()
        last, step = self.point.step == self.end, self.point.step
        every, anchors, best = self.config.save_every, self.guard.config.every, self.config.keep.best and verdict is not None
        due = step % every == 0 or step == (self.config.keep.pinned or -1) or (anchors and step % anchors == 0)
        if last or wish.stop or wish.save or best or due:
            self.checkpoints.save(self.engine, self.point, verdict.loss if verdict else None, now=last or wish.stop)
            self.saved = time.monotonic()
        if wish.stop and not last:
            raise Preempted(f"{self.stage}: asked to stop; saved after step {self.point.step} of {self.config.steps}")
