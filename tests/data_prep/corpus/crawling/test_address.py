from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.corpus.crawling import networks
from data_prep.corpus.crawling.address import AddressBook, NoAddress, PrivateAddress
from infra.errors import ConfigError

FORBIDDEN = [
    *(
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "239.1.1.1",
    ),
    *(
        "255.255.255.255",
        "240.0.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
    ),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
]


def check(book: AddressBook, host: str) -> list[str]:
    async def ask() -> list[str]:
        try:
            return await book.check(host)
        finally:
            await book.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("text", FORBIDDEN)
def test_no_address_of_the_inside_is_public(text) -> None:
    assert not networks.is_public(ipaddress.ip_address(text))
    with pytest.raises(PrivateAddress, match="allow_networks"):
        check(AddressBook((), {}, 1.0), text)


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_of_the_web_are_public(text) -> None:
    assert check(AddressBook((), {}, 1.0), text) == [text]


@given(st.ip_addresses(v=4))
def test_wrapping_a_private_address_in_ipv6_makes_it_no_public_one(plain) -> None:
    for wrapped in (f"::ffff:{plain}", f"64:ff9b::{plain}", f"2002:{int(plain) >> 16:x}:{int(plain) & 0xFFFF:x}::1"):
        assert networks.is_public(plain) or not networks.is_public(ipaddress.ip_address(wrapped))


def test_allowed_networks_are_allowed_and_their_neighbours_are_not() -> None:
    book = AddressBook(("127.0.0.0/30", "fd00::/8"), {}, 1.0)
    assert [book.permits(ip) for ip in ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.5", "fd00::1", "fe80::1")] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_a_host_is_looked_up_once_and_only_what_was_checked_is_handed_out(monkeypatch) -> None:
    answers = iter([["93.184.216.34", "10.0.0.1"], ["127.0.0.1"]])  # a rebinding name server: harmless first, then inside

    def getaddrinfo(host, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, 0)) for ip in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def ask() -> list:
        book = AddressBook((), {}, 1.0)
        first = await book.check("evil.test")
        connected = [await book.resolve("evil.test", 80) for _ in range(3)]
        await book.close()
        return [first, *([found["host"] for found in answer] for answer in connected)]

    assert asyncio.run(ask()) == [["93.184.216.34"]] * 4


def test_a_slow_name_server_is_not_waited_for(monkeypatch) -> None:
    import time

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(0.5) or [])
    with pytest.raises(NoAddress, match="within"):
        check(AddressBook((), {}, 0.05), "slow.test")


@pytest.mark.parametrize(
    ("host", "port"), [("a.test", 1), ("b.a.test", 2), ("x.b.a.test", 2), ("c.test", 3), ("other.example", 4)], ids=str
)
def test_the_nearest_mapping_wins(host, port) -> None:
    table = {"a.test": "1.1.1.1:1", "*.a.test": "1.1.1.1:2", "*.test": "1.1.1.1:3", "*": "1.1.1.1:4"}

    async def ask() -> int:
        book = AddressBook((), table, 1.0)
        found = await book.resolve(host, 80)
        await book.close()
        return found[0]["port"]

    assert asyncio.run(ask()) == port


def test_a_literal_address_is_never_mapped_away_from_its_check() -> None:
    with pytest.raises(PrivateAddress):
        check(AddressBook((), {"*": "1.1.1.1:80"}, 1.0), "169.254.169.254")


@pytest.mark.parametrize("text", ["localhost:80", "127.0.0.1", "1.2.3.4:x", ""])
def test_where_to_connect_must_be_an_address_and_a_port(text) -> None:
    with pytest.raises(ConfigError, match="ip:port"):
        networks.endpoint(text)
    assert networks.endpoint("[::1]:80") == ("::1", 80)
