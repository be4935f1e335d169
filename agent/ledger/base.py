"""What a store promises, and the values that cross its border.

A ledger counts every event exactly once. The rules that make it so are in ``identity`` (what makes two reports the
same event) and ``outcomes`` (which report of one outcome wins); a store only remembers and counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from agent.clock import DAY, HOUR, MINUTE
from agent.events import BounceClass, Event, Kind

if TYPE_CHECKING:
    from agent.ledger.columns import Columns

# Accepted times: older than this, or further ahead, and an event is refused.
MAX_AGE = 35 * DAY
MAX_AHEAD = 10 * MINUTE
# Identities outlive the accepted age, so that whatever is accepted can still be recognised.
IDENTITY_AGE = 40 * DAY
QUARANTINE_AGE = 7 * DAY
# Tokens outlive the time for which any vendor's signed time is accepted.
TOKEN_AGE = 2 * DAY
# How long it is known that something older was changed: whoever reads less often reads everything.
AMENDED_AGE = HOUR
# How long each roll-up is kept, by its bucket width in seconds.
ROLLUP_AGE = {MINUTE: 2 * DAY, HOUR: 35 * DAY, DAY: 400 * DAY}


class StoreUnavailable(Exception):
    """The store cannot commit now. Nothing of the batch was counted; the sender should keep it and try later."""


class Deposed(Exception):
    """Another process leads by now: what was to be written rests on what it may have changed, and was not written."""


class LedgerError(Exception):
    """The database cannot be used as it is (a newer schema, another identity key, no SQLite file): settings to mend."""


class Server(msgspec.Struct, frozen=True):
    """A PostgreSQL database: its URL, without the password unless there is no other way, and how many connections an
    agent keeps and takes at most."""

    url: str
    password: str = ""
    min_connections: int = 1
    max_connections: int = 4

    def __repr__(self) -> str:
        return f"Server({self.place!r})"

    @property
    def place(self) -> str:
        """Host and database, to be named in messages."""
        return self.url.partition("://")[2].rpartition("@")[2].partition("?")[0]


def settled_before(now: float) -> int:
    """The beginning (Unix seconds) of the first hour that changes as a matter of course at ``now``: the one before this
    one, or before the next if that is near, as clocks differ and commits take their time."""
    return int((now + MAX_AHEAD) // HOUR - 1) * HOUR


class Cell(NamedTuple):
    """The place an event counts in: what every roll-up is split by."""

    domain: str
    provider: str
    stream: str
    mailbox_provider: str


class Batch(msgspec.Struct, frozen=True):
    """The events of one request, with where they came from. ``cells`` runs parallel to ``events``.

    ``scope`` is what identities are unique within: the provider id, or ``generic:<source>`` for the generic format.
    ``identities`` are those of the events, if ``Ledger.identify`` was asked before; else the ledger works them out.
    ``token`` is what the vendor gives each request once, ``""`` if it gives none, ``body_digest`` a hash of the
    content that came with it.
    """

    source: str
    provider: str
    scope: str
    received_at: float
    events: Sequence[Event]
    cells: Sequence[Cell]
    identities: Sequence[bytes] = ()
    token: str = ""
    body_digest: bytes = b""

    @property
    def size(self) -> int:
        """How many events there are."""
        return len(self.events)


class Counted(NamedTuple):
    """How often one kind of event was counted for the first time, as ``events_total`` shows it."""

    cell: Cell
    kind: Kind
    bounce_class: BounceClass | None


class Applied(msgspec.Struct):
    """What became of one batch. The four parts add up to its events.

    ``duplicates`` by reason: ``same_event`` (a repeat of a repeatable event), ``same_outcome`` (the recipient's
    outcome was already reported). ``refused`` by reason: ``too_old``, ``in_future``.
    ``unmatched_async_bounces``: counted bounces that may belong to a delivery nobody can name.
    ``forged``: the batch's token was seen with another body; nothing of it was counted.
    """

    counted: dict[Counted, int] = msgspec.field(default_factory=dict)
    duplicates: dict[str, int] = msgspec.field(default_factory=dict)
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    unmatched_async_bounces: int = 0
    forged: bool = False


# The measures of a roll-up, in the order they are stored. ``delivered`` is net: a delivery that later bounced is taken
# out of its own bucket again. ``deferred_pairs`` counts (message, recipient) pairs once per UTC hour.
MEASURES = (
    "accepted", "delivered", "hard", "soft", "block", "undetermined", "dropped", "complained", "unsubscribed",
    "deferred", "deferred_pairs", "opened", "clicked", "other",
)  # fmt: skip


class Row(NamedTuple):
    """One count out of a roll-up. ``bucket`` is the Unix time at which the bucket begins."""

    bucket: int
    cell: Cell
    measure: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants here


class SourceState(msgspec.Struct, frozen=True):
    """The last signs of life of a source, Unix seconds. ``last_event_at`` is the newest event's own time."""

    source: str
    last_received_at: float
    last_event_at: float


