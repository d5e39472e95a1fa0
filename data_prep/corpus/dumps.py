"""Records out of link dumps, whatever their age, packing and damage: what cannot be read is told, never fatal."""

from __future__ import annotations

import csv
import io
import json
import lzma
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from data_prep.packed import PACKINGS, opened
from infra.errors import ConfigError

LONGEST_LINE = 16 << 20  # bytes; a submission has at most 40,000 characters
LONGEST_RECORD = 2_000  # lines of one CSV record; self posts hold line breaks
MOST_KARMA = 1 << 31  # beyond it, either way, a score is no score; Reddit's highest have six digits
BOM = b"\xef\xbb\xbf"
SHOWN = 500  # characters of a bad line that are kept
FORMATS = {".csv": "csv", ".tsv": "tsv"}
TRUE = frozenset(("true", "1", "t", "yes"))
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)  # gzip and bz2 also raise an OSError that has no number
BARE = re.compile("&(?!(?:amp|lt|gt);)")  # with one of these nothing in a URL was escaped
GONE = frozenset(("[deleted]", "[removed]", "[deleted by user]"))


class Line(NamedTuple):
    """A line of a file, without its end. A reason says that it, or the file from here on, could not be read."""

    number: int
    text: bytes
    reason: str = ""

    @property
    def shown(self) -> str:
        return self.text[: SHOWN * 4].decode("utf-8", "replace")[:SHOWN]


class Post(NamedTuple):
    """A submission, in the words that every dump can be brought to."""

    url: str
    karma: int
    is_self: bool
    over_18: bool
    gone: bool
    id: str = ""  # of the submission itself; a dump may list it more than once


Parsed = tuple[Line, Any]  # the line a record begins on, and the record; None where the line is set aside


def is_cut(path: Path) -> bool:
    """True for a zstd file that ends within a frame, which its decoder takes for the end (RFC 8878, section 3.1.1, says where it is).

    Only headers of frames and blocks are read. The other packings tell of a missing end by themselves.
    """
    if path.suffix.lower() not in (".zst", ".zstd"):
        return False
    size = path.stat().st_size
    with path.open("rb") as file:
        while head := file.read(18):  # the longest header of a frame
            start = file.tell() - len(head)
            if head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5:  # a skippable frame
                file.seek(start + 8 + int.from_bytes(head[4:8], "little"))
            else:
                try:
                    file.seek(start + zstandard.frame_header_size(head))
                    checked = zstandard.get_frame_parameters(head).has_checksum
                except zstandard.ZstdError:
                    return True
                last = False
                while not last:
                    if len(block := file.read(3)) < 3:
                        return True
                    told = int.from_bytes(block, "little")
                    last, kind = bool(told & 1), told >> 1 & 3
                    file.seek(1 if kind == 1 else told >> 3, io.SEEK_CUR)  # kind 1: one byte that is repeated
                file.seek(4 if checked else 0, io.SEEK_CUR)
            if file.tell() > size:
                return True
    return False


