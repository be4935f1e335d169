"""What a provider is: how it proves that a request is the ESP's, and what the request says.

A provider is a module that satisfies ``Provider``. It is pure: bytes and strings in, events out, time is an argument.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Protocol, TypeVar, get_args
from urllib.parse import parse_qs, parse_qsl

import msgspec

from agent.events import Event, mask_addresses

# A source's secrets by the vendor's own word for them (``verification_key``, ``username``, ...). Each may be a list,
# so that a rotation can keep the old and the new one alive; ``headers`` maps a header name to its secret(s).
Secret = str | Sequence[str]
Credentials = Mapping[str, Secret | Mapping[str, Secret]]


class AuthenticationError(Exception):
    """The request is not provably the ESP's. ``args[0]`` is a short reason without any secret: safe to log."""


class CertificateNeeded(AuthenticationError):
    """All is as it should be but the signature, which only the certificate at ``url`` could prove. ``url`` has been
    checked to be the vendor's own; nothing else about the request has been proved."""

    def __init__(self, url: str) -> None:
        super().__init__("the signing certificate is not at hand")
        self.url = url


class ParseError(Exception):
    """The body as a whole cannot be read (not JSON, wrong top-level type). ``args[0]`` never quotes the body."""


class WebhookRequest(msgspec.Struct, frozen=True):
    """One HTTP request as it arrived. ``query`` is the raw string, ``headers`` have lower-case names,
    ``body`` is the exact bytes, ``received_at`` is Unix seconds or an aware datetime."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    received_at: float | datetime

    @property
    def received(self) -> float:
        """``received_at`` as Unix seconds."""
        at = self.received_at
        return at.timestamp() if isinstance(at, datetime) else float(at)

    def header(self, name: str) -> str:
        """A header's value by its lower-case name, ``""`` when absent. Finds names a caller did not lower-case."""
        value = self.headers.get(name)
        if value is None:
            value = next((v for k, v in self.headers.items() if k.lower() == name), "")
        return value


class Parsed(list[Event]):
    """The events of one request, and how many of its items could not be read. A plain list to those who only count
    events; ``malformed`` > 0 tells that the body is worth keeping for a replay."""

    __slots__ = ("malformed",)

    def __init__(self, events: Iterable[Event] = (), malformed: int = 0) -> None:
        super().__init__(events)
        self.malformed = malformed


class Confirm(msgspec.Struct, frozen=True):
    """A subscription is to be confirmed by a GET of ``url``, which holds a secret and has been checked to be the
    vendor's own."""

    url: str


class Ended(msgspec.Struct, frozen=True):
    """The vendor says that the subscription has ended: nothing more will come."""


class Reply(msgspec.Struct, frozen=True):
    """The request is to be answered 200 with ``body``."""

    body: bytes
    content_type: str


class Provider(Protocol):
    """What ``PROVIDERS`` maps a provider id to (modules satisfy it)."""

    @property
    def CREDENTIALS(self) -> tuple[tuple[str, ...], ...]:  # noqa: N802 - a module constant
        """The ways a source can authenticate, each as the names of credentials that together make one way.
        A source must fill at least one way completely."""

    @property
    def REPLAY_WINDOW(self) -> float:  # noqa: N802 - a module constant
        """Seconds by which a signed timestamp may differ from the arrival, 0 when the vendor signs no time."""

    def validate_credentials(self, credentials: Credentials) -> str | None:
        """A sentence about the first configured value that could never prove anything (a key that is no key), without
        the value itself; ``None`` when all can. For settings; ``authenticate`` does without it."""

    def authenticate(self, request: WebhookRequest, credentials: Credentials) -> None:
        """Raise ``AuthenticationError`` unless one of the configured ways proves the request. Raises nothing else.

        A vendor that signs with certificates has ``CertificateNeeded`` raised for one that is not among
        ``certificates``: a mapping from its URL to the certificate (PEM), or the text(s) of pinned ones."""

    def parse(self, request: WebhookRequest) -> Parsed:
        """All events of the request. Unknown event names become ``other``; an unreadable item is counted in
        ``malformed`` and does not hurt its neighbours. Raises ``ParseError``, and nothing else, when there is
        nothing to read at all. A handshake has no events."""

    # Vendors that shake hands have one or both of these beside it, as functions of the module:
    # ``follow_up(request) -> Confirm | Ended | Reply | None``: what an authentic request asks for beside being counted.
    # ``answer_options(headers) -> dict[str, str] | None``: the headers that answer an OPTIONS request, given its own
    # (lower-case names); ``None`` when it is not the vendor's.


