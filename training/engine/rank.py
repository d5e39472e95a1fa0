"""Where this process stands among the ranks, and how it computes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from training.feed.random import fold

STEPS = 5  # a stream of random numbers beside those of the feed
PROBE = 256  # rows of the matrices that judge a matmul mode
FP32_ERROR = 2e-5  # relative; a product in bf16 errs by about 3e-3, one in fp32 by 1e-6


@dataclass(frozen=True)
class Rank:
    """rank of world; read once from what every launcher sets (compute.gang, torchrun, Slurm)."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in float64; the one way ranks of the loop talk."""
        if self.world == 1:
            return list(values)
        vector = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(vector)
        summed: list[float] = vector.tolist()
        return summed


def here() -> Rank:
    """The rank of this process; one alone when no launcher said anything."""
    rank, world, local = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    return Rank(rank, world, torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu"))


def choose_matmul_mode() -> str:
    """Let float32 products take the faster kernels where they stay as exact as float32, else not; says which was taken.

    "medium" runs AVX-512 kernels at float32's own error on some CPUs (2.2x faster) and rounds to bfloat16 on others: it is tried.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(PROBE, PROBE, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    error = ((a @ b).double() - exact).norm() / exact.norm()
    mode = "medium" if float(error) < FP32_ERROR else "highest"
    torch.set_float32_matmul_precision(mode if not torch.cuda.is_available() else "high")
    return torch.get_float32_matmul_precision()


def precision_here(asked: str) -> str:
    """What "auto" means here: bf16 where the hardware multiplies it (4x float32's rate), else fp32; others stay as they are."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if can.get("avx512_bf16") or can.get("amx_bf16") or can.get("bf16") else "fp32"


def key_of(*numbers: int) -> int:
    """63 bits that depend on all of these numbers and their order."""
    return int(fold(STEPS, *numbers)[0]) & (2**63 - 1)


def reseed(*numbers: int) -> None:
    """Every random draw until the next call depends on these numbers alone, so no generator's state is ever saved."""
    torch.manual_seed(key_of(*numbers))
