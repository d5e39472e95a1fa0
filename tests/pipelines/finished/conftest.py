"""A small finished run, written through the real store, stage by stage, for whatever reads runs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from data_prep import schemas, shards
from data_prep.corpus.deduping.writing import CUTS
from infra.compute import LocalCompute
from infra.stage import Stage, run
from infra.store import Store

HOSTILE = "<script>alert('x')</script> | [click](javascript:alert) <img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class Config:
    name: str
    control: bool = False
    from_scratch: bool = False


def row_of(schema, **values):
    empty = {pa.string(): "", pa.int64(): 0, pa.int32(): None, pa.float64(): 0.0, pa.bool_(): False}
    return {field.name: values.get(field.name, empty[field.type]) for field in schema}


def table(schema, rows):
    return pa.Table.from_pylist([row_of(schema, **row) for row in rows], schema=schema)


def url(number):
    return f"http://site.test/{number}.html"


DOCUMENTS = [
    {"id": f"{n:016x}", "url": url(n), "host": "site.test", "title": f"Page {n}", "text": f"Text of page {n}. " * 20} for n in range(6)
]


def links(config, inputs, out, compute):
    rows = [{"url": url(n), "host": "site.test", "karma": n + 3, "source": f"dump.csv.gz:{n + 2}"} for n in range(9)]
    shards.write(table(schemas.LINKS, rows), out / shards.name(0))
    aside = pa.table({"line": [HOSTILE], "source": ["dump.csv.gz:99"], "reason": ["wrong_columns"]})
    shards.write(aside, out / "set_aside" / shards.name(0))
    return {"read": 15, "kept": 9, "removed.low_karma": 5, "set_aside.wrong_columns": 1}


def crawl(config, inputs, out, compute):
    ends = ["ok"] * 6 + ["http_error", "robots", "dead_host"]
    rows = [
        {
            "url": url(n),
            "final_url": url(n),
            "host": "site.test",
            "outcome": end,
            "status": 200 if end == "ok" else None,
            "karma": n + 3,
            "reason": "" if end == "ok" else HOSTILE,
            "fetched_at": "2026-01-01T00:00:00Z",
            "bytes": 1000,
            "source": f"dump.csv.gz:{n + 2}",
            "warc_file": "warc/00000.warc.gz" if end == "ok" else "",
            "warc_offset": 100 * n,
        }
        for n, end in enumerate(ends)
    ]
    shards.write(table(schemas.PAGES, rows), out / shards.name(0))
    return {"read": 9, "kept": 9}


def extract(config, inputs, out, compute):
    shards.write(table(schemas.DOCUMENTS, DOCUMENTS), out / shards.name(0))
    return {"read": 6, "kept": 6}


def filter_(config, inputs, out, compute):
    shards.write(table(schemas.DOCUMENTS, DOCUMENTS[:4]), out / shards.name(0))
    bad = [{**row, "text": HOSTILE, "rule": "min_words", "value": 3.0} for row in DOCUMENTS[4:]]
    shards.write(table(schemas.REJECTED, bad), out / "rejected" / shards.name(0))
    return {"read": 6, "kept": 4, "removed.min_words": 2}


def dedup(config, inputs, out, compute):
    shards.write(table(schemas.DOCUMENTS, DOCUMENTS[:3]), out / shards.name(0))
    twin = [{**DOCUMENTS[3], "survivor_id": DOCUMENTS[0]["id"]}]
    shards.write(table(schemas.DUPLICATES, twin), out / "duplicates" / shards.name(0))
    pair = [
        {"cluster": DOCUMENTS[0]["id"], "document": DOCUMENTS[n]["id"], "url": url(n), "survivor": n == 0, "jaccard": 1.0 - n / 30}
        for n in (0, 3)
    ]
    shards.write(table(schemas.CLUSTERS, pair), out / "clusters" / shards.name(0))
    cut = [
        {
            "row": 1,
            "line": 0,
            "holder": 0,
            "document": DOCUMENTS[1]["id"],
            "url": url(1),
            "text": "All rights.",
            "kept_in": DOCUMENTS[0]["id"],
        }
    ]
    shards.write(table(CUTS, cut), out / "paragraphs" / shards.name(0))
    return {"read": 4, "kept": 3, "removed.near": 1}


def encode(config, inputs, out, compute):
    rows = {"document": [0, 1, 2, 2], "tokens": [[1, 2, 3, 1], [1, 1, 2, 2], [1, 2], [3, 3]]}
    shards.write(pa.table(rows, schema=schemas.sentences(10)), out / shards.name(0))
    side = [
        {
            "id": DOCUMENTS[n]["id"],
            "url": url(n),
            "split": "valid" if n == 2 else "train",
            "first": n,
            "sentences": 1 + (n == 2),
            "tokens": 4,
            "bytes": 40,
        }
        for n in range(3)
    ]
    shards.write(pa.Table.from_pylist(side, schema=schemas.ENCODED), out / "documents" / shards.name(0))
    sums = {"documents": 1, "sentences": 2, "words": 4, "letters": 30, "bytes": 40, "tokens": 6, "unknown": 0}
    rows = [{"language": "en", **sums}, {"language": "ko", **sums, "bytes": 80, "unknown": 3}]
    shards.write(pa.Table.from_pylist(rows, schema=schemas.LANGUAGES), out / "languages" / shards.name(0))
    return {"read": 3, "kept": 3, "tokens": 12, "sentences": 4}


def model(config, inputs, out, compute):
    (out / "model").mkdir(exist_ok=True)
    (out / "model" / "config.json").write_text("{}")
    lines = []
    for step in range(0, 100, 5):
        point = {
            "step": step,
            "tokens": 128 * step,
            "loss": 2 * math.exp(-step / 40),
            "parts": {"mlm": 1.6 * math.exp(-step / 40), "nsp": 0.4},
            "lr": 1e-3,
        }
        if step % 25 == 20:
            point |= {"valid_loss": 2.1 * math.exp(-step / 40), "valid_parts": {"mlm": 1.7 * math.exp(-step / 40), "nsp": 0.4}}
        lines.append(json.dumps(point) + "\n")
    (out / "metrics.jsonl").write_text("".join(lines))
    card = {
        "family": "bert",
        "size": "tiny",
        "parameters": 1_234_567,
        "steps": 100,
        "tokens": 12_800,
        "valid_loss": 0.2,
        "control": config.control,
    }
    if "model" in inputs:  # fine-tuned
        train = {"rows": 98, "labels": {"no": 40, HOSTILE: 58}, "quarantined": {"quotes": {"rows": 2, "lines": [20, 71]}}}
        dev = {"rows": 30, "labels": {"no": 29, "maybe": 1}, "quarantined": {}, "unknown_labels": {"maybe": 1}, "duplicate_ids": 3}
        card["files"] = {"train": {**train, "unknown_labels": {}, "duplicate_ids": 0}, "dev": dev}
    (out / "card.json").write_text(json.dumps(card))
    return {"steps": 100, "tokens": 12_800}


def interval(value):
    return {"value": value, "low": round(value - 0.03, 4), "high": round(value + 0.02, 4)}


def evaluate(config, inputs, out, compute):
    """scores.json in the three shapes that stage evaluate writes."""
    base = {"sequences": 10, "predicted": 100, "perplexity": 3.49}
    unigram = {**base, "loss": interval(1.5)}
    if config.name == "compare":
        parameters = {"teacher": 2_000, "student": 1_000, "control": 1_000}
        found = {"teacher": {**base, "loss": interval(1.0)}, "unigram": unigram}
        found |= {
            name: {**base, "loss": interval(1.2), "agreement": interval(0.77), "kl": interval(0.31), "gain_kept": interval(0.6)}
            for name in ("student", "control")
        }
        record = {
            "kind": "compare",
            "objective": "mlm+nsp",
            "scores": found,
            "models": {name: {"parameters": n} for name, n in parameters.items()},
        }
        record["minus_control"] = {"student": {"loss": interval(-0.25)}}
    elif config.name == "task":
        found = {"examples": 100, "accuracy": interval(0.9 if config.control is False else 0.8), "f1_of": HOSTILE, "said": {HOSTILE: 3}}
        record = {"kind": "task", "task": "classify", "scores": found, "corrupt": {}}
    else:
        record = {
            "kind": "language",
            "objective": "mlm",
            "scores": {**base, "loss": interval(1.25), "unigram": unigram, "below_unigram": 0.25},
        }
    (out / "scores.json").write_text(json.dumps(record))
    return {"sequences": 10, "predicted": 100}


def kind_of(label):
    return "compare" if label.startswith("compare") else "task" if label.startswith("evaluate packages") else "language"


def carry_out(workspace: Path, until: str = "") -> Path:
    """The folder of a run of these stages, up to and with one of them."""
    store, made, rows = Store(workspace / "artifacts"), {}, []
    fed = {"sentences": "encode pieces"}
    plan = [
        ("links", links, "links", {}),
        ("crawl", crawl, "crawl", {"links": "links"}),
        ("extract", extract, "extract", {"pages": "crawl"}),
        ("filter", filter_, "filter", {"documents": "extract"}),
        ("dedup", dedup, "dedup", {"documents": "filter"}),
        ("encode", encode, "encode pieces", {"documents": "dedup"}),
        ("pretrain", model, "bert", fed),
        ("distill", model, "half", {"teacher": "bert", **fed}),
        ("distill", model, "half-control", {"teacher": "bert", **fed}),
        ("finetune", model, "packages bert", {"model": "bert"}),
        ("finetune", model, "packages half", {"model": "half"}),
        ("evaluate", evaluate, "evaluate bert", {"model": "bert", **fed}),
        ("evaluate", evaluate, "compare half", {"teacher": "bert", "student": "half", "control": "half-control", **fed}),
        ("evaluate", evaluate, "evaluate packages bert", {"model": "packages bert"}),
        ("evaluate", evaluate, "evaluate packages half", {"model": "packages half"}),
    ]
    for number, (stage, work, label, sources) in enumerate(plan):
        config = Config(kind_of(label), control="control" in label or label.endswith("packages half"))
        artifact = run(Stage(stage, 1, work), config, {name: made[source] for name, source in sources.items()}, store, LocalCompute())
        made[label] = artifact
        rows.append(
            {
                "label": label,
                "stage": stage,
                "fingerprint": artifact.fingerprint,
                "path": f"artifacts/{stage}/{artifact.fingerprint}",
                "state": "cached" if number == 0 else "done",
                "seconds": 1.5 * number,
                "inputs": sources,
            }
        )
        if label == until:
            break
    folder = workspace / "runs" / "20260101-000000-demo-abc123"
    folder.mkdir(parents=True)
    (folder / "stages.json").write_text(json.dumps(rows))
    (folder / "status.json").write_text(
        json.dumps({"run": folder.name, "name": "demo", "state": "done", "started": "2026-01-01T00:00:00", "seconds": 99.0})
    )
    (folder / "env.json").write_text(json.dumps({"python": "3.11.7", "cpu": {"cores": 2, "memory_bytes": 24_000_000_000}, "git": None}))
    (folder / "recipe.yaml").write_text(f"name: demo\nnote: {HOSTILE}\n")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run; its store is two folders up, in artifacts/."""
    return carry_out(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def until_dedup(tmp_path_factory) -> Path:
    """The folder of a run that was asked to end after dedup."""
    return carry_out(tmp_path_factory.mktemp("workspace"), until="dedup")


@pytest.fixture(scope="session")
def hostile() -> str:
    """Text that a stranger wrote, found in several places of the run."""
    return HOSTILE