def secrets(credentials: Credentials, name: str) -> tuple[str, ...]:
    """All live values of one credential, empty ones left out."""
    value = credentials.get(name, ())
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, Mapping):
        return ()
    return tuple(v for v in value if v)


def header_secrets(credentials: Credentials) -> dict[str, tuple[str, ...]]:
    """The configured ``headers`` credential: lower-case header name to its live secrets."""
    value = credentials.get("headers", {})
    if not isinstance(value, Mapping):
        return {}
    pairs = ((k.lower(), (v,) if isinstance(v, str) else tuple(v)) for k, v in value.items())
    return {name: live for name, values in pairs if (live := tuple(v for v in values if v))}


def equal(given: str, expected: str) -> bool:
    """Constant-time comparison of two texts."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def check_basic(request: WebhookRequest, credentials: Credentials) -> bool:
    """Whether the request carries configured ``username``/``password`` as HTTP basic authentication (RFC 7617)."""
    header = request.header("authorization")
    pairs = [(u, p) for u in secrets(credentials, "username") for p in secrets(credentials, "password")]
    # As nearly all senders write it; and no short cut: every pair is compared.
    if sum(equal(header, _basic(user, password)) for user, password in pairs):
        return True
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (Base64Error, ValueError):
        return False
    # Compared without a short cut, so that timing tells nothing about which half was wrong.
    user, colon, password = given.partition(":")
    matches = [equal(user, u) & equal(password, p) for u, p in pairs]
    return bool(colon) and any(matches)


def username_problem(credentials: Credentials) -> str | None:
    """A sentence when a user name is one that basic authentication cannot carry (RFC 7617 section 2)."""
    if any(":" in name for name in secrets(credentials, "username")):
        return "username contains a colon, which basic authentication cannot carry"
    return None


_LONGEST_QUERY = 4096


def check_token(request: WebhookRequest, credentials: Credentials) -> bool:
    """Whether the request carries a configured ``token``: as ``Authorization: Bearer``, or as ``token=`` in the URL's
    query, which a proxy should keep out of its logs."""
    scheme, _, bearer = request.header("authorization").partition(" ")
    given = [bearer.strip()] if scheme.lower() == "bearer" else []
    if len(request.query) <= _LONGEST_QUERY:
        given += parse_qs(request.query).get("token", [])[:4]
    return bool(sum(equal(one, token) for one in given for token in secrets(credentials, "token")))


@lru_cache(256)
def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode("utf-8", "surrogatepass")).decode("ascii")


def check_headers(request: WebhookRequest, credentials: Credentials) -> bool:
    """Whether every configured secret header is present with one of its live values."""
    wanted = header_secrets(credentials)
    return bool(wanted) and all(
        any(equal(request.header(name), secret) for secret in values) for name, values in wanted.items()
    )


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


def header_problem(credentials: Credentials) -> str | None:
    """A sentence when the configured ``headers`` hold a name that HTTP cannot carry (RFC 9110 section 5.6.2)."""
    if all(_HEADER_NAME.fullmatch(name) for name in header_secrets(credentials)):
        return None
    return "headers contains a name that is no HTTP header name"


_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_hex_hmac(given: str, body: bytes, keys: Iterable[str]) -> bool:
    """Whether ``given`` is the lower-case hex HMAC-SHA256 (RFC 2104) of the body under one of the keys (texts)."""
    if not _HEX_SHA256.fullmatch(given):
        return False
    return bool(sum(equal(given, hmac.digest(key.encode("utf-8"), body, "sha256").hex()) for key in keys))


def load_json(body: bytes) -> object:
    """JSON as the world writes it: raw control characters, bytes that are not UTF-8, ``NaN`` and lone surrogates do not
    cost the rest of the body. Slow; for what the strict decoder refused. Raises ``ParseError``."""
    try:
        value: object = json.loads(body.decode("utf-8", "replace"), strict=False)
    except RecursionError:
        raise ParseError("body is nested too deeply") from None
    except ValueError:
        raise ParseError("body is not JSON") from None
    return value


_LONGEST_FORM = 256 * 1024
_MOST_FIELDS = 256


def flat_fields(body: bytes) -> dict[str, str]:
    """The fields of a form (the last of each name) or of a JSON object, as text. Raises ``ParseError`` for other JSON,
    and for a form beyond 256 KiB or 256 fields."""
    if body.lstrip()[:1] == b"{":
        try:
            value: object = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            value = load_json(body)
        return {name: as_text(given) for name, given in value.items()} if isinstance(value, dict) else {}
    if len(body) > _LONGEST_FORM:
        raise ParseError("body is too long for a form")
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise ParseError("body has too many fields for a form") from None


def as_text(value: object) -> str:
    """A JSON value that should have been a string; numbers become one, everything else ``""``."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Integers too long to print are no identifiers.
        return str(value) if isinstance(value, float) or abs(value) < 10**40 else ""
    return ""


