"""Networks: what a recipe may name, and which addresses are the public web's. It imports nothing heavy: recipes are checked with it."""

from __future__ import annotations

import ipaddress

from infra.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four bytes


def networks(texts: tuple[str, ...]) -> list[Network]:
    """Raises ConfigError naming the one that is no network."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigError(f"crawl: allow_networks: {text!r} is no network ({error}); write it as 127.0.0.0/8") from error
    return found


def endpoint(text: str) -> tuple[str, int]:
    """ "ip:port" taken apart. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    try:
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError as error:
        raise ConfigError(f"addresses: {text!r} is no `ip:port`") from error


def is_public(address: Address) -> bool:
    """False for loopback, private, link-local, metadata, shared, multicast and reserved ones, also when wrapped in IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved
