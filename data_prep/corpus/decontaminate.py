"""Documents in, the same without what the tasks' files say: scores should not be earned by having read the answers.

After Brown et al. 2020 (GPT-3, arXiv:2005.14165), appendix C: a document that shares 13 words in a row with an item is cut there,
with 200 characters on both sides; pieces shorter than 200 characters go, and so does a document of more than 10 pieces. What more
than 10 documents share with the tasks is common phrase or boilerplate, and stays; `items` says of which items this is true.
An item of fewer words than an n-gram cannot be looked for: it is listed as not checkable, never passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import schemas, shards
from data_prep.corpus import overlap, task_texts, words
from data_prep.corpus.overlap import Index
from data_prep.corpus.words import Ints
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage

ITEMS_AT_ONCE = 4096
ITEMS = pa.schema([("task", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("words", pa.int64()), ("state", pa.string())])
HITS = pa.schema([("row", pa.int64()), ("word", pa.int64()), ("gram", pa.int64())])
_TOLD = [(name, pa.string()) for name in ("document", "url", "task", "words", "fate")]
OVERLAPS = pa.schema([*_TOLD, ("grams", pa.int64())])
REMOVED = schemas.DOCUMENTS.append(pa.field("task", pa.string()))


@dataclass(frozen=True)
class TaskFiles:
    """A task's name and its files, those to learn from and those to be scored on."""

    name: str
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class DecontaminateConfig:
    """action: cut (around what is shared) or drop (the whole document). max_documents: None takes common phrases out too."""

    tasks: tuple[TaskFiles, ...] = ()
    ngram: int = 13
    action: str = "cut"
    window: int = 200
    min_characters: int = 200
    max_pieces: int = 10
    max_documents: int | None = 10

    def __post_init__(self) -> None:
        """Raises ConfigError on limits that nothing could meet, and on files that cannot be read."""
        if self.action not in ("cut", "drop"):
            raise ConfigError(f"decontaminate: action {self.action!r} is neither cut nor drop")
        if self.ngram < 2 or self.max_pieces < 1 or (self.max_documents is not None and self.max_documents < 1):
            raise ConfigError("decontaminate: ngram must be at least 2, max_pieces and max_documents at least 1")
        if self.window < 0 or self.min_characters < 0:
            raise ConfigError("decontaminate: window and min_characters must not be below 0")
        for task in self.tasks:
            for file in task.files:
                task_texts.kind_of(file.name or Path(file.path).name)


