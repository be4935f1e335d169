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
    ``test`` is set when the payload itself says that nobody wrote to anybody: the vendor's test button, its simulator's
    addresses, its test mode. Such events are counted apart and enter no rate.

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
    test: bool = False


MASK = "<address>"
REASON_LENGTH = 1000

# An at sign in the disguises that bounce texts wear: URL-escaped (once or twice), HTML-escaped, \u-escaped, full width.
_DISGUISED_AT = re.compile(
    "%(?:25)?40|&#0{0,6}64;|&#x0{0,6}40;|&commat;|\\\\u0040|\uff20|\ufe6b", re.IGNORECASE | re.ASCII
)
_SPACED_AT = re.compile(r"\s{1,2}@\s{1,2}")
_QUOTED_LOCAL_PART = re.compile(r'"(?:[^"\\\r\n]|\\.){0,128}+"(?=@)')
# Every run of local-part characters is consumed whether or not an at sign follows: no text is looked at twice.
_RUN = re.compile(r'[^\s<>()\[\]:;,"@]++(@(?:\[[^\]\s]{0,80}\]?|[^\s<>()\[\]:;,"|/\\]*+))?')
_READ = 4096
_DELIMITERS = ' \t\r\n<>()[]:;,"'
_CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


def mask_addresses(text: str) -> str:
    """Replace everything shaped like an e-mail address (RFC 5321 section 4.1.2, RFC 6531) by ``<address>``.

    Linear in the length of the text. Covers quoted local parts, address literals, VERP and SRS forms, non-ASCII
    addresses, escaped at signs and domains without a dot; it rather masks too much than too little.
    """
    if "@" not in text and not _DISGUISED_AT.search(text):
        return text
    text = _SPACED_AT.sub("@", _DISGUISED_AT.sub("@", text))
    if '"@' in text:
        text = _QUOTED_LOCAL_PART.sub("quoted", text)
    return _RUN.sub(_mask_run, text)


def _mask_run(match: re.Match[str]) -> str:
    return match[0] if match[1] is None else MASK


def reason_text(text: str) -> str:
    """A remote text as ``Event.reason`` carries it: one line without control characters, addresses masked, at most
    ``REASON_LENGTH`` characters. Reads no more than the first 4,096 characters."""
    if len(text) > _READ:
        # Whatever the cut goes through is left out whole, since half an address would not be recognised as one.
        end = max(text.rfind(c, 0, _READ) for c in _DELIMITERS)
        text = text[: end if end > 0 else _READ]
    return mask_addresses(" ".join(text.translate(_CONTROL).split()))[:REASON_LENGTH]
