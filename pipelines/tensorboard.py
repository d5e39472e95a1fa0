"""TensorBoard's scalars of every training of a run: `tensorboard --logdir WORKSPACE/runs` shows them.

Written while a training goes by a listener of the event bus in the driver's process, and from its metrics.jsonl where other ranks than
this run's have done it or its begin (torchrun, Slurm, another machine): ranks need no library for it, and nothing of it enters an artifact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.log import Event, event
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
        self._writers: dict[str, _Writer] = {}
        self._broken = False

    def listen(self, told: Event) -> None:
        """For the event bus. Where the scalars cannot be written, one warning; the run does not need them."""
        if self._broken:
            return
        try:
            self._take(told)
        except OSError as error:
            self._broken = True
            event("warning", message=f"no more scalars for TensorBoard in {self.folder}: {error.strerror or error}")

    def _take(self, told: Event) -> None:
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
            with suppress(OSError):
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
            self._writers[label] = _Writer(self._home(label))
        self._writers[label].write(scalars(told), told["step"], told["time"])


class _Writer:
    """One file of scalars, written by the caller's thread: that of SummaryWriter ends on a full disk, and then its queue blocks the run."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # runs that train nothing do not wait for it

        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()

    def write(self, scalars: Iterable[tuple[str, float]], step: int, wall_time: float) -> None:
        from tensorboardX.proto.event_pb2 import Event as Record
        from tensorboardX.summary import scalar

        for name, value in scalars:
            self._file.write_event(Record(wall_time=wall_time, step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed > FLUSH_S:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


def as_events(metrics: Path, before: float = float("inf")) -> Iterator[Event]:
    """What was told of the steps that a metrics file holds. No times stand in it: they are counted back from the file's own."""
    texts = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
    lines = [json.loads(text) for text in texts if text.endswith("\n")]  # a rank may be writing the last one
    lines = [line for line in lines if line["step"] < before]
    if not lines:
        return
    now = metrics.stat().st_mtime - sum(map(_seconds, lines))
    for line in lines:
        now += _seconds(line)
        yield {"kind": "train", "time": now, **line}
        if line.get("valid_loss") is not None:
            held = {"loss": line["valid_loss"], "parts": line.get("valid_parts"), "accuracy": line.get("valid_accuracy")}
            yield {"kind": "eval", "time": now, **{name: line[name] for name in EVAL if name in line}, **held, "step": line["step"]}


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
