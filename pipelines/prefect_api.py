"""A few questions to a Prefect server over HTTP, without importing prefect (2 s): doctor, zombies and schedules ask them.

The routes are those of the server version that pyproject.toml pins.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from infra.errors import PipelineError

BUSY = (429, 502, 503, 504)
RETRY_S = 0.5
PAGE = 200  # the server's limit for one answer
FLOW = {"name": {"any_": ["textmill"]}}


class ServerError(PipelineError):
    """The Prefect server did not answer, or refused."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """A Prefect server. url ends in /api; credentials come from PREFECT_API_KEY or PREFECT_API_AUTH_STRING, as Prefect has it."""

    def __init__(self, url: str = "", timeout_s: float = 10.0) -> None:
        self.url, self.timeout_s = (url or os.environ["PREFECT_API_URL"]).rstrip("/"), timeout_s

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """The answer as JSON, None when it is empty. A busy server (SQLite locked) is asked again. Raises ServerError."""
        ends = time.monotonic() + self.timeout_s
        while True:
            try:
                return self._send(method, path, body)
            except ServerError as error:
                if error.code not in BUSY or time.monotonic() > ends:
                    raise
            time.sleep(RETRY_S)

    def _send(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **_login()}, method=method)
        # a proxy of the machine is not asked about loopback
        own = urllib.request.ProxyHandler({}) if "://127.0.0.1" in self.url or "://localhost" in self.url else urllib.request.ProxyHandler()
        try:
            with urllib.request.build_opener(own).open(request, timeout=self.timeout_s) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:300]
            raise ServerError(f"the Prefect server {self.url} refused {method} {path}: HTTP {error.code} {detail}", error.code) from error
        except (OSError, ValueError) as error:
            raise ServerError(f"the Prefect server {self.url} does not answer: {error}") from error
        return json.loads(text) if text else None

    def every(self, kind: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """All flow_runs, task_runs or deployments that the filters select; deployments and runs are those of textmill's flow."""
        offset = 0
        while True:
            page = self.send("POST", f"/{kind}/filter", {"flows": FLOW, "limit": PAGE, "offset": offset, **filters})
            yield from page
            if len(page) < PAGE:
                return
            offset += PAGE


def _login() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
