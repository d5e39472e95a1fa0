"""Whether two runs of one recipe created the same: every file of every artifact, to the byte; records of time are the only exceptions.

The exceptions, each with what is compared instead:
manifest.json   `created`, its own hash, and hashes of the files and inputs below: everything else
metrics.jsonl   the speed: steps, losses, learning rates
crawl, *.arrow  when a page was fetched, and at which byte of its WARC file it is, which depends on the length of that date once compressed:
                all other columns, and the metadata
crawl, *.gz     every record has the date of its request, and so have the server's headers; a crawl that resumes asks again for robots.txt:
                each record's type, address, payload digest and status line
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.end_to_end.mini import Place, content

SPEED = ("tokens_per_s", "speed")
OF_TIME = ("fetched_at", "warc_offset")
WARC = ("WARC-Type", "WARC-Target-URI", "WARC-Payload-Digest")


def differences(place: Place, undisturbed: Place) -> list[str]:
    """What is not as in the undisturbed run: a stage's label, and the file."""
    found = []
    rows = {row["label"]: row for row in place.rows()}
    for expected in undisturbed.rows():
        label = expected["label"]
        if label not in rows:
            found.append(f"{label}: missing")
        elif rows[label]["fingerprint"] != expected["fingerprint"]:
            found.append(f"{label}: fingerprint")
        else:
            here, there = comparable(place.made(rows[label])), comparable(undisturbed.made(expected))
            found += [f"{label}: {name}" for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    return found + [f"left over: {path}" for path in leftovers(place)]


def leftovers(place: Place) -> list[str]:
    """Scratch that a finished run should have removed."""
    artifacts = place.workspace / "artifacts"
    return [str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file() and path.suffix in (".part", ".tmp")]


def comparable(artifact: Path) -> dict[str, Any]:
    """By file: its hash, or what it holds besides time."""
    found: dict[str, Any] = dict(content(artifact))
    crawl = artifact.parent.name == "crawl"
    for name in found:
        if name.endswith("metrics.jsonl"):
            found[name] = [without(json.loads(line), SPEED) for line in (artifact / name).read_text().splitlines()]
        elif crawl and name.endswith(".arrow"):
            found[name] = rows(artifact / name)
        elif crawl and name.endswith(".warc.gz"):
            found[name] = sorted(set(records(artifact / name)))
    found["manifest.json"] = manifest(artifact, {name for name, value in found.items() if not isinstance(value, str)})
    return found


def manifest(artifact: Path, timed: set[str]) -> dict[str, Any]:
    """The manifest without the hashes and lengths of files that record time."""
    read: dict[str, Any] = json.loads((artifact / "manifest.json").read_text())
    read["shards"] = [without(entry, ("xxh3", "bytes")) if entry["name"] in timed else entry for entry in read["shards"]]
    for source in read["inputs"].values():
        if source["stage"] == "crawl":
            source.pop("content", None)
    return without(read, ("created", "xxh3"))


def rows(path: Path) -> Any:
    """An Arrow file without its columns of time."""
    table = pa.ipc.open_file(pa.OSFile(str(path))).read_all()
    return [table.schema.metadata, *(without(row, OF_TIME) for row in table.to_pylist())]


def records(path: Path) -> Iterator[tuple[str, ...]]:
    """Of a WARC file, read here by hand: each record's type, address, payload digest, and first line where it is a response."""
    data = io.BytesIO(gzip.decompress(path.read_bytes()))
    while line := data.readline():
        if not line.strip():
            continue
        assert line == b"WARC/1.1\r\n", f"{path}: {line!r} is no start of a record"
        head: dict[str, str] = {}
        while (line := data.readline()).strip():
            name, _, value = line.decode().partition(":")
            head[name] = value.strip()
        body = data.read(int(head["Content-Length"]))
        assert len(body) == int(head["Content-Length"]), f"{path} is truncated"
        first = body.partition(b"\r\n")[0].decode(errors="replace") if head["WARC-Type"] in ("request", "response") else ""
        yield (*(head.get(name, "") for name in WARC), first)


def without(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
