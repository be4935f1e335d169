"""Signed traffic of any provider against a real agent, and what its ledger must say afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.clock import DAY, HOUR, MINUTE
from agent.ledger.base import Cell
from agent.ledger.sqlite import SqliteLedger, load_or_create_key
from agent.simulate import SIMULATORS, KeyPair, Truth
from tests.ledger.traffic import by_place

DOMAINS = ("example.com", "news.example.org")
STREAMS = ("transactional", "newsletter")
Counts = Counter[tuple[Cell, str]]


def settings(pairs: Mapping[str, KeyPair], **more: object) -> dict[str, Any]:
    """Settings with one source of each provider, named as it, and no DNS to be had."""
    sources = [{"name": p, "provider": p, "streams": [*STREAMS], **pair.settings} for p, pair in pairs.items()]
    return {
        "sources": sources, "domains": [{"name": name} for name in DOMAINS], "dns": {"resolvers": ["127.0.0.1:9"]},
        **more,
    }  # fmt: skip


def pairs(providers: list[str]) -> dict[str, KeyPair]:
    """Fresh credentials of each provider."""
    return {provider: SIMULATORS[provider].new_credentials() for provider in providers}


def wanted(truths: Mapping[str, Truth]) -> Counts:
    """What all traffic comes to, under the labels that the ledger counts by."""
    want: Counts = Counter()
    for provider, truth in truths.items():
        want += by_place(truth, provider)
    return want


async def counted(database: Path) -> dict[int, Counts]:
    """All that lies in a stopped agent's ledger: by width of the roll-up."""
    ledger = SqliteLedger(database, load_or_create_key(database.with_name(database.name + ".key")))
    found: dict[int, Counts] = {}
    for width in (MINUTE, HOUR, DAY):
        counts: Counts = Counter()
        for row in await ledger.rows(width, 0, time.time() + DAY):
            counts[row.cell, row.measure] += row.count
        found[width] = counts
    await ledger.close()
    return found


def part(counts: Counts, **names: str) -> Counter[str]:
    """The measures of one provider, stream or mailbox provider."""
    sums: Counter[str] = Counter()
    for (cell, measure), n in counts.items():
        if all(getattr(cell, name) == value for name, value in names.items()):
            sums[measure] += n
    return sums
