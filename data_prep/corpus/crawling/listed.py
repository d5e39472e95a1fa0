"""All URLs that a crawl lists, in all shards, as sorted hashes: a redirect to one of them is not followed but left to its own turn.

Eight bytes a URL, memory-mapped. A URL that only shares its hash with a listed one (1 in 2e11 at 10^8 links) is taken for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xxhash

from data_prep import shards
from infra import finished


def build(links: Iterable[Path], path: Path) -> None:
    """Write the index, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [np.empty(0, dtype=np.uint64)]
    for shard in links:
        urls = shards.read(shard)["url"].to_pylist()
        parts.append(np.fromiter((hashed(url) for url in urls), dtype=np.uint64, count=len(urls)))
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    np.sort(np.concatenate(parts)).tofile(draft)
    os.replace(draft, path)
    finished.record(path)


def hashed(url: str) -> int:
    """The same in every process and on every machine."""
    return xxhash.xxh3_64_intdigest(url.encode("utf-8", "surrogatepass"))


class Listed:
    """`url in listed`."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size // 8
        self.hashes = np.memmap(path, dtype=np.uint64, mode="r") if size else np.empty(0, dtype=np.uint64)

    def __contains__(self, url: str) -> bool:
        wanted = np.uint64(hashed(url))
        place = int(np.searchsorted(self.hashes, wanted))
        return place < len(self.hashes) and bool(self.hashes[place] == wanted)
