"""The way of one page through a run and all that the run builds on: from its line in a dump to the shard of the corpus it stands in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep import shards
from infra.artifact import Artifact
from infra.errors import ArtifactError, ConfigError
from infra.store import Store
from pipelines.report_runs import Row, Run

ID = re.compile(r"(?:id:)?([0-9a-f]{16})")
# where each stage keeps the rows of a page, and what it means to be found there; the order is the chain's
PLACES = {
    "links": (("", "listed"),),
    "crawl": (("", "requested"),),
    "warc": (("", "requested"),),
    "documents": (("", "kept"),),
    "extract": (("", "kept"), ("set_aside", "set aside")),
    "gather": (("", "kept"),),
    "filter": (("", "kept"), ("rejected", "removed")),
    "dedup": (("", "kept"), ("duplicates", "removed")),
    "takedown": (("", "kept"), ("taken", "removed")),
    "decontaminate": (("", "kept"), ("removed", "removed")),
    "encode": (("documents", "encoded"),),
}
HIDDEN = ("text", "url", "host", "sha256")


def provenance(store: Store, runs: list[Run], what: str) -> Row:
    """Of a URL, or of a document's id: the facts of its origin, and what each stage did with it, in the newest run that knows it.

    Raises ConfigError when no run does.
    """
    for run in runs:
        sources = list(sources_of(store, run))
        wanted = _wanted(sources, what)
        if steps := [step for label, artifact in sources for step in _steps(artifact, label, wanted)]:
            told = [{key: value for key, value in step.items() if key != "sha256"} for step in steps]
            return {
                "url": wanted["url"][0] if wanted["url"] else what,
                "run": run.folder.name,
                "origin": origin(store, steps),
                "steps": told,
            }
    raise ConfigError(f"no run knows {what}; `textmill show links` shows how its links are written")


def sources_of(store: Store, run: Run) -> Iterator[tuple[str, Artifact]]:
    """Label and artifact of every stage of the corpus: of the run, and of the earlier dates it builds on; in the chain's order."""
    found = {(made.stage, made.artifact.fingerprint): (made.label, made.artifact) for made in run.made if made.stage in PLACES}
    for name, artifact in _earlier(store, [made.artifact for made in run.made if made.stage == "dedup"]):
        if artifact.stage != "dedup":  # a grown corpus holds its earlier parts itself
            found.setdefault((artifact.stage, artifact.fingerprint), (name, artifact))
    order = list(PLACES)
    yield from sorted(found.values(), key=lambda item: (order.index(item[1].stage), str(item[1].manifest.get("created"))))


def _earlier(store: Store, grown: list[Artifact]) -> Iterator[tuple[str, Artifact]]:
    """Everything that went into the earlier parts of a corpus, each once."""
    seen: set[tuple[str, str]] = set()
    waiting = [made.manifest["inputs"].get("earlier") for made in grown]
    while waiting:
        place = waiting.pop()
        if place is None or (place["stage"], place["fingerprint"]) in seen or place["stage"] not in PLACES:
            continue
        seen.add((place["stage"], place["fingerprint"]))
        if artifact := store.here(place["stage"], place["fingerprint"]):
            yield f"{artifact.stage} (earlier)", artifact
            waiting += artifact.manifest["inputs"].values()


def _wanted(sources: list[tuple[str, Artifact]], what: str) -> dict[str, list[str]]:
    """The values of `url` and `id` that mean the page. A document's id leads to its URL, which the first stages know it by."""
    from data_prep.corpus.urls import canonical

    if "://" in what:
        return {"url": sorted({canonical(what) or what, what}), "id": []}
    found = ID.fullmatch(what)
    name = found[1] if found else what.removeprefix("id:")
    for _, artifact in sources:
        for path in artifact.shards:
            table = shards.read(path)
            if "id" in table.column_names and "url" in table.column_names:
                rows = table.filter(pc.equal(table["id"], name)).select(["url"]).to_pylist()
                if rows:
                    return {"url": [row["url"] for row in rows[:1] if row["url"]], "id": [name]}
    return {"url": [], "id": [name]}


def _steps(artifact: Artifact, label: str, wanted: dict[str, list[str]]) -> Iterator[Row]:
    """What one stage did with it: one row for each place where it is found."""
    for side, status in PLACES[artifact.stage]:
        for path in artifact.side(side) if side else artifact.shards:
            for row in rows_with(path, wanted):
                told = {key: value for key, value in row.items() if key not in HIDDEN and value not in ("", None)}
                told["http_status"] = told.pop("status", None)
                if told.get("warc_file"):
                    told["warc"] = f"{artifact.stage}/{artifact.fingerprint}/{told.pop('warc_file')}"
                if row.get("text"):
                    told["sha256"] = _hash(row["text"])
                told = {key: value for key, value in told.items() if value is not None}
                yield {"stage": label, "status": row.get("outcome", status), "shard": path.name, **told}


def origin(store: Store, steps: list[Row]) -> Row:
    """The page's facts in one place: id, title, date; the line of the list it came from and its karma; when it was fetched, and where
    its record stands: the WARC file's path and the offset in it, in bytes.
    """
    facts: Row = {}
    for key in ("id", "title", "date", "language", "karma", "source", "fetched_at", "http_status", "warc", "warc_offset", "sha256"):
        values = [step[key] for step in steps if key in step]
        if values:
            facts[key] = values[0] if key in ("karma", "source") else values[-1]  # the list's own line; else what came last
    if "warc" in facts:
        facts["warc"] = str(store.root / facts["warc"])
    return facts


def _hash(text: str) -> str:
    from data_prep.corpus.takedown import text_hash

    return text_hash(text)


def rows_with(path: Path, wanted: dict[str, list[str]]) -> list[Row]:
    """The rows of a shard with one of these URLs or ids. Raises ArtifactError when its rows have neither."""
    table = shards.read(path)
    column = next((name for name in ("url", "id") if name in table.column_names and wanted[name]), None)
    if column is None:
        if {"url", "id"} & set(table.column_names):
            return []
        raise ArtifactError(f"{path}: no column url or id among {', '.join(table.column_names)}")
    found: list[Row] = table.filter(pc.is_in(table[column], value_set=pa.array(wanted[column]))).to_pylist()
    return found
