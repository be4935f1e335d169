"""Mutes: incidents that somebody knows of already, and that nobody is to be told of for some time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, get_args

import msgspec

from agent.alerts.incidents import identity
from agent.events import mask_addresses

MOST = 100  # mutes at a time
_CHARACTERS = 300
_Label = Literal["alertname", "severity", "domain", "phase", "target", "check", "subject", "source"]
LABELS: tuple[str, ...] = get_args(_Label)
_Value = Annotated[str, msgspec.Meta(min_length=1, max_length=_CHARACTERS)]


class MuteError(ValueError):
    """A mute that cannot be; the message says why."""


class TooManyMutes(Exception):
    """There are ``MOST`` already."""


class Mute(msgspec.Struct, frozen=True):
    """Incidents whose labels have all the values of ``matchers`` are not told from ``since`` to ``until`` (Unix
    seconds). ``why`` is for people; addresses in it are masked."""

    id: str
    matchers: dict[str, str]
    since: float
    until: float
    why: str = ""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody asks for: ``hours`` from now on, at most 30 days."""

    matchers: Annotated[dict[_Label, _Value], msgspec.Meta(min_length=1)]
    hours: Annotated[float, msgspec.Meta(gt=0, le=720)]
    why: Annotated[str, msgspec.Meta(max_length=_CHARACTERS)] = ""


_wanted = msgspec.json.Decoder(Wanted)


def read(body: bytes, now: float) -> Mute:
    """The mute that a JSON text of ``Wanted`` asks for, from ``now`` (Unix seconds) on. The same matchers make the same
    ``id``, so that asking again changes how long. Raises ``MuteError``."""
    try:
        wanted = _wanted.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MuteError(str(error)) from None
    matchers = {str(label): mask_addresses(value) for label, value in wanted.matchers.items()}
    digest = hashlib.sha256(identity(matchers).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return Mute(digest, matchers, now, now + wanted.hours * 3600, mask_addresses(wanted.why))


def muted_until(labels: Mapping[str, str], mutes: Iterable[Mute], now: float) -> float:
    """Until when an incident with these labels is muted (Unix seconds), 0 when it is not."""
    ends = [
        mute.until
        for mute in mutes
        if now < mute.until and all(labels.get(name) == value for name, value in mute.matchers.items())
    ]
    return max(ends, default=0.0)
