"""The tasks by name. A new one is a class with Task's methods in its own file, and a line here."""

from __future__ import annotations

import difflib
from types import MappingProxyType

from infra.errors import ConfigError
from training.tasks.classify import Classify
from training.tasks.task import Task

TASKS: MappingProxyType[str, Task] = MappingProxyType({task.name: task for task in (Classify(),)})


def task(name: str) -> Task:
    """Raises ConfigError with the nearest name."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    raise ConfigError(f"no task is called {name!r}{f'; did you mean {near[0]!r}?' if near else ''} There are: {', '.join(TASKS)}")