def work(config: DecontaminateConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Index the tasks, find what each shard shares with them, tell the common from the rare, then cut."""
    scratch, sources = out / ".work", inputs["documents"].shards
    compute.map("decontaminate tasks", partial(read_task, config, scratch), range(len(config.tasks)))
    compute.map("decontaminate find", partial(find, config, scratch), sources)
    hits = _all_hits(scratch, sources)
    index, listed = load_index(config, scratch)
    common = common_grams(hits, config.max_documents)
    shards.write(pa.table({"gram": common}), scratch / "common.arrow")
    counts = shards.each_path("decontaminate", partial(clean_shard, config, scratch), sources, out, compute)
    told, told_counts = tell_items(listed, index, hits[:, 1], common)
    shards.write(told, out / "items" / shards.name(0), told_counts)
    return shards.balance("decontaminate", counts | told_counts | {"common_grams": len(common)})


def read_task(config: DecontaminateConfig, scratch: Path, number: int) -> None:
    """Write the task's items, and which n-grams each of them holds."""
    path = scratch / "items" / shards.name(number)
    if path.exists():
        return
    listed: list[dict[str, Any]] = []
    grams, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for name, part in _items(config.tasks[number], config.ngram):
        texts = [text for item in part for text in item.texts]
        item_of = np.repeat(np.arange(len(part)), [len(item.texts) for item in part])
        found = overlap.grams(texts, config.ngram)
        grams.append(found.values)
        owners.append(len(listed) + np.repeat(item_of, np.diff(found.starts)))
        longest = [max(map(overlap.count, item.texts)) for item in part]
        listed += [{"file": name, "row": item.number, "words": most} for item, most in zip(part, longest, strict=True)]
    table = pa.table({"gram": np.concatenate(grams), "item": np.concatenate(owners)})
    shards.write(table, scratch / "grams" / shards.name(number))
    rows = [{"task": config.tasks[number].name, "state": "clean" if row["words"] >= config.ngram else "unchecked", **row} for row in listed]
    shards.write(pa.Table.from_pylist(rows, schema=ITEMS), path, needs=[scratch / "grams" / path.name])


def load_index(config: DecontaminateConfig, scratch: Path) -> tuple[Index, pa.Table]:
    """The n-grams of all tasks, and all items, numbered through."""
    grams, owners, tables = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [ITEMS.empty_table()]
    before = 0
    for number in range(len(config.tasks)):
        table = shards.read(scratch / "grams" / shards.name(number))
        grams.append(table["gram"].to_numpy())
        owners.append(table["item"].to_numpy() + before)
        tables.append(shards.read(scratch / "items" / shards.name(number)).replace_schema_metadata(None))
        before += tables[-1].num_rows
    return overlap.index_of(np.concatenate(grams), np.concatenate(owners)), pa.concat_tables(tables).combine_chunks()


def find(config: DecontaminateConfig, scratch: Path, shard: Path) -> None:
    """Write which words of which documents begin an n-gram of a task."""
    path = scratch / "hits" / shard.name
    if path.exists():
        return
    index, _ = load_index(config, scratch)
    found, rows = [np.zeros((0, 3), np.int64)], 0
    for batch in words.batches(shards.read(shard)["text"]):
        grams = overlap.grams([text or "" for text in batch.to_pylist()], config.ngram)
        places, numbers = index.hits(grams.values)
        document = np.searchsorted(grams.starts, places, side="right") - 1
        found.append(np.stack((document + rows, places - grams.starts[document], numbers), axis=1))
        rows += len(batch)
    together = np.concatenate(found)
    shards.write(pa.table(dict(zip(HITS.names, together.T, strict=True)), schema=HITS), path)


def common_grams(hits: Ints, limit: int | None) -> Ints:
    """The grams, ascending, that more than `limit` documents hold; hits are (document, gram)."""
    if limit is None:
        return np.zeros(0, np.int64)
    numbers, documents = np.unique(np.unique(hits, axis=0)[:, 1], return_counts=True)
    return numbers[documents > limit]


def clean_shard(config: DecontaminateConfig, scratch: Path, shard: Path, _out: Path) -> shards.Made:
    """The shard without what it shares with the tasks."""
    index, listed = load_index(config, scratch)
    hits = _hits(scratch, shard)
    hits = hits[~np.isin(hits[:, 2], shards.read(scratch / "common.arrow")["gram"].to_numpy())]
    documents, tasks = shards.read(shard), listed["task"].to_pylist()
    texts, gone = documents["text"].to_pylist(), np.zeros(documents.num_rows, np.bool_)
    counts: Counts = {"read": documents.num_rows, "cut": 0}
    overlaps: list[dict[str, Any]] = []
    first_task: list[str] = []
    for row in np.unique(hits[:, 0]).tolist():
        here = hits[hits[:, 0] == row]
        spans = overlap.spans(texts[row])
        left = "" if config.action == "drop" else without(config, texts[row], spans, here[:, 1])
        named = {"document": documents["id"][row].as_py(), "url": documents["url"][row].as_py(), "fate": "cut" if left else "removed"}
        by_task = list(_by_task(config, tasks, index, here))
        overlaps += [{**named, "task": t, "grams": n, "words": _shown(texts[row], spans, at, config.ngram)} for t, n, at in by_task]
        for task, number, _ in by_task:
            _add(counts, f"overlaps.{task}", 1)
            _add(counts, f"grams.{task}", number)
        if left:
            counts["cut"] += 1
            texts[row] = left
        else:
            gone[row] = True
            first_task.append(by_task[0][0])
            _add(counts, f"removed.{by_task[0][0]}", 1)
    removed = documents.filter(pa.array(gone)).append_column("task", pa.array(first_task, pa.string())).cast(REMOVED)
    column = documents.column_names.index("text")
    kept = documents.set_column(column, "text", pa.array(texts, pa.string())).filter(pa.array(~gone))
    counts["kept"] = kept.num_rows
    sides = {"overlaps": pa.Table.from_pylist(overlaps, schema=OVERLAPS), "removed": removed}
    return shards.Made(kept.cast(schemas.DOCUMENTS), shards.balance("decontaminate", counts), sides)


def without(config: DecontaminateConfig, text: str, spans: Ints, places: Ints) -> str:
    """The pieces of the text that stay, a blank line between them; "" when it is better given up whole."""
    pieces, begin = [], 0
    for start, stop in _merged(config, text, spans, places):
        pieces.append(text[begin:start].strip())
        begin = stop
    pieces.append(text[begin:].strip())
    if len(pieces) > config.max_pieces:
        return ""
    return "\n\n".join(piece for piece in pieces if piece and len(piece) >= config.min_characters)


def tell_items(listed: pa.Table, index: Index, numbers: Ints, common: Ints) -> tuple[pa.Table, Counts]:
    """The items that are not clean, and how many there are by task and state.

    dirty: found and taken out. common: found in too many documents to be taken out. unchecked: too short to be looked for.
    """
    found = np.unique(numbers)
    states = np.array(listed["state"].to_pylist(), object)
    states[index.items_of(common.tolist())] = "common"
    states[index.items_of(np.setdiff1d(found, common).tolist())] = "dirty"
    listed = listed.set_column(listed.column_names.index("state"), "state", pa.array(states.tolist(), pa.string()))
    counts: Counts = {}
    for task, state in zip(listed["task"].to_pylist(), states.tolist(), strict=True):
        _add(counts, f"items.{task}", 1)
        _add(counts, f"items_{state}.{task}", 1)
    return listed.filter(pa.array(states != "clean")), dict(sorted(counts.items()))


def _items(task: TaskFiles, least: int) -> Iterator[tuple[str, list[task_texts.Item]]]:
    for file in task.files:
        name = file.name or Path(file.path).name
        part: list[task_texts.Item] = []
        for item in task_texts.items(file):
            if not _is_header(name, item, least):
                part.append(item)
            if len(part) == ITEMS_AT_ONCE:
                yield name, part
                part = []
        if part:
            yield name, part


def _is_header(name: str, item: task_texts.Item, least: int) -> bool:
    """The first row of a table, unless it could be checked: some tables have no header."""
    return item.number == 1 and task_texts.kind_of(name) in task_texts.TABLES and max(map(overlap.count, item.texts)) < least


def _hits(scratch: Path, shard: Path) -> Ints:
    table = shards.read(scratch / "hits" / shard.name)
    return np.stack([table[name].to_numpy() for name in HITS.names], axis=1).reshape(-1, 3)


def _all_hits(scratch: Path, sources: list[Path]) -> Ints:
    """(document, gram) of all shards, documents numbered through."""
    parts, before = [np.zeros((0, 2), np.int64)], 0
    for shard in sources:
        parts.append(_hits(scratch, shard)[:, (0, 2)] + (before, 0))
        before += shards.read(shard).num_rows
    return np.concatenate(parts)


def _by_task(config: DecontaminateConfig, tasks: list[str], index: Index, here: Ints) -> Iterator[tuple[str, int, int]]:
    """(task, n-grams shared with it, the first word of the first) in the order of the config."""
    held: dict[str, list[int]] = {}
    for place, gram in here[:, 1:].tolist():
        for task in {tasks[item] for item in index.items_of([gram]).tolist()}:
            held.setdefault(task, []).append(place)
    for task in dict.fromkeys(task.name for task in config.tasks):
        if task in held:
            yield task, len(held[task]), held[task][0]


def _merged(config: DecontaminateConfig, text: str, spans: Ints, places: Ints) -> Iterator[tuple[int, int]]:
    """What is to be cut out, in order, no two touching; a word at an edge goes with it."""
    begin = end = -1
    for place in np.sort(places).tolist():
        start = _edge(text, int(spans[place, 0]) - config.window, -1)
        stop = _edge(text, int(spans[place + config.ngram - 1, 1]) + config.window, 1)
        if start > end:
            if end >= 0:
                yield begin, end
            begin = start
        end = max(end, stop)
    if end >= 0:
        yield begin, end


def _edge(text: str, place: int, step: int, most: int = 50) -> int:
    """The place, moved outwards to where a word ends; not far, for some scripts have no spaces."""
    place = min(max(place, 0), len(text))
    for at in range(place, place + step * most, step):
        if at <= 0 or at >= len(text) or text[at - 1].isspace() or text[at].isspace():
            return min(max(at, 0), len(text))
    return place


def _shown(text: str, spans: Ints, place: int, n: int) -> str:
    return " ".join(text[int(spans[place, 0]) : int(spans[place + n - 1, 1])].split())


def _add(counts: Counts, name: str, number: int) -> None:
    counts[name] = counts.get(name, 0) + number


DECONTAMINATE = Stage(name="decontaminate", version=2, work=work)
