"""A saved state by the names of its parameters: what any number of ranks saved under any stage of ZeRO, any other takes its shares from.

As universal checkpoints do (Lian et al. 2024, "Universal Checkpointing"), but without a second copy on the disk: the shares
are mapped files, and each rank reads out of them what its own share is made of. Weights are the optimiser's float32 ones wherever it
has them. How DeepSpeed lays its shares out is known here; it is imported by zero.py alone, which hands its objects in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from infra.errors import PipelineError
from training.engine.rank import Rank
from training.engine.scaling import Scale

Read = Callable[[Path], dict[str, Any]]  # a file of DeepSpeed's, its tensors mapped
WEIGHT = "fp32"
STEP = "step"
MODEL, OPTIMISER = "mp_rank_00_model_states.pt", "mp_rank_00_optim_states.pt"  # how the names of DeepSpeed's files end


class Part(NamedTuple):
    """Where numbers of a parameter stand in a flat vector: `length` of them, the parameter's from `start` on, from `at` on."""

    name: str
    start: int
    at: int
    length: int


class Piece(NamedTuple):
    """Numbers of a parameter from `start` on: its weights, and what the optimiser keeps for them."""

    start: int
    values: dict[str, Tensor]
    step: float | None  # updates so far; None where there was none


class Vector(NamedTuple):
    """What a rank holds of the state, and the parameters it is made of. trained: the optimiser keeps a state for it."""

    tensor: Tensor
    parts: list[Part]
    trained: bool = True


@dataclass
class State:
    """Everything that was saved. scale: of the fp16 loss, as scaling.Scale tells it."""

    pieces: dict[str, list[Piece]] = field(default_factory=lambda: defaultdict(list))
    scale: dict[str, Any] | None = None

    def add(self, vector: Tensor, parts: list[Part], kept: dict[str, Any] | None = None) -> None:
        """A saved vector; kept: what the optimiser kept for it."""
        step = None if not kept else float(kept[STEP])
        values = {WEIGHT: vector, **{key: value for key, value in (kept or {}).items() if key != STEP}}
        for name, start, at, length in parts:
            cut = {key: value.reshape(-1)[at : at + length] for key, value in values.items()}
            self.pieces[name].append(Piece(start, cut, step))

    def fill(self, vector: Tensor, parts: list[Part], key: str) -> None:
        """Write the parts' numbers into a vector. Raises PipelineError when a weight was not saved as a whole."""
        flat = vector.detach().view(-1)
        for name, start, at, length in parts:
            found = 0
            for piece in self.pieces.get(name, ()):
                if key not in piece.values:
                    continue
                first, end = max(start, piece.start), min(start + length, piece.start + len(piece.values[key]))
                if first < end:
                    flat[at + first - start : at + end - start].copy_(piece.values[key][first - piece.start : end - piece.start])
                    found += end - first
            if key == WEIGHT and found != length:
                raise PipelineError(f"the checkpoint holds {found} of {length} numbers of {name}: it was saved from another model")

    def kept(self, vector: Vector) -> dict[str, Tensor]:
        """What the optimiser keeps for a vector; nothing before the first update. What was not saved of it (padding) is zero."""
        mine = [piece for part in vector.parts for piece in self.pieces.get(part.name, ()) if piece.step is not None]
        known = mine if vector.parts else [piece for pieces in self.pieces.values() for piece in pieces if piece.step is not None]
        made = {key: torch.zeros_like(vector.tensor) for key in dict.fromkeys(k for piece in known for k in piece.values) if key != WEIGHT}
        for key, value in made.items():
            self.fill(value, vector.parts, key)
        return {STEP: torch.tensor(max(piece.step or 0.0 for piece in known)), **made} if known else {}


def saved(folder: Path, stage: int, world: int, order: list[str], read: Read) -> State:
    """What `world` ranks saved in a folder. order: the trained parameters' names as the optimiser lists them."""
    state = State()
    if stage == 0:
        model = read(_file(folder, MODEL))
        kept = model["optimizer"]["state"]
        for index, name in enumerate(order):
            if name in model["module"]:
                _whole(state, name, model["module"][name], kept.get(index))
        _fixed(state, model["module"])
        state.scale = model.get("scale")
        return state
    for rank in range(world):
        said = read(_file(folder, f"zero_pp_rank_{rank}_{OPTIMISER}"))["optimizer_state_dict"]
        if stage == 3:
            model = read(_file(folder, f"zero_pp_rank_{rank}_{MODEL}"))
            _shares_of_weights(state, rank, world, said, model)
        else:
            _shares_of_optimiser(state, said)
        if said["dynamic_loss_scale"]:
            state.scale = Scale(said["loss_scaler"]).state
    if stage == 3:
        _fixed(state, {name: model["module"][name] for name in model["buffer_names"]})
    else:
        _fixed(state, read(_file(folder, MODEL))["module"])
    return state


def live(sharing: Any, module: nn.Module, stage: int, place: Rank) -> Iterator[Vector]:
    """What this rank holds: the vectors that its optimiser moves, frozen parameters and buffers. sharing: DeepSpeed's optimiser."""
    named: list[tuple[str, Any]] = list(module.named_parameters())
    names = {parameter: name for name, parameter in named}
    if stage == 0:
        yield from (Vector(p, [Part(name, 0, 0, p.numel())]) for name, p in named if p.requires_grad)
    elif stage == 3:
        for flat, group in zip(sharing.fp32_partitioned_groups_flat, sharing.fp16_groups, strict=True):
            parts, at = [], 0
            for p in group:
                parts.append(_share(names[p], p.ds_numel, at, place.rank, place.world))
                at += p.partition_numel()
            yield Vector(flat, parts)
    else:
        for flat, group in zip(sharing.single_partition_of_fp32_groups, sharing.bit16_groups, strict=True):
            mapped = [(names[p], p._hp_mapping) for p in group if p._hp_mapping is not None]  # None: all on other ranks
            yield Vector(
                flat,
                [Part(n, m.lp_fragment_address.start, m.hp_fragment_address.start, m.hp_fragment_address.numel) for n, m in mapped],
            )
    for name, p in named:
        if not p.requires_grad:
            share = _share(name, p.ds_numel, 0, place.rank, place.world) if stage == 3 else Part(name, 0, 0, p.numel())
            yield Vector(p.ds_tensor if stage == 3 else p, [share], trained=False)
    kept = module.state_dict(keep_vars=True)
    yield from (Vector(b, [Part(name, 0, 0, b.numel())], trained=False) for name, b in module.named_buffers() if name in kept)


def take_over(state: State, vectors: Iterator[Vector], optimiser: torch.optim.Optimizer) -> None:
    """Make the vectors, and what the optimiser keeps for them, as they were saved; the working copies of the weights are not touched."""
    fused = bool(optimiser.defaults.get("fused"))  # then torch wants a parameter's counter beside it
    for vector in vectors:
        state.fill(vector.tensor, vector.parts, WEIGHT)
        if not vector.trained:
            continue
        optimiser.state.pop(vector.tensor, None)
        if kept := state.kept(vector):
            kept[STEP] = kept[STEP].to(vector.tensor.device if fused else "cpu")
            optimiser.state[vector.tensor] = kept


def work_from(sharing: Any, stage: int) -> None:
    """The weights that the model computes with, out of the float32 ones. All ranks."""
    if stage == 3:
        for index in range(len(sharing.fp32_partitioned_groups_flat)):
            sharing._reassign_or_swap_out_partitioned_parameters(index)
    elif stage:
        sharing.update_lp_params()


def _shares_of_optimiser(state: State, said: dict[str, Any]) -> None:
    """ZeRO 1 and 2: a group's parameters stand one behind the other, cut into as many shares as there are ranks."""
    kept = said["base_optimizer_state"]["state"]
    for index, (vector, places) in enumerate(zip(said["single_partition_of_fp32_groups"], said["param_slice_mappings"], strict=True)):
        parts = [Part(name, _known(state, name), there.start, there.numel) for name, there in places.items()]
        state.add(vector, parts, kept.get(index))


def _shares_of_weights(state: State, rank: int, world: int, said: dict[str, Any], model: dict[str, Any]) -> None:
    """ZeRO 3: each parameter is cut into as many shares as there are ranks; frozen ones have no vector in common."""
    kept = said["optimizer_state_dict"]["state"]
    for index, (vector, shapes) in enumerate(zip(said["fp32_flat_groups"], model["param_shapes"], strict=True)):
        parts, at = [], 0
        for name, shape in shapes.items():
            parts.append(_share(name, shape.numel(), at, rank, world))
            at += math.ceil(shape.numel() / world)
        state.add(vector, parts, kept.get(index))
    for name, share in model["frozen_param_fragments"].items():
        state.add(share, [_share(name, model["frozen_param_shapes"][name].numel(), 0, rank, world)])


def _fixed(state: State, tensors: dict[str, Tensor]) -> None:
    """What no optimiser moves, which every rank has the whole of."""
    for name, value in tensors.items():
        if name not in state.pieces:
            _whole(state, name, value, None)


def _whole(state: State, name: str, value: Tensor, kept: dict[str, Any] | None) -> None:
    state.add(value, [Part(name, 0, 0, value.numel())], kept)


def _share(name: str, numel: int, at: int, rank: int, world: int) -> Part:
    """What a rank has of a parameter under ZeRO 3; the last ranks' shares may be short or empty."""
    size = math.ceil(numel / world)
    return Part(name, rank * size, at, max(0, min(size, numel - rank * size)))


def _known(state: State, name: str) -> int:
    """How many numbers of a parameter the ranks before had."""
    return sum(len(piece.values[WEIGHT]) for piece in state.pieces.get(name, ()))


def _file(folder: Path, name: str) -> Path:
    """DeepSpeed's file of that name, which begins with bf16_ under bf16. Raises PipelineError when there is none."""
    for path in (folder / name, folder / f"bf16_{name}"):
        if path.exists():
            return path
    raise PipelineError(f"{folder / name} is missing; delete {folder.parent} to start from the checkpoint before")
