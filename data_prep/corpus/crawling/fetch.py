"""One URL to one answer: turns, retries, redirects and limits; whatever goes wrong ends as a Refused with its outcome."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import xxhash
from yarl import URL

from data_prep.corpus import charset, stubs, urls
from data_prep.corpus.crawling import heads, robots, wire
from data_prep.corpus.crawling.address import AddressBook, NoAddress, PrivateAddress
from data_prep.corpus.crawling.body import ACCEPTED, STEP, Body, Bomb, TooLarge, Undecodable, is_text
from data_prep.corpus.crawling.config import CrawlConfig
from data_prep.corpus.crawling.cookies import Cookies, header_text
from data_prep.corpus.crawling.turns import Turns
from data_prep.corpus.crawling.validators import Known
from data_prep.corpus.crawling.warcfile import Exchange

REDIRECTS = frozenset((301, 302, 303, 307, 308))
RETRIED = frozenset((429, 500, 502, 503, 504))
CHUNK = 1 << 16
BROKEN = (aiohttp.ConnectionTimeoutError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
HTML = ("", "text/html", "application/xhtml+xml")
ACCEPT = "text/html,application/xhtml+xml,text/plain;q=0.8,*/*;q=0.1"


@dataclass
class Answer:
    """What a server said, and the way there. known: what an earlier crawl has, and the server says (304) it still has."""

    status: int
    content_type: str
    charset: str
    headers: Mapping[str, str]
    exchange: Exchange
    hops: tuple[str, ...] = ()
    known: Known | None = None


@dataclass(frozen=True)
class _Request:
    """types: media types that are read; none for robots.txt."""

    url: str
    types: tuple[str, ...]
    known: Known | None = None
    cookie: str = ""


class Refused(Exception):
    """The page will not be had; outcome is one of schemas.OUTCOMES."""

    def __init__(self, outcome: str, reason: str, status: int | None = None, final_url: str = "") -> None:
        super().__init__(reason)
        self.outcome, self.reason, self.status, self.final_url = outcome, reason, status, final_url


class _Again(Exception):
    """The answer did not come, or not whole; another try may succeed. outcome: what it is if none does."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


