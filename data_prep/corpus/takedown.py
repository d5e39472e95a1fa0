"""Documents in, those out that somebody asked to have removed: by URL, by domain, by the hash of their text.

The list is a file of its own, one entry a line, `#` begins a comment:

    https://example.com/page            this page, however its URL is spelt
    example.com                         the domain and everything under it
    sha256:9f86d081884c7d65…            every document with exactly this text (UTF-8, NFC)
    id:3f0a1b2c4d5e6f70                 the document with this id, as `textmill show` prints it

The stage stands after the duplicates are gone: near copies of a listed page stay away with it, and tomorrow's copy of it is still
known as one. A shard without a listed document is the same file as before, so everything that works shard by shard keeps its work.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep import shards
from data_prep.corpus import urls
from data_prep.corpus.hosts import domains_of
from data_prep.packed import opened
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError
from infra.reuse import link
from infra.stage import Inputs, Stage

RULES = ("url", "domain", "text", "id")  # in the order in which they are asked
SHA256 = re.compile(r"sha256:([0-9a-f]{64})")
ID = re.compile(r"id:(\S+)")
DOMAIN = re.compile(r"\*\.([\w-]{1,63})|(?:\*\.)?((?:[\w-]{1,63}\.)+[\w-]{1,63})\.?")  # a bare word is a slip, not a top-level domain


@dataclass(frozen=True)
class TakedownConfig:
    """lists: files of what has to go, by content. The entries are read, and a wrong one refused, before any shard is."""

    lists: tuple[SourceFile, ...]

    def __post_init__(self) -> None:
        if not self.lists:
            raise ConfigError("takedown: no list; name a file with a URL, a domain, `sha256:…` or `id:…` on each line")


@dataclass(frozen=True)
class Listed:
    """What has to go, by kind of entry."""

    url: frozenset[str] = frozenset()
    domain: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    id: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return sum(len(getattr(self, rule)) for rule in RULES)


def work(config: TakedownConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Shard by shard; those that lose nothing are linked as they are."""
    listed, sources = read_lists(config.lists), inputs["documents"].shards
    compute.map("takedown", partial(take, listed, out), [shard for shard in sources if not (out / shard.name).exists()])
    counted = shards.total(_counts(out, shard.name) for shard in sources)
    return shards.balance("takedown", {**counted, "listed": len(listed)})


def read_lists(files: tuple[SourceFile, ...]) -> Listed:
    """All entries. Raises ConfigError naming file and line of every entry that cannot be understood: none is passed over in silence."""
    found: dict[str, set[str]] = {rule: set() for rule in RULES}
    wrong = []
    for file in files:
        for number, text in _lines(file):
            kind, value = entry(text)
            if kind:
                found[kind].add(value)
            else:
                wrong.append(f"{file.name}:{number}: {text[:80]!r} is no URL, domain, `sha256:` of 64 hex digits or `id:`")
    if wrong:
        raise ConfigError("takedown: " + "; ".join(wrong[:10]) + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""))
    return Listed(**{rule: frozenset(values) for rule, values in found.items()})


def entry(text: str) -> tuple[str, str]:
    """(one of RULES, its normal form), or ("", "") when it is none."""
    if "://" in text:
        url = urls.canonical(text)
        return ("url", url) if url else ("", "")
    lowered = text.lower()
    if found := SHA256.fullmatch(lowered):
        return "text", found[1]
    if found := ID.fullmatch(text):
        return "id", found[1]
    if found := DOMAIN.fullmatch(lowered):
        url = urls.canonical(f"http://{found[1] or found[2]}/")  # one spelling of international names
        return ("domain", urls.authority(url)) if url else ("", "")
    return "", ""


def take(listed: Listed, out: Path, shard: Path) -> None:
    """Write the shard without what is listed, and that into the side `taken`; a shard that loses nothing is linked."""
    table = shards.read(shard)
    judged = judge(listed, table)
    gone = pa.array([bool(rule) for rule, _ in judged], pa.bool_())
    if not any(rule for rule, _ in judged):
        link(shard, out / shard.name)
        return
    taken = table.filter(gone).select(["id", "url", "host"])  # not the text: it had to go
    for column, name in enumerate(("rule", "value")):
        taken = taken.append_column(name, pa.array([found[column] for found in judged if found[0]], pa.string()))
    kept = table.filter(pc.invert(gone))
    removed = Counter(f"removed.{rule}" for rule, _ in judged if rule)
    shards.write(taken, out / "taken" / shard.name)
    counts = shards.balance("takedown", {"read": table.num_rows, "kept": kept.num_rows, **removed})
    shards.write(kept, out / shard.name, counts, needs=[out / "taken" / shard.name])


def judge(listed: Listed, table: pa.Table) -> list[tuple[str, str]]:
    """For each document (the first rule that names it, the entry that did); ("", "") for one that stays."""
    columns = (table[name].to_pylist() for name in ("url", "host", "id", "text"))
    return [_first(listed, url or "", host or "", name, text or "") for url, host, name, text in zip(*columns, strict=True)]


def text_hash(text: str) -> str:
    """What `sha256:` entries are compared with."""
    return hashlib.sha256(text.encode()).hexdigest()


def _first(listed: Listed, url: str, host: str, name: str, text: str) -> tuple[str, str]:
    if listed.url and (urls.canonical(url) or url) in listed.url:
        return "url", url
    if listed.domain and (domain := next((d for d in domains_of(host) if d in listed.domain), "")):
        return "domain", domain
    if listed.text and (digest := text_hash(text)) in listed.text:
        return "text", digest
    return ("id", name) if name in listed.id else ("", "")


def _counts(out: Path, name: str) -> Counts:
    """A linked shard still carries the counts of the stage that made it: here all its rows were read and kept."""
    if (out / "taken" / name).exists():
        return shards.counts(out / name)
    rows = shards.read(out / name).num_rows
    return {"read": rows, "kept": rows}


def _lines(file: SourceFile) -> Iterator[tuple[int, str]]:
    try:
        with opened(file.path) as stream:
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").partition("#")[0].strip()
                if text:
                    yield number, text
    except OSError as error:
        raise ArtifactError(f"{file.path}: cannot be read ({error}); put the list back or change the recipe") from error


TAKEDOWN: Stage[TakedownConfig] = Stage(name="takedown", version=1, work=work)
