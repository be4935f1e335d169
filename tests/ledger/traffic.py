"""Simulated traffic as the agent reads it: batches out of signed bodies, and the truth about them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

from agent.clock import DAY, HOUR
from agent.events import Kind
from agent.intake.source import OTHER_DOMAIN, Source
from agent.ledger.base import Batch, Cell, Ledger
from agent.providers import PROVIDERS, WebhookRequest
from agent.simulate import SIMULATORS, KeyPair, Place, Scenario, Traffic, Truth
from agent.simulate.base import sealed
from tests.ledger.model import Reported

NOW = 1_764_000_000.0
PATH = "/webhooks/main"


def rough(messages: int, seed: int = 3) -> Scenario:
    """Everything at once: copies, changed ids, late reports, asynchronous bounces, soft then hard, over 30 hours."""
    return Scenario(
        start=NOW - 30 * HOUR, duration=24 * HOUR, until=NOW, messages=messages, seed=seed, hard=0.08, soft=0.05,
        block=0.04, undetermined=0.02, dropped=0.03, deferred=0.25, asynchronous=0.06, soft_then_hard=0.5, opened=0.2,
        complained=0.02, unsubscribed=0.02, duplicates=0.25, changed_ids=0.5, late=0.3, lateness=6 * HOUR,
    )  # fmt: skip


@cache
def _credentials(provider: str) -> KeyPair:
    return SIMULATORS[provider].new_credentials()


def read(provider: str, scenario: Scenario, rng: random.Random, largest: int = 40) -> tuple[list[Batch], Truth]:
    """Batches of 1 to ``largest`` reports, authenticated and labelled as live ones are, in the order they are sent."""
    simulator = SIMULATORS[provider]
    pair = _credentials(provider)
    source = Source(
        "main", provider, PROVIDERS[provider], pair.settings, streams=list(scenario.streams),
        domains=list(scenario.domains),
    )  # fmt: skip
    traffic = Traffic(scenario, simulator.VOICE)
    batches = []
    for sent in simulator.requests(traffic, rng.randint(1, largest)):
        body = sealed(simulator, sent.body, pair.signing, NOW)
        headers = {k.lower(): v for k, v in simulator.sign(body, pair.signing, NOW).items()}
        prepared = source.prepare(WebhookRequest("POST", PATH, "", headers, body, NOW))
        assert prepared.malformed == 0
        batches.append(prepared.batch)
    return batches, traffic.truth


@cache
def sample(provider: str, messages: int, seed: int) -> tuple[Sequence[Batch], Truth]:
    """Rough traffic, read once: signing it costs some vendors a hundred times what counting it does."""
    return read(provider, rough(messages, seed), random.Random(seed))


def reports(batches: Sequence[Batch]) -> list[Reported]:
    """What the slow model takes."""
    return [(b.scope, e, c) for b in batches for e, c in zip(b.events, b.cells, strict=True)]


def split(rng: random.Random, batches: Sequence[Batch], shuffled: bool) -> list[list[Batch]]:
    """The batches as commits of 1 to 60, in order or in none."""
    left = list(batches)
    if shuffled:
        rng.shuffle(left)
    commits = []
    while left:
        size = rng.randint(1, 60)
        commits.append(left[:size])
        del left[:size]
    return commits


def told(provider: str) -> set[Kind]:
    """The kinds that a simulated vendor tells of."""
    voice = SIMULATORS[provider].VOICE
    return set(Kind) - voice.silent - {Kind.OTHER} - (set() if voice.reports_accepted else {Kind.ACCEPTED})


def domains(provider: str, configured: int) -> int:
    """How many domains its mail counts under: the configured ones if its payloads ever name one, and ``other`` if they
    ever do not."""
    voice = SIMULATORS[provider].VOICE
    named = told(provider) & voice.names_domain
    unnamed = told(provider) - voice.names_domain
    return (configured if named else 0) + bool(unnamed or not voice.async_ids)


def by_place(truth: Truth, provider: str) -> Counter[tuple[Cell, str]]:
    """The truth under the labels that the ledger counts by."""
    counts: Counter[tuple[Cell, str]] = Counter()
    for (place, measure), n in truth.counts.items():
        counts[_cell(place, provider), str(measure)] += n
    return counts


def _cell(place: Place, provider: str) -> Cell:
    return Cell(place.domain or OTHER_DOMAIN, provider, place.stream, place.mailbox_provider)


async def counted(ledger: Ledger, width: int) -> Counter[tuple[Cell, str]]:
    """All that a ledger says, times aside."""
    counts: Counter[tuple[Cell, str]] = Counter()
    for row in await ledger.rows(width, 0, NOW + DAY):
        counts[row.cell, row.measure] += row.count
    return counts
