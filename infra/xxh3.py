"""XXH3's digest of 128 bits in numpy, for machines without the xxhash library: seed 0 and the default secret, bytes in chunks of any size.

After the specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md, version 0.2.0), whose terms are kept: accumulators, stripes of
64 bytes, blocks of 16 stripes. Stripes within a block are only added up, so numpy does that for many blocks at once. Each block's scramble
needs the one before; it works on all eight accumulators as one of Python's integers, each in a slot of 128 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = bytes | bytearray | memoryview
Pair = tuple[int, int]  # the lower and the higher 64 bits of 128

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME64_4, PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
PRIME_MX1, PRIME_MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25
START = (PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1)
MASK = 2**64 - 1

STRIPE, BLOCK, MEDIUM = 64, 1024, 240
AT_ONCE = 256 * BLOCK  # so much is in work at a time, whatever the chunks are: it fits a core's cache
LANES, SLOT = 8, 16  # accumulators, and the bytes of each one's slot


def _packed(lanes: Sequence[int]) -> int:
    return sum(lane << 8 * SLOT * number for number, lane in enumerate(lanes))


def _words(data: Bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


LOW, SHIFTED = _packed([MASK] * LANES), _packed([MASK >> 47] * LANES)
SCRAMBLE = _packed(_words(SECRET[128:]))
KEYS = np.array([np.frombuffer(SECRET, "<u8", LANES, offset) for offset in range(0, 128, 8)])  # [stripe of a block, lane]
LAST_KEY = np.frombuffer(SECRET, "<u8", LANES, 121)


class XXH3128:
    """The digest of everything given so far; `update` and `hexdigest` are those of the library's class."""

    def __init__(self, data: Bytes = b"") -> None:
        self._length, self._accumulators = 0, _packed(START)
        self._held = b""  # not yet added up: at least one byte of it belongs behind the last scramble
        self._last = b""  # the stripe before it
        self.update(data)

    def update(self, data: Bytes) -> None:
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), AT_ONCE):
            part = self._held + view[begin : begin + AT_ONCE]
            whole = max(0, len(part) - 1) // BLOCK * BLOCK
            if whole:
                self._accumulators = _blocks(self._accumulators, _sums(part[:whole], KEYS))
                self._last = part[whole - STRIPE : whole]
            self._held = part[whole:]
        self._length += len(view)

    def intdigest(self) -> int:
        low, high = self._long() if self._length > MEDIUM else short(self._held)
        return high << 64 | low

    def hexdigest(self) -> str:
        """32 hex digits, the canonical form."""
        return f"{self.intdigest():032x}"

    def _long(self) -> Pair:
        accumulators, whole = self._accumulators, (len(self._held) - 1) // STRIPE * STRIPE
        if whole:
            accumulators += int.from_bytes(_sums(self._held[:whole], KEYS[: whole // STRIPE]), "little")
        last = (self._last + self._held)[-STRIPE:]
        accumulators += int.from_bytes(_sums(last, LAST_KEY[None]), "little")
        lanes = [accumulators >> 8 * SLOT * number & MASK for number in range(LANES)]
        low = _merged(lanes, 11, self._length * PRIME64_1)
        return low, _merged(lanes, 117, ~(self._length * PRIME64_2))


def _sums(data: bytes, keys: NDArray[np.uint64]) -> bytes:
    """What the stripes of each block add to the accumulators, in their slots, block after block. Keys are a block's, by stripe."""
    stripes_BSL = np.frombuffer(data, "<u8").reshape(-1, len(keys), LANES)
    keyed_BSL = stripes_BSL ^ keys
    products_BSL = (keyed_BSL & np.uint64(2**32 - 1)) * (keyed_BSL >> np.uint64(32))
    slots_BL2 = np.zeros((len(stripes_BSL), LANES, 2), "<u8")
    np.add(_added(products_BSL), _added(stripes_BSL)[:, [1, 0, 3, 2, 5, 4, 7, 6]], out=slots_BL2[:, :, 0])
    return slots_BL2.tobytes()


def _added(stripes_BSL: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Over the stripes, half of them at a time: numpy's own sum over this axis goes by rows of eight."""
    while (count := stripes_BSL.shape[1]) > 1:
        half = count // 2
        odd = stripes_BSL[:, 2 * half :]
        stripes_BSL = stripes_BSL[:, :half] + stripes_BSL[:, half : 2 * half]
        stripes_BSL[:, : odd.shape[1]] += odd
    return stripes_BSL[:, 0]


def _blocks(accumulators: int, sums: bytes) -> int:
    """The accumulators after these blocks, each added and scrambled."""
    for begin in range(0, len(sums), LANES * SLOT):
        x = accumulators + int.from_bytes(sums[begin : begin + LANES * SLOT], "little") & LOW
        accumulators = ((x ^ x >> 47 & SHIFTED ^ SCRAMBLE) * PRIME32_1) & LOW
    return accumulators


def _merged(lanes: Sequence[int], offset: int, start: int) -> int:
    keyed = [lane ^ word for lane, word in zip(lanes, _words(SECRET[offset : offset + STRIPE]), strict=True)]
    return _avalanche(start + sum(_folded(keyed[i], keyed[i + 1]) for i in range(0, LANES, 2)) & MASK)


def short(data: bytes) -> Pair:
    """The digest of at most 240 bytes."""
    length = len(data)
    if not length:
        return _avalanche_64(_flip(64)), _avalanche_64(_flip(80))
    if length <= 3:
        return _of_1_to_3(data)
    if length <= 8:
        return _of_4_to_8(data)
    return _of_9_to_16(data) if length <= 16 else _of_17_to_240(data)


def _of_1_to_3(data: bytes) -> Pair:
    combined = data[-1] | len(data) << 8 | data[0] << 16 | data[len(data) >> 1] << 24
    swapped = _swapped(combined, 4)
    rotated = (swapped << 13 | swapped >> 19) & 2**32 - 1
    words = [int.from_bytes(SECRET[at : at + 4], "little") for at in range(0, 16, 4)]
    return _avalanche_64(words[0] ^ words[1] ^ combined), _avalanche_64(words[2] ^ words[3] ^ rotated)


def _of_4_to_8(data: bytes) -> Pair:
    value = _flip(16) ^ int.from_bytes(data[:4] + data[-4:], "little")
    product = value * (PRIME64_1 + (len(data) << 2))
    low = product & MASK
    high = (product >> 64) + (low << 1) & MASK
    low ^= high >> 3
    low = (low ^ low >> 35) * PRIME_MX2 & MASK
    return low ^ low >> 28, _avalanche(high)


def _of_9_to_16(data: bytes) -> Pair:
    first, last = int.from_bytes(data[:8], "little"), int.from_bytes(data[-8:], "little")
    product = (_flip(32) ^ first ^ last) * PRIME64_1
    other = _flip(48) ^ last
    low = (product & MASK) + (len(data) - 1 << 54) & MASK
    high = (product >> 64) + other + (other & 2**32 - 1) * (PRIME32_2 - 1) & MASK
    whole = (high << 64 | low ^ _swapped(high, 8)) * PRIME64_2
    return _avalanche(whole & MASK), _avalanche(whole >> 64 & MASK)


def _of_17_to_240(data: bytes) -> Pair:
    length = len(data)
    pair = length * PRIME64_1 & MASK, 0
    if length <= 128:
        for i in reversed(range((length + 31) // 32)):
            pair = _mixed(pair, data[16 * i :][:16], data[length - 16 * i - 16 :][:16], 32 * i)
    else:
        for at in range(0, 128, 32):
            pair = _mixed(pair, data[at : at + 16], data[at + 16 : at + 32], at)
        pair = _avalanche(pair[0]), _avalanche(pair[1])
        for at in range(128, length // 32 * 32, 32):
            pair = _mixed(pair, data[at : at + 16], data[at + 16 : at + 32], at - 125)
        pair = _mixed(pair, data[-16:], data[-32:-16], 103)
    high = pair[0] * PRIME64_1 + pair[1] * PRIME64_4 + length * PRIME64_2
    return _avalanche(pair[0] + pair[1] & MASK), -_avalanche(high & MASK) & MASK


def _mixed(pair: Pair, one: bytes, two: bytes, offset: int) -> Pair:
    """The accumulators with two pieces of 16 bytes and 32 bytes of the secret mixed in."""
    (a, b), (c, d), (p, q, r, s) = _words(one), _words(two), _words(SECRET[offset : offset + 32])
    low = (pair[0] + _folded(a ^ p, b ^ q) & MASK) ^ (c + d & MASK)
    return low, (pair[1] + _folded(c ^ r, d ^ s) & MASK) ^ (a + b & MASK)


def _folded(a: int, b: int) -> int:
    product = a * b
    return product & MASK ^ product >> 64


def _flip(offset: int) -> int:
    a, b = _words(SECRET[offset : offset + 16])
    return a ^ b


def _swapped(word: int, size: int) -> int:
    return int.from_bytes(word.to_bytes(size, "little"), "big")


def _avalanche(x: int) -> int:
    x = (x ^ x >> 37) * PRIME_MX1 & MASK
    return x ^ x >> 32


def _avalanche_64(x: int) -> int:
    x = (x ^ x >> 33) * PRIME64_2 & MASK
    x = (x ^ x >> 29) * PRIME64_3 & MASK
    return x ^ x >> 32