class Fetcher:
    """All a shard's requests go through here.

    `failures` and `dead` are its memory of origins: a host that speaks no TLS may well answer those who ask without.
    """

    def __init__(self, config: CrawlConfig, session: aiohttp.ClientSession, book: AddressBook, turns: Turns) -> None:
        self.config, self.session, self.book, self.turns, self.clock = config, session, book, turns, turns.clock
        self.failures: Counter[str] = Counter()  # in a row
        self.dead: dict[str, str] = {}
        self.delays: dict[str, float] = {}
        self.rules: dict[str, asyncio.Future[robots.Rules]] = {}
        self.expiry: dict[str, float] = {}  # of rules, on the monotonic clock

    async def page(self, url: str, stop_at: Callable[[str], bool], recall: Callable[[str], Known | None]) -> Answer:
        """Follow redirects until a page answers; one to a URL that stop_at knows ends as "redirected" or "meta_refresh".

        Every hop is checked anew: its address, its host's robots.txt, its host's turn. A page that recall knows is asked for
        only if it changed. Cookies last for this call and stay on their host. Raises Refused.
        """
        hops, cookies = [url], Cookies()
        asked = {(url, "")}
        stopped: Refused | None = None  # a redirect that set a cookie: it ends here unless its target leads back
        while True:
            here = hops[-1]
            try:
                await self._may(here)
                answer = await self._ask(here, self.config.content_types, recall(here), cookies.header(here))
                cookies.take(here, answer.headers)
                target, outcome = self._sent_on(here, answer)
            except Refused:
                if stopped:
                    raise stopped from None
                raise
            if stopped and target not in hops:
                raise stopped
            stopped = None
            if not outcome:
                answer.hops = tuple(hops)
                return answer
            if (step := (target, cookies.header(target))) in asked or len(hops) > self.config.max_redirects:
                raise Refused("redirect_loop", f"{len(hops)} redirects, the next to {target[:200]}", answer.status, here)
            if stop_at(target):
                stopped = Refused(outcome, "to a page that is fetched on its own", answer.status, target)
                if "Set-Cookie" not in answer.headers or urls.authority(target) != urls.authority(here):
                    raise stopped
            asked.add(step)
            hops.append(target)

    def _sent_on(self, here: str, answer: Answer) -> tuple[str, str]:
        """Where the answer sends the reader, and what that is called; ("", "") for a page that wants to be read."""
        location = header_text(answer.headers.get("Location", ""))
        if answer.status in REDIRECTS and location:
            target = urls.joined(here, location, keep_tracking=True)
            if target is None:
                raise Refused("bad_url", f"redirected to {location[:200]!r}", answer.status, here)
            return target, "redirected"
        if not 200 <= answer.status < 300:
            return "", ""
        stub, encoding = stubs.header_refresh(header_text(answer.headers.get("Refresh", "")), answer.exchange.body), "utf-8"
        if stub is None and answer.content_type in HTML and stubs.may_refresh(answer.exchange.body):
            decoded = charset.decode(answer.exchange.body, answer.charset)
            stub, encoding = stubs.meta_refresh(decoded.text), decoded.charset
        if stub:
            target = urls.joined(here, stub[1], keep_tracking=True, encoding=encoding)
            if target is None:
                raise Refused("bad_url", f"sent on by a meta refresh to {stub[1][:200]!r}", answer.status, here)
            if target != here or answer.headers.get("Set-Cookie"):  # else it only waits for its own text
                return target, "meta_refresh"
        return "", ""

    async def _may(self, url: str) -> None:
        host = urls.authority(url)
        await self._check_address(url, host)
        origin = origin_of(url)
        if (asked := self.rules.get(origin)) is None or self.expiry.get(origin, float("inf")) < time.monotonic():
            self.expiry.pop(origin, None)  # while it is asked for, all wait for one answer
            asked = self.rules[origin] = asyncio.ensure_future(self._renewed(origin, asked))
        try:
            rules = asked.result() if asked.done() else await asyncio.shield(asked)
        except Refused as error:
            raise Refused(error.outcome, error.reason, final_url=url) from error
        if why := rules.forbids(url):
            raise Refused("robots", why, final_url=url)
        self.delays[host] = max(self.config.per_host_delay_s, rules.delay_s)
        if rules.delay_s > self.config.max_crawl_delay_s:
            raise Refused("robots", f"robots.txt asks for {rules.delay_s:g} s between requests; max_crawl_delay_s is less", final_url=url)

    async def _renewed(self, origin: str, old: asyncio.Future[robots.Rules] | None) -> robots.Rules:
        """The origin's rules, asked for now. Those that an unreachable server gave before hold on (RFC 9309, section 2.4)."""
        before = old.result() if old is not None and old.done() and not old.exception() else None
        try:
            rules = await self._robots(origin)
        except Refused:
            if before is None:
                raise
            rules = before
        if rules.unreachable and before is not None:
            rules = before
        self.expiry[origin] = time.monotonic() + min(rules.age_s, self.config.robots_max_age_s)
        return rules

    async def _robots(self, origin: str) -> robots.Rules:
        """RFC 9309, section 2.3.1: redirects are followed, an unreachable file closes the host."""
        url = f"{origin}/robots.txt"
        host = urls.authority(url)
        try:
            for _ in range(max(self.config.max_redirects, robots.REDIRECTS) + 1):
                answer = await self._ask(url, ())
                location = answer.headers.get("Location", "").strip()
                target = urls.joined(url, location, keep_tracking=True) if answer.status in REDIRECTS else None
                if target is None:
                    rules = robots.rules(self.config.agent, answer.status, answer.exchange.body, answer.headers.get("Cache-Control", ""))
                    self.clock.postpone(host, min(rules.delay_s, self.config.max_crawl_delay_s))  # it holds for the first page already
                    return rules
                url = target
            return robots.Rules()  # section 2.3.1.2: after five redirects it may be taken as unavailable
        except Refused as error:
            if error.outcome in ("dead_host", "timeout"):
                self.dead.setdefault(origin, f"robots.txt: {error.reason}")
                raise Refused("dead_host", self.dead[origin]) from error
            return robots.Rules(closed=f"robots.txt: {error.reason}", unreachable=True)

    async def _ask(self, url: str, types: tuple[str, ...], known: Known | None = None, cookie: str = "") -> Answer:
        """One hop with its retries."""
        request = _Request(url, types, known, cookie)
        host = urls.authority(url)
        await self._check_address(url, host)
        for attempt in range(self.config.retries + 1):
            answer, failure = await self._try(request, host)
            if answer is not None and answer.status not in RETRIED:
                return answer
            asked = seconds_asked(answer.headers.get("Retry-After", ""), self.clock.now()) if answer else 0.0
            wait = max(self._backoff(url, attempt), asked)
            if wait > self.config.max_wait_s or attempt == self.config.retries:
                break
            self.clock.postpone(host, wait)  # the whole host waits, not this page alone
        if answer is None:
            assert failure is not None
            raise Refused(failure.outcome, failure.reason, final_url=url)
        return answer

    async def _try(self, request: _Request, host: str) -> tuple[Answer | None, _Again | None]:
        """An answer, or None and why there is none. Raises Refused when the host or the page is beyond hope."""
        url = request.url
        async with self.turns.turn(host, self.delays.get(host, self.config.per_host_delay_s)):
            if (origin := origin_of(url)) in self.dead:  # perhaps while this one waited
                raise Refused("dead_host", self.dead[origin], final_url=url)
            try:
                answer = await self._exchange(request)
            except _Again as error:
                if error.outcome == "dead_host":
                    self._failed(origin, error.reason)
                return None, error
            except Refused as error:
                if error.outcome == "timeout":
                    self._failed(origin, error.reason)
                raise
        self.failures.pop(origin, None)
        return answer, None

    def _failed(self, origin: str, reason: str) -> None:
        self.failures[origin] += 1
        if self.failures[origin] >= self.config.dead_after:
            self.dead.setdefault(origin, f"given up after {self.failures[origin]} failures, the last: {reason}")

    async def _check_address(self, url: str, host: str) -> None:
        try:
            await self.book.check(host[1 : host.index("]")] if host[0] == "[" else host.partition(":")[0])
        except PrivateAddress as error:
            raise Refused("private_address", str(error), final_url=url) from error
        except NoAddress as error:
            self.dead.setdefault(origin_of(url), str(error))
            raise Refused("dead_host", str(error), final_url=url) from error

    async def _exchange(self, request: _Request) -> Answer:
        """One request and its answer, within all limits."""
        begun, url, known = False, request.url, request.known
        conditions = known.conditions if known else None
        headers = {**(conditions or {}), **({"Cookie": request.cookie} if request.cookie else {})}
        try:
            async with asyncio.timeout(self.config.page_timeout_s):
                async with self.session.get(URL(url, encoded=True), allow_redirects=False, headers=headers or None) as response:
                    begun = True
                    answer = await self._read(url, response, request.types)
                    answer.known = known if conditions and answer.status == 304 else None
                    return answer
        except aiohttp.ClientPayloadError as error:
            raise _Again("truncated", f"cut short: {error}"[:300]) from error
        except BROKEN as error:
            raise _Again("truncated" if begun else "dead_host", f"{type(error).__name__}: {error}"[:300]) from error
        except TimeoutError as error:
            raise Refused("timeout", f"not whole after {self.config.page_timeout_s:g} s", final_url=url) from error
        except (aiohttp.ClientError, ValueError) as error:  # an answer that is no HTTP
            raise Refused("http_error", f"{type(error).__name__}: {error}"[:300], final_url=url) from error

    async def _read(self, url: str, response: aiohttp.ClientResponse, types: tuple[str, ...]) -> Answer:
        ip = _peer(response)  # now: with the body's end the connection is gone
        media, label = heads.media_type(", ".join(response.headers.getall("Content-Type", ())))
        good = 200 <= response.status < 300
        if good and types and media and media not in types:
            raise Refused("not_text", f"content-type {media[:80]}", response.status, url)
        body = await self._body(url, response, robots_file=not types) if good else b""
        if good and types and not media and b"\0" in body[:1024]:
            raise Refused("not_text", "no content-type, and binary", response.status, url)
        return Answer(
            response.status,
            media,
            label,
            response.headers,
            _exchange_of(url, ip, response, body),
        )

    async def _body(self, url: str, response: aiohttp.ClientResponse, *, robots_file: bool) -> bytes:
        wire, unpacked = self.config.max_bytes, self.config.max_unpacked_bytes
        if robots_file:  # one chunk more than counts, so that what is held when the limit is met is all that counts
            wire, unpacked = robots.LONGEST + CHUNK, robots.LONGEST + STEP
        body: Body | None = None
        try:
            body = Body(",".join(response.headers.getall("Content-Encoding", ())), wire, unpacked)
            if not robots_file and (response.content_length or 0) > wire:
                raise TooLarge(f"content-length {response.content_length}, more than {wire} bytes")
            async for chunk in response.content.iter_chunked(CHUNK) if robots_file else response.content.iter_any():
                body.feed(chunk)
            if not body.whole:
                raise aiohttp.ClientPayloadError(f"the body ended before its {', '.join(body.codings)} stream did")
            if body.unknown and not is_text(body.data):
                raise Undecodable(f"content-encoding {body.unknown[0][:40]!r} is unknown, and the body is no text")
        except (TooLarge, Bomb, Undecodable) as error:
            response.close()
            if robots_file and body is not None and not isinstance(error, Undecodable):
                return body.data  # its first 500 KiB count, the rest does not
            outcome = {TooLarge: "too_large", Bomb: "bomb"}.get(type(error), "http_error")
            raise Refused(outcome, str(error), response.status, url) from error
        return body.data

    def _backoff(self, url: str, attempt: int) -> float:
        """Twice as long each time, stretched by up to a half that differs between pages but not between runs."""
        jitter = xxhash.xxh3_64_intdigest(f"{attempt} {url}".encode()) / 2**64
        return self.config.backoff_s * 2**attempt * (1 + jitter / 2)


