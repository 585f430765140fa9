"""Which addresses of the Internet a stranger's URL may lead to.

None that is this machine, its networks, or what a cloud shows to its own machines: private, loopback, link-local,
shared, multicast, reserved, unspecified, documentation. An IPv6 address that carries an IPv4 one is judged by what it
carries, or refused: a gateway would unwrap it.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_network

_GLOBAL_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")
_REFUSED = [
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; instance metadata of one cloud is there
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # a public address that only machines of one cloud reach, and its agent answers there
        "2001::/23",  # protocol assignments, Teredo among them, which carries IPv4
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries IPv4
        "3fff::/20",
    )
]


def is_public(address: str) -> bool:
    """Of a numeric address, as `getaddrinfo` gives it; what is none is not public."""
    try:
        given = ipaddress.ip_address(address)
    except ValueError:
        return False
    return _is_public(_unwrapped(given))


def is_private_literal(host: str) -> bool:
    """Whether a URL's host says so itself: to tell whoever registers it. Any name may lead anywhere when it is used."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return not is_public(host)


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:  # how a network without IPv4 reaches all of it
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False  # whatever else carries IPv4 (compatible, translated, local NAT64) is among these
    if address.is_multicast or any(address in network for network in _REFUSED):
        return False
    return address.is_global
