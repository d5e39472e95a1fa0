"""Records of finished files: a file of an unfinished stage counts only with a record of its size and hash, written after it.

The record of `00000.arrow` is `.00000.arrow.done` next to it. A kill leaves a file without a record (it is removed and built again)
or with one (it is complete); what stands under a temporary name, or was damaged meanwhile, is never taken for finished work.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from infra.artifact import digest

SUFFIX = ".done"
OF_DISKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
Entry = dict[str, Any]  # bytes, xxh3, mtime_ns, inode


def record_path(main: Path) -> Path:
    """Where the record of a file, or of a directory that was renamed to its name, is stored."""
    return main.with_name(f".{main.name}{SUFFIX}")


def is_recorded(main: Path) -> bool:
    """Whether main has a record; `sweep` has removed those that no longer hold before a stage starts."""
    return record_path(main).exists()


def entry(path: Path, xxh3: str = "") -> Entry:
    """What identifies a file and its content; it is hashed unless the hash is given."""
    found = path.stat()
    return {"bytes": found.st_size, "xxh3": xxh3 or digest(path), "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}


def record(main: Path, others: Iterable[Path] = (), xxh3: str = "") -> None:
    """Declare main, with the other files that it needs, finished: all of them count, or none.

    main: a file, or a directory all of whose files count. xxh3: the hash of main if it is known and main is on the disk already;
    everything else is flushed to the disk first, unless it has a record of its own.
    """
    files = sorted(path for path in main.rglob("*") if path.is_file()) if main.is_dir() else [main]
    entries = {}
    for path in (*files, *others):
        known = read(path).get(path) if path != main else None
        if known is None:
            if not xxh3 or path != main:
                sync(path)
            known = entry(path, xxh3 if path == main else "")
        entries[os.path.relpath(path, main.parent)] = known
    target = record_path(main)
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    with naming(draft):
        draft.write_text(json.dumps({"files": entries}))
    os.replace(draft, target)


def read(main: Path) -> dict[Path, Entry]:
    """The files that main's record vouches for; nothing when there is no record, or none that can be read."""
    return _entries(record_path(main))


def _entries(path: Path) -> dict[Path, Entry]:
    try:
        said = json.loads(path.read_text())["files"]
        return {Path(os.path.normpath(path.parent / name)): dict(found) for name, found in said.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def recorded(folder: Path) -> dict[Path, Entry]:
    """Every file below folder that a record vouches for, as it was when it was written."""
    found: dict[Path, Entry] = {}
    for path in _files(folder):
        if path.name.endswith(SUFFIX):
            found |= _entries(path)
    return found


def sweep(folder: Path, own: Iterable[str] = ()) -> list[str]:
    """Leave below folder only what a record vouches for, hash by hash; the names of files that were recorded and differ.

    own: patterns of names directly below folder that the stage itself checks when it resumes (a log, checkpoints): files there
    need no record, but one that has a record must agree with it.
    """
    patterns, good, wrong = tuple(own), set[Path](), set[Path]()
    files = list(_files(folder))
    for path in [one for one in files if one.name.endswith(SUFFIX)]:
        entries = _entries(path)
        differing = {file for file, said in entries.items() if not _agrees(file, said)}
        if entries and not differing:
            good |= {path, *entries}
        wrong |= {file for file in differing if file.is_relative_to(folder)}
    wrong -= good  # a record that is damaged itself says nothing about a file that another one vouches for
    damaged = [str(file.relative_to(folder)) for file in wrong if file.is_file()]
    for file in wrong:
        _remove(file)
    for path in files:
        mine = any(fnmatch(path.relative_to(folder).parts[0], pattern) for pattern in patterns)
        if path not in good and (not mine or path.name.endswith(SUFFIX)):
            path.unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        if Path(parent) != folder and not os.listdir(parent):
            os.rmdir(parent)
    return sorted(damaged)


def _remove(path: Path) -> None:
    """Also a directory that stands where a file belongs."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _agrees(path: Path, said: Entry) -> bool:
    try:
        return path.stat().st_size == said["bytes"] and digest(path) == said["xxh3"]
    except (OSError, KeyError):
        return False


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


@contextmanager
def naming(path: Path, only: Container[int] | None = None) -> Iterator[None]:
    """An error of the system within the block says which file it was about: a full disk alone does not. only: errors by number."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None or (only is not None and error.errno not in only):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync(path: Path) -> None:
    """Bring a file's content, or a directory's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)
