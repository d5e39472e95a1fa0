"""sentencepiece's compiled table of letters that become others: proved whole before a library follows it.

The libraries that read it do not check its indices: a broken one ends the process, or reads memory that is not its own.
Layout: the trie's size in bytes as uint32, the trie as uint32 units (Darts-clone's double array), replacements ended by NUL.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LONGEST = 256  # bytes that one letter may become; the longest of NFKC's is 33
BYTES = np.arange(1, 256, dtype=np.int64)
LABEL, VALUE = (1 << 31) | 0xFF, (1 << 31) - 1


def check(table: bytes) -> None:
    """Raises ValueError unless every walk through the trie stays within it and ends at a replacement. An empty table is none at all."""
    if not table:
        return
    size = int.from_bytes(table[:4], "little")
    if len(table) < 5 or size % 4 or not 0 < size <= len(table) - 4:
        raise ValueError(f"the table of letters is cut: {len(table)} bytes, of which the trie would take {size}")
    units, texts = np.frombuffer(table, "<u4", size // 4, 4).astype(np.int64), table[4 + size :]
    texts.decode("utf-8")  # raises UnicodeDecodeError, a ValueError
    for value in _values(units):
        end = texts.find(b"\0", value)
        if value >= len(texts) or end < 0 or end - value > LONGEST or 0x80 <= texts[value] < 0xC0:
            raise ValueError(f"the table of letters points at {value}, where no replacement begins")


def alone(table: bytes) -> list[str]:
    """The letters of up to three bytes that become others by themselves, and never together with what follows."""
    if not table:
        return []
    units = np.frombuffer(table, "<u4", int.from_bytes(table[:4], "little") // 4, 4).astype(np.int64)
    offsets, found = (units >> 10) << ((units & (1 << 9)) >> 6), list[str]()
    for first, end in ((0x01, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000)):
        letters = [chr(code) for code in range(first, end)]
        size = len(letters[0].encode())
        encoded = np.frombuffer("".join(letters).encode(), np.uint8).reshape(-1, size).astype(np.int64)
        node, there, leaf = np.full(len(letters), offsets[0]), np.ones(len(letters), bool), np.zeros(len(letters), bool)
        for byte in encoded.T:
            place = np.where(there, node ^ byte, 0)
            there &= units[place] & LABEL == byte
            node, leaf = place ^ offsets[place], (units[place] >> 8) & 1 == 1
        some = np.flatnonzero(there & leaf)
        longer = ((units[node[some][:, None] ^ BYTES] & LABEL) == BYTES).any(1)
        found += [letters[number] for number in some[~longer].tolist()]
    return found


def _values(units: NDArray[np.int64]) -> list[int]:
    """What the leaves that a walk can reach hold."""
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    seen = np.zeros(len(units), bool)
    nodes, values = offsets[:1], []
    while len(nodes):
        if int((nodes | 0xFF).max()) >= len(units):
            raise ValueError("the table of letters leads out of its trie")
        seen[nodes] = True
        places = (nodes[:, None] ^ BYTES).ravel()
        found = places[(units[places] & LABEL) == np.tile(BYTES, len(nodes))]
        after = found ^ offsets[found]
        leaves = after[(units[found] >> 8) & 1 == 1]
        if len(leaves) and int(leaves.max()) >= len(units):
            raise ValueError("the table of letters leads out of its trie")
        values += np.unique(units[leaves] & VALUE).tolist()
        nodes = np.unique(after)
        nodes = nodes[~seen[np.minimum(nodes, len(units) - 1)]]
    return values
