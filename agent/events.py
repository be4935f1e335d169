"""The vocabulary: what happened to one recipient of one message.

Every provider speaks these words, every store counts them, every rate is made of them. Nothing here knows
where an event came from or where it goes.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What happened. Members are strings, so ``event.kind == "delivered"`` holds."""

    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    DROPPED = "dropped"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    OPENED = "opened"
    CLICKED = "clicked"
    OTHER = "other"


class BounceClass(StrEnum):
    """Why a bounce bounced: the address is bad (hard), it may work later (soft), the sender was refused (block)."""

    HARD = "hard"
    SOFT = "soft"
    BLOCK = "block"
    UNDETERMINED = "undetermined"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One normalised event, as a provider's ``parse`` returns it.

    ``at`` is Unix time in seconds, fractions allowed, and is the time of the event itself, never of its arrival.
    ``domain`` is the sending domain as the payload names it (lower case), ``""`` if it names none; which configured
    domain that belongs to is decided later, from settings. ``tags`` are the payload's categories in its own order;
    ``stream`` is the vendor's own notion of a message stream, ``""`` if it has none. ``discriminator`` tells apart
    repeatable events that carry the same time: the URL of a click, the attempt number of a deferral.
    ``reason`` is the remote text, at most 1,000 characters, with address-shaped text already masked.

    ``recipient`` and ``discriminator`` may hold personal data. They live in memory until the identity is hashed,
    and nowhere else.
    """

    kind: Kind
    at: float
    recipient: str = ""
    message_id: str = ""
    event_id: str = ""
    bounce_class: BounceClass | None = None
    domain: str = ""
    stream: str = ""
    tags: tuple[str, ...] = ()
    smtp_code: int | None = None
    enhanced_code: str = ""
    reason: str = ""
    provider_event: str = ""
    asynchronous: bool = False
    discriminator: str = ""


_ADDRESS = re.compile(r"[^\s<>()\[\]:;,\"'=|/\\]{1,256}(?:@|%40|&#64;)[^\s<>()\[\]:;,\"'=|/\\]{1,256}", re.IGNORECASE)
MASK = "<address>"


def mask_addresses(text: str) -> str:
    """Replace everything shaped like an e-mail address by ``<address>``.

    Linear in the length of the text. Also catches the URL- and HTML-escaped at sign, VERP forms and
    addresses without a dot in the domain; it rather masks too much than too little.
    """
    if "@" not in text and "%40" not in text and "&#64;" not in text:
        return text
    return _ADDRESS.sub(MASK, text)
