"""What a run will do before it starts: each stage with run, reuse or blocked, and why. Starts nothing, writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.artifact import Artifact
from infra.errors import ArtifactError
from infra.stage import Stage, record
from infra.store import Store
from pipelines import chain
from pipelines.growth import Growth
from pipelines.recipe import Recipe
from pipelines.rundir import all_runs

SHOWN = 3  # differences told of one stage


@dataclass(frozen=True)
class Step:
    """One stage of the plan. An empty fingerprint: it depends on a file that is not made yet."""

    label: str
    stage: str
    action: str  # run, reuse, blocked
    why: str
    fingerprint: str
    inputs: tuple[str, ...]


class Planner:
    """A `do` that computes fingerprints and does nothing."""

    def __init__(self, workspace: Path) -> None:
        self.store = Store(workspace / "artifacts")
        self.steps: list[Step] = []
        self._before = _last_made(workspace)
        self._labels: dict[str, str] = {}
        self._unknown: set[str] = set()

    def __call__(self, stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        key, label = stage.key(config, inputs), label or stage.name
        known = not chain.unmade(config) and not any(a.fingerprint in self._unknown for a in inputs.values())
        artifact = Artifact(stage.name, key, self.store.path(stage.name, key))
        action, why = self._decide(stage, config, label, inputs, artifact) if known else ("run", _waits(inputs, self._labels))
        sources = tuple(self._labels.get(a.fingerprint, a.stage) for a in inputs.values())
        self.steps.append(Step(label, stage.name, action, why, key if known else "", sources))
        self._labels[key] = label
        if not known:
            self._unknown.add(key)
        return artifact

    def _decide(self, stage: Stage[Any], config: Any, label: str, inputs: Mapping[str, Artifact], artifact: Artifact) -> tuple[str, str]:
        if artifact.path.exists():
            damage = _damage(artifact)
            return ("run", damage) if damage else ("reuse", f"made {artifact.manifest['created'][:16].replace('T', ' ')}")
        if holder := _maker(artifact):
            return "blocked", f"{holder} is making it; a run would wait"
        now = record(stage, config, inputs)
        before = self._before.get((stage.name, label)) or _newest(self.store, stage.name)
        if before is None:
            return "run", "not made yet"
        changes = list(differences(before, now, self._labels))
        more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        return "run", (", ".join(changes[:SHOWN]) + more) or "its artifact is gone"


def plan(recipe: Recipe, workspace: Path, until: str = "") -> list[Step]:
    """The stages of a run in their order."""
    planner = Planner(workspace)
    chain.run(planner, recipe, until, earlier=Growth(workspace, planner.store, recipe).earlier)
    return planner.steps


def differences(before: Mapping[str, Any], now: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[str]:
    """What differs between two makings of a stage, such as `filter.min_words 20 -> 30`."""
    stage = now["stage"]
    if before["version"] != now["version"]:
        yield f"{stage} version {before['version']} -> {now['version']}"
    old, new = dict(_flat(before["config"], stage)), dict(_flat(now["config"], stage))
    for name in dict.fromkeys((*new, *old)):
        if name not in old:
            yield f"{name} is new ({_short(new[name])})"
        elif name not in new:
            yield f"{name} is gone (was {_short(old[name])})"
        elif old[name] != new[name]:
            yield f"{name} {_short(old[name])} -> {_short(new[name])}"
    for name in dict.fromkeys((*now["inputs"], *before["inputs"])):
        is_now, was = now["inputs"].get(name), before["inputs"].get(name)
        if _name(is_now) != _name(was):
            source = labels.get(is_now["fingerprint"], is_now["stage"]) if is_now else name
            yield f"{source} changes" if is_now and was else f"input {name} is {'new' if is_now else 'gone'}"


def _name(source: Mapping[str, str] | None) -> tuple[str, ...] | None:
    """What an input is called; a manifest says besides with what content it was."""
    return (source["stage"], source["fingerprint"]) if source else None


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and set(value) == {"name", "digest"}:
        yield name, f"{value['name']} ({value['digest'][:6]})"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}")
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{name}.{index}")
    else:
        yield name, value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _waits(inputs: Mapping[str, Artifact], labels: Mapping[str, str]) -> str:
    sources = [labels.get(a.fingerprint, a.stage) for a in inputs.values()]
    return f"follows {', '.join(sources)}" if sources else "reads a file that an earlier stage has yet to make"


def _damage(artifact: Artifact) -> str:
    """What is wrong with a finished artifact, by the sizes of its files; nothing is moved."""
    try:
        for entry in artifact.files:
            path = artifact.path / entry["name"]
            if not path.is_file():
                return f"{entry['name']} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{entry['name']} has {path.stat().st_size} bytes instead of {entry['bytes']}"
    except ArtifactError as error:
        return str(error)
    return ""


def _maker(artifact: Artifact) -> str:
    try:
        holder = json.loads((artifact.path.parent / f".{artifact.fingerprint}.lease").read_text())
        return f"process {holder['pid']} on {holder['host']}" if _lives(holder) else ""
    except (OSError, ValueError, KeyError):
        return ""


def _lives(holder: Mapping[str, Any]) -> bool:
    import socket

    import psutil

    return holder["host"] != socket.gethostname() or psutil.pid_exists(int(holder["pid"]))


def _newest(store: Store, stage: str) -> dict[str, Any] | None:
    found = [a.manifest for a in store.all() if a.stage == stage]
    return max(found, key=lambda m: str(m["created"]), default=None)


def _last_made(workspace: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(stage, label) -> the manifest that the latest run had under this label."""
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in all_runs(workspace):
        for row in json.loads((folder / "stages.json").read_text()):
            path = workspace / row["path"]
            if (path / "manifest.json").exists():
                made[(row["stage"], row["label"])] = Artifact(row["stage"], row["fingerprint"], path).manifest
    return made
