"""What a tokenizer is to the rest of the house: text to ids and back, never a control id from text.

Every kind is saved as a folder that transformers.AutoTokenizer loads, with a meta.json of our own beside its files.
Text is always encoded without the added-token table, so a page that says `[SEP]` yields brackets and letters.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer.word_ids import Encoded
from infra.artifact import digest
from infra.errors import ArtifactError, ConfigError
from infra.hashing import xxh3

META = "meta.json"
JSON = "tokenizer.json"
ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


@dataclass(frozen=True)
class Meta:
    """What other rooms need to know without loading the tokenizer itself. specials: role ("mask") -> id."""

    kind: str
    vocab: int
    specials: dict[str, int]
    fingerprint: str
    counts: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # of those that hold the vocabulary: name -> xxh3

    @property
    def separator(self) -> int:
        """What stands after a document when documents are joined."""
        found = self.specials.get("eos", self.specials.get("sep"))
        if found is None:
            raise ConfigError(f"the {self.kind} tokenizer has no token that ends a text, so documents cannot be joined")
        return found


class Tokenizer(Protocol):
    """pieces[id] is the text of an id as its vocabulary writes it; word_start[id] says whether a word begins there."""

    kind: str
    vocab: int
    specials: dict[str, int]
    fingerprint: str

    @property
    def word_start(self) -> NDArray[np.bool_]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids without specials."""
        ...

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """The same ids as one array, for many texts."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


def threads() -> int:
    """How many the libraries may start: what OMP_NUM_THREADS says, which Ray sets to the CPUs of a task; -1, all, when nothing does.

    `tokenizers` reads another variable, when it first works in a process; it is told the same.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    if not said.isdigit() or said == "0":
        return -1
    os.environ.setdefault("RAYON_NUM_THREADS", said)
    return int(said)


def digests(folder: Path, *names: str) -> dict[str, str]:
    """What Meta.files keeps of these files."""
    return {name: digest(folder / name) for name in sorted(names)}


def check_files(folder: Path, meta: Meta) -> None:
    """Raises ArtifactError unless the files are those that were written with this meta."""
    for name, said in meta.files.items():
        if not (folder / name).is_file() or digest(folder / name) != said:
            raise ArtifactError(f"{folder / name} is missing, damaged or another tokenizer's; run `textmill verify`, then run again")


def ordered(vocabulary: Mapping[str, int]) -> list[str]:
    """Pieces by id. Raises ArtifactError unless the ids are 0..n-1."""
    pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    if [vocabulary[piece] for piece in pieces] != list(range(len(pieces))):
        raise ArtifactError("the tokenizer's ids are not 0..n-1, each once")
    return pieces


def with_specials(starts: list[bool], specials: Mapping[str, int]) -> NDArray[np.bool_]:
    """A special is a word of its own."""
    array = np.array(starts, dtype=bool)
    array[list(specials.values())] = True
    return array


def identity(kind: str, pieces: Sequence[str], normaliser: Any, specials: Mapping[str, int]) -> str:
    """The fingerprint of a tokenizer: every piece with its id, what is done to text before, the specials."""
    state = xxh3()
    for part in (kind, json.dumps(normaliser, sort_keys=True), json.dumps(dict(specials), sort_keys=True), *pieces):
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


def save_meta(folder: Path, meta: Meta) -> None:
    """Write meta.json into the folder."""
    (folder / META).write_text(json.dumps(asdict(meta), indent=1, sort_keys=True), encoding="utf-8")


def read_meta(path: Path) -> Meta:
    """path: a meta.json, or a folder that holds one. Raises ArtifactError when it does not."""
    path = path / META if path.is_dir() else path
    try:
        return Meta(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: not a tokenizer's {META} ({error}); run the tokenizer stage again") from error


def keep_meta(source: Path, out: Path) -> None:
    """The tokenizer's description goes with the ids, so that a feed can refuse another tokenizer's."""
    draft = out / f"{META}.{os.getpid()}.part"
    shutil.copyfile(source, draft)
    os.replace(draft, out / META)
