"""DeepSpeed's only door: a tower, shared out over the ranks by ZeRO 0, 1, 2 or 3."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.environ import holding
from infra.errors import ConfigError, PipelineError
from training.engine import universal
from training.engine.optim import OptimConfig, make
from training.engine.rank import Rank
from training.engine.scaling import HYSTERESIS, LEAST, POWER, WINDOW, Overflow, Scale, check_fp16, lowest
from training.engine.scaling import SETTINGS as SCALING
from training.engine.snapshot import frozen
from training.feed.batch import Batch

STAGES = (0, 1, 2, 3)
PRECISIONS = ("fp32", "bf16", "fp16")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
OFFLOADS = ("", "optimizer", "parameters")
TAG = "state"  # the folder DeepSpeed writes its shares of the state to
BUCKET = 200_000_000  # numbers reduced at once


@dataclass(frozen=True)
class ZeroConfig:
    """stage 0: plain data parallelism; 1 shares out the optimiser's state, 2 the gradients too, 3 the weights too."""

    stage: int = 1
    precision: str = "fp32"
    accumulation: int = 1
    clip: float = 1.0  # of the global norm; 0 = no clipping
    optimiser: OptimConfig = field(default_factory=OptimConfig)
    offload: str = ""  # "optimizer": its state and arithmetic in the host's memory; "parameters": the weights too (stage 3)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"zero {self.stage} is none of 0, 1, 2, 3")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}")
        if self.accumulation < 1 or self.clip < 0:
            raise ConfigError(f"accumulation {self.accumulation} must be at least 1, clip {self.clip} at least 0")
        if self.offload not in OFFLOADS:
            raise ConfigError(f"offload {self.offload!r} is none of {', '.join(OFFLOADS[1:])}")
        if self.offload and self.stage < OFFLOADS.index(self.offload) * 2 - 1:
            least = OFFLOADS.index(self.offload) * 2 - 1
            raise ConfigError(f"offload of {self.offload} needs ZeRO {least} or more, not {self.stage}: raise zero, or take offload out")


