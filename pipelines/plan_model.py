"""What a model of the catalog would cost to train: exact parameters, arithmetic and memory, from its name alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError
from pipelines.recipe_checks import meant

if TYPE_CHECKING:
    from training.families.family import Family


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
    name: str, *, ranks: int = 1, precision: str = "fp32", length: int = 0, micro_batch: int = 1, gpu: bool = False
) -> dict[str, Any]:
    """Sizes in bytes and plain numbers. length 0: as long as the paper's preset, or as the positions reach."""
    from training import cost

    family, size = find(name)
    backbone, preset = family.backbone(size), family.preset(size)
    setting = cost.Setting(length or min(preset.length, backbone.positions), ranks, precision, micro_batch, gpu)
    if setting.length > backbone.positions:
        raise ConfigError(f"length {setting.length} is more than the {backbone.positions} positions of {name}")
    tower = cost.shape_of(family, backbone)
    stages = {f"zero{stage}": cost.memory(family, tower, setting, stage) for stage in cost.STAGES}
    return {
        "model": f"{family.name}/{size}",
        "paper": family.paper,
        "shape": asdict(backbone),
        "parameters": family.parameters(backbone),
        "trained_parameters": family.trained_parameters(backbone),
        "flops_per_token": round(cost.training_flops(family, tower, setting.length)),
        "forward_flops_per_token": round(cost.forward_flops(family, tower, setting.length)),
        "setting": asdict(setting),
        "memory": {stage: {**asdict(held), "total": held.total} for stage, held in stages.items()},
        "preset": asdict(preset),
        "training_flops": cost.whole_flops(family, tower, preset),
        "formulas": cost.FORMULAS,
    }


def rows(told: dict[str, Any]) -> list[dict[str, str]]:
    """The memory table for people."""
    return [
        {"ZeRO": stage.removeprefix("zero"), **{part: gib(held) for part, held in parts.items()}} for stage, parts in told["memory"].items()
    ]


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
        f"as its paper trained it: {preset['steps']:,} steps of {preset['batch']:,} x {preset['length']} tokens{opening}, "
        f"{told['training_flops']:.2e} operations",
        f"memory of each of {setting['ranks']} ranks in {setting['precision']}, "
        f"{setting['micro_batch']} x {setting['length']} tokens at once:",
    ]


def gib(size: int) -> str:
    """1.5 GiB; below a tenth of one in MiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:,.1f} MiB"
