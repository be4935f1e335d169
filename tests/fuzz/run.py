"""Signed bodies, broken and read. Whatever comes in, no exception comes out, and what is counted adds up.

``python -m tests.fuzz`` runs it for ten minutes on JSON and ten on forms; the suite runs a little of each.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.clock import DAY, HOUR
from agent.events import Event, Kind
from agent.intake.source import Prepared, Source
from agent.ledger.base import MAX_AGE, MAX_AHEAD, Batch
from agent.ledger.identity import REPEATABLE
from agent.ledger.sqlite import SqliteLedger
from agent.providers import PROVIDERS, AuthenticationError, ParseError, WebhookRequest
from agent.simulate import SIMULATORS
from agent.simulate.base import sealed
from tests.fuzz.bodies import NOW, broken, seeds
from tests.ledger.model import Reported, expected

KEY = b"k" * 32
_COMMIT = 200  # bodies a transaction, and between two comparisons with the slow model
_ROUND = 4000  # bodies until a fresh ledger: the model holds every report it was told
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")


class Tally(msgspec.Struct):
    """What a run came to."""

    bodies: int = 0
    events: int = 0
    malformed: int = 0
    unreadable: int = 0
    unproved: int = 0
    by_provider: Counter[str] = msgspec.field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.bodies:,} bodies of {len(self.by_provider)} providers: {self.events:,} events read, "
            f"{self.malformed:,} items malformed, {self.unreadable:,} bodies unreadable, {self.unproved:,} not proved"
        )


class Bench:
    """A source of every provider, and signatures for whatever body is to be theirs."""

    def __init__(self) -> None:
        self.pairs = {provider: simulator.new_credentials() for provider, simulator in SIMULATORS.items()}
        self.sources = {
            provider: Source(
                provider, provider, PROVIDERS[provider], pair.settings, domain="example.com",
                streams=["transactional", "newsletter"], domains=["example.com", "news.example.org"],
            )
            for provider, pair in self.pairs.items()
        }  # fmt: skip

    def prepare(self, provider: str, body: bytes) -> Prepared:
        """As intake does with a signed request. Raises what intake expects, and whatever it does not."""
        simulator, pair = SIMULATORS[provider], self.pairs[provider]
        try:
            body = sealed(simulator, body, pair.signing, NOW)
        except Exception:
            # A body so broken that not even its sender could sign it: read without a proof, as a replay reads it.
            return self.sources[provider].read(WebhookRequest("POST", "/", "", {}, body, NOW))
        headers = {k.lower(): v for k, v in simulator.sign(body, pair.signing, NOW).items()}
        return self.sources[provider].prepare(WebhookRequest("POST", f"/webhooks/{provider}", "", headers, body, NOW))


async def fuzz(form: bool, goes_on: Callable[[Tally], bool], seed: int, folder: Path) -> Tally:
    """Run for as long as it shall. Raises ``AssertionError`` (or whatever escaped) with the body's recipe in a note."""
    tally, bench, rng = Tally(), Bench(), random.Random(seed)
    pool, number = seeds(form), 0
    while goes_on(tally):
        number += 1
        ledger = SqliteLedger(folder / f"fuzz-{form}-{number}.db", KEY)
        told: dict[tuple[str, ...], int] = {}
        reports: list[Reported] = []
        batches: list[Batch] = []
        for _ in range(_ROUND):
            provider, body = rng.choice(pool)
            body = broken(rng, body)
            try:
                batch = _one(bench, provider, body, tally)
            except Exception as error:
                error.add_note(f"{provider} of seed {seed}: {body[:2000]!r}")
                raise
            if batch and _told_once(batch, told):
                batches.append(batch)
            if len(batches) >= _COMMIT:
                await _commit(ledger, batches, reports)
                batches = []
                if not goes_on(tally):
                    break
        await _commit(ledger, batches, reports)
        counted = Counter({(r.bucket, r.cell, r.measure): r.count for r in await ledger.rows(60, 0, NOW + DAY)})
        recent = Counter({key: n for key, n in expected(reports).items() if key[0] >= NOW - DAY})
        counted = Counter({key: n for key, n in counted.items() if key[0] >= NOW - DAY})
        assert counted == recent, f"the slow model differs: {counted - recent} instead of {recent - counted}"
        await ledger.close()
    return tally


def _one(bench: Bench, provider: str, body: bytes, tally: Tally) -> Batch | None:
    tally.bodies += 1
    tally.by_provider[provider] += 1
    try:
        try:
            prepared = bench.prepare(provider, body)
        except AuthenticationError:
            tally.unproved += 1
            # Broken in the proof itself. What reads it must stand it all the same, as a replay of stored bodies does.
            prepared = bench.sources[provider].read(WebhookRequest("POST", "/", "", {}, body, NOW))
    except ParseError as error:
        tally.unreadable += 1
        if _ADDRESS.search(str(error)):
            raise AssertionError("an error names somebody") from error
    else:
        tally.events += len(prepared.batch.events)
        tally.malformed += prepared.malformed
        assert prepared.malformed >= 0
        for event in prepared.batch.events:
            _shown_is_harmless(event)
        return prepared.batch
    return None


def _told_once(batch: Batch, told: dict[tuple[str, ...], int]) -> bool:
    """Whether the slow model knows what becomes of the batch: it takes one outcome of one message, and whatever only
    the vendor's id tells apart, to be told with one time or nearly so, which broken times make untrue."""
    for event in batch.events:
        by_id_alone = bool(event.event_id) and not event.message_id
        if (event.kind not in REPEATABLE or by_id_alone) and event.kind != Kind.BOUNCED:
            key = (batch.scope, event.kind, event.message_id or event.event_id, event.recipient)
            if told.setdefault(key, int(event.at) // HOUR) != int(event.at) // HOUR:
                return False
    return True


def _shown_is_harmless(event: Event) -> None:
    """What may be shown of an event is bounded, printable and names nobody."""
    for text in (event.reason, event.provider_event, event.enhanced_code):
        assert len(text) <= 1000
        text.encode("utf-8")
    for text in (event.reason, event.provider_event):
        assert not _ADDRESS.search(text), text
    assert len(event.message_id) <= 2048
    assert len(event.event_id) <= 2048
    assert event.smtp_code is None or 200 <= event.smtp_code <= 599


async def _commit(ledger: SqliteLedger, batches: list[Batch], reports: list[Reported]) -> None:
    for batch, result in zip(batches, await ledger.apply(batches, NOW), strict=True):
        parts = (result.counted, result.duplicates, result.refused)
        assert sum(sum(part.values()) for part in parts) == len(batch.events), "every event is counted or accounted for"
        reports += [
            (batch.scope, event, cell)
            for event, cell in zip(batch.events, batch.cells, strict=True)
            if NOW - MAX_AGE <= event.at <= NOW + MAX_AHEAD
        ]
