"""A GET of a URL that somebody else named: it reaches the public Internet over TLS, and nothing else.

Every address that a name resolves to is looked at before a connection is made, and the connection goes to one of those
very addresses, so that a name whose answer changes in between gains nothing. TLS still proves the name.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urljoin

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection

LONGEST_URL = 2048
_REDIRECTS = (301, 302, 303, 307, 308)
# What no two parsers read differently: no userinfo, no blanks, no backslashes, nothing but printable ASCII.
_URL = re.compile(r"https://([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?(?:[/?][!-\[\]-~]*)?")
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "mailvitals"}

# IANA special-purpose registries; of IPv6 only global unicast and the well-known NAT64 prefix are looked at.
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    )
)  # fmt: skip
_GLOBAL_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")

Address = IPv4Address | IPv6Address
# From a host name and a port to the (address, port) pairs behind it. Raises ``OSError`` when there are none.
Resolve = Callable[[str, int], Awaitable[Sequence[tuple[str, int]]]]


class Fetched(msgspec.Struct, frozen=True):
    """An answer as it came: ``headers`` with lower-case names (the last of each), ``body`` in whatever encoding
    ``content-encoding`` says, ``certificate`` the Unix seconds between which the server's certificate is good."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    certificate: tuple[float, float] = (0.0, 0.0)


class FetchError(Exception):
    """Nothing was fetched. ``reason``: ``url`` (not a plain https URL), ``dns`` (no address), ``address`` (not a public
    one), ``connect``, ``tls``, ``timeout``, ``redirect`` (one too many), ``too_large``, ``http`` (not HTTP, or cut
    short). Says nothing of the URL, which may hold a secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_public(address: Address) -> bool:
    """Whether the address can be reached by everyone: global unicast, or NAT64 (RFC 6052) of such an IPv4 address."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFFFFFF)
        elif address not in _GLOBAL_UNICAST:
            return False
    return not any(address in network for network in _SPECIAL if network.version == address.version)


async def fetch(
    url: str,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109 - of all hops together
    limit: int = 65536,
    redirects: int = 0,
    tls: ssl.SSLContext | None = None,
    resolve: Resolve | None = None,
    allowed: Callable[[Address], bool] = is_public,
) -> Fetched:
    """GET an https URL; whatever is no redirect is returned with its status. Raises ``FetchError``, and nothing else.

    ``timeout`` is seconds for everything, ``limit`` the most bytes of a body, ``redirects`` how many are followed,
    each checked like the first URL. ``tls`` (default: the system's roots), ``resolve`` (default: the system's resolver)
    and ``allowed`` are for whoever must reach a server of his own.
    """
    pinned = _Pinned(resolve or _resolve, allowed)
    try:
        async with asyncio.timeout(timeout):
            connector = aiohttp.TCPConnector(ssl=tls or True, resolver=pinned, use_dns_cache=False, force_close=True)
            async with aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None), response_class=_Response,
            ) as session:  # fmt: skip
                for _ in range(redirects + 1):
                    answer = await _get(session, _checked(url, allowed), limit)
                    if isinstance(answer, Fetched):
                        return answer
                    url = urljoin(url, answer.partition("#")[0])
            raise FetchError("redirect")
    except TimeoutError:
        raise FetchError("timeout") from None
    except (aiohttp.ClientSSLError, ssl.SSLError):
        raise FetchError("tls") from None
    except aiohttp.InvalidURL:
        raise FetchError("url") from None
    except aiohttp.ClientConnectorDNSError:
        raise FetchError("dns") from None
    except aiohttp.ClientConnectorError:
        raise FetchError("connect") from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise FetchError("http") from None


async def _get(session: aiohttp.ClientSession, url: str, limit: int) -> Fetched | str:
    """The answer, or where it sends us."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status in _REDIRECTS:
            return response.headers.get("Location", "")
        if (response.content_length or 0) > limit:
            raise FetchError("too_large")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise FetchError("too_large")
        headers = {name.lower(): value for name, value in response.headers.items()}
        span = response.certificate if isinstance(response, _Response) else (0.0, 0.0)
        return Fetched(response.status, headers, bytes(body), span)


class _Response(aiohttp.ClientResponse):
    """Remembers the certificate: once a short body is there, the connection is gone."""

    certificate = (0.0, 0.0)

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        tls = connection.transport.get_extra_info("ssl_object") if connection.transport else None
        held = tls.getpeercert() if tls else {}
        if held:
            self.certificate = (
                float(ssl.cert_time_to_seconds(held["notBefore"])), float(ssl.cert_time_to_seconds(held["notAfter"])),
            )  # fmt: skip
        return await super().start(connection)


def _checked(url: str, allowed: Callable[[Address], bool]) -> str:
    """The URL. An address in the place of a name is not resolved, so it is looked at here."""
    url = url.partition("#")[0]
    match = _URL.fullmatch(url) if len(url) <= LONGEST_URL else None
    if match is None or not 0 < int(match[2] or 443) < 65536:
        raise FetchError("url")
    try:
        address = ip_address(match[1].strip("[]"))
    except ValueError:
        return url
    if not allowed(address):
        raise FetchError("address")
    return url


class _Pinned(AbstractResolver):
    """Gives the connector the addresses that were looked at, or none."""

    def __init__(self, resolve: Resolve, allowed: Callable[[Address], bool]) -> None:
        self._resolve = resolve
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolve(host, port)
        if not found:
            raise OSError("no address")
        results: list[ResolveResult] = []
        for text, target in found:
            address = ip_address(text)
            # One bad address among good ones is reason enough: whoever owns the name put it there.
            if not self._allowed(address):
                raise FetchError("address")
            results.append(
                ResolveResult(
                    hostname=host, host=text, port=target, proto=0, flags=socket.AI_NUMERICHOST,
                    family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                )
            )  # fmt: skip
        return results

    async def close(self) -> None:
        """Nothing is kept open."""


async def _resolve(host: str, port: int) -> Sequence[tuple[str, int]]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError("no host name") from error
    return list(dict.fromkeys((str(each[4][0]), port) for each in found))
