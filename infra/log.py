"""One event bus for everything a run tells: the terminal, Prefect, events.jsonl and TensorBoard are listeners.

It is the standard library's logging underneath, so a listener is a Handler; a gang's ranks and Ray's workers send
their events home, where they are told again.
Kinds in use: progress(stage, done, total, unit), train(stage, step, total, loss, ...), eval(stage, step, loss),
note(message), warning(message).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

LOGGER = logging.getLogger("textmill")
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False  # our events are data; the root logger's text format would garble them
LOGGER.addHandler(logging.NullHandler())

Event = dict[str, Any]


def event(kind: str, **fields: Any) -> None:
    """Tell all listeners. Fields must be plain (they cross processes and end in JSON)."""
    LOGGER.log(logging.WARNING if kind == "warning" else logging.INFO, kind, extra={"event": fields})


class _Listener(logging.Handler):
    def __init__(self, tell: Callable[[Event], None]) -> None:
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell({"kind": record.msg, "time": record.created, **getattr(record, "event", {})})


def attach(tell: Callable[[Event], None]) -> Callable[[], None]:
    """Call tell with every event from now on; the returned function ends that."""
    handler = _Listener(tell)
    LOGGER.addHandler(handler)
    return lambda: LOGGER.removeHandler(handler)
