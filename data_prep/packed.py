"""Files that may be compressed, opened by the last part of their name. A rank that reads task files needs no library for plain ones."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import BinaryIO, cast

PACKINGS = (".gz", ".xz", ".bz2", ".zst", ".zstd")
WIDEST_WINDOW = 1 << 31  # Pushshift packs with `zstd --long=31`


def opened(path: Path | str) -> BinaryIO:
    """The file's bytes, decompressed."""
    path = Path(path)
    packing = path.suffix.lower()
    if packing == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if packing == ".xz":
        return cast(BinaryIO, lzma.open(path))
    if packing == ".bz2":
        return cast(BinaryIO, bz2.open(path))
    if packing in (".zst", ".zstd"):
        import zstandard

        unpacker = zstandard.ZstdDecompressor(max_window_size=WIDEST_WINDOW)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, unpacker.stream_reader(path.open("rb"), read_across_frames=True))))
    return path.open("rb")
