"""One URL to one answer: turns, retries, redirects and limits; whatever goes wrong ends as a Refused with its outcome."""

from __future__ import annotations

import asyncio
import email.utils
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import aiohttp
import xxhash
from yarl import URL

from data_prep.corpus import urls
from data_prep.corpus.crawling import robots
from data_prep.corpus.crawling.address import AddressBook, NoAddress, PrivateAddress
from data_prep.corpus.crawling.body import ACCEPTED, STEP, Body, Bomb, TooLarge, Undecodable
from data_prep.corpus.crawling.clock import Clock
from data_prep.corpus.crawling.config import CrawlConfig
from data_prep.corpus.crawling.warcfile import Exchange

REDIRECTS = frozenset((301, 302, 303, 307, 308))
RETRIED = frozenset((429, 500, 502, 503, 504))
CHUNK = 1 << 16
BROKEN = (aiohttp.ConnectionTimeoutError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)
ACCEPT = "text/html,application/xhtml+xml,text/plain;q=0.8,*/*;q=0.1"
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What a server said, and the way there."""

    status: int
    content_type: str
    charset: str
    location: str
    retry_after: str
    exchange: Exchange
    hops: tuple[str, ...] = ()


class Refused(Exception):
    """The page will not be had; outcome is one of schemas.OUTCOMES."""

    def __init__(self, outcome: str, reason: str, status: int | None = None, final_url: str = "") -> None:
        super().__init__(reason)
        self.outcome, self.reason, self.status, self.final_url = outcome, reason, status, final_url


class _NoConnection(Exception):
    """The host could not be talked to; another try may succeed."""


class Fetcher:
    """All a shard's requests go through here. `failures` and `dead` are its memory of hosts."""

    def __init__(self, config: CrawlConfig, session: aiohttp.ClientSession, book: AddressBook, clock: Clock) -> None:
        self.config, self.session, self.book, self.clock = config, session, book, clock
        self.slots = asyncio.Semaphore(config.concurrency)
        self.failures: Counter[str] = Counter()  # in a row
        self.dead: dict[str, str] = {}
        self.delays: dict[str, float] = {}
        self.rules: dict[str, asyncio.Future[robots.Rules]] = {}

    async def page(self, url: str, stop_at: Callable[[str], bool]) -> Answer:
        """Follow redirects until a page answers; a redirect to a URL that stop_at knows ends as "redirected".

        Every hop is checked anew: its address, its host's robots.txt, its host's turn. Raises Refused.
        """
        hops = [url]
        while True:
            await self._may(hops[-1])
            answer = await self._ask(hops[-1], self.config.content_types)
            if answer.status not in REDIRECTS or not answer.location:
                return replace(answer, hops=tuple(hops))
            target = urls.joined(hops[-1], answer.location, keep_tracking=True)
            if target is None:
                raise Refused("bad_url", f"redirected to {answer.location[:200]!r}", answer.status, hops[-1])
            if target in hops or len(hops) > self.config.max_redirects:
                raise Refused("redirect_loop", f"{len(hops)} redirects, the next to {target[:200]}", answer.status, hops[-1])
            if stop_at(target):
                raise Refused("redirected", "to a page that is fetched on its own", answer.status, target)
            hops.append(target)

    async def _may(self, url: str) -> None:
        await self._check_address(url, urls.authority(url))
        origin = "/".join(url.split("/", 3)[:3])
        if origin not in self.rules:
            self.rules[origin] = asyncio.ensure_future(self._robots(origin))
        try:
            rules = await asyncio.shield(self.rules[origin])
        except Refused as error:
            raise Refused(error.outcome, error.reason, final_url=url) from error
        if why := rules.forbids(url):
            raise Refused("robots", why, final_url=url)
        self.delays[urls.authority(url)] = max(self.config.per_host_delay_s, rules.delay_s)
        if rules.delay_s > self.config.max_crawl_delay_s:
            raise Refused("robots", f"robots.txt asks for {rules.delay_s:g} s between requests; max_crawl_delay_s is less", final_url=url)

    async def _robots(self, origin: str) -> robots.Rules:
        """RFC 9309, section 2.3.1: redirects are followed, an unreachable file closes the host."""
        url = f"{origin}/robots.txt"
        host = urls.authority(url)
        try:
            for _ in range(max(self.config.max_redirects, 5) + 1):
                answer = await self._ask(url, ())
                target = urls.joined(url, answer.location, keep_tracking=True) if answer.status in REDIRECTS else None
                if target is None:
                    rules = robots.rules(self.config.agent, answer.status, answer.exchange.body)
                    self.clock.postpone(host, min(rules.delay_s, self.config.max_crawl_delay_s))  # it holds for the first page already
                    return rules
                url = target
            return robots.Rules(self.config.agent)  # section 2.3.1.2: after five redirects it may be taken as unavailable
        except Refused as error:
            if error.outcome in ("dead_host", "timeout"):
                self.dead.setdefault(host, f"robots.txt: {error.reason}")
                raise Refused("dead_host", self.dead[host]) from error
            return robots.Rules(self.config.agent, closed=f"robots.txt: {error.reason}")

    async def _ask(self, url: str, types: tuple[str, ...]) -> Answer:
        """One hop with its retries."""
        host = urls.authority(url)
        await self._check_address(url, host)
        for attempt in range(self.config.retries + 1):
            answer, reason = await self._try(url, host, types)
            if answer is not None and answer.status not in RETRIED:
                return answer
            wait = max(self._backoff(url, attempt), seconds_asked(answer.retry_after, self.clock.now()) if answer else 0.0)
            if wait > self.config.max_wait_s or attempt == self.config.retries:
                break
            self.clock.postpone(host, wait)  # the whole host waits, not this page alone
        if answer is None:
            raise Refused("dead_host", reason, final_url=url)
        return answer

    async def _try(self, url: str, host: str, types: tuple[str, ...]) -> tuple[Answer | None, str]:
        """An answer, or None and why there is none. Raises Refused when the host or the page is beyond hope."""
        if host in self.dead:
            raise Refused("dead_host", self.dead[host], final_url=url)
        delay = self.delays.get(host, self.config.per_host_delay_s)
        await asyncio.sleep(self.clock.reserve(host, delay))
        try:
            async with self.slots:
                answer = await self._exchange(url, types)
        except _NoConnection as error:
            self._failed(host, str(error))
            return None, str(error)
        except Refused as error:
            if error.outcome == "timeout":
                self._failed(host, error.reason)
            raise
        finally:
            if delay:
                self.clock.postpone(host, delay)  # counted from the answer's end, so the server never sees less
        self.failures.pop(host, None)
        return answer, ""

    def _failed(self, host: str, reason: str) -> None:
        self.failures[host] += 1
        if self.failures[host] >= self.config.dead_after:
            self.dead.setdefault(host, f"given up after {self.failures[host]} failures, the last: {reason}")

    async def _check_address(self, url: str, host: str) -> None:
        try:
            await self.book.check(urls.split_authority(url)[0])
        except PrivateAddress as error:
            raise Refused("private_address", str(error), final_url=url) from error
        except NoAddress as error:
            self.dead.setdefault(host, str(error))
            raise Refused("dead_host", str(error), final_url=url) from error

    async def _exchange(self, url: str, types: tuple[str, ...]) -> Answer:
        """One request and its answer, within all limits."""
        try:
            async with asyncio.timeout(self.config.page_timeout_s):
                async with self.session.get(URL(url, encoded=True), allow_redirects=False) as response:
                    return await self._read(url, response, types)
        except BROKEN as error:
            raise _NoConnection(f"{type(error).__name__}: {error}"[:300]) from error
        except TimeoutError as error:
            raise Refused("timeout", f"not whole after {self.config.page_timeout_s:g} s", final_url=url) from error
        except (aiohttp.ClientError, ValueError) as error:  # an answer that is no HTTP
            raise Refused("http_error", f"{type(error).__name__}: {error}"[:300], final_url=url) from error

    async def _read(self, url: str, response: aiohttp.ClientResponse, types: tuple[str, ...]) -> Answer:
        ip = _peer(response)  # now: with the body's end the connection is gone
        kind = response.headers.get("Content-Type", "")
        media = kind.partition(";")[0].strip().lower()
        good = 200 <= response.status < 300
        if good and types and media and media not in types:
            raise Refused("not_text", f"content-type {media[:80]}", response.status, url)
        body = await self._body(url, response, robots_file=not types) if good else b""
        if good and types and not media and b"\0" in body[:1024]:
            raise Refused("not_text", "no content-type, and binary", response.status, url)
        charset = CHARSET.search(kind)
        return Answer(
            response.status,
            media,
            charset[1].lower() if charset else "",
            response.headers.get("Location", "").strip(),
            response.headers.get("Retry-After", ""),
            _exchange_of(url, ip, response, body),
        )

    async def _body(self, url: str, response: aiohttp.ClientResponse, *, robots_file: bool) -> bytes:
        wire, unpacked = self.config.max_bytes, self.config.max_unpacked_bytes
        if robots_file:  # one chunk more than counts, so that what is held when the limit is met is all that counts
            wire, unpacked = robots.LONGEST + CHUNK, robots.LONGEST + STEP
        body: Body | None = None
        try:
            body = Body(response.headers.get("Content-Encoding", ""), wire, unpacked)
            if not robots_file and (response.content_length or 0) > wire:
                raise TooLarge(f"content-length {response.content_length}, more than {wire} bytes")
            async for chunk in response.content.iter_chunked(CHUNK):
                body.feed(chunk)
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
    """No cookies, no proxy from the environment, no unpacking: what arrives is what was sent."""
    connector = aiohttp.TCPConnector(limit=config.concurrency, resolver=book, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s)
    headers = {"User-Agent": config.user_agent, "Accept": ACCEPT, "Accept-Encoding": ACCEPTED}
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
    )


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
