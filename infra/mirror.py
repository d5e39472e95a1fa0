"""Finished artifacts on an object store (any fsspec URL), so that another machine fetches them instead of building them.

An object store has no rename: the files are uploaded first and the manifest last, so an artifact whose manifest is there is
complete. A push that was cut off is repeated by the next run that finds the artifact in its workspace. A mirror that does not
answer costs one warning and a short wait, never the run, unless the recipe requires it.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import psutil

from infra.artifact import MANIFEST, Artifact, digest
from infra.errors import ArtifactError, ConfigError, PipelineError
from infra.log import event
from infra.mirror_url import options, protocol, without_password

T = TypeVar("T")
PROBE_S = 10.0  # one question to the store
SLOWEST_BYTES_PER_S = 50_000  # a transfer slower than this counts as cut off
PAUSE_S, LONGEST_PAUSE_S = 30.0, 900.0  # after a failure nothing is tried for this long; doubled by each failure in a row
DIRECTORIES = ("file", "local", "sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs")  # the others are buckets: no mkdir, which would create one
LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of this machine's disk, not of the mirror


class Mirror:
    """`<url>/<stage>/<fingerprint>/`, laid out as the local store. Credentials come from the environment, as fsspec has it.

    required: a mirror that cannot be used ends the run. Raises ConfigError when the URL contains a password.
    """

    def __init__(self, url: str, required: bool = False) -> None:
        self.url, self.required = without_password(url).rstrip("/"), required
        self._pushed: set[tuple[str, str]] = set()
        self._waiting: dict[tuple[str, str], Artifact] = {}
        self._paused_until, self._pause_s = 0.0, PAUSE_S
        self._reason, self._warned = "", False

    def check(self) -> None:
        """Raises ConfigError when the URL names no kind of store that is installed here. Connects to nothing."""
        _ = self._store

    def open(self) -> None:
        """Ask for the bucket. Raises ConfigError when it does not exist or refuses the credentials, PipelineError when the mirror is
        required and does not answer."""
        filesystem, root = self._store
        try:
            _within(PROBE_S, lambda: _probe(filesystem, root))
        except FileNotFoundError as error:
            bucket = root.partition("/")[0]
            raise ConfigError(
                f"resources.mirror {self.url}: bucket {bucket!r} does not exist; create it (textmill creates no buckets), "
                "or correct the name"
            ) from error
        except Exception as error:
            if _refused(error):
                raise ConfigError(
                    f"resources.mirror {self.url}: access is refused ({_brief(error)}); set the credentials of this bucket in the "
                    "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from error
            self._failed(error, warn=False)  # nobody listens yet

    def push(self, artifact: Artifact) -> None:
        """Upload the artifact unless the mirror has it; what fails is tried again by `finish` and by later runs.

        Raises PipelineError when the mirror is required and cannot be used.
        """
        key = (artifact.stage, artifact.fingerprint)
        if key in self._pushed:
            return
        self._waiting[key] = artifact
        if self._paused():
            return
        try:
            self._upload(artifact)
        except ArtifactError as error:  # damaged here: it must not reach other machines
            event("warning", message=f"{error}; not pushed to {self.url}")
        except Exception as error:
            self._failed(error)
            return
        else:
            self._pushed.add(key)
            self._pause_s = PAUSE_S
        del self._waiting[key]

    def finish(self) -> None:
        """Try once more what could not be pushed during the run; warn about what is left."""
        self._paused_until = 0.0
        for artifact in list(self._waiting.values()):
            self.push(artifact)
        if self._waiting:
            event(
                "warning",
                message=f"{len(self._waiting)} artifacts are not on the mirror {self.url}; the next run in this workspace pushes them",
            )

    def pull(self, stage: str, fingerprint: str, path: Path) -> bool:
        """Fetch the artifact to path; False when the mirror does not have it or cannot be used.

        Raises ArtifactError when a file arrives damaged, PipelineError when the mirror is required and cannot be used.
        """
        if self._paused():
            return False
        try:
            found = self._download(stage, fingerprint, path)
        except ArtifactError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in LOCAL_FAULTS:
                raise
            self._failed(error)
            return False
        if found:
            self._pushed.add((stage, fingerprint))
        return found

    @cached_property
    def _store(self) -> tuple[Any, str]:
        """The filesystem and the path of the mirror in it."""
        import fsspec  # 0.1 s that a run without a mirror need not wait

        try:
            filesystem, root = fsspec.core.url_to_fs(self.url, **options(self.url))
        except (ValueError, ImportError) as error:
            raise ConfigError(f"resources.mirror {self.url}: {error}") from error
        if protocol(self.url) in ("s3", "s3a"):
            filesystem.retries = 2  # of s3fs's own, on top of botocore's
        return filesystem, str(root).rstrip("/")

    def _operation(self, name: str, *arguments: Any, bytes_: int = 0) -> Any:
        """One operation on the remote filesystem, within a time that its size allows. Every remote change goes through here."""
        call = getattr(self._store[0], name)
        return _within(PROBE_S + bytes_ / SLOWEST_BYTES_PER_S, lambda: call(*arguments))

    def _exists(self, path: str) -> bool:
        try:
            self._operation("info", path)
        except FileNotFoundError:
            return False
        return True

    def _upload(self, artifact: Artifact) -> None:
        folder = f"{self._store[1]}/{artifact.stage}/{artifact.fingerprint}"
        if self._exists(f"{folder}/{MANIFEST}"):
            return
        # All files again, whatever an earlier push left: another machine's training of this fingerprint has other metrics logs.
        for entry in artifact.files:
            path = artifact.path / entry["name"]
            if digest(path) != entry["xxh3"]:
                raise ArtifactError(
                    f"{artifact.stage}/{artifact.fingerprint}: {entry['name']} does not hash to what its manifest says; "
                    "run `textmill verify`, then run again"
                )
            self._put(path, f"{folder}/{entry['name']}")
        self._put(artifact.path / MANIFEST, f"{folder}/{MANIFEST}")

    def _put(self, path: Path, target: str) -> None:
        size = path.stat().st_size
        if protocol(self.url) not in DIRECTORIES:  # an object appears complete or not at all
            self._operation("put_file", str(path), target, bytes_=size)
            return
        parent, _, name = target.rpartition("/")
        draft = f"{parent}/.{name}.part-{platform.node()}-{os.getpid()}"
        self._operation("makedirs", parent, True)
        self._operation("put_file", str(path), draft, bytes_=size)
        self._operation("mv", draft, target)

    def _download(self, stage: str, fingerprint: str, path: Path) -> bool:
        folder = f"{self._store[1]}/{stage}/{fingerprint}"
        if not self._exists(f"{folder}/{MANIFEST}"):
            return False
        _drop_abandoned(path)
        draft = path.with_name(f".{fingerprint}.pull-{platform.node()}-{os.getpid()}")
        draft.mkdir(parents=True)
        try:
            self._operation("get_file", f"{folder}/{MANIFEST}", str(draft / MANIFEST))
            for entry in json.loads((draft / MANIFEST).read_text())["shards"]:
                self._fetch(folder, draft, entry)
            os.rename(draft, path)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and (path / MANIFEST).is_file():
                return True  # another process fetched it meanwhile
            raise
        return True

    def _fetch(self, folder: str, draft: Path, entry: dict[str, Any]) -> None:
        name = entry["name"]
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{self.url}: manifest names {name}, a path outside its artifact; the mirror is not to be trusted")
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        self._operation("get_file", f"{folder}/{name}", str(draft / name), bytes_=int(entry["bytes"]))
        if digest(draft / name) != entry["xxh3"]:
            raise ArtifactError(f"{self.url}: {name} does not hash to what its manifest says; remove {folder} from the mirror")

    def _paused(self) -> bool:
        self._warn()
        return time.monotonic() < self._paused_until

    def _failed(self, error: Exception, *, warn: bool = True) -> None:
        """Pause the mirror and warn, once in a run; raises PipelineError when the recipe requires the mirror."""
        if self.required:
            raise PipelineError(
                f"resources.mirror {self.url} cannot be used ({_brief(error)}), and the recipe requires it (resources.mirror_required); "
                "run again when it answers, or set resources.mirror_required=false"
            ) from error
        self._paused_until = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._reason = self._reason or _brief(error)
        if warn:
            self._warn()

    def _warn(self) -> None:
        if self._reason and not self._warned:
            self._warned = True
            event("warning", message=f"the mirror {self.url} cannot be used ({self._reason}); the run continues without it")


def _probe(filesystem: Any, root: str) -> None:
    """Raises FileNotFoundError when the bucket does not exist, and what the store raises when it cannot be asked."""
    kinds = (filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol
    bucket, _, prefix = root.partition("/")
    if "s3" in kinds:  # needs no more rights than the mirror does
        filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    elif not set(kinds) & {*DIRECTORIES, "memory"}:
        filesystem.ls(bucket)


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of work, or TimeoutError: no backend's own retries hold up the run for longer."""
    done: list[T] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            done.append(work())
        except BaseException as error:  # handed to the caller
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True, name="mirror")
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return done[0]


def _refused(error: Exception) -> bool:
    """botocore and google-auth name the lack of credentials in the class."""
    return isinstance(error, PermissionError) or "Credentials" in type(error).__name__


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _drop_abandoned(path: Path) -> None:
    """Remove what killed processes of this machine left of the same download."""
    start = f".{path.name}.pull-{platform.node()}-"
    for left in path.parent.glob(f"{start}*"):
        pid = left.name.removeprefix(start)
        if pid == str(os.getpid()) or (pid.isdigit() and not psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)
