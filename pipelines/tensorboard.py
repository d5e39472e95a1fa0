"""TensorBoard's scalars of every training of a run: `tensorboard --logdir WORKSPACE/runs` shows them.

Written while a training goes by a listener of the event bus in the driver's process, and from its metrics.jsonl where other ranks than
this run's have done it or its begin (torchrun, Slurm, another machine): ranks need no library for it, and nothing of it enters an artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.log import Event
from infra.store import Store

FOLDER = "tensorboard"
METRICS = "metrics.jsonl"
FLUSH_S = 5
TRAIN = {"loss": "loss/train", "lr": "optimiser/lr", "norm": "optimiser/gradient norm"}
SPEED = ("real_tokens_per_s", "computed_tokens_per_s", "mfu", "data_wait", "communication", "peak_bytes")
EVAL = {"loss": "loss/held out", "valid_perplexity": "held out/perplexity", "valid_bits_per_byte": "held out/bits per byte"}


class Board:
    """One folder of scalars for each label of a stage that trains; in it a file named by the artifact, once they are all there."""

    def __init__(self, run: Path, store: Store) -> None:
        self.runs, self.folder, self.store = run.parent, run / FOLDER, store
        self.label, self.made = "", ("", "")
        self._writers: dict[str, Any] = {}

    def listen(self, told: Event) -> None:
        """For the event bus."""
        if told["kind"] == "stage":
            self.label, self.made = told["label"], (told["stage"], told["fingerprint"])
            if told["state"] == "cached":
                self._fill(self.store.path(*self.made) / METRICS)
            if told["state"] == "done" and self.label in self._writers:
                self._marked().touch()
        elif told["kind"] in ("train", "eval"):
            label = self.label or told["stage"]
            if label not in self._writers:
                self._write_all(label, as_events(self.store.scratch(*self.made) / METRICS, before=told["step"]))
            self._write(label, told)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _fill(self, metrics: Path) -> None:
        """The curves of a finished training that no run has shown to its end."""
        mark = self._marked()
        if metrics.exists() and not any(self.runs.glob(f"*/{FOLDER}/*/{mark.name}")):
            self._write_all(self.label, as_events(metrics))
            mark.touch()

    def _marked(self) -> Path:
        return self._home(self.label) / "-".join(self.made)

    def _home(self, label: str) -> Path:
        return self.folder / label.replace("/", "-")

    def _write_all(self, label: str, events: Iterator[Event]) -> None:
        for told in events:
            self._write(label, told)

    def _write(self, label: str, told: Event) -> None:
        if label not in self._writers:
            from tensorboardX import SummaryWriter  # runs that train nothing do not wait for it

            self._writers[label] = SummaryWriter(str(self._home(label)), flush_secs=FLUSH_S)
        for name, value in scalars(told):
            self._writers[label].add_scalar(name, value, told["step"], walltime=told["time"])


def as_events(metrics: Path, before: float = float("inf")) -> Iterator[Event]:
    """What was told of the steps that a metrics file holds. No times stand in it: they are counted back from the file's own."""
    texts = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
    lines = [json.loads(text) for text in texts if text.endswith("\n")]  # a rank may be writing the last one
    lines = [line for line in lines if line["step"] < before]
    if not lines:
        return
    time = metrics.stat().st_mtime - sum(map(_seconds, lines))
    for line in lines:
        time += _seconds(line)
        yield {"kind": "train", "time": time, **line}
        if line.get("valid_loss") is not None:
            held = {"loss": line["valid_loss"], "parts": line.get("valid_parts"), "accuracy": line.get("valid_accuracy")}
            yield {"kind": "eval", "time": time, **{name: line[name] for name in EVAL if name in line}, **held, "step": line["step"]}


def _seconds(line: dict[str, Any]) -> float:
    return float((line.get("speed") or {}).get("seconds", 0.0))


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
