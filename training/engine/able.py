"""What this machine can do of what a recipe asks for, told before any work: float16, and a compiler for torch.compile."""

from __future__ import annotations

import shutil

import torch

from infra.errors import ConfigError
from training.engine.scaling import check_fp16

COMPILE = ("auto", "always", "never")


def compiler(device: torch.device) -> str:
    """What torch.compile would build its kernels with here; empty: there is none. On a GPU that is Triton, which needs a C compiler."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
        return found if has_triton() else ""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return str(get_cpp_compiler())
    except InvalidCxxCompiler:
        return ""


def compiles(asked: str, zero: int, device: torch.device) -> bool:
    """Whether the layers are compiled. auto: on a GPU that has what it takes, under ZeRO 0 to 2.

    On a CPU compiled layers are about as fast as plain ones (tests/benchmarks/bench_training.py): what is fused there is a small part,
    and the first step waits for the compiler.
    """
    if asked == "always":
        return True
    return asked == "auto" and device.type == "cuda" and zero < 3 and bool(compiler(device))


def check(precision: str, asked: str, zero: int, device: torch.device) -> None:
    """Raises ConfigError for what this machine, or DeepSpeed, cannot do."""
    if precision == "fp16":
        check_fp16(device)
    if asked == "always" and zero == 3:
        raise ConfigError("compile: always needs zero 0 to 2: under ZeRO 3 weights come and go within a layer; take compile out")
    if asked == "always" and not compiler(device):
        wanted = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler (g++ or clang++)"
        raise ConfigError(f"compile: always needs {wanted} on every machine that trains, and this one has none: install it, or say never")
