"""TensorBoard's scalars of every training of a run, written while it goes: `tensorboard --logdir WORKSPACE/runs` shows them.

A listener of the event bus in the driver's process: ranks need no library for it, whatever launched them, and nothing of it enters
an artifact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.log import Event

FOLDER = "tensorboard"
FLUSH_S = 5
TRAIN = {"loss": "loss/train", "lr": "optimiser/lr", "norm": "optimiser/gradient norm"}
SPEED = ("real_tokens_per_s", "computed_tokens_per_s", "mfu", "data_wait", "communication", "peak_bytes")
EVAL = {"loss": "loss/held out", "valid_perplexity": "held out/perplexity", "valid_bits_per_byte": "held out/bits per byte"}


class Board:
    """One folder of scalars for each label of a stage that trains."""

    def __init__(self, run: Path) -> None:
        self.folder, self.label = run / FOLDER, ""
        self._writers: dict[str, Any] = {}

    def listen(self, told: Event) -> None:
        """For the event bus."""
        if told["kind"] == "stage":
            self.label = told["label"]
        elif told["kind"] in ("train", "eval"):
            writer = self._writer(self.label or told["stage"])
            for name, value in scalars(told):
                writer.add_scalar(name, value, told["step"], walltime=told["time"])

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, label: str) -> Any:
        if label not in self._writers:
            from tensorboardX import SummaryWriter  # runs that train nothing do not wait for it

            self._writers[label] = SummaryWriter(str(self.folder / label.replace("/", "-")), flush_secs=FLUSH_S)
        return self._writers[label]


def scalars(told: Event) -> Iterator[tuple[str, float]]:
    """Names and values of one event; steps count from 0, as in metrics.jsonl."""
    train = told["kind"] == "train"
    for key, name in (TRAIN if train else EVAL).items():
        if isinstance(told.get(key), int | float):
            yield name, float(told[key])
    parts = told.get("parts") or {}
    for part, value in parts.items() if len(parts) > 1 else ():
        yield f"loss of {part}/{'train' if train else 'held out'}", float(value)
    for part, value in (told.get("accuracy") or {}).items():
        yield f"held out/{part} right", float(value)
    for key in SPEED:
        if train and key in (told.get("speed") or {}):
            yield f"speed/{key}", float(told["speed"][key])
