"""One page at a time in a process of its own, so that a page that hangs or crashes a parser costs its time limit and no more.

The child lives as long as its task; it is started again when it dies, and after some thousand pages, because parsers leak.
The limit is CPU time, so a busy machine does not change which pages are read. Frames on the pipes: two lengths, JSON, body. A page that
the slow engine must look at is answered twice: what the quick ones found comes first, and stays if the child dies over the second.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from types import TracebackType
from typing import Any, BinaryIO

from data_prep.corpus import charset, dates, html, soft404, stubs

PAGES_PER_CHILD = 2000
PATIENCE = 10  # wall seconds for each CPU second before a child that sleeps is given up too
_FRAME = struct.Struct(">II")
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from data_prep.corpus.child import serve; serve(*map(int, sys.argv[2:]))"


@dataclass(frozen=True)
class Question:
    """How to read a page. is_html False: the body is plain text; form: text or markdown; is_xhtml: it is served as XML."""

    charset: str
    engine: str
    least: int
    is_html: bool = True
    form: str = "text"
    is_xhtml: bool = False


@dataclass(frozen=True)
class Answer:
    """title, text, date (ISO 8601 or "") and the codec that read the page, or the reason why there is no text.

    cut_short: the text is a quick engine's, because the slow one failed or died. last: no other answer follows.
    """

    title: str = ""
    text: str = ""
    reason: str = ""
    date: str = ""
    charset: str = ""
    cut_short: bool = False
    last: bool = True


class Reader:
    """Asks a child and watches it. Use it in a `with` block, which ends the child."""

    def __init__(self, seconds: int, memory_mb: int) -> None:
        self.seconds, self.memory_mb = seconds, memory_mb
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def ask(self, question: Question, body: bytes) -> Answer:
        """The page's text, or a reason: empty, meta_refresh, soft_404, undecodable, parse_error, memory, timeout, crashed."""
        child = self._started()
        try:
            _send(_pipe(child.stdin), asdict(question), body)
        except (BrokenPipeError, ConnectionResetError):
            return self._lost(None, slept=False)
        quick: Answer | None = None
        while select.select([_pipe(child.stdout)], [], [], self.seconds * PATIENCE)[0]:
            got = _receive(_pipe(child.stdout))
            if got is None:
                return self._lost(quick, slept=False)
            answer = Answer(**got[0])
            if answer.last:
                self._asked += 1
                return answer
            quick = answer
        return self._lost(quick, slept=True)

    def _lost(self, quick: Answer | None, *, slept: bool) -> Answer:
        code = self._stop()
        return quick or Answer(reason="timeout" if slept or code == -signal.SIGPROF else "crashed")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._asked >= PAGES_PER_CHILD:
            self._stop()
        if self._child is None:
            command = [sys.executable, "-c", _START, json.dumps(sys.path), str(self.seconds), str(self.memory_mb)]
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        return self._child

    def _stop(self) -> int:
        """End the child, if there is one; how it ended."""
        child, self._child, self._asked = self._child, None, 0
        if child is None:
            return 0
        with contextlib.suppress(BrokenPipeError):
            _pipe(child.stdin).close()  # a child that is well ends at the end of its input
        try:
            code = child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            child.kill()
            code = child.wait()
        _pipe(child.stdout).close()
        return code


def read_page(question: Question, body: bytes, meanwhile: Callable[[Answer], None] | None = None) -> Answer:
    """The page's text, in this process. Only what the parsers raise is caught; what they do to a process is the child's use.

    meanwhile: told a quick answer that holds if no other comes.
    """
    decoded = charset.decode(body, question.charset)
    if not decoded.is_text:
        return Answer(reason="undecodable")
    if not question.is_html:
        return _answer(html.Found("", html.clean(decoded.text)), question, decoded, lambda: "")
    if stubs.meta_refresh(decoded.text):
        return Answer(reason="meta_refresh")

    date = cache(lambda: dates.stated(decoded.text))  # one search where a page is answered twice

    def quickly(found: html.Found) -> None:
        if meanwhile and not (answer := _answer(found, question, decoded, date)).reason:
            meanwhile(replace(answer, last=False))

    try:
        found = html.extract(decoded.text, question.engine, question.least, quickly, form=question.form, is_xhtml=question.is_xhtml)
    except MemoryError:
        return Answer(reason="memory")
    except Exception:  # whatever a parser raises on a hostile page is the page's fault; it is counted under this reason
        return Answer(reason="parse_error")
    return _answer(found, question, decoded, date)


def _answer(found: html.Found, question: Question, decoded: charset.Decoded, date: Callable[[], str]) -> Answer:
    if question.is_html and soft404.is_soft_404(decoded.text, found.title, found.text):
        return Answer(reason="soft_404")
    if len(found.text) < question.least:
        return Answer(reason="empty")
    return Answer(found.title, found.text, date=date(), charset=decoded.charset, cut_short=found.cut_short)


def serve(seconds: int, memory_mb: int) -> None:
    """The child's life: read frames from standard input until it ends. SIGPROF kills a page that uses up its time."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a parser that prints must not write into an answer
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def meanwhile(answer: Answer) -> None:
        _send(answers, asdict(answer), b"")

    while got := _receive(sys.stdin.buffer):
        fields, body = got
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = read_page(Question(**fields), body, meanwhile)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, asdict(answer), b"")


def _send(pipe: BinaryIO, fields: Mapping[str, Any], body: bytes) -> None:
    text = json.dumps(fields).encode()
    for part in (_FRAME.pack(len(text), len(body)) + text, body):
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]
    pipe.flush()


def _receive(pipe: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None at the end of the pipe, also in the middle of a frame."""
    head = _exactly(pipe, _FRAME.size)
    lengths = _FRAME.unpack(head) if head else (0, 0)
    text, body = (_exactly(pipe, length) for length in lengths)
    return (json.loads(text), body) if head and text is not None and body is not None else None


def _exactly(pipe: BinaryIO, length: int) -> bytes | None:
    """So many bytes of a pipe, which gives what it has; None when it ends before."""
    parts: list[bytes] = []
    while length and (part := pipe.read(min(length, 1 << 20))):
        parts.append(part)
        length -= len(part)
    return None if length else b"".join(parts)


def _pipe(pipe: Any) -> Any:
    assert pipe is not None, "the child was started with both pipes"
    return pipe
