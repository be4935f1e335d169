"""The grammar of SPF records (RFC 7208 sections 4.5, 4.6, 5, 6, 7.1 and 12), as values.

A record is read whole before anything is evaluated: an error anywhere makes all of it unusable (section 4.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, NetmaskValueError, ip_network

import msgspec

QUALIFIERS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
# The terms that cost one of the ten lookups (section 4.6.4).
QUERYING = frozenset({"include", "a", "mx", "ptr", "exists", "redirect"})
LOOKUP_LIMIT = 10
VOID_LIMIT = 2
_MECHANISMS = frozenset({"all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"})

_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)", re.DOTALL)
_DIRECTIVE = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9._-]*)([:/].*)?", re.DOTALL)
_CIDR = re.compile(r"(.*?)(?:/(0|[1-9]\d?))?(?://(0|[1-9]\d{0,2}))?", re.DOTALL)
_MACRO = re.compile(r"%(?:([%_-])|\{([A-Za-z])(\d*)([rR]?)([-.+,/_=]*)\})")
_LITERAL = re.compile(r"[\x21-\x24\x26-\x7e]+")
_TEXT_LITERAL = re.compile(r"[\x20-\x24\x26-\x7e]+")
_TOPLABEL = re.compile(r"\.(?:[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*|[A-Za-z0-9]+-(?:[A-Za-z0-9-]*[A-Za-z0-9]))\.?$")
_IP4 = re.compile(r"(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})")


class SpfSyntaxError(ValueError):
    """The record cannot be interpreted. ``term`` is the offending term as published, ``args[0]`` says why."""

    def __init__(self, term: str, why: str) -> None:
        super().__init__(why)
        self.term = term


class Macro(msgspec.Struct, frozen=True):
    """``%{letter digits r delimiters}`` (section 7.1). ``digits`` 0 stands for all parts; the escapes ``%%``, ``%_``
    and ``%-`` have their second character as the letter."""

    letter: str
    digits: int = 0
    reverse: bool = False
    delimiters: str = "."


ESCAPES = {"%": "%", "_": " ", "-": "%20"}
# A macro-string: literal text and macros in order.
MacroString = tuple[str | Macro, ...]


class Term(msgspec.Struct, frozen=True):
    """One mechanism or modifier. ``qualifier`` is ``""`` for modifiers; ``domain`` is ``None`` where the current domain
    is meant; ``network`` is the text of ``ip4`` and ``ip6``; prefix lengths default to a single address."""

    text: str
    name: str
    qualifier: str = ""
    domain: MacroString | None = None
    network: str = ""
    prefix4: int = 32
    prefix6: int = 128

    def target(self, current: str) -> str | None:
        """The domain the term names, lower case without trailing dot; ``None`` when macros make it depend on the
        message."""
        if self.domain is None:
            return current
        parts = [ESCAPES.get(part.letter) if isinstance(part, Macro) else part for part in self.domain]
        if None in parts:
            return None
        return "".join(part for part in parts if part).lower().rstrip(".")


class Record(msgspec.Struct, frozen=True):
    """``mechanisms`` in their order; ``modifiers`` are all ``name=value`` terms, unknown ones included."""

    text: str
    mechanisms: tuple[Term, ...]
    modifiers: tuple[Term, ...]

    def modifier(self, name: str) -> Term | None:
        return next((m for m in self.modifiers if m.name == name), None)

    @property
    def redirect(self) -> Term | None:
        """The redirect in force: an ``all`` anywhere disables it (section 6.1)."""
        return None if any(m.name == "all" for m in self.mechanisms) else self.modifier("redirect")


def is_spf(text: str) -> bool:
    """Whether a TXT record is an SPF record (section 4.5): ``v=spf1``, then a space or the end."""
    return text[:6].lower() == "v=spf1" and text[6:7] in ("", " ")


def spf_records(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if is_spf(text)]


def parse(text: str) -> Record:
    """Read a record. Raises ``SpfSyntaxError``; ``ValueError`` of no other kind."""
    return _parse_kept(text) if len(text) <= _KEPT_LENGTH else _parse(text)


def _parse(text: str) -> Record:
    if not text.isascii():
        raise SpfSyntaxError(text, "holds characters that are not ASCII (section 3.1)")
    mechanisms: list[Term] = []
    modifiers: list[Term] = []
    for term in text[6:].split(" "):
        if not term:
            continue
        if match := _MODIFIER.fullmatch(term):
            modifier = _modifier(term, match[1].lower(), match[2])
            if modifier.name in ("redirect", "exp") and any(m.name == modifier.name for m in modifiers):
                raise SpfSyntaxError(term, f"{modifier.name}= may appear only once (section 6)")
            modifiers.append(modifier)
        elif match := _DIRECTIVE.fullmatch(term):
            mechanisms.append(_mechanism(term, match[1] or "+", match[2].lower(), match[3] or ""))
        else:
            raise SpfSyntaxError(term, "is neither a mechanism nor a modifier (section 4.6.1)")
    return Record(text, tuple(mechanisms), tuple(modifiers))


# What a sending service publishes stands below thousands of domains.
_KEPT_LENGTH = 1500
_parse_kept = lru_cache(4096)(_parse)


def _modifier(text: str, name: str, value: str) -> Term:
    if name in ("redirect", "exp"):
        return Term(text, name, domain=_domain_spec(text, value))
    macro_string(value, text)  # unknown modifiers are ignored, but must be well-formed
    return Term(text, name)


def _mechanism(text: str, qualifier: str, name: str, rest: str) -> Term:
    if name not in _MECHANISMS:
        raise SpfSyntaxError(text, f"{name!r} is not a mechanism (section 5)")
    if name == "all":
        if rest:
            raise SpfSyntaxError(text, "all takes no argument (section 5.1)")
        return Term(text, name, qualifier)
    if name in ("ip4", "ip6"):
        return Term(text, name, qualifier, network=_network(text, name, rest))
    prefix4, prefix6 = 32, 128
    if name in ("a", "mx"):
        match = _CIDR.fullmatch(rest)
        assert match is not None  # noqa: S101 - every part of the pattern may be empty
        rest = match[1]
        prefix4, prefix6 = int(match[2] or "32"), int(match[3] or "128")
        if prefix4 > 32 or prefix6 > 128:
            raise SpfSyntaxError(text, "has a prefix length beyond /32 or //128 (section 5.6)")
    if not rest and name in ("a", "mx", "ptr"):
        return Term(text, name, qualifier, prefix4=prefix4, prefix6=prefix6)
    if not rest.startswith(":"):
        raise SpfSyntaxError(text, "lacks a valid domain (section 5)")
    return Term(text, name, qualifier, _domain_spec(text, rest[1:]), prefix4=prefix4, prefix6=prefix6)


def _network(text: str, name: str, rest: str) -> str:
    address, slash, prefix = rest[1:].partition("/")
    try:
        if not rest.startswith(":") or (slash and not re.fullmatch(r"0|[1-9]\d{0,2}", prefix)):
            raise ValueError
        if name == "ip4":
            if not _IP4.fullmatch(address):
                raise ValueError
            parsed: IPv4Address | IPv6Address = IPv4Address(address)
        else:
            if "%" in address:
                raise ValueError
            parsed = IPv6Address(address)
        return str(ip_network(f"{parsed}/{prefix or parsed.max_prefixlen}", strict=False))
    except (AddressValueError, NetmaskValueError, ValueError) as e:
        raise SpfSyntaxError(text, f"is not a valid {name} network (section 5.6)") from e


def _domain_spec(text: str, value: str) -> MacroString:
    parts = macro_string(value, text)
    # It ends in a macro or in a dot and a top label; what stands before is checked after expansion (section 7.1).
    if not parts or not (isinstance(parts[-1], Macro) or _TOPLABEL.search(parts[-1])):
        raise SpfSyntaxError(text, "does not end in a valid top-level label (section 7.1)")
    return parts


def macro_string(value: str, term: str = "", *, explanation: bool = False) -> MacroString:
    """Read a macro-string; with ``explanation`` set, spaces and the letters c, r, t are legal too (section 7.2).

    Raises ``SpfSyntaxError``.
    """
    literal, letters = (_TEXT_LITERAL, "slodiphcrtv") if explanation else (_LITERAL, "slodiphv")
    parts: list[str | Macro] = []
    at = 0
    while at < len(value):
        if match := literal.match(value, at):
            parts.append(match[0])
        elif (match := _MACRO.match(value, at)) is None:
            raise SpfSyntaxError(term, f"holds {value[at : at + 8]!r}, which is no macro (section 7.1)")
        elif match[1]:
            parts.append(Macro(match[1]))
        elif match[2].lower() not in letters:
            raise SpfSyntaxError(term, f"holds {match[0]}, which is not allowed here (section 7.2)")
        elif match[3] and not match[3].strip("0"):
            raise SpfSyntaxError(term, f"holds {match[0]}: the number of parts must not be zero (section 7.1)")
        else:
            digits = min(int(match[3].lstrip("0")[:4] or 0), 999)
            parts.append(Macro(match[2], digits, bool(match[4]), match[5] or "."))
        at = match.end()
    return tuple(parts)
