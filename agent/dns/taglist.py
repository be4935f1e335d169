"""Tag=value lists (RFC 6376 section 3.2), which DKIM keys and DMARC records are made of."""

from __future__ import annotations

import re
from collections import Counter

# Tag names are letters, digits and underscores; DMARC is content with letters.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SPACE = " \t\r\n"


class TagListError(ValueError):
    """The text is no tag=value list. ``args[0]`` names the piece that is not a tag."""


def parse(text: str) -> list[tuple[str, str]]:
    """The tags in their order, white space around names and values removed. Raises ``TagListError``."""
    pieces = text.split(";")
    if not pieces[-1].strip(_SPACE):
        pieces.pop()
    tags: list[tuple[str, str]] = []
    for piece in pieces:
        name, equals, value = piece.partition("=")
        name = name.strip(_SPACE)
        if not equals or not _NAME.fullmatch(name):
            raise TagListError(f"{piece.strip()[:100]!r} is not tag=value")
        tags.append((name, value.strip(_SPACE)))
    return tags


def repeated(tags: list[tuple[str, str]]) -> list[str]:
    """Names that occur more than once, each once."""
    counts = Counter(name for name, _ in tags)
    return [name for name, n in counts.items() if n > 1]


def lenient(text: str) -> dict[str, str]:
    """The tags that can be read, the first of each name; for records whose readers ignore what they do not know."""
    found: dict[str, str] = {}
    for piece in text.split(";"):
        name, equals, value = (part.strip(_SPACE) for part in piece.partition("="))
        if equals and _NAME.fullmatch(name):
            found.setdefault(name, value)
    return found
