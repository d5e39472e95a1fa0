"""Our reader and writer of tensors against the safetensors library, the judge: the same tensors, and nothing read that it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file

from infra.errors import ArtifactError
from training.backbone import tensor_file
from training.backbone.tensor_file import DTYPES, read_entries, read_tensors, write_tensors

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
STRICTER = (
    "has a name twice",
    "has not just",
    "no list of at most",
    "of dtype",
    "is not of texts",
    "is larger than any memory",
    "which is not within",
)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Names, dtypes, shapes and bytes."""
    return ours.keys() == theirs.keys() and all(
        t.dtype == theirs[n].dtype and t.shape == theirs[n].shape and raw(t) == raw(theirs[n]) for n, t in ours.items()
    )


def filled(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    """Any bytes at all, for a bool those that it may have."""
    size = torch.Size(shape).numel() * dtype.itemsize
    some = torch.tensor(list(random.Random(seed).randbytes(size)), dtype=torch.uint8)
    return (some % 2 == 0 if dtype == torch.bool else some.view(dtype)).reshape(shape)


SHAPES = st.lists(st.integers(0, 5), max_size=4)
TENSORS = st.builds(filled, st.sampled_from(list(DTYPES.values())), SHAPES, st.integers(0, 99))
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=8).filter(lambda name: name != "__metadata__")
FILES = st.dictionaries(NAMES, TENSORS, max_size=5)


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def joined(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@SHARED
@given(FILES, st.dictionaries(NAMES, NAMES, min_size=1, max_size=2) | st.none())
def test_what_the_library_wrote_is_read_alike(tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(save(tensors, metadata))
    found = read_tensors(path)
    assert same(found, tensors) and same(found, load_file(path))
    assert {n: (e.dtype, e.shape) for n, e in read_entries(path).items()} == {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}


@SHARED
@given(st.dictionaries(NAMES, st.builds(filled, st.just(torch.float32), SHAPES, st.integers(0, 99)), max_size=5))
def test_what_we_wrote_is_read_alike(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "file"
    write_tensors(path, tensors)
    assert path.read_bytes() == save(tensors, {"format": "pt"})
    assert same(read_tensors(path), load_file(path))


def judged(content: bytes, path: Path) -> None:
    """Whatever the library refuses we refuse; what both read is equal, where we alone refuse it is by a rule of our own."""
    path.write_bytes(content)
    try:
        with safe_open(path, "pt") as file:
            theirs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, UnicodeDecodeError):
        theirs = None
    except (RuntimeError, TypeError, OverflowError, AttributeError, KeyError):  # torch could not make what the library let pass
        theirs = None
    try:
        ours = read_tensors(path)
    except ArtifactError as error:
        assert str(path) in str(error) and len(str(error)) < 3000
        assert theirs is None or any(rule in str(error) for rule in STRICTER), error
        with pytest.raises(ArtifactError):
            read_entries(path)
        return
    assert theirs is not None
    bools = {name for name, tensor in ours.items() if tensor.dtype == torch.bool}
    assert same({n: t for n, t in ours.items() if n not in bools}, {n: t for n, t in theirs.items() if n not in bools})
    assert all(bytes(map(bool, raw(theirs[name]))) == raw(ours[name]) for name in bools)


@SHARED
@given(FILES, st.data())
def test_a_file_with_other_bytes_is_refused_where_the_library_refuses_it(
    tmp_path: Path, tensors: dict[str, torch.Tensor], data: Any
) -> None:
    content = bytearray(save(tensors, {"format": "pt"}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(st.sampled_from(["set", "cut", "insert", "drop", "move"])):
            case "set":
                content[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "drop":
                del content[at : at + data.draw(st.integers(1, 9))]
            case "move":
                content[:8] = data.draw(st.sampled_from([0, 1, len(content) - 8, len(content), 10**8 + 1, 2**63, 2**64 - 1])).to_bytes(
                    8, "little"
                )
    judged(bytes(content), tmp_path / "file")


NUMBERS = st.integers(-2, 40) | st.sampled_from(
    [2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 1.0, True, None, "1", [], {}]
)
JSON = st.recursive(
    NUMBERS | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@SHARED
@given(FILES.filter(bool), st.data())
def test_a_header_that_says_other_things_is_refused_where_the_library_refuses_it(
    tmp_path: Path, tensors: dict[str, torch.Tensor], data: Any
) -> None:
    header, content = parts(save(tensors, {"format": "pt"}))
    name = data.draw(st.sampled_from(sorted(tensors)))
    entry = header[name]
    match data.draw(st.sampled_from(["offset", "size", "shape", "dtype", "more", "less", "metadata", "any", "rename", "data"])):
        case "offset":
            entry["data_offsets"][data.draw(st.integers(0, 1))] = data.draw(NUMBERS)
        case "size":
            entry["shape"] = [*entry["shape"], 1]
            entry["shape"][data.draw(st.integers(0, len(entry["shape"]) - 1))] = data.draw(NUMBERS)
        case "shape":
            entry["shape"] = data.draw(st.lists(NUMBERS, max_size=5) | JSON)
        case "dtype":
            entry["dtype"] = data.draw(st.sampled_from([*DTYPES, "F4", "F6_E2M3", "f32", "F128"]) | JSON)
        case "more":
            entry[data.draw(st.text(max_size=3))] = data.draw(JSON)
        case "less":
            del entry[data.draw(st.sampled_from(sorted(entry)))]
        case "metadata":
            header["__metadata__"] = data.draw(JSON)
        case "any":
            header[name] = data.draw(JSON)
        case "rename":
            header[data.draw(NAMES)] = entry
        case "data":
            content = content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=3))
    judged(joined(json.dumps(header, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass"), content), tmp_path / "file")


F32 = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ("", b"", "no JSON object"),
        ("[]", b"", "no JSON object"),
        (" {}", b"", "no JSON object"),
        ("{", b"", "Expecting"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", b"", "nested too deeply"),
        (f'{{"a": {F32}, "a": {F32}}}', bytes(4), "has a name twice"),
        (f'{{"a": {F32}, "b": {F32}}}', bytes(4), "'b' begins at byte 0 of the data, the tensor before it ends at 4"),
        (f'{{"a": {F32.replace("0, 4", "4, 8")}}}', bytes(8), "'a' begins at byte 4 of the data, the tensor before it ends at 0"),
        (f'{{"a": {F32}}}', bytes(5), "its tensors have 4 bytes, its data 5"),
        (f'{{"a": {F32}}}', bytes(3), "its tensors have 4 bytes, its data 3"),
        (f'{{"a": {F32.replace("0, 4", "4, 0")}}}', bytes(4), "no begin and end"),
        (f'{{"a": {F32.replace("[1]", "[-1]")}}}', bytes(4), "the number -1, which is not within"),
        (f'{{"a": {F32.replace("[1]", "[true]")}}}', bytes(4), "no list of at most"),
        (f'{{"a": {F32.replace("[1]", "[2]")}}}', bytes(4), "has 8 bytes, its data_offsets 4"),
        (f'{{"a": {F32.replace("[1]", "[9223372036854775807, 4, 0]").replace("4]}", "0]}")}}}', b"", "larger than any memory"),
        (f'{{"a": {F32.replace("[1]", str([1] * 65))}}}', bytes(4), "no list of at most 64"),
        (f'{{"a": {F32.replace("F32", "F31")}}}', bytes(4), "of dtype 'F31'; known: BOOL"),
        (f'{{"a": {F32.replace("1]", "NaN]")}}}', bytes(4), "NaN, which is no JSON"),
        (f'{{"\\ud800": {F32}}}', bytes(4), "surrogates not allowed"),
        (f'{{"a": {F32}, "__metadata__": {{"format": 1}}}}', bytes(4), "is not of texts"),
        (f'{{"a": {F32}, "__metadata__": null}}', bytes(4), "is not of texts"),
        ('{"a": 1}', b"", "has not just"),
    ],
)
def test_what_is_wrong_is_said(header: str, data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(joined(header.encode(), data))
    for read in (read_tensors, read_entries):
        with pytest.raises(ArtifactError, match="no safetensors file that can be read") as caught:
            read(path)
        assert said in str(caught.value) and str(path) in str(caught.value)


def test_a_header_longer_than_the_file_or_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(joined(b"{}", b"")[:9])
    with pytest.raises(ArtifactError, match="header of 2 bytes is longer than the file"):
        read_tensors(path)
    path.write_bytes(b"1234567")
    with pytest.raises(ArtifactError, match="7 bytes, too few"):
        read_tensors(path)
    path.write_bytes(joined(b"{}" + b" " * 99, b""))
    assert read_tensors(path) == {}
    monkeypatch.setattr(tensor_file, "LONGEST_HEADER", 100)
    with pytest.raises(ArtifactError, match="header of 101 bytes is longer than allowed"):
        read_tensors(path)
    with pytest.raises(ArtifactError, match="No such file"):
        read_tensors(tmp_path / "none")


def test_tensors_are_views_of_the_file_and_writing_to_one_changes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"a": torch.arange(1 << 20, dtype=torch.float32), "b": torch.ones(3)}, path)
    before = path.read_bytes()
    found = read_tensors(path)
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()
    found["a"].zero_()
    assert path.read_bytes() == before and found["a"].sum() == 0
    path.unlink()
    assert found["b"].tolist() == [1, 1, 1]


def test_a_header_of_odd_length_gives_tensors_that_are_aligned(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'
    header += b" " * (1 - len(header) % 2)  # odd
    values = torch.tensor([1.5, -2.0], dtype=torch.float64)
    (tmp_path / "file").write_bytes(joined(header, raw(values)))
    (found,) = read_tensors(tmp_path / "file").values()
    assert torch.equal(found, values) and found.data_ptr() % 8 == 0
