"""Bodies of pages out of WARC files, by the place that a row of PAGES names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.corpus import warc_http, warc_records


@dataclass(frozen=True)
class Stored:
    """A decoded body, or the reason why there is none."""

    body: bytes = b""
    reason: str = ""


class Archive:
    """The file of the last body stays open."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._name = ""
        self._file: BinaryIO | None = None
        self._data: Any = b""

    def body(self, name: str, offset: int | None) -> Stored:
        """The payload, with transfer and content codings undone; "missing_record" or "too_large" when there is none."""
        try:
            record = self._record(name, offset)
            if record.length > len(record.block):
                return Stored(reason="too_large")
            if record.kind != "response":
                return Stored(record.block) if len(record.block) <= self.limit else Stored(reason="too_large")
            parsed = warc_http.message(record.block)
            if parsed is None:
                return Stored(reason="missing_record")
            return Stored(warc_http.payload(*parsed, self.limit).data)
        except warc_http.TooLarge:
            return Stored(reason="too_large")
        except (OSError, ValueError, warc_http.Broken):
            return Stored(reason="missing_record")

    def close(self) -> None:
        """Let go of the open file."""
        self._data = b""
        if self._file is not None:
            self._file.close()
        self._name, self._file = "", None

    def _record(self, name: str, offset: int | None) -> warc_records.Record:
        if not name or offset is None:
            raise ValueError("no place")
        if name != self._name or self._file is None:
            self.close()
            self._file = (self.folder / name).open("rb")
            self._name, self._data = name, warc_records.mapped(self._file)
        return warc_records.record_at(self._data, offset)
