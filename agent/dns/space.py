"""Address space that mail on the Internet cannot come from or go to."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# Private, shared, loopback, link-local, unspecified and multicast space (IANA special-purpose registries).
# Documentation networks are left out: no forgotten zone file puts them there, and examples are full of them.
_UNREACHABLE = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "224.0.0.0/4", "::/127", "fc00::/7", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip


@lru_cache(16_384)
def network_of(text: str) -> IPv4Network | IPv6Network:
    """The network, or the address alone. Raises ``ValueError``."""
    return ip_network(text)


@lru_cache(8192)
def address_of(text: str) -> IPv4Address | IPv6Address:
    """The address. Raises ``ValueError``."""
    return ip_address(text)


@lru_cache(8192)
def is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


@lru_cache(8192)
def reachable(network: IPv4Network | IPv6Network) -> bool:
    """Whether no part of the network is unreachable from the Internet."""
    return not any(network.version == other.version and network.overlaps(other) for other in _UNREACHABLE)


@lru_cache(8192)
def everywhere(text: str) -> bool:
    """Whether the text is an address that everyone can reach, and that a question may therefore be sent to:
    documentation networks are not."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast
