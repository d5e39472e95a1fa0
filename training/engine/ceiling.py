"""The most that a device can multiply: from its maker's data sheet where it is a known GPU, else by trying.

The rates in the table, all without sparsity, are those of these sheets, each looked up in a second place that quotes them too:
H100 and H200 (resources.nvidia.com: "H100 Tensor Core GPU", "H200 Tensor Core GPU": 1,979 Tflop/s bf16 and 989 TF32 with sparsity;
PCIe 1,513 and 756), A100 (nvidia-a100-datasheet-us-nvidia-1758950-r4: 312 and 156; 1,555, 1,935 and 2,039 GB/s), B200 (HGX B200, of
the Blackwell sheets: 4,500 and 2,200 with sparsity at 1,000 W), L40S (733 and 366 with sparsity), L4 (242 and 120 with sparsity), A10
(125 and 62.5), V100 SXM2 (15.7 in float32, 125 in float16), T4 ("NVIDIA T4 Tensor Core GPU", DS-09218: 8.1 in float32, 65 in mixed
float16; 320 GB/s). GeForce cards: the architectures' whitepapers, dense rates of tensor cores that accumulate in float32, as training
does: RTX 3090 ("NVIDIA Ampere GA102 GPU Architecture", appendix A: 71 in float16 and bf16, 35.6 in TF32; 936 GB/s), RTX 4090 ("NVIDIA
Ada GPU Architecture", appendix A: 165.2 and 82.6; 1,008 GB/s).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from infra.errors import ConfigError

PROBE_ROWS = 1024  # of square matrices: large enough that a CPU's kernels reach their rate, 2 Gflop a product
PROBE_SECONDS = 0.15
IDLE = 0.8  # of its threads' CPU time: a process that obtains less shares the CPUs with others
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Gpu:
    """Dense rates in flop/s without sparsity, as on the maker's data sheet; fp32: of matrices in TF32 where the GPU has it.

    bandwidth: bytes a second of the GPU's own memory. bf16 0: the GPU has none.
    """

    name: str  # as torch.cuda.get_device_name has it
    memory: float
    bandwidth: float
    bf16: float
    fp32: float
    source: str
    fp16: float = 0.0  # where it is not bf16's


_NVIDIA = "NVIDIA data sheet"
GPUS = {  # short name -> figures; sheets print rates with sparsity for Ada and Hopper, which are halved here
    "B200": Gpu("NVIDIA B200", 180e9, 7.7e12, 2250e12, 1100e12, f"{_NVIDIA}, HGX B200"),
    "H200": Gpu("NVIDIA H200", 141e9, 4.8e12, 989e12, 494e12, f"{_NVIDIA}, H200 SXM"),
    "H100": Gpu("NVIDIA H100 80GB HBM3", 80e9, 3.35e12, 989e12, 494e12, f"{_NVIDIA}, H100 SXM"),
    "H100-PCIE": Gpu("NVIDIA H100 PCIe", 80e9, 2.0e12, 756e12, 378e12, f"{_NVIDIA}, H100 PCIe"),
    "A100": Gpu("NVIDIA A100-SXM4-80GB", 80e9, 2.039e12, 312e12, 156e12, f"{_NVIDIA}, A100 80GB SXM"),
    "A100-40GB": Gpu("NVIDIA A100-SXM4-40GB", 40e9, 1.555e12, 312e12, 156e12, f"{_NVIDIA}, A100 40GB SXM"),
    "A100-PCIE": Gpu("NVIDIA A100 80GB PCIe", 80e9, 1.935e12, 312e12, 156e12, f"{_NVIDIA}, A100 80GB PCIe"),
    "L40S": Gpu("NVIDIA L40S", 48e9, 0.864e12, 362e12, 183e12, f"{_NVIDIA}, L40S"),
    "L4": Gpu("NVIDIA L4", 24e9, 0.3e12, 121e12, 60e12, f"{_NVIDIA}, L4"),
    "A10": Gpu("NVIDIA A10", 24e9, 0.6e12, 125e12, 62.5e12, f"{_NVIDIA}, A10"),
    "T4": Gpu("Tesla T4", 16e9, 0.32e12, 0.0, 8.1e12, f"{_NVIDIA}, T4", 65e12),
    "RTX3090": Gpu("NVIDIA GeForce RTX 3090", 24e9, 0.936e12, 71e12, 35.6e12, "NVIDIA GA102 whitepaper, appendix A"),
    "RTX4090": Gpu("NVIDIA GeForce RTX 4090", 24e9, 1.008e12, 165.2e12, 82.6e12, "NVIDIA Ada whitepaper, appendix A"),
    "V100": Gpu("Tesla V100-SXM2-32GB", 32e9, 0.9e12, 0.0, 15.7e12, f"{_NVIDIA}, V100 SXM2", 125e12),
}


@dataclass(frozen=True)
class Ceiling:
    """flop/s of one rank, and where the figure is from."""

    flops: float
    source: str


def gpu_named(name: str) -> Gpu:
    """Raises ConfigError for a GPU that is not in the table."""
    found = GPUS.get(name.upper().replace(" ", ""))
    if found is None:
        raise ConfigError(f"no GPU `{name}` is known; known are {', '.join(GPUS)}")
    return found


def rate(gpu: Gpu, precision: str) -> float:
    """Raises ConfigError where the GPU does not multiply in this precision."""
    found = rate_or_none(gpu, precision)
    if not found:
        raise ConfigError(f"{gpu.name} does not multiply in {precision}; choose fp32")
    return found


def ceiling(device: torch.device, precision: str) -> Ceiling:
    """Of one rank on this device. Ranks that share a CPU each get what they reach while the others try too."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for gpu in GPUS.values():
            if name == gpu.name and rate_or_none(gpu, precision):
                return Ceiling(rate(gpu, precision), gpu.source)
    found = probe(device.type, precision)
    source = f"products of {PROBE_ROWS} x {PROBE_ROWS} matrices in {precision}, tried at start"
    busy = f", while other programs took {1 - found.obtained:.0%} of the CPUs" if found.obtained < IDLE else ""
    return Ceiling(found.flops, source + busy)


