"""What a run has to tell, gathered from its folder and its artifacts' manifests; stages that are not there are left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from data_prep import shards
from data_prep.examples.languages import languages
from infra.store import Store
from pipelines import report_scores
from pipelines.report_runs import Made, Row, Run, read_json

EXAMPLES = 3  # shown of each rule
LANGUAGES = 20  # of an encoding shown, with the row for all of them
OPERATORS = 15  # of a profile shown
SNIPPET = 220  # characters of a text shown
CORPUS = ("links", "crawl", "warc", "documents", "extract", "gather", "filter", "dedup", "takedown", "decontaminate", "encode")


def gather(folder: Path, store: Store) -> Row:
    """Everything the page shows, as plain JSON."""
    run = Run(folder, store)
    status = run.status
    return {
        "run": {
            "id": folder.name,
            **{key: status[key] for key in ("name", "state", "started", "updated", "seconds", "error") if key in status},
        },
        "funnel": funnel(run),
        "removed": removed(run),
        "tasks": tasks(run),
        "languages": [{"label": made.label, **row} for made in run.of("encode") for row in languages(made.artifact)[:LANGUAGES]],
        "crawl": crawl(run),
        "archives": archives(run),
        "timing": [
            {key: row.get(key) for key in ("label", "stage", "state", "seconds", "fingerprint", "path", "inputs")} for row in run.rows
        ],
        "curves": [curve(made, run) for made in run.of("pretrain", "distill", "finetune") if has(made, "metrics.jsonl")],
        "models": report_scores.models(run),
        "scores": report_scores.scores(run),
        "task_files": report_scores.task_files(run),
        "students": report_scores.students(run),
        "environment": read_json(folder / "env.json") or {},
        "recipe": (folder / "recipe.yaml").read_text(encoding="utf-8") if (folder / "recipe.yaml").exists() else "",
    }


def has(made: Made, name: str) -> bool:
    """Whether the artifact holds a file of this name."""
    return any(entry["name"] == name for entry in made.artifact.files)


def funnel(run: Run) -> list[Row]:
    """From links to tokens: what came into each stage, what left it, and how much a rule removed or set aside."""
    rows = []
    for made in sorted(run.of(*CORPUS), key=lambda made: CORPUS.index(made.stage)):
        counts = made.counts
        kept = counts.get("kept", sum(entry["rows"] or 0 for entry in made.artifact.files if "/" not in entry["name"]))
        read = counts.get("read", kept)
        row = {
            "stage": made.label,
            "read": read,
            "kept": kept,
            "removed": _sum(counts, "removed."),
            "set_aside": _sum(counts, "set_aside."),
            "kept_share": round(kept / read, 4) if read else None,
            "tokens": counts.get("tokens"),
        }
        rows.append(row)
    return rows


def _sum(counts: dict[str, int], prefix: str) -> int:
    return sum(value for name, value in counts.items() if name.startswith(prefix))


def removed(run: Run) -> list[Row]:
    """For each stage and rule: how many, and a few examples."""
    rows = []
    for made in sorted(run.of(*CORPUS), key=lambda made: CORPUS.index(made.stage)):
        shown = examples(made)
        read = made.counts.get("read", 0)
        for name, count in sorted(made.counts.items(), key=lambda item: (-item[1], item[0])):
            kind, _, rule = name.partition(".")
            if kind in ("removed", "set_aside") and count:
                rows.append(
                    {
                        "stage": made.label,
                        "kind": kind,
                        "rule": rule,
                        "count": count,
                        "share": round(count / read, 4) if read else None,
                        "examples": shown.get(rule, []),
                    }
                )
    return rows


def examples(made: Made) -> dict[str, list[Row]]:
    """A few rows of every rule, read from the side shards that each stage leaves."""
    readers: dict[str, tuple[str, Callable[[Row], tuple[str, str, str]]]] = {
        "links": ("set_aside", lambda row: (row["reason"], row["source"], row["line"])),
        "extract": ("set_aside", lambda row: (row["reason"], row["url"], "")),
        "warc": ("set_aside", lambda row: (row["reason"], row["url"] or row["source"], row["source"])),
        "filter": ("rejected", lambda row: (row["rule"], row["url"] or row["source"], f"[{row['value']:.4g}] {row['text']}")),
        "decontaminate": ("overlaps", lambda row: (row["task"], row["url"] or row["document"], row["words"])),
    }
    if made.stage == "dedup":
        return twins(made)
    if made.stage not in readers:
        return {}
    side, read = readers[made.stage]
    found: dict[str, list[Row]] = {}
    for row in first_rows(made.artifact.side(side), {"filter": "rule", "decontaminate": "task"}.get(made.stage, "reason")):
        rule, where, text = read(row)
        if len(found.setdefault(rule, [])) < EXAMPLES:
            found[rule].append({"where": where, "text": " ".join(text.split())[:SNIPPET]})
    return found


def tasks(run: Run) -> list[Row]:
    """For each task what of it was found in the corpus, and how many of its items could not be looked for."""
    rows = []
    for made in run.of("decontaminate"):
        names = [name.partition(".")[2] for name in made.counts if name.startswith("items.")]
        kinds = ("items", "items_dirty", "items_common", "items_unchecked", "overlaps", "grams", "removed")
        shown = examples(made)
        for name in sorted(names):
            told = {kind: made.counts.get(f"{kind}.{name}", 0) for kind in kinds}
            rows.append({"task": name, **told, "examples": shown.get(name, [])})
    return rows


def twins(made: Made) -> dict[str, list[Row]]:
    """A few removed duplicates beside what was kept instead."""
    columns = ["cluster", "document", "url", "survivor", "jaccard"]
    rows = [row for path in made.artifact.side("clusters") for row in shards.read(path).select(columns).to_pylist()]
    kept = {row["cluster"]: row["url"] or row["document"] for row in rows if row["survivor"]}
    found: dict[str, list[Row]] = {}
    for row in rows:
        # Equal shingles need not be equal texts, but where exact twins were removed nearly all of these are.
        rule = "exact" if row["jaccard"] == 1.0 and made.counts.get("removed.exact") else "near"
        if not row["survivor"] and len(found.setdefault(rule, [])) < EXAMPLES:
            told = f"Jaccard {row['jaccard']:.3f} with {kept.get(row['cluster'], row['cluster'])}, which was kept"
            found[rule].append({"where": row["url"] or row["document"], "text": told})
    return found


def first_rows(paths: list[Path], column: str) -> Iterator[Row]:
    """The first rows of every value of a column, shard by shard; without the column, the first rows."""
    for path in paths:
        table = shards.read(path)
        if column not in table.column_names:
            yield from table.slice(0, EXAMPLES).to_pylist()
            continue
        values = table[column]
        for value in sorted(set(values.unique().to_pylist()) - {None}):
            yield from table.filter(pc.equal(values, value)).slice(0, EXAMPLES).to_pylist()


def crawl(run: Run) -> Row:
    """How the requests ended, with examples of each ending that is no success."""
    outcomes: Counter[str] = Counter()
    shown: dict[str, list[Row]] = {}
    size = 0
    for made in run.of("crawl"):
        for path in made.artifact.shards:
            table = shards.read(path)
            outcomes.update(table["outcome"].to_pylist())
            size += pc.sum(table["bytes"]).as_py() or 0
        for row in first_rows(made.artifact.shards, "outcome"):
            if row["outcome"] != "ok" and len(shown.setdefault(row["outcome"], [])) < EXAMPLES:
                shown[row["outcome"]].append(
                    {"where": row["url"], "text": " ".join(str(row[key]) for key in ("status", "reason") if row[key])}
                )
    told = [{"outcome": name, "count": count, "examples": shown.get(name, [])} for name, count in outcomes.most_common()]
    return {"outcomes": told, "pages": sum(outcomes.values()), "bytes": size} if told else {}


def archives(run: Run) -> list[Row]:
    """What the bytes and records of each source of archives became: pages (by outcome), skipped records, quarantined ones."""
    rows = []
    for made in run.of("warc"):
        counts = made.counts
        row: Row = {"label": made.label, "records": counts.get("records_read", 0), "pages": counts.get("kept", 0)}
        row["quarantined"] = _sum(counts, "set_aside.")
        row |= {name: counts.get(name, 0) for name in ("bytes_read", "bytes_delivered", "bytes_skipped", "bytes_quarantined")}
        row["outcomes"], row["skipped"] = _listed(counts, "outcome."), _listed(counts, "records_skipped.")
        rows.append(row)
    return rows


def _listed(counts: dict[str, int], prefix: str) -> str:
    return ", ".join(f"{value} {name.removeprefix(prefix)}" for name, value in sorted(counts.items()) if name.startswith(prefix))


def curve(made: Made, run: Run) -> Row:
    """The losses of one training, with the loss of guessing by frequency alone."""
    points = []
    for line in made.artifact.file("metrics.jsonl").read_text(encoding="utf-8").splitlines():
        point = json.loads(line)
        kept: tuple[str, ...] = ("step", "tokens", "loss", "parts", "lr", "valid_loss", "valid_parts", "tokens_per_s", "norm", "speed")
        kept += ("valid_perplexity", "valid_bits_per_byte", "valid_accuracy")
        points.append({key: point[key] for key in kept if point.get(key) is not None})
    baseline = report_scores.unigram_of(run, made.label) or unigram(made, run) if made.stage != "finetune" else None
    told = read_json(made.artifact.path / "profile" / "operators.json") or {}
    profile = {**told, "operators": told["operators"][:OPERATORS]} if told else {}
    return {"label": made.label, "stage": made.stage, "unigram": baseline, "points": points, "profile": profile}


def unigram(made: Made, run: Run) -> float | None:
    """Nats per token on held-out text of a model that knows only how often each token comes in the training text."""
    source = made.artifact.manifest["inputs"].get("sentences")
    found = run.store.find(source["stage"], source["fingerprint"]) if source else None
    if found is None:
        return None
    train, valid = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for path, side in zip(found.shards, found.side("documents"), strict=True):
        table, documents = shards.read(path), shards.read(side)
        held = np.asarray(pc.equal(documents["split"], "valid").combine_chunks().to_numpy(zero_copy_only=False))
        for chunk_tokens, chunk_documents in zip(table["tokens"].chunks, table["document"].chunks, strict=True):
            lengths = np.diff(chunk_tokens.offsets.to_numpy())
            is_held = np.repeat(held[chunk_documents.to_numpy()], lengths)
            flat = chunk_tokens.flatten().to_numpy()
            train, valid = _add(train, np.bincount(flat[~is_held])), _add(valid, np.bincount(flat[is_held]))
    if not valid.sum() or not train.sum():
        return None
    train, valid = _add(train, np.zeros(valid.size, np.int64)), _add(valid, np.zeros(train.size, np.int64))
    chance = (train + 1) / (train.sum() + train.size)  # one for the tokens the training text never had
    return round(float(-(valid * np.log(chance)).sum() / valid.sum()), 4)


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = np.zeros(max(a.size, b.size), np.int64)
    wide[: a.size] += a
    wide[: b.size] += b
    return wide