def origin_of(url: str) -> str:
    """Scheme, host and port of a canonical URL."""
    return url[: url.index("/", 8)]


def seconds_asked(retry_after: str, now: float) -> float:
    """Retry-After as seconds from now: a number or a date (RFC 9110, section 10.2.3); 0 when it is neither."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        then = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return 0.0
    return max(0.0, then.replace(tzinfo=then.tzinfo or UTC).timestamp() - now)


def new_session(config: CrawlConfig, book: AddressBook) -> aiohttp.ClientSession:
    """No cookies beyond those of a chain of redirects, no proxy from the environment, no unpacking: what arrives is what was sent."""
    most = config.max_header_bytes
    connections = wire.connector(config.concurrency, book, most)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s)
    headers = {"User-Agent": config.user_agent, "Accept": ACCEPT, "Accept-Encoding": ACCEPTED}
    session = aiohttp.ClientSession(
        connector=connections,
        timeout=timeout,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=most,
        max_field_size=most,
        max_headers=most,
    )
    session._retry_connection = False  # else a request on a connection that the server has closed is sent again at once, unseen by us
    return session


def _exchange_of(url: str, ip: str, response: aiohttp.ClientResponse, body: bytes) -> Exchange:
    sent = "".join(f"{name}: {value}\r\n" for name, value in response.request_info.headers.items())
    version = response.version
    return Exchange(
        url=url,
        date=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        ip=ip,
        request=f"GET {response.url.raw_path_qs} HTTP/1.1\r\n{sent}\r\n".encode("latin-1", "replace"),
        status_line=f"HTTP/{version.major if version else 1}.{version.minor if version else 1} {response.status} {response.reason or ''}",
        headers=tuple(response.raw_headers),
        body=body,
    )


def _peer(response: aiohttp.ClientResponse) -> str:
    transport = response.connection.transport if response.connection else None
    name = transport.get_extra_info("peername") if transport else None
    return str(name[0]) if name else ""
