"""A stage is a name, a version, a config and a function. run() is the only way one is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from infra.artifact import Artifact, Counts, fingerprint, plain
from infra.compute import Compute
from infra.log import event
from infra.reuse import Shardwise, take_over
from infra.store import Store

Config = TypeVar("Config")
Inputs = Mapping[str, Artifact]


@dataclass(frozen=True)
class Stage(Generic[Config]):
    """work(config, inputs, out, compute) fills the folder out and returns counts; it is a pure function of the first two.

    Files appear in out under their name only when complete, each followed by its record (infra/finished.py), and a second call with
    the same folder does only what is missing: what has no record, or differs from it, is removed before that call.
    own: patterns of names in out that need no record, because the stage itself checks them when it resumes (a log, checkpoints).
    Names that start with a dot are the stage's own scratch and are not committed. shardwise: its output shards need only the shard
    of the same name of one input, so those that an earlier artifact made from an equal shard are taken over from there.
    """

    name: str
    version: int  # raise it when the same config would now give another output
    work: Callable[[Config, Inputs, Path, Compute], Counts]
    shardwise: Shardwise | None = None
    own: tuple[str, ...] = ()

    def key(self, config: Config, inputs: Inputs) -> str:
        """The fingerprint of this stage's output for this config and these inputs."""
        return fingerprint(self.name, self.version, config, {name: a.fingerprint for name, a in inputs.items()})


def run(stage: Stage[Config], config: Config, inputs: Inputs, store: Store, compute: Compute) -> Artifact:
    """Return the stage's output, working only if nobody has made it before.

    Raises StageFailed (some shards failed; the finished ones stay for the next attempt) or DamagedInput: before anything is built
    from an input its files are hashed, once in a run.
    """
    key = stage.key(config, inputs)
    if done := store.find(stage.name, key, inputs):
        return done
    with store.exclusive(stage.name, key):
        if done := store.find(stage.name, key, inputs):  # made by another run while this one waited
            return done
        store.check(inputs.values())
        made = record(stage, config, inputs)
        made["inputs"] = {name: {**said, "content": inputs[name].content} for name, said in made["inputs"].items()}
        with store.writing(stage.name, key, made, stage.own) as work:
            if stage.shardwise and (taken := take_over(stage.shardwise, made, inputs[stage.shardwise.input], store, work.out)):
                event("note", message=f"{stage.name}: {taken} shards taken over from an earlier run that made them from the same input")
            work.counts.update(stage.work(config, inputs, work.out, compute))
            store.check(inputs.values())  # costs a look at their dates, unless one was written to meanwhile
    return store.get(stage.name, key)


def record(stage: Stage[Any], config: Any, inputs: Inputs) -> dict[str, Any]:
    """What the manifest says of the making: all of it is fingerprinted."""
    sources = {name: {"stage": a.stage, "fingerprint": a.fingerprint} for name, a in sorted(inputs.items())}
    return {"stage": stage.name, "version": stage.version, "config": plain(config), "inputs": sources}
