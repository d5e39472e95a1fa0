"""Lists that a user brings: hosts and words of addresses whose documents are not wanted, and words that no text may hold.

One entry a line, `#` begins a comment. A domain stands for everything under it, and is read as in the lists of `links` (hosts.py). Lists
are read once a process; a million domains take about a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from data_prep.corpus.charset import normal
from data_prep.corpus.hosts import domains_of, read_list
from data_prep.packed import opened
from infra.artifact import SourceFile, digest
from infra.errors import ArtifactError

_WORD = re.compile(r"[^\W_]+")
_LANGUAGE = re.compile(r"[a-z]{2}")


@lru_cache(maxsize=8)
def hosts(files: tuple[SourceFile, ...]) -> frozenset[str]:
    """The domains of all files in the one spelling that documents have them in. Raises ConfigError on a file that names none."""
    found = [read_list(_unchanged(file))[0] for file in files]
    return found[0] if len(found) == 1 else frozenset().union(*found)


def blocked(host: str, listed: frozenset[str]) -> bool:
    """Whether the host or a domain it lies in is listed; a name without a dot in it stands for itself alone."""
    return any(domain in listed for domain in domains_of(host) if "." in domain or domain == host)


@lru_cache(maxsize=8)
def phrases(files: tuple[SourceFile, ...]) -> frozenset[tuple[str, ...]]:
    """The words of each entry of all files."""
    return frozenset(found for file in files for entry in _entries(file) if (found := tuple(_WORD.findall(entry.lower()))))


def url_words(url: str, listed: frozenset[tuple[str, ...]]) -> int:
    """How many places of the address say an entry: words between what is neither letter nor digit."""
    words = _WORD.findall(unquote(url).lower())
    lengths = sorted(set(map(len, listed)))
    return sum(tuple(words[at : at + n]) in listed for n in lengths for at in range(len(words) - n + 1))


@lru_cache(maxsize=16)
def words(file: SourceFile) -> frozenset[str]:
    """The entries in small letters, one space between the words of each."""
    return frozenset(" ".join(entry.lower().split()) for entry in _entries(file))


def language(file: SourceFile) -> str:
    """The language that a list is for, by its name (`ko.txt`, `de`: two small letters); "" for one that is for all."""
    stem = (file.name or Path(file.path).name).partition(".")[0]
    return stem if _LANGUAGE.fullmatch(stem) else ""


def _unchanged(file: SourceFile) -> SourceFile:
    """Raises ArtifactError if the file has changed since the run was planned."""
    path = Path(file.path)
    if not path.is_file() or digest(path) != file.digest:
        raise ArtifactError(f"{path}: is not the list this run was planned with; start the run again to read it anew")
    return file


def _entries(file: SourceFile) -> Iterator[str]:
    _unchanged(file)
    with opened(file.path) as stream:
        text = normal(stream.read().decode("utf-8-sig", "replace"))  # as the texts are
    for line in text.splitlines():
        entry = line.partition("#")[0].strip() if "#" in line else line.strip()
        if entry:
            yield entry