def _deepspeed() -> Any:
    """The library, quiet, on the CPU where there is no GPU, and never with a compiler at work behind our back."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its shared-memory all-reduce is C++ built on first use (minutes, and g++ and ninja on the PATH): gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def join(place: Rank) -> None:
    """Make this process one of the group. A second call does nothing."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it at any time, the others only when something begins
    if place.device.type == "cuda":
        torch.cuda.set_device(place.device)
    backend = "nccl" if place.device.type == "cuda" else "gloo"
    with holding(_missing(place)):
        if place.world == 1 and not dist.is_initialized():  # alone: no port that another run might hold
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        _deepspeed().init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _missing(place: Rank) -> dict[str, str]:
    """What a launcher would have said and did not. Not for longer than needed: programs started later would take it for theirs."""
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    said = {"MASTER_ADDR": address, "MASTER_PORT": "29500", "RANK": str(place.rank), "WORLD_SIZE": str(place.world)}
    if address in ("127.0.0.1", "localhost") and Path("/sys/class/net/lo").exists():
        said["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo, at each group it makes, asks the resolver for this host's own name
    return {name: value for name, value in said.items() if name not in os.environ}


class Engine:
    """Forward, backward, step; save and load; the whole weights at the end. Every call is made by all ranks alike."""

    def __init__(self, tower: nn.Module, config: ZeroConfig, place: Rank, micro_batch: int = 1) -> None:
        self.config, self.place = config, place
        if config.precision == "fp16":
            check_fp16(place.device)
        size = sum(getattr(p, "ds_numel", p.numel()) for p in tower.parameters())  # zero.Init leaves shares of no length
        names, optimiser = {p: name for name, p in tower.named_parameters()}, make(tower, config.optimiser)
        self._order = [names[p] for group in optimiser.param_groups for p in group["params"]]  # DeepSpeed may put others in their place
        settings = _settings(config, micro_batch, size, place.world)
        with holding(_missing(place)):
            engine, *_ = _deepspeed().initialize(model=tower, optimizer=optimiser, config=settings)
        self._engine, self._open = engine, False
        self._scale = loss_scale() if config.precision == "fp16" and not config.stage else None
        _lighten(engine, config, place.world)

    @property
    def stage(self) -> int:
        return self.config.stage

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._engine.module
        return module

    @property
    def _optimiser(self) -> torch.optim.Optimizer:
        optimiser: torch.optim.Optimizer = self._engine.basic_optimizer
        return optimiser

    def forward(self, batch: Batch) -> Any:
        """The tower's Losses of a batch."""
        with self._cast():
            return self._engine(batch)

    def begin(self, last: bool) -> None:
        """Before a micro-batch's forward pass: is it the last of its step? Gradients are summed up over ranks after that one."""
        if self._open:
            self._engine.step()  # the one before is through, and was not the last
        self._engine.set_gradient_accumulation_boundary(last)

    def backward(self, loss: Tensor) -> None:
        """Gradients are added up over micro-batches as they are; over ranks their mean is taken."""
        self._open = True  # gradients wait for a step
        self._engine.backward(loss * self._scale.factor if self._scale else loss, scale_wrt_gas=False)

    def discard(self) -> None:
        """Let go of a step's gradients by taking it, wherever it leads: only before load(), which overwrites what it moved."""
        if self._open:
            try:
                with lowest():
                    self._engine.step()
            except FloatingPointError:
                self._engine.optimizer.zero_grad()
            self._open = False

    def step(self, lr: float) -> float:
        """The last micro-batch of a step is through: the weights move. Returns the norm of the gradient before clipping.

        Raises FloatingPointError, weights untouched, when the norm is not finite; Overflow when it is fp16 that it did not fit.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        if self.config.stage == 0:
            norm = self._clip()
            self._engine.step()
            self._open = False
            return norm
        skipped = self._engine.skipped_steps
        with lowest():
            self._engine.step()
        self._open = False
        if self._engine.skipped_steps > skipped:  # DeepSpeed leaves a step out when the gradient is not finite
            raise Overflow if self.config.precision == "fp16" else FloatingPointError("the gradient is not finite")
        return float(self._engine.get_global_grad_norm() or 0.0)

    @property
    def scale(self) -> float:
        """What fp16's loss is multiplied with; 1 in other precisions."""
        if self.config.precision != "fp16":
            return 1.0
        return self._scale.factor if self._scale else float(self._engine.optimizer.loss_scale)

    def _clip(self) -> float:
        """Without ZeRO DeepSpeed would apply a NaN gradient and tell no norm, so both are done here."""
        if self._scale:
            self._scale.shrink(self.module)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._scale:
            self._scale.passed(overflow := not bool(torch.isfinite(norm)))
            if overflow:
                self._engine.zero_grad()
                self._engine.step()  # of nothing: it only counts
                self._open = False
                raise Overflow
        if not torch.isfinite(norm):
            raise FloatingPointError("the gradient is not finite")
        if self.config.clip:
            torch.nn.utils.clip_grads_with_norm_(list(self.module.parameters()), self.config.clip, norm)
        return float(norm)

    def _cast(self) -> AbstractContextManager[Any]:
        """Without ZeRO bf16 means autocast over float32 weights: DeepSpeed's own way there counts Adam's steps from two. fp16 alike."""
        if self.config.precision in HALVES and self.config.stage == 0:
            return torch.autocast(self.place.device.type, HALVES[self.config.precision])
        return nullcontext()

    def weights(self, folder: Path) -> dict[str, Tensor] | None:
        """The float32 weights under the tower's own names, on rank 0; None elsewhere. A tied weight is one tensor.

        No rank holds more than one whole weight in its own memory: rank 0's tensors are mapped files, already without a name in `folder`.
        """
        gathered: dict[int, Tensor] = {}
        named: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if id(parameter) not in gathered:
                gathered[id(parameter)] = self._whole(parameter, folder)
            named[name] = gathered[id(parameter)]
        for name, value in self.module.named_buffers():
            named[name] = value.detach().cpu().clone()
        kept = self.module.state_dict().keys()
        return {name: value for name, value in named.items() if name in kept} if self.place.first else None

    def _whole(self, parameter: nn.Parameter, folder: Path) -> Tensor:
        """One parameter in float32 from wherever its parts stand; all ranks take part, rank 0 keeps it."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        if self.config.stage and parameter.requires_grad:
            whole = safe_get_full_fp32_param(parameter)
            return on_disk(whole, folder) if self.place.first else torch.empty(0)
        with GatheredParameters([parameter]) if self.config.stage == 3 else nullcontext():
            return on_disk(parameter, folder) if self.place.first else torch.empty(0)

    def save(self, folder: Path, apart: bool = False) -> Callable[[], list[Path]]:
        """Every rank's share of the state, into folder; the caller makes the whole atomic.

        apart: the call copies the state within memory, and what it returns writes the copy, whenever it is called, as it
        was. Else everything is written here. What is returned says which files this rank wrote.
        """
        kept: list[tuple[dict[str, Any], Path]] = []

        def keep(state_dict: dict[str, Any], path: str) -> None:
            kept.append((frozen(state_dict) if apart else {}, Path(path)))
            if not apart:
                torch.save(state_dict, path)

        def write() -> list[Path]:
            for state, path in kept if apart else ():
                torch.save(state, path)
            return [path for _, path in kept]

        self._engine.checkpoint_engine.save = keep
        more = {"scale": self._scale.state} if self._scale else {}
        self._engine.save_checkpoint(str(folder), tag=TAG, client_state=more, save_latest=False)
        return write

    def load(self, folder: Path, world: int, stage: int) -> None:
        """Continue from what `world` ranks saved under ZeRO `stage`. Where one of the two is another now, it is read by parameter."""
        if stage != self.config.stage or (stage and world != self.place.world):
            self._take_over(folder / TAG, world, stage)
            return
        path, more = self._engine.load_checkpoint(str(folder), tag=TAG, load_lr_scheduler_states=False)
        if path is None:
            raise PipelineError(f"{folder}: DeepSpeed finds no state there; delete the folder to start from the one before")
        if self._scale:
            self._scale.take(more["scale"])

    def _take_over(self, folder: Path, world: int, stage: int) -> None:
        """Every rank reads all shares and keeps what is its own now."""
        sharing, mine = self._engine.optimizer, self.config.stage
        if mine == 3:
            sharing.checkpoint_event_prologue()  # whole weights that are still about are given up
        state = universal.saved(folder, stage, world, self._order, mapped)
        with torch.no_grad():
            universal.take_over(state, universal.live(sharing, self.module, mine, self.place), self._optimiser)
            universal.work_from(sharing, mine)
        if state.scale and self.config.precision == "fp16":
            (self._scale or Scale(sharing.loss_scaler)).take(state.scale)


def loss_scale() -> Scale:
    """As DeepSpeed's optimisers scale under ZeRO 1 to 3."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    return Scale(DynamicLossScaler(2.0**POWER, WINDOW, LEAST, HYSTERESIS, consecutive_hysteresis=False))


def on_disk(value: Tensor, folder: Path) -> Tensor:
    """A float32 copy that the system may take out of memory at any time: a mapped file, gone when the tensor is."""
    path = folder / ".weight.part"
    path.unlink(missing_ok=True)
    kept = torch.from_file(str(path), shared=True, size=value.numel(), dtype=torch.float32).view(value.shape)
    path.unlink()
    return kept.copy_(value.detach())


def mapped(path: Path) -> dict[str, Any]:
    """A file of a checkpoint: its tensors are read when they are looked at, and nothing in it is run."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
        content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return content


def _lighten(engine: Any, config: ZeroConfig, world: int) -> None:
    """Leave out what DeepSpeed does twice or for nobody: of a step of 360 ms this took 17 to 25 (see tests/benchmarks)."""
    import deepspeed.runtime.utils as library
    import deepspeed.runtime.zero.stage_1_and_2 as sharing

    # It casts every gradient to float64 for the norm; float32 is what torch's own clipping takes.
    sharing.get_norm_dtype = lambda: torch.float32
    told = hasattr(library, "combine_grad_norm_groups")  # before it one group's NaN was lost among the other groups' norms
    if config.stage in (1, 2) and not config.offload and told:
        # Every gradient is searched for infinities before the norm is taken, which is not finite then, and is looked at too.
        engine.optimizer.has_overflow = lambda *_, **__: False
    if config.stage in (1, 2) and world == 1 and not config.offload:

        def alone(gradients: list[Tensor], *_: Any, output_bucket: list[Tensor | None] | None = None, **__: Any) -> None:
            """It copies gradients into a bucket, divides them by one, sums them with nobody's and copies them back."""
            for gradient, output in zip(gradients, output_bucket or [None] * len(gradients), strict=True):
                engine.optimizer._add_to_grad_partition_buffer(output, gradient)

        engine.optimizer.allreduce_and_copy = alone
    if config.stage == 0 and world == 1:
        engine.enable_backward_allreduce = False  # it copies all gradients into a bucket, to be summed with nobody's


def _settings(config: ZeroConfig, micro_batch: int, size: int, world: int) -> dict[str, Any]:
    """DeepSpeed's own configuration; optimiser, schedule, logs and data are ours and stay out of it."""
    bucket = min(size, BUCKET)  # DeepSpeed sets buffers of this many numbers aside, however small the model
    zero: dict[str, Any] = {"stage": config.stage, "overlap_comm": False, "reduce_bucket_size": bucket}
    zero["contiguous_gradients"] = world > 1 or config.stage == 3  # alone there is no bucket to fill, and copying into one costs 4%
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.stage == 3:
        zero["stage3_param_persistence_threshold"] = 0
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip if config.stage else 0.0,
        "zero_optimization": zero,
        "steps_per_print": None,
        "zero_force_ds_cpu_optimizer": False,  # which would be built by a compiler on first use
        "zero_allow_untested_optimizer": True,  # our own are tested under every stage, by us
    }
    if config.precision == "bf16" and config.stage:
        settings["bf16"] = {"enabled": True}
    if config.precision == "fp16" and config.stage:
        settings["fp16"] = SCALING
    return settings