def as_texts(value: object) -> tuple[str, ...]:
    """The texts of a JSON array, or the one text that stands in its place: at most 32, each at most 255 characters."""
    values = value[:256] if isinstance(value, list) else [value]
    return tuple([text[:255] for each in values if (text := as_text(each))][:32])


def event_name(text: str) -> str:
    """A raw event name as ``Event.provider_event`` carries it: at most 64 characters, addresses masked."""
    return mask_addresses(text[:256])[:64]


def address_in(text: str) -> str:
    """The address in ``addr`` or ``Name <addr>``, lower case, at most 512 characters."""
    text = text[:2048]
    if "<" in text:
        text = text.rpartition("<")[2].partition(">")[0]
    return text.strip().lower()[:512]


def domain_in(text: str) -> str:
    """The domain in ``addr`` or ``Name <addr>``, lower case; ``""`` when there is none."""
    words = text[:2048].rpartition("@")[2].partition(">")[0].split()
    return words[0].lower()[:253] if words and "@" in text[:2048] else ""


class _Attached(msgspec.Struct):
    from_domain: str = ""


_decode_attached = msgspec.json.Decoder(_Attached).decode


def attached_domain(text: str | None) -> str:
    """``from_domain`` of the JSON object that a sender attached to the message, lower case; ``""`` if it is no such."""
    if not text or text[0] != "{":
        return ""
    try:
        return _decode_attached(text).from_domain.strip().lower()[:253]
    except (ValueError, RecursionError):
        return ""


_S = TypeVar("_S", bound=msgspec.Struct)


def salvage(value: object, struct: type[_S]) -> _S | None:
    """What can be read of a JSON object whose fields are not of the documented types, ``None`` if it is no object.

    Every field becomes text, a struct in its turn, or, where ``struct`` says ``object``, what it is. All fields of
    ``struct`` have defaults, and those that are plain values may be text.
    """
    if not isinstance(value, dict):
        return None
    kept: dict[str, object] = {}
    for name, key, inner, how in _shape(struct):
        given = value.get(key)
        if how is _AS_IT_IS:
            kept[name] = given
        elif inner is not None and isinstance(given, dict):
            kept[name] = salvage(given, inner)
        elif how is _AS_TEXT:
            kept[name] = as_text(given) or None
    return struct(**kept)


_AS_IT_IS, _AS_TEXT, _INNER = "as it is", "as text", "inner"


@cache
def _shape(struct: type[msgspec.Struct]) -> tuple[tuple[str, str, type[msgspec.Struct] | None, str], ...]:
    """Each field's name, JSON key, inner struct and treatment. Working it out costs a hundred times an item."""
    found = []
    for field in msgspec.structs.fields(struct):
        types = get_args(field.type)
        inner = next((t for t in types if isinstance(t, type) and issubclass(t, msgspec.Struct)), None)
        how = _AS_IT_IS if field.type is object else _AS_TEXT if inner is None or str in types else _INNER
        found.append((field.name, field.encode_name, inner, how))
    return tuple(found)


def read_each(
    raws: Iterable[msgspec.Raw], decode: Callable[[msgspec.Raw], _S], rescue: Callable[[object], _S | None]
) -> list[_S | None]:
    """The items of an array of which at least one is not as documented; ``None`` for those that not even ``rescue``
    can read."""
    items: list[_S | None] = []
    for raw in raws:
        try:
            items.append(decode(raw))
        except (ValueError, RecursionError):
            try:
                items.append(rescue(load_json(bytes(raw))))
            except ParseError:
                items.append(None)
    return items


# Unix seconds beyond this are milliseconds; so are they if they still are after a division by 1,000: nonsense.
MAX_TIME = 1e11


def as_time(value: object) -> float | None:
    """Unix seconds out of a number or numeric string (from 1e11 on: milliseconds), or out of ISO 8601 text with up to
    9 fraction digits and any offset (UTC when it names none). ``None`` unless the time is in 0 < t < 1e11."""
    at: float
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            at = float(value)
        elif isinstance(value, str) and len(value) <= 64:
            text = value.strip()
            if "-" in text[1:]:
                moment = datetime.fromisoformat(text)
                at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            else:
                at = float(text)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    if at >= MAX_TIME:
        at /= 1000
    return at if 0 < at < MAX_TIME else None
