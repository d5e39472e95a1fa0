"""What an artifact is, what it was made from and a look inside; or the way of one URL through a whole run."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data_prep import shards
from data_prep.examples.languages import languages
from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.store import Store
from pipelines.provenance import ID as DOCUMENT
from pipelines.provenance import provenance
from pipelines.report_data import first_rows
from pipelines.report_runs import Row, Run, read_json

SAMPLES = 3
SNIPPET = 300  # characters of a text shown
LAST_POINTS = 5  # of a training's metrics


def show(store: Store, runs: Path, what: str) -> Row:
    """A stage, `stage/fingerprint` (its beginning is enough), a label of a run, a URL, or a document's id.

    Raises ConfigError when nothing is meant.
    """
    if "://" in what or DOCUMENT.fullmatch(what):
        return provenance(store, list(newest_runs(store, runs)), what)
    artifact, label = find(store, runs, what)
    manifest = artifact.manifest
    told = {key: manifest.get(key) for key in ("stage", "version", "created", "counts", "config", "software")}
    files = [{key: entry.get(key) for key in ("name", "rows", "bytes")} for entry in artifact.files]
    return {
        **told,
        "label": label,
        "fingerprint": artifact.fingerprint,
        "path": str(artifact.path),
        "files": files,
        "lineage": lineage(store, artifact),
        **inside(artifact),
    }


def newest_runs(store: Store, runs: Path) -> Iterator[Run]:
    """The runs there are, newest first."""
    folders = sorted((path.parent for path in runs.glob("*/stages.json")), key=lambda folder: folder.name, reverse=True)
    yield from (Run(folder, store) for folder in folders)


def find(store: Store, runs: Path, what: str) -> tuple[Artifact, str]:
    """The artifact that is meant and its label: by label, then by stage in the newest run that has it, then anywhere in the store."""
    stage, slash, prefix = what.partition("/")
    if slash:
        return _by_prefix(store, stage, prefix), ""
    for matches in (lambda made: made.label == what, lambda made: made.stage == what):
        for run in newest_runs(store, runs):
            if found := [made for made in run.made if matches(made)]:
                return found[-1].artifact, found[-1].label
    if stored := [artifact for artifact in store.all() if artifact.stage == what]:
        return max(stored, key=lambda artifact: str(artifact.manifest.get("created"))), ""
    names = {artifact.stage for artifact in store.all()} | {row["label"] for run in newest_runs(store, runs) for row in run.rows}
    near = difflib.get_close_matches(what, sorted(names), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(sorted(names)) or 'nothing yet; start with `textmill run`'}"
    raise ConfigError(f"no finished stage, label or artifact {what!r}; {hint}")


def _by_prefix(store: Store, stage: str, prefix: str) -> Artifact:
    found = [artifact for artifact in store.all() if artifact.stage == stage and artifact.fingerprint.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    there = [artifact.fingerprint for artifact in store.all() if artifact.stage == stage]
    problem = "fits several" if found else "fits none"
    raise ConfigError(f"{stage}/{prefix} {problem}; of stage {stage} there are {', '.join(there) or 'none'}")


def lineage(store: Store, artifact: Artifact) -> list[Row]:
    """Everything it was made from, up to the roots, nearest first; an artifact whose folder is gone is named and marked."""
    rows: list[Row] = []
    seen: set[tuple[str, str]] = set()
    level = [artifact]
    depth = 0
    while level:
        depth += 1
        above: list[Artifact] = []
        for made in level:
            for name, source in made.manifest["inputs"].items():
                key = (source["stage"], source["fingerprint"])
                parent = store.find(*key)
                rows.append(
                    {"depth": depth, "of": made.stage, "input": name, "stage": key[0], "fingerprint": key[1], "there": parent is not None}
                )
                if parent is not None and key not in seen:
                    above.append(parent)
                seen.add(key)
        level = above
    return rows


def inside(artifact: Artifact) -> Row:
    """What is worth seeing of this kind of artifact."""
    looks = {
        "links": _links,
        "extract": _links,
        "crawl": _crawl,
        "filter": _rejected,
        "takedown": _taken,
        "decontaminate": _shared,
        "dedup": _clusters,
        "encode": _languages,
        "evaluate": _scores,
    }
    found = looks.get(artifact.stage, _nothing)(artifact)
    if card := read_json(artifact.path / "card.json"):
        lines = (
            (artifact.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if (artifact.path / "metrics.jsonl").exists() else []
        )
        found |= {"card": card, "metrics": lines[-LAST_POINTS:]}
    if meta := read_json(artifact.path / "tokenizer" / "meta.json"):
        found["meta"] = meta
    return {**found, "samples": samples(artifact)}


def samples(artifact: Artifact) -> list[Row]:
    """The first rows of the first shard that has any, long values cut short."""
    for path in artifact.shards:
        if rows := shards.read(path).slice(0, SAMPLES).to_pylist():
            return [{key: _short(value) for key, value in row.items()} for row in rows]
    return []


def _short(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and len(value) > SNIPPET:
        return value[:SNIPPET] + "…"
    return [*value[:32], "…"] if isinstance(value, list) and len(value) > 32 else value


def _nothing(artifact: Artifact) -> Row:
    return {}


def _links(artifact: Artifact) -> Row:
    return {"set_aside": _by(artifact.side("set_aside"), "reason")}


def _rejected(artifact: Artifact) -> Row:
    return {"rejected": _by(artifact.side("rejected"), "rule")}


def _taken(artifact: Artifact) -> Row:
    return {"rejected": _by(artifact.side("taken"), "rule")}


def _shared(artifact: Artifact) -> Row:
    return {"rejected": _by(artifact.side("overlaps"), "task"), "items": _by(artifact.side("items"), "state")}


def _by(paths: list[Path], column: str) -> dict[str, list[Row]]:
    """A few rows of each value of a column."""
    found: dict[str, list[Row]] = {}
    for row in first_rows(paths, column):
        rows = found.setdefault(row[column], [])
        if len(rows) < SAMPLES:
            rows.append({key: _short(value) for key, value in row.items() if key != column})
    return dict(sorted(found.items()))


def _crawl(artifact: Artifact) -> Row:
    outcomes: dict[str, int] = {}
    for path in artifact.shards:
        for each in pc.value_counts(shards.read(path)["outcome"]).to_pylist():
            outcomes[each["values"]] = outcomes.get(each["values"], 0) + each["counts"]
    return {"outcomes": dict(sorted(outcomes.items(), key=lambda item: (-item[1], item[0])))}


def _clusters(artifact: Artifact) -> Row:
    """Lists of document ids, the survivor first; and some of the paragraphs that were cut, with the document that keeps each."""
    members: dict[str, list[tuple[bool, str]]] = {}
    for path in artifact.side("clusters"):
        for row in shards.read(path).select(["cluster", "document", "survivor"]).to_pylist():
            members.setdefault(row["cluster"], []).append((not row["survivor"], row["document"]))
    cut = first_rows(artifact.side("paragraphs"), "")
    return {
        "clusters": [[document for _, document in sorted(found)] for _, found in sorted(members.items())],
        "paragraphs": [{key: _short(row[key]) for key in ("text", "url", "kept_in")} for row in cut],
    }


def _languages(artifact: Artifact) -> Row:
    return {"languages": languages(artifact)}


def _scores(artifact: Artifact) -> Row:
    return {"scores": read_json(artifact.path / "scores.json") or {}}


def render(found: Row, console: Any) -> None:
    """Print it with rich, which a program that wants the dictionary need not load."""
    from pipelines.show_render import render as print_with

    print_with(found, console)
