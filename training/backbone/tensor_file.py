"""Files of tensors as the safetensors library writes and reads them: a length, a header in JSON, the data. No code is in them.

A file may be anybody's: whatever of it is not as the format says is refused before a tensor is made
(github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

from infra.errors import ArtifactError

METADATA = "__metadata__"
LENGTH = struct.Struct("<Q")  # of the header, at the file's begin
LONGEST_HEADER = 100_000_000  # the library's bound
MOST_DIMENSIONS = 64  # torch's for most operations; it takes minutes over a million
LONGEST_NAME = 100  # in an error
LARGEST = 2**63 - 1
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: bytes [begin, end) of the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Float32 tensors, the same bytes as the library's, one tensor at a time: its writer holds a copy of all."""
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    end = 0
    for name in sorted(weights):
        begin, end = end, end + 4 * weights[name].numel()
        header[name] = {"dtype": "F32", "shape": list(weights[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(LENGTH.pack(len(text)) + text)
        for name in sorted(weights):
            weights[name].detach().float().cpu().contiguous().numpy().tofile(file)


def read_entries(path: Path) -> dict[str, Entry]:
    """What tensors the file holds. Raises ArtifactError when it is not as the format says."""
    try:
        with path.open("rb") as file:
            return _header(file)[0]
    except (OSError, ValueError) as error:
        _refuse(path, error)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the file, read from it when they are used; writing to one changes no file. Raises ArtifactError."""
    try:
        with path.open("rb") as file:
            entries, start = _header(file)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if len(mapped) != max([start, *(start + entry.end for entry in entries.values())]):
            raise ValueError("it changes while it is read")
        data = torch.frombuffer(mapped, dtype=torch.uint8)
        return {name: _tensor(data[start + entry.begin : start + entry.end], entry) for name, entry in entries.items()}
    except (OSError, ValueError) as error:
        _refuse(path, error)


def _refuse(path: Path, error: Exception) -> NoReturn:
    raise ArtifactError(f"{path}: no safetensors file that can be read ({error}); save or download it again") from error


def _tensor(piece: Tensor, entry: Entry) -> Tensor:
    if entry.dtype == torch.bool:
        return (piece != 0).reshape(entry.shape)  # torch takes for granted that every byte is 0 or 1
    if piece.storage_offset() % entry.dtype.itemsize:
        piece = piece.clone()  # old files are not aligned
    return piece.view(entry.dtype).reshape(entry.shape)


def _header(file: BinaryIO) -> tuple[dict[str, Entry], int]:
    """The entries, and where the data begins. Raises ValueError unless they cover all of the data, each byte once."""
    size = os.fstat(file.fileno()).st_size
    first = file.read(LENGTH.size)
    if len(first) < LENGTH.size:
        raise ValueError(f"it has {size} bytes, too few for the header's length")
    (length,) = LENGTH.unpack(first)
    start = LENGTH.size + length
    if length > LONGEST_HEADER or start > size:
        raise ValueError(f"its header of {length:,} bytes is longer than {'allowed' if length > LONGEST_HEADER else 'the file'}")
    said = _parsed(file.read(length))
    _check_metadata(said.pop(METADATA, {}))
    entries = {name: _entry(name, value) for name, value in said.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise ValueError(f"{name[:LONGEST_NAME]!r} begins at byte {entry.begin} of the data, the tensor before it ends at {end}")
        end = entry.end
    if start + end != size:
        raise ValueError(f"its tensors have {end:,} bytes, its data {size - start:,}")
    return entries, start


def _parsed(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise ValueError("its header is no JSON object")
    try:
        found: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_once, parse_int=_natural, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a name twice")
    for name in found:
        name.encode()  # half a surrogate pair is no text
    return found


def _natural(digits: str) -> int:
    if digits.startswith("-") or len(digits) > 19 or int(digits) > LARGEST:
        raise ValueError(f"its header has the number {digits[:30]}, which is not within 0 and 2^63 - 1")
    return int(digits)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"its header has {word}, which is no JSON")


def _check_metadata(found: Any) -> None:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"its {METADATA} is not of texts by name")
    for value in found.values():
        value.encode()


def _entry(name: str, said: Any) -> Entry:
    name = name[:LONGEST_NAME]
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has not just dtype, shape and data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r} is of dtype {str(dtype)[:30]!r}; known: {', '.join(DTYPES)}")
    if not _integers(shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"{name!r} has a shape that is no list of at most {MOST_DIMENSIONS} sizes")
    if not _integers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name!r} has data_offsets that are no begin and end")
    size = DTYPES[dtype].itemsize
    for width in shape:
        size *= width
        if size > LARGEST:
            raise ValueError(f"{name!r} is larger than any memory")
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"{name!r} of shape {shape} and dtype {dtype} has {size:,} bytes, its data_offsets {offsets[1] - offsets[0]:,}")
    return Entry(DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _integers(found: Any) -> bool:
    return isinstance(found, list) and all(type(item) is int for item in found)  # True is an int to isinstance
