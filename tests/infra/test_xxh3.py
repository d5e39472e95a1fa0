"""XXH3 in numpy against the xxhash library, which is the judge here."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.artifact import digest
from infra.hashing import xxh3
from infra.xxh3 import AT_ONCE, BLOCK, XXH3128

ROOT = Path(__file__).parents[2]
DATA = random.Random(0).randbytes(5 << 20)
EDGES = [0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, *(k * BLOCK + d for k in (1, 2, 255, 256, 257) for d in (-64, -1, 0, 1, 63, 64, 65))]


def test_every_length_of_every_class_and_the_first_blocks() -> None:
    for length in range(1101):
        for data in (DATA[length : 2 * length], bytes(length), b"\xff" * length):
            found = XXH3128(data)
            assert found.hexdigest() == xxhash.xxh3_128_hexdigest(data), length
            assert found.intdigest() == xxhash.xxh3_128_intdigest(data), length


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    assert XXH3128(data).hexdigest() == xxhash.xxh3_128_hexdigest(data)


@given(st.integers(0, 1100) | st.sampled_from(EDGES), st.lists(st.integers(0, 1 << 20), max_size=6), st.integers(0, 99))
def test_any_length_in_any_chunks(length: int, cuts: list[int], begin: int) -> None:
    """The digest may be asked for in between, too."""
    data, found, judge = DATA[begin : begin + length], XXH3128(), xxhash.xxh3_128()
    for a, b in pairwise(sorted({0, length, *(c % (length + 1) for c in cuts)})):
        found.update(memoryview(data)[a:b])
        judge.update(data[a:b])
        assert found.hexdigest() == judge.hexdigest()
    assert found.hexdigest() == xxhash.xxh3_128_hexdigest(data)


@settings(max_examples=5)
@given(st.integers(1 << 20, len(DATA)), st.integers(1, 2 << 20), st.integers(0, 999))
def test_megabytes_in_chunks(length: int, most: int, seed: int) -> None:
    found, at, dice = XXH3128(), 0, random.Random(seed)
    while at < length:
        step = dice.randint(1, most)
        found.update(bytearray(DATA[at : min(length, at + step)]))
        at += step
    assert found.hexdigest() == xxhash.xxh3_128_hexdigest(DATA[:length])


@pytest.mark.parametrize("size", [1, 63, 64, 1023, 1024, 1025, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1])
def test_chunks_of_one_size(size: int) -> None:
    length = min(len(DATA), 400 * size + 17)
    found = XXH3128()
    for at in range(0, length, size):
        found.update(DATA[at : min(length, at + size)])
    assert found.hexdigest() == xxhash.xxh3_128_hexdigest(DATA[:length])


def test_memory_is_that_of_a_piece_whatever_is_given_at_once() -> None:
    data = bytes(32 << 20)
    tracemalloc.start()
    try:
        XXH3128(data).hexdigest()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * AT_ONCE


def test_a_file_has_the_same_digest_where_the_library_is_missing(tmp_path: Path) -> None:
    assert xxh3 is xxhash.xxh3_128
    path = tmp_path / "shard"
    path.write_bytes(DATA)
    code = "import sys; sys.modules['xxhash'] = None; from pathlib import Path; from infra.artifact import digest; "
    code += "from infra.hashing import xxh3; from infra.xxh3 import XXH3128; assert xxh3 is XXH3128; print(digest(Path(sys.argv[1])))"
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=there, capture_output=True, text=True)
    assert done.stdout.strip() == digest(path) == xxhash.xxh3_128_hexdigest(DATA), done.stderr
