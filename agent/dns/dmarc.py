"""DMARC policy discovery as a receiver does it, against the live DNS (RFC 9989 section 4.10)."""

from __future__ import annotations

from agent.dns.answer import valid_name
from agent.dns.dmarc_discovery import Discovery, discovery
from agent.dns.follow import follow
from agent.dns.resolver import Resolver

_TIME_LIMIT = 20.0  # seconds; what is not answered by then counts as lost


async def discover(resolver: Resolver, domain: str) -> Discovery:
    """The DMARC policy that applies to mail from ``domain``, and its organizational domain.

    ``domain`` may have any case, a final dot and U-labels. Raises ``ValueError`` when it is no domain name. DNS trouble
    is never an error: ``.lost`` then holds the answer that did not come.
    """
    name = domain.removesuffix(".").lower()
    try:
        name = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{domain!r} is not a domain name") from None
    if not valid_name(name):
        raise ValueError(f"{domain!r} is not a domain name")
    return await follow(resolver, discovery(name), limit=_TIME_LIMIT)
