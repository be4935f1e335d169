"""SPF as a receiver does it: ``check_host()`` of RFC 7208 against the live DNS."""

from __future__ import annotations

import time

from agent.dns.follow import follow
from agent.dns.resolver import Resolver
from agent.dns.spf_eval import SpfCheck, evaluate

_TIME_LIMIT = 20.0  # seconds, the least that section 4.6.4 allows a limit to be


async def check_host(
    resolver: Resolver, *, ip: str, sender: str = "", helo: str = "", receiver: str = "unknown"
) -> SpfCheck:
    """Whether the client ``ip`` may send as ``sender`` (MAIL FROM; empty for a null reverse-path, which checks
    ``postmaster@helo``). ``.result`` is one of the names of RFC 7208 section 2.6, ``.explanation`` says why.

    DNS trouble, and more than 20 seconds of it, gives ``temperror``. Raises ``ValueError`` when ``ip`` is no address.
    """
    plan = evaluate(ip, sender, helo, receiver=receiver, now=time.time())
    return await follow(resolver, plan, limit=_TIME_LIMIT)