class RecentBounce(msgspec.Struct, frozen=True):
    """One of the newest bounces, for people. Masked: no recipient, no address in the reason."""

    at: float
    source: str
    cell: Cell
    bounce_class: BounceClass
    smtp_code: int | None
    enhanced_code: str
    reason: str


class Quarantined(msgspec.Struct, frozen=True):
    """An authentic request that could not be (wholly) read, as it lies in the ledger."""

    id: int
    at: float
    source: str
    reason: str
    size: int


class Lease(msgspec.Struct, frozen=True):
    """Who does what must be done once. ``epoch`` is above 0 and grows with every change of ``holder``."""

    holder: str
    epoch: int


class Ledger(Protocol):
    """A durable store. Every method may raise ``StoreUnavailable``; none raises a driver's own error.

    ``apply`` and ``quarantine`` return after the commit is durable. ``now`` is Unix seconds.
    """

    def identify(self, scope: str, events: Sequence[Event]) -> list[bytes]:
        """What identifies each event, for ``Batch``. Pure computation: may be called in any thread, and takes work off
        the one that commits."""

    async def apply(self, batches: Sequence[Batch | Columns], now: float) -> list[Applied]:
        """Count the batches, as they are or as columns, in one transaction; one result per batch, in order."""

    async def quarantine(self, source: str, reason: str, body: bytes, headers: Mapping[str, str], now: float) -> int:
        """Seal a body away (AES-GCM). The oldest give way when the size cap is reached; returns how many did."""

    async def quarantined(self) -> list[Quarantined]:
        """What lies in quarantine, oldest first."""

    async def unseal(self, quarantine_id: int) -> tuple[dict[str, str], bytes]:
        """Headers and body of one quarantined request. Raises ``KeyError`` if it is not there any more."""

    async def discard(self, quarantine_ids: Sequence[int]) -> None:
        """Remove quarantined requests; those that are not there any more are no error."""

    async def relabel(self, mailbox_providers: Mapping[str, str], now: float) -> None:
        """Recipient domains whose mailbox providers are known now: what was counted for them under ``?domain`` moves
        to the cells of those names, in one transaction; what comes for them later under ``?domain`` counts there.

        A cell with the mailbox provider ``?domain`` holds the counts of a domain that waits. Everything that is read
        shows it as ``unresolved``. Only so many can wait; what comes beyond counts as ``unresolved`` and stays so.
        """

    async def pending(self) -> list[str]:
        """The recipient domains whose counts wait for ``relabel``."""

    async def rows(
        self,
        width: int,
        since: float,
        until: float,
        *,
        merge: int = 0,
        edges: Sequence[float] = (),
        by_domain: bool = False,
        domains: Sequence[str] = (),
    ) -> list[Row]:
        """The roll-up of bucket width ``MINUTE``, ``HOUR`` or ``DAY``: all rows with since <= bucket < until.
        Zero counts are left out.

        ``merge`` sums buckets that lie in the same ``merge`` seconds of Unix time, unless one of ``edges`` parts them
        (an edge parts buckets that begin after it from the others); the row's bucket is the newest of them.
        ``by_domain`` sums over everything but the domain; the cell's other names are then empty. ``domains`` asks for
        the rows of these alone, at a cost that does not grow with what others have.
        """

    async def amended(self) -> dict[str, tuple[float, int]]:
        """The domains of which something changed lately in hours before ``settled_before``, or moved from cell to cell.
        What stands with a domain is another each time that happens."""

    async def sources(self) -> dict[str, SourceState]:
        """The last signs of life by source name."""

    async def recent_bounces(self, limit: int) -> list[RecentBounce]:
        """The newest counted bounces, newest first."""

    async def load(self, kind: str) -> dict[str, bytes]:
        """All small documents of one kind (open incidents, last good DNS answers) by key."""

    async def save(self, kind: str, documents: Mapping[str, bytes | None], *, epoch: int = 0) -> None:
        """Write documents, delete those given as ``None``, in one transaction. With an ``epoch`` only while that one
        lasts: raises ``Deposed`` otherwise."""

    async def lead(self, holder: str, seconds: float) -> Lease:
        """Ask for leadership among all processes that share the store, or keep it; returns who has it. It lasts for
        ``seconds`` by the store's own clock, unless it is asked for again; 0 gives it up. A store that notices the end
        of a process may pass it on at once. ``holder`` names the process and is not empty."""

    async def prune(self, now: float) -> None:
        """Drop what is past its age, in steps small enough not to hold up ``apply``."""

    async def writable(self) -> bool:
        """Whether a write would succeed now. Never raises."""

    async def close(self) -> None:
        """Finish what was given, then close. Safe to call twice."""
