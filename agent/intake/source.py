"""A configured source at work: from a request's bytes to the batch that the ledger counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from agent.events import Event
from agent.ledger.base import Batch, Cell
from agent.mailbox import mailbox_provider
from agent.providers import Credentials, Parsed, Provider, WebhookRequest

OTHER_DOMAIN = "other"
# Distinct (sending domain, tags, recipient domain) combinations remembered; payloads choose them, so there is an end.
_CACHE = 50_000
_CACHED_TAGS = 1024  # characters; longer tags are no stream's name, and not remembered


class Prepared(msgspec.Struct, frozen=True):
    """An authentic request as the ledger takes it, and how many of its items could not be read."""

    batch: Batch
    malformed: int


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
        identify: Callable[[str, Sequence[Event]], Sequence[bytes]] = lambda scope, events: (),
    ) -> None:
        """``domains`` are the configured domains; a payload's sending domain belongs to the longest that it ends in.
        ``identify`` is the ledger's, so that the work is done here and not where commits wait for each other."""
        self.name = name
        self.provider_id = provider_id
        self._provider = provider
        self._credentials = credentials
        # Whether a GET with such a query is a report; where the provider does not say, all are probes.
        self.is_report: Callable[[str], bool] = getattr(provider, "is_report", lambda query: False)
        self._domain = domain or OTHER_DOMAIN
        self._stream = stream
        self._streams = frozenset(streams)
        self._domains = frozenset(domains)
        self._identify = identify
        self._cells: dict[tuple[str, tuple[str, ...], str], Cell] = {}

    def prepare(self, request: WebhookRequest) -> Prepared:
        """Authenticate, parse and label. Raises ``AuthenticationError`` or ``ParseError``."""
        self._provider.authenticate(request, self._credentials)
        return self.read(request)

    def read(self, request: WebhookRequest) -> Prepared:
        """Parse and label what is known to be authentic. Raises ``ParseError``."""
        parsed = self._provider.parse(request)
        # Message ids of the generic format are unique within their sender, which may be one of several.
        scope = f"generic:{self.name}" if self.provider_id == "generic" else self.provider_id
        batch = Batch(
            self.name,
            self.provider_id,
            scope,
            request.received,
            parsed,
            self._label(parsed),
            self._identify(scope, parsed),
        )
        return Prepared(batch, parsed.malformed)

    def _label(self, events: Parsed) -> list[Cell]:
        cells = self._cells
        out = []
        for event in events:
            key = (event.domain, event.tags, event.recipient.rpartition("@")[2])
            cell = cells.get(key)
            if cell is None:
                cell = Cell(
                    self._domain_of(event.domain),
                    self.provider_id,
                    self._stream_of(event.tags),
                    mailbox_provider(key[2]),
                )
                if sum(map(len, event.tags)) <= _CACHED_TAGS:
                    if len(cells) >= _CACHE:
                        cells.clear()
                    cells[key] = cell
            out.append(cell)
        return out

    def _domain_of(self, sending: str) -> str:
        name = sending
        while name:
            if name in self._domains:
                return name
            name = name.partition(".")[2]
        return self._domain

    def _stream_of(self, tags: Sequence[str]) -> str:
        return next((tag for tag in tags if tag in self._streams), self._stream)
