"""Which addresses the crawler may connect to: a host is looked up once, and only what was checked is connected to.

A page can name any host, and a host's owner any address, so without this a crawl could be led into the network it runs
in (server-side request forgery) or, by answering the check and the connection differently, past the check (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from data_prep.corpus.crawling.networks import Address, endpoint, is_public, networks

LOOKUPS = 32  # threads: a name server that does not answer must not hold up the names of others


class PrivateAddress(Exception):
    """The host is at an address that must not be connected to."""


class NoAddress(Exception):
    """The host's name leads nowhere."""


class AddressBook(AbstractResolver):
    """Looks hosts up, remembers what is allowed, and gives aiohttp nothing else."""

    def __init__(self, allow_networks: tuple[str, ...], addresses: Mapping[str, str], timeout_s: float) -> None:
        self.allowed = networks(allow_networks)
        self.elsewhere = {host: endpoint(where) for host, where in addresses.items()}
        self.timeout_s = timeout_s
        self.known: dict[str, asyncio.Future[list[str]]] = {}
        self.threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="dns")

    def permits(self, text: str) -> bool:
        """True when a connection to this address may be made."""
        address: Address = ipaddress.ip_address(text.partition("%")[0])
        plain = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped else address
        return is_public(address) or any(plain in network for network in self.allowed)

    async def check(self, host: str) -> list[str]:
        """The host's permitted addresses. Raises PrivateAddress or NoAddress; one look-up a host and crawl."""
        if (found := self.known.get(host)) is None:
            found = self.known[host] = asyncio.ensure_future(self._look_up(host))
        return found.result() if found.done() else await asyncio.shield(found)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """What aiohttp asks for: the addresses that check() found, and no others."""
        mapped = self._mapped(host)
        where = mapped[1] if mapped else port
        return [
            ResolveResult(hostname=host, host=ip, port=where, family=_family(ip), proto=0, flags=socket.AI_NUMERICHOST)
            for ip in await self.check(host)
        ]

    async def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str) -> list[str]:
        mapped = self._mapped(host)
        if mapped:
            found = [mapped[0]]
        elif _is_literal(host):
            found = [host]
        else:
            found = await self._ask(host)
        if permitted := [ip for ip in found if self.permits(ip)]:
            return permitted
        raise PrivateAddress(f"{host} is at {', '.join(found)}, which no public page is; allow_networks may permit it")

    async def _ask(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        ask = loop.run_in_executor(self.threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        try:
            answers = await asyncio.wait_for(ask, self.timeout_s)
        except TimeoutError as error:
            raise NoAddress(f"no name server answered for {host} within {self.timeout_s} s") from error
        except (OSError, UnicodeError) as error:
            raise NoAddress(f"{host} has no address ({error})") from error
        return sorted({str(answer[4][0]) for answer in answers}, key=lambda ip: (":" in ip, ip))

    def _mapped(self, host: str) -> tuple[str, int] | None:
        if _is_literal(host):  # aiohttp connects to those without asking, so they must be judged as they stand
            return None
        if host in self.elsewhere:
            return self.elsewhere[host]
        suffixes = [pattern for pattern in self.elsewhere if pattern.startswith("*.") and host.endswith(pattern[1:])]
        best = max(suffixes, key=len, default="*")
        return self.elsewhere.get(best)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET
