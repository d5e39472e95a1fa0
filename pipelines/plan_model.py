"""What a model of the catalog would cost to train: exact parameters, arithmetic and memory, from its name alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError
from pipelines.recipe_checks import meant

if TYPE_CHECKING:
    from training.families.family import Family


ROOM = 0.9  # of a GPU's memory; the rest is the driver's, the libraries' and lost between blocks


def names() -> list[str]:
    """Every FAMILY/SIZE there is."""
    from training.families.catalog import FAMILIES

    return [f"{name}/{size}" for name, family in FAMILIES.items() for size in family.sizes]


def find(name: str) -> tuple[Family, str]:
    """Raises ConfigError with the nearest name, and with all of them."""
    from training.families.catalog import FAMILIES

    family, _, size = name.lower().partition("/")
    if family in FAMILIES and size in FAMILIES[family].sizes:
        return FAMILIES[family], size
    there = [n for n in names() if n.startswith(f"{family}/")] or names()
    raise ConfigError(f"there is no model `{name}`{meant(name, there)}; there is {', '.join(there)}")


def plan_model(
    name: str,
    *,
    ranks: int = 1,
    precision: str = "fp32",
    length: int = 0,
    micro_batch: int = 1,
    gpu: bool = False,
    on: str = "",
    mfu: float | None = None,
    activation_checkpointing: int = 0,
    offload: str = "",
) -> dict[str, Any]:
    """Sizes in bytes and plain numbers; of the stages of ZeRO those that can offload what is asked for.

    on: a GPU of training/engine/ceiling.py, of which there are `ranks`; mfu: the share of its rate that training reaches, by the
    model's width when left out (training/pace.py). length 0: as
    long as the paper's preset, or as the positions reach. activation_checkpointing and offload: as in a recipe's pretrain.
    """
    from training import cost

    family, size = find(name)
    backbone, preset = family.backbone(size), family.preset(size)
    shown = length or min(preset.length, backbone.positions)
    setting = cost.Setting(shown, ranks, precision, micro_batch, gpu or bool(on), recompute=activation_checkpointing, offload=offload)
    if setting.length > backbone.positions:
        raise ConfigError(f"length {setting.length} is more than the {backbone.positions} positions of {name}")
    tower = cost.shape_of(family, backbone)
    stages = {f"zero{stage}": cost.memory(family, tower, setting, stage) for stage in cost.STAGES[cost.lowest(offload) :]}
    flops, totals = cost.whole_flops(family, tower, preset), {name: held.total for name, held in stages.items()}
    return {
        "model": f"{family.name}/{size}",
        "paper": family.paper,
        "shape": asdict(backbone),
        "parameters": family.parameters(backbone),
        "trained_parameters": family.trained_parameters(backbone),
        "flops_per_token": round(cost.training_flops(family, tower, setting.length)),
        "forward_flops_per_token": round(cost.forward_flops(family, tower, setting.length)),
        "setting": asdict(setting),
        "memory": {stage: {**asdict(held), "total": totals[stage]} for stage, held in stages.items()},
        "preset": asdict(preset),
        "training_flops": flops,
        **({"cluster": cluster(on, ranks, precision, share_of(mfu, backbone.width), flops, totals)} if on else {}),
        "formulas": cost.FORMULAS,
    }


def share_of(mfu: float | None, width: int) -> float:
    """As given, or by the width. Raises ConfigError for what is no share."""
    from training.pace import reached

    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"mfu is {mfu}; it is the share of the GPU's rate that is reached, above 0 and at most 1")
    return mfu or reached(width)


def cluster(on: str, ranks: int, precision: str, mfu: float, flops: float, held: dict[str, int]) -> dict[str, Any]:
    """How long `ranks` GPUs of a kind take for so much arithmetic, and which stages' bytes each of them can hold."""
    from training.engine.ceiling import gpu_named, rate

    gpu = gpu_named(on)
    most = rate(gpu, precision)
    fits = [name for name, size in held.items() if size <= ROOM * gpu.memory]
    told = {"gpu": gpu.name, "gpus": ranks, "flops": most, "memory": gpu.memory, "source": gpu.source, "mfu": mfu}
    return told | {"seconds": flops / (ranks * most * mfu), "fits": fits}


PARTS = ("weights", "gradients", "optimiser", "activations", "buffers", "total")


def rows(told: dict[str, Any]) -> list[dict[str, str]]:
    """The memory table for people; the host's column only where something went there."""
    moved = ("host",) if told["setting"]["offload"] and told["setting"]["gpu"] else ()
    stages = {stage.removeprefix("zero"): parts for stage, parts in told["memory"].items()}
    return [{"ZeRO": stage, **{part: gib(parts[part]) for part in (*PARTS, *moved)}} for stage, parts in stages.items()]


def lines(told: dict[str, Any]) -> list[str]:
    """What is said above the table."""
    setting, preset = told["setting"], told["preset"]
    more = told["trained_parameters"] - told["parameters"]
    opening = f" ({preset['opening'][0]:.0%} of them of {preset['opening'][1]})" if preset["opening"] else ""
    second = f" (+ {more:,} of the model that teaches it)" if more else ""
    return [
        f"{told['model']}: {told['parameters']:,} parameters{second}, {told['paper']}",
        f"{told['flops_per_token']:,} floating-point operations a token of {setting['length']} in training, "
        f"{told['forward_flops_per_token']:,} forward",
        f"{preset['source'] or 'as its paper trained it'}: {preset['steps']:,} steps of {preset['batch']:,} x {preset['length']} "
        f"tokens{opening}, {told['training_flops']:.2e} operations",
        *_cluster_lines(told),
        f"memory of each of {setting['ranks']} ranks in {setting['precision']}, "
        f"{setting['micro_batch']} x {setting['length']} tokens at once (total: what stands at the same time):",
    ]


def _cluster_lines(told: dict[str, Any]) -> list[str]:
    if "cluster" not in told:
        return []
    found = told["cluster"]
    time = span(found["seconds"])
    stages = ", ".join(name.removeprefix("zero") for name in found["fits"])
    fits = f"ZeRO {stages} fit" if stages else "no stage of ZeRO fits"
    return [
        f"{found['gpus']} x {found['gpu']}: {time} for that at {found['mfu']:.0%} of {found['flops'] / 1e12:,.0f} Tflop/s "
        f"({found['source']}); {fits} in {ROOM:.0%} of its {found['memory'] / 1e9:,.0f} GB",
    ]


def span(seconds: float) -> str:
    """3.0 days; below two of them in hours, below two hours in minutes, below two minutes in seconds."""
    hours = seconds / 3600
    if seconds < 120:
        return f"{seconds:,.2g} seconds" if seconds < 10 else f"{seconds:,.0f} seconds"
    if hours < 2:
        return f"{hours * 60:,.1f} minutes"
    return f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:,.1f} hours"


def gib(size: int) -> str:
    """1.5 GiB; below a tenth of one in MiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:,.1f} MiB"
