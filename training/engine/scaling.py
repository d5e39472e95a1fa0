"""Loss scaling for fp16: gradients too small for float16 are made larger on their way, by a factor that follows what overflows.

Micikevicius et al. 2018, "Mixed Precision Training", section 3.2. The factor begins at 2^16, is halved when a gradient overflows
for the second time, and doubled after 1000 steps without; a step whose gradient overflowed leaves the weights as they are. It is part
of the state: DeepSpeed keeps it in its optimiser under ZeRO 1 to 3, this file's is for stage 0, where DeepSpeed knows of no fp16 here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from infra.errors import ConfigError

POWER, WINDOW, HYSTERESIS, LEAST = 16, 1000, 2, 1.0
SETTINGS = {
    "enabled": True,
    "loss_scale": 0,  # changes with what overflows
    "initial_scale_power": POWER,
    "loss_scale_window": WINDOW,
    "hysteresis": HYSTERESIS,
    "min_loss_scale": LEAST,
}


class Overflow(Exception):
    """The scaled gradient did not fit float16: this step moves nothing, and the next ones are scaled less."""


def cpu_multiplies_fp16() -> bool:
    """As DeepSpeed asks, which refuses float16 elsewhere."""
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def check_fp16(device: torch.device) -> None:
    """Raises ConfigError where nothing multiplies float16: a CPU without AVX512-FP16 or AMX-FP16."""
    if device.type == "cpu" and not cpu_multiplies_fp16():
        raise ConfigError("precision fp16 needs a GPU, or a CPU that multiplies float16; this one does not: choose bf16, fp32 or auto")


class Scale:
    """The factor of a training without ZeRO, whose gradients are float32. rule: DeepSpeed's own (zero.loss_scale)."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule

    @property
    def factor(self) -> float:
        return float(self._rule.cur_scale)

    def shrink(self, module: nn.Module) -> None:
        """The gradients' true size. Rounds nothing: the factor is a power of two."""
        torch._foreach_div_([p.grad for p in module.parameters() if p.grad is not None], self.factor)

    def passed(self, overflow: bool) -> None:
        """A step is through. Raises FloatingPointError when even the smallest factor was too large."""
        with lowest():
            self._rule.update_scale(overflow)

    @property
    def state(self) -> dict[str, Any]:
        rule = self._rule
        return {"scale": rule.cur_scale, "steps": rule.cur_iter, "overflowed": rule.last_overflow_iter, "left": rule.cur_hysteresis}

    def take(self, state: dict[str, Any]) -> None:
        rule = self._rule
        rule.cur_scale, rule.cur_iter, rule.last_overflow_iter, rule.cur_hysteresis = (
            state[name] for name in ("scale", "steps", "overflowed", "left")
        )


@contextmanager
def lowest() -> Iterator[None]:
    """Around DeepSpeed's rule, which raises a bare Exception when the factor cannot fall any more."""
    try:
        yield
    except Exception as error:
        if type(error) is Exception and "minimum" in str(error):
            raise FloatingPointError("the gradient is not finite, even unscaled") from error
        raise