def rate_or_none(gpu: Gpu, precision: str) -> float:
    """0 where the GPU does not multiply in this precision."""
    return {"fp32": gpu.fp32, "bf16": gpu.bf16, "fp16": gpu.fp16 or gpu.bf16}[precision]


@dataclass(frozen=True)
class Probed:
    """The best flop/s of some products, and the share of the CPU time of its threads that the process obtained meanwhile (1 on a GPU)."""

    flops: float
    obtained: float = 1.0


@lru_cache
def probe(device: str, precision: str, seconds: float = PROBE_SECONDS) -> Probed:
    """Products of square matrices for `seconds`; no random number is drawn."""
    a = torch.full((PROBE_ROWS, PROBE_ROWS), 0.5, dtype=DTYPES[precision], device=device)
    a @ a
    best, begun, cpu = 0.0, time.perf_counter(), time.process_time()
    while time.perf_counter() < begun + seconds or not best:
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * PROBE_ROWS**3 / (time.perf_counter() - start))
    if device != "cpu":
        return Probed(best)
    wanted = (time.perf_counter() - begun) * torch.get_num_threads()
    return Probed(best, min(1.0, (time.process_time() - cpu) / wanted))


def probe_again(device: str, precision: str) -> float:
    """flop/s of another try: the first one may have met a busy machine."""
    return probe.__wrapped__(device, precision).flops


def gpu_here(device: torch.device) -> tuple[str, int]:
    """This machine's GPU: its name, and the bytes it holds."""
    return torch.cuda.get_device_name(device), int(torch.cuda.get_device_properties(device).total_memory)
