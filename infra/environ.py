"""Environment variables that are set for as long as something lasts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_SETTING = threading.Lock()  # the environment is the whole process's


@contextmanager
def holding(environment: Mapping[str, str]) -> Iterator[None]:
    """These variables, then what was there before. One thread at a time; not within itself."""
    with _SETTING:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
