"""The addresses of name servers, as settings and questions write them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from ipaddress import ip_address

import dns.resolver

from agent.dns.answer import valid_name


def system() -> list[tuple[str, int]]:
    """Those of the operating system."""
    return [(str(server), 53) for server in dns.resolver.Resolver().nameservers if is_address(str(server))]


async def looked_up(servers: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The same with an address in place of each name; one that has none is left out. Raises ``OSError``."""
    found: list[tuple[str, int]] = []
    for host, port in servers:
        if is_address(host):
            found.append((host, port))
        else:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port)
            found += [(str(info[4][0]), port) for info in infos[:1]]
    return found


def is_address(host: str) -> bool:
    """Whether it is an IP address."""
    with contextlib.suppress(ValueError):
        return bool(ip_address(host))
    return False


def joined(host: str, port: int) -> str:
    """``host:port``, or ``[v6]:port``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_and_port(text: str) -> tuple[str, int]:
    """Raises ``ValueError`` when the text is no ``host``, ``host:port``, ``[v6]:port`` or IPv6 address."""
    if is_address(text):
        return text, 53
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, "53"
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    valid = is_address(host) if bracketed else valid_name(host) and ":" not in host
    if not (valid and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is no name server: give host, host:port or [IPv6 address]:port")
    return host, int(port)
