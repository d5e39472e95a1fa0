"""A state as it stands now, in this process's own memory: what a checkpoint is written from while training goes on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def frozen(state: Any) -> Any:
    """A copy that no later step changes, on the host. Tensors that share memory share it in the copy too, as torch.save would keep it."""
    memo: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in _tensors(state, set()):
        memo[id(tensor)] = _copied(tensor, storages)
    return copy.deepcopy(state, memo)


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor in dicts, lists and tuples, once. What other objects hold is left to deepcopy."""
    if id(value) in seen:
        return
    if isinstance(value, Tensor):
        seen.add(id(value))
        yield value
    elif isinstance(value, dict | list | tuple):
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, seen)


def _copied(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    """The tensor over a host copy of its whole storage. torch.save writes whole storages, so this copies no byte more than it."""
    there = tensor.untyped_storage()
    if there._cdata not in storages:
        storages[there._cdata] = there.clone() if there.device.type == "cpu" else there.cpu()
    here = torch.empty(0, dtype=tensor.dtype)
    here.set_(storages[there._cdata], tensor.storage_offset(), tensor.size(), tensor.stride())  # type: ignore[call-overload]
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(here, tensor.requires_grad)
    return here.requires_grad_(tensor.requires_grad)