def form(path: Path) -> str:
    """csv, tsv or jsonl, by the name without its packing."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKINGS else path
    return FORMATS.get(inner.suffix.lower(), "jsonl")


def lines(path: Path) -> Iterator[Line]:
    """The lines that hold something. Damage in the packing ends the file with one Line that says so."""
    number = 0
    with opened(path) as file:
        try:
            while text := file.readline(LONGEST_LINE):
                number += 1
                reason = ""
                while not text.endswith(b"\n") and (more := file.readline(LONGEST_LINE)):
                    reason = "too_long"
                    if more.endswith(b"\n"):
                        break
                if not text.endswith(b"\n") and not reason and is_cut(path):
                    yield Line(number, text, "damaged_file")
                    return
                if text.strip():
                    yield Line(number, text.rstrip(b"\r\n"), reason)
            if is_cut(path):
                yield Line(number + 1, b"", "damaged_file")
        except DAMAGE:
            yield Line(number + 1, b"", "damaged_file")
        except OSError as error:
            if error.errno is not None:  # the disk's fault; gzip and bz2 tell bad data as an OSError without a number
                raise
            yield Line(number + 1, b"", "damaged_file")


def submissions(path: Path) -> Iterator[tuple[Line, Post | None]]:
    """Every submission of a dump; a line that is none comes with its reason and no Post."""
    kind = form(path)
    return json_posts(lines(path)) if kind == "jsonl" else csv_posts(path.name, lines(path), "\t" if kind == "tsv" else ",")


def json_posts(source: Iterable[Line]) -> Iterator[tuple[Line, Post | None]]:
    """One JSON object a line."""
    for line in source:
        yield (line, None) if line.reason else _parsed(line, _json_record)


def csv_posts(name: str, source: Iterable[Line], comma: str = ",") -> Iterator[tuple[Line, Post | None]]:
    """Records after a header line. A broken record costs only its first line: the next line is tried as a fresh start."""
    ahead = _Ahead(iter(source))
    header = _header(name, ahead.take(), comma)
    while (line := ahead.take()) is not None:
        if line.reason:
            yield line, None
            continue
        found = _csv_record(line, ahead, header, comma)
        if isinstance(found, str):
            yield Line(line.number, line.text, found), None
        else:
            extra, post = found
            ahead.skip(extra)
            yield line, post


def check_header(path: Path) -> None:
    """Raises ConfigError when a CSV dump lacks the columns without which no karma is known."""
    if (kind := form(path)) != "jsonl":
        _header(path.name, next(lines(path), None), "\t" if kind == "tsv" else ",")


def post(record: dict[str, Any]) -> Post:
    """A submission from a record of any age. Raises ValueError, KeyError or TypeError when it is none.

    Older dumps have `ups` for `score`; newer ones `url_overridden_by_dest`, `removed_by_category` and cross-posts,
    whose own `url` is the parent's thread: the parent's link is taken, with the karma this post got, and for adults
    only when either says so.
    """
    parents = record.get("crosspost_parent_list")
    origin = parents[0] if isinstance(parents, list) and parents and isinstance(parents[0], dict) else record
    url = origin.get("url_overridden_by_dest") or origin.get("url") or ""
    karma = _karma(record)
    if not isinstance(url, str) or "\n" in url.strip():
        raise ValueError("the URL is no line of text")
    is_self = _is_self(origin)
    removed = is_self and str(record.get("selftext") or "") in GONE  # a link's own page is there whatever became of its text
    gone = bool(record.get("removed_by_category")) or url in GONE or removed or (not url and not is_self)
    over_18 = _true(record.get("over_18")) or (origin is not record and _true(origin.get("over_18")))
    return Post(_plain(url.strip()), karma, is_self, over_18, gone, str(record.get("id") or "").removeprefix("t3_"))


def _is_self(record: dict[str, Any]) -> bool:
    """A post without a link of its own, by its fields: `is_self`, or where a dump lacks it the domain `self.SUBREDDIT`.

    A site may have a host that begins with `self.` itself: then its URLs are on that host.
    """
    if record.get("is_self") not in (None, ""):
        return _true(record["is_self"])
    domain = str(record.get("domain") or "").lower()
    return domain.startswith("self.") and f"//{domain}/" not in f"{record.get('url') or ''}/".lower()


def _plain(url: str) -> str:
    """Reddit's API writes `&`, `<` and `>` as HTML does unless asked not to, and so do dumps made with it (all of 2005 and of 2013).

    No query has a parameter named `amp;...`, so `&amp;` is always an escaped `&`, next to bare ones and twice escaped too; `&lt;` and
    `&gt;` may be parameters named `lt` and `gt`, so a bare `&` elsewhere shows that nothing was escaped.
    """
    if "&" not in url:
        return url
    escaped = not BARE.search(url)
    while "&amp;" in url:
        url = url.replace("&amp;", "&")
    return url.replace("&lt;", "<").replace("&gt;", ">") if escaped else url


def _karma(record: dict[str, Any]) -> int:
    """A whole number, also one written as 3.0 or "3"; of a fraction the whole part."""
    score = record.get("score")
    found = score if score not in (None, "") else record["ups"]
    if type(found) is not int:
        if isinstance(found, bool):
            raise TypeError("true is no number of votes")
        found = int(float(found))
    if not -MOST_KARMA < found < MOST_KARMA:
        raise ValueError("more karma than there is")
    return int(found)


class _Ahead:
    """Lines with a look at those to come."""

    def __init__(self, source: Iterator[Line]) -> None:
        self.source, self.seen = source, deque[Line]()

    def take(self) -> Line | None:
        return self.seen.popleft() if self.seen else next(self.source, None)

    def peek(self, place: int) -> Line | None:
        while len(self.seen) <= place:
            if (line := next(self.source, None)) is None:
                return None
            self.seen.append(line)
        return self.seen[place]

    def skip(self, count: int) -> None:
        for _ in range(count):
            self.seen.popleft()


def _header(name: str, line: Line | None, comma: str) -> list[str]:
    if line is None:
        return []
    fields = next(csv.reader([line.text.decode("utf-8-sig", "replace")], delimiter=comma), [])
    fields = [field.strip() for field in fields]
    if "url" not in fields or not {"score", "ups"} & set(fields):
        raise ConfigError(f"{name}: its first line names no columns `url` and `score`: {line.shown[:80]!r}; is it a dump of submissions?")
    return fields


def _csv_record(first: Line, ahead: _Ahead, header: list[str], comma: str) -> tuple[int, Post] | str:
    """The post that begins on this line and how many more lines it takes, or why there is none.

    A whole record has an even number of quotes. A stray quote would swallow good lines until the next one, so a
    record over several lines is not believed when one of its inner lines is a whole record itself.
    """
    quotes, texts = first.text.count(b'"'), [first.text]
    while quotes % 2:
        line = ahead.peek(len(texts) - 1)
        if line is None or line.reason or len(texts) >= LONGEST_RECORD:
            return "open_quote"
        if line.text.count(comma.encode()) >= len(header) - 1 and not isinstance(_fields([line.text], header, comma), str):
            return "open_quote"
        quotes += line.text.count(b'"')
        texts.append(line.text)
    found = _fields(texts, header, comma)
    return found if isinstance(found, str) else (len(texts) - 1, found)


def _fields(texts: list[bytes], header: list[str], comma: str) -> Post | str:
    try:
        rows = list(csv.reader(io.StringIO(b"\n".join(texts).decode(), newline=""), delimiter=comma, strict=True))
    except UnicodeDecodeError:
        return "not_utf8"
    except csv.Error:
        return "not_csv"
    if len(rows) != 1 or len(rows[0]) != len(header):
        return "wrong_columns"
    try:
        return post(dict(zip(header, rows[0], strict=True)))
    except (ValueError, KeyError, TypeError, OverflowError):
        return "no_submission"


def _parsed(line: Line, parse: Callable[[bytes], dict[str, Any]]) -> tuple[Line, Post | None]:
    reason = "no_submission"
    try:
        return line, post(parse(line.text))
    except UnicodeDecodeError:
        reason = "not_utf8"
    except (json.JSONDecodeError, RecursionError):
        reason = "not_json"
    except (ValueError, KeyError, TypeError, OverflowError):
        reason = "no_submission"
    return Line(line.number, line.text, reason), None


def _json_record(text: bytes) -> dict[str, Any]:
    record = json.loads(text.removeprefix(BOM).decode())
    if not isinstance(record, dict):
        raise TypeError("not an object")
    return record


def _true(value: Any) -> bool:
    return value is not False and value is not None and (value is True or value == 1 or str(value).lower() in TRUE)
