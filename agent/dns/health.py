"""Whether a resolver can be believed: it must know what exists and say so of what does not."""

from __future__ import annotations

import asyncio
import secrets
from enum import StrEnum

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.resolver import Resolver


class Health(StrEnum):
    """``broken`` answers falsely. ``unknown`` has not answered, or not for these names: that alone proves nothing."""

    HEALTHY = "healthy"
    BROKEN = "broken"
    UNKNOWN = "unknown"


async def self_check(resolver: Resolver) -> dict[str, Health]:
    """The health of each configured name server, by address. Each is asked for a zone that exists (``com``) and for
    two names that cannot: a random one of ``invalid`` (RFC 6761 section 6.4) and a random one of ``com``, since some
    rewrite the negative answers of real zones alone."""
    servers = await resolver.servers()
    return dict(zip(servers, await asyncio.gather(*(_health(resolver, s) for s in servers)), strict=True))


async def _health(resolver: Resolver, server: str) -> Health:
    label = secrets.token_hex(12)
    known, *absent = await asyncio.gather(
        *(
            resolver.ask_one(question, server)
            for question in (Question("com", "NS"), Question(f"{label}.invalid", "A"), Question(f"{label}.com", "A"))
        )
    )
    return judge(known, absent)


def judge(known: Answer, absent: list[Answer]) -> Health:
    """The health that the answer for an existing name and those for names that do not exist show."""
    if known.outcome in (Outcome.NXDOMAIN, Outcome.NODATA) or any(a.outcome is Outcome.ANSWER for a in absent):
        return Health.BROKEN
    if known.outcome is Outcome.ANSWER and any(a.outcome is Outcome.NXDOMAIN for a in absent):
        return Health.HEALTHY
    return Health.UNKNOWN
