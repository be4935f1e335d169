"""Which registered domain a name belongs to, by the public suffix list (publicsuffix.org)."""

from __future__ import annotations

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList


@cache
def _suffixes() -> PublicSuffixList:
    # Read when first needed: it takes tens of milliseconds.
    return PublicSuffixList()


@lru_cache(4096)
def registered_domain(name: str) -> str:
    """The public suffix of a name and one label more (``mail.shop.co.uk`` -> ``shop.co.uk``), private suffixes such as
    hosting platforms included. ``name`` is lower-case ASCII without a final dot; ``""`` when it is itself a suffix or
    no name at all."""
    return _suffixes().privatesuffix(name) or "" if name and ".." not in name and name[0] != "." else ""
