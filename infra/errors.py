"""What can go wrong, as a tree: catch PipelineError for all of it.

PipelineError
├── ConfigError       the user asked for what cannot be done (also a ValueError); exit code 2
├── ArtifactError     something on disk is not what its manifest says; exit code 3
│   ├── Unreadable    a file may not be read
│   └── DamagedInput  a stage's input was damaged, and is quarantined
├── StageFailed       some shards or ranks failed, nothing was committed; exit code 3
├── RayLost           the Ray cluster is gone, nothing was committed; exit code 3
└── Preempted         asked to stop, state saved, the same command continues; exit code 4
"""

from __future__ import annotations

from collections.abc import Mapping

SHOWN = 3  # failures spelt out in a message; the rest is counted


class PipelineError(Exception):
    """Root of every error this project raises on purpose."""

    exit_code = 3


class ConfigError(PipelineError, ValueError):
    """The user asked for something that cannot be done."""

    exit_code = 2


class ArtifactError(PipelineError):
    """Something on disk is not what its manifest says."""


class Unreadable(ArtifactError):
    """A file may not be read: nothing says that it is damaged, and a rebuilt one might not be readable either."""

    @classmethod
    def of(cls, path: object, error: OSError) -> Unreadable:
        """With what to do about it."""
        return cls(f"{path}: {error.strerror or error}; give this user the right to read it (chmod, chown), then run again")


class DamagedInput(ArtifactError):
    """An input of a stage was damaged and is quarantined now, with everything built from it. damaged: its `stage/fingerprint`."""

    def __init__(self, message: str, damaged: str = "") -> None:
        super().__init__(message)
        self.damaged = damaged

    def __reduce__(self) -> tuple[type[DamagedInput], tuple[str, str]]:
        return type(self), (str(self), self.damaged)


class Preempted(PipelineError):
    """The run was asked to stop, saved what it had, and can be continued."""

    exit_code = 4


class RayLost(PipelineError):
    """The Ray cluster that carried a stage is gone; its finished shards stay for the next run."""


class WorkerLost(RuntimeError):
    """A worker process or rank ended without an answer: killed from outside, out of memory, or a crash in native code."""


class OutOfMemory(WorkerLost):
    """A worker process or rank was killed because memory ran out."""


class StageFailed(PipelineError):
    """Some shards (or ranks) of a stage failed; nothing was committed.

    failures maps the number of the shard or rank to what it raised, all of them, not the first only.
    """

    def __init__(self, stage: str, failures: Mapping[int, BaseException], total: int, unit: str = "shard") -> None:
        self.stage, self.failures, self.total, self.unit = stage, dict(failures), total, unit
        first = ", ".join(f"{unit} {i}: {_brief(e)}" for i, e in sorted(self.failures.items())[:SHOWN])
        more = f" and {len(self.failures) - SHOWN} more" if len(self.failures) > SHOWN else ""
        super().__init__(f"{stage}: {len(self.failures)} of {total} {unit}s failed; {first}{more}")

    def __reduce__(self) -> tuple[type[StageFailed], tuple[str, dict[int, BaseException], int, str]]:
        return type(self), (self.stage, self.failures, self.total, self.unit)


def _brief(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:  # its repr leaves the path out
        return f"{type(error).__name__}: {error}"
    return str(error) if isinstance(error, PipelineError) else repr(error)
