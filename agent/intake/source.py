"""A configured source at work: from a request's bytes to the batch that the ledger counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import attrgetter

import msgspec

from agent.events import Event
from agent.ledger.base import Batch, Cell
from agent.mailbox import PENDING, mailbox_provider
from agent.providers import Confirm, Credentials, Ended, Parsed, Provider, Reply, WebhookRequest

OTHER_DOMAIN = "other"
# Distinct (sending domain, tags, recipient domain) combinations remembered; payloads choose them, so there is an end.
_CACHE = 50_000
_CACHED_TAGS = 1024  # characters; longer tags are no stream's name, and not remembered
_says_test = attrgetter("test")

# Why an event is test traffic, which enters no rate.
VENDOR, SEED, OWN_DOMAIN = "vendor", "seed", "own_domain"
_Key = tuple[str, tuple[str, ...], str]


class Prepared(msgspec.Struct, frozen=True):
    """An authentic request as the ledger takes it, how many of its items could not be read, and the test traffic that
    was left out of the batch, by reason."""

    batch: Batch
    malformed: int
    tests: Mapping[str, int] = {}


class Recipients:
    """Mail addresses, and domains with all below them; all in lower case."""

    def __init__(self, entries: Iterable[str]) -> None:
        entries = tuple(entries)
        self._addresses = frozenset(entry for entry in entries if "@" in entry)
        self._domains = frozenset(entry for entry in entries if "@" not in entry)
        self._partly = frozenset(address.rpartition("@")[2] for address in self._addresses)

    def __contains__(self, address: str) -> bool:
        """Whether the address itself is listed."""
        return address in self._addresses

    def cover(self, domain: str) -> bool:
        """Whether every address of the domain belongs."""
        while domain and domain not in self._domains:
            domain = domain.partition(".")[2]
        return bool(domain)

    def touch(self, domain: str) -> bool:
        """Whether single addresses of the domain belong."""
        return domain in self._partly


def configured_domain(sending: str, domains: Collection[str]) -> str:
    """The longest of the domains that a sending domain (lower case) is or ends in; ``""`` if it is none of them."""
    while sending and sending not in domains:
        sending = sending.partition(".")[2]
    return sending


class _Place(msgspec.Struct, frozen=True):
    """What the cache knows of mail that is, or may be, test traffic: its cell, why all of it is, if it is, and whether
    the addresses must be looked at one by one."""

    cell: Cell
    reason: str
    by_address: bool


class Source:
    """One configured webhook. Pure but for a bounded cache."""

    def __init__(
        self,
        name: str,
        provider_id: str,
        provider: Provider,
        credentials: Credentials,
        *,
        domain: str | None = None,
        stream: str = "",
        streams: Sequence[str] = (),
        domains: Collection[str] = (),
        seeds: Iterable[str] = (),
        own_domains: bool = False,
        identify: Callable[[str, Sequence[Event]], Sequence[bytes]] = lambda scope, events: (),
        mailbox: Callable[[str], str] = mailbox_provider,
    ) -> None:
        """``domains`` are the configured domains; a payload's sending domain belongs to the longest that it ends in.
        Mail to ``seeds`` (addresses, or domains with all below them) is a test, and so with ``own_domains`` is mail to
        one of ``domains``. ``identify`` is the ledger's, so that the work is done here and not where commits wait for
        each other. ``mailbox`` tells a recipient domain's mailbox provider, or ``?domain`` until it knows."""
        self.name = name
        self.provider_id = provider_id
        self._provider = provider
        self._credentials = credentials
        # Whether a GET with such a query is a report; where the provider does not say, all are probes.
        self.is_report: Callable[[str], bool] = getattr(provider, "is_report", lambda query: False)
        # The handshakes of those that shake hands, as ``Provider`` describes them.
        self.follow_up: Callable[[WebhookRequest], Confirm | Ended | Reply | None] = getattr(
            provider, "follow_up", lambda request: None
        )
        self.answer_options: Callable[[Mapping[str, str]], dict[str, str] | None] = getattr(
            provider, "answer_options", lambda headers: None
        )
        self._replay_token: Callable[[WebhookRequest], tuple[str, bytes]] | None = getattr(
            provider, "replay_token", None
        )
        self._domain = domain or OTHER_DOMAIN
        self._stream = stream
        self._streams = frozenset(streams)
        self._domains = frozenset(domains)
        self._identify = identify
        # The vendor's own simulator, for the providers that have one.
        self._vendor = Recipients(getattr(provider, "TEST_RECIPIENTS", ()))
        self._seeds = Recipients(seeds)
        self._own_domains = frozenset(domains) if own_domains else frozenset()
        self._mailbox = mailbox
        # What is no test is found at the first look; only what may be one costs a second.
        self._cells: dict[_Key, Cell] = {}
        self._places: dict[_Key, _Place] = {}
        self._pending: list[_Key] = []  # remembered for one batch, no longer
        self._hour = 0.0

    def trust(self, certificates: Mapping[str, str]) -> None:
        """From now on these certificates (by URL, a mapping that may change) are at hand for ``authenticate``."""
        self._credentials = {**self._credentials, "certificates": certificates}

    def prepare(self, request: WebhookRequest) -> Prepared:
        """Authenticate, parse and label. Raises ``AuthenticationError`` or ``ParseError``."""
        self._provider.authenticate(request, self._credentials)
        prepared = self.read(request)
        if self._replay_token is None:
            return prepared
        # What is read from a file or from quarantine is no request, so that only this way has a token to use up.
        token, content = self._replay_token(request)
        digest = blake2b(content, digest_size=16).digest()
        batch = msgspec.structs.replace(prepared.batch, token=token, body_digest=digest)
        return msgspec.structs.replace(prepared, batch=batch)

    def read(self, request: WebhookRequest) -> Prepared:
        """Parse and label what is known to be authentic. Raises ``ParseError``."""
        parsed = self._provider.parse(request)
        # Message ids of the generic format are unique within their sender, which may be one of several.
        scope = f"generic:{self.name}" if self.provider_id == "generic" else self.provider_id
        cells, tests = self._label(parsed, request.received)
        events: Sequence[Event] = parsed
        if tests:
            kept = [i for i in range(len(parsed)) if i not in tests]
            events, cells = [parsed[i] for i in kept], [cells[i] for i in kept]
        batch = Batch(
            self.name,
            self.provider_id,
            scope,
            request.received,
            events,
            cells,
            self._identify(scope, events),
        )
        return Prepared(batch, parsed.malformed, Counter(tests.values()) if tests else {})

    def _label(self, events: Parsed, now: float) -> tuple[list[Cell], dict[int, str]]:
        """The cell of each event, and the reasons of those that are test traffic by their index."""
        if self._hour != now // 3600:  # A domain may have moved to another mailbox provider.
            self._hour = now // 3600
            self._cells.clear()
            self._places.clear()
        known = self._cells.get
        out: list[Cell] = []
        add = out.append
        tests: dict[int, str] = {}
        for event in events:
            recipient = event.recipient
            _, at, at_domain = recipient.rpartition("@")
            # Without an at sign it is no address, and what it is must not pass for a domain.
            key = (event.domain, event.tags, at_domain if at else "")
            cell = known(key)
            if cell is None:
                cell, reason = self._look(key, recipient)
                if reason:
                    tests[len(out)] = reason
            add(cell)
        if self._pending:
            pending, self._pending = self._pending, []
            for key in pending:
                self._cells.pop(key, None)
                self._places.pop(key, None)
        if any(map(_says_test, events)):
            tests |= {i: VENDOR for i, event in enumerate(events) if event.test}
        return out, tests

    def _look(self, key: _Key, recipient: str) -> tuple[Cell, str]:
        place = self._places.get(key)
        if place is None:
            domain, tags, recipient_domain = key
            cell = Cell(
                self._domain_of(domain), self.provider_id, self._stream_of(tags), self._mailbox(recipient_domain)
            )
            place = _Place(cell, *self._tested(recipient_domain))
            if sum(map(len, tags)) <= _CACHED_TAGS:
                if len(self._cells) + len(self._places) >= _CACHE:
                    self._cells.clear()
                    self._places.clear()
                if place.reason or place.by_address:
                    self._places[key] = place
                else:
                    self._cells[key] = cell
                if cell.mailbox_provider.startswith(PENDING):
                    self._pending.append(key)
        if place.reason or not place.by_address:
            return place.cell, place.reason
        return place.cell, VENDOR if recipient in self._vendor else SEED if recipient in self._seeds else ""

    def _tested(self, domain: str) -> tuple[str, bool]:
        """Why all mail to a recipient's domain is test traffic, and whether some of it is by its address."""
        if self._vendor.cover(domain):
            return VENDOR, False
        if self._seeds.cover(domain):
            return SEED, False
        if domain in self._own_domains:
            return OWN_DOMAIN, False
        return "", self._vendor.touch(domain) or self._seeds.touch(domain)

    def _domain_of(self, sending: str) -> str:
        return configured_domain(sending, self._domains) or self._domain

    def _stream_of(self, tags: Sequence[str]) -> str:
        return next((tag for tag in tags if tag in self._streams), self._stream)
