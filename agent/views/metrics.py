"""The agent's metrics: what the process counts itself, and the whole as the leader knows it."""

from __future__ import annotations

import gzip
import platform
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from agent.dns.answer import Outcome
from agent.dns.health import Health
from agent.dns.opinion import Weight
from agent.ledger.base import Applied, Counted
from agent.views.catalogue import (
    BUS_OUTCOMES,
    CATALOGUE,
    CONNECTION_REASONS,
    DUPLICATE_REASONS,
    MAILBOX_LOOKUP_OUTCOMES,
    NOTIFICATION_OUTCOMES,
    OTHER,
    PREFIX,
    QUARANTINE_REASONS,
    REFUSED_REASONS,
    REQUEST_OUTCOMES,
    TEST_REASONS,
    UNKNOWN_SOURCE,
)
from agent.views.state import State
from agent.views.whole import WholeCollector, label_value

# The state a running render was given, so that one page never mixes two moments and the thread that renders never
# reaches into structures the event loop is changing.
_pinned: ContextVar[State | None] = ContextVar("pinned", default=None)


class Metrics:
    """Every metric of the process, in a registry of its own.

    The methods that count are cheap enough for ten thousand calls a second and never raise for odd label values.
    ``budget`` bounds the labelled series this process creates, ``whole_budget`` those that describe the whole; what
    exceeds them is counted under ``other``, so totals stay exact. ``state`` is called once per render.
    """

    def __init__(
        self,
        state: Callable[[], State],
        *,
        version: str,
        revision: str = "",
        budget: int = 5_000,
        whole_budget: int = 20_000,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._state = state
        self._left = budget
        self._folded = self._counter("series_folded_total")
        self._events = self._counter("events_total")
        self._event_children: dict[tuple[str, Counted], Counter] = {}
        self._counters = {
            name: self._counter(name)
            for name in (
                "duplicate_events_total",
                "refused_events_total",
                "test_events_total",
                "unmatched_async_bounces_total",
                "webhook_requests_total",
                "quarantined_requests_total",
                "dns_queries_total",
                "dns_second_opinions_total",
                "mailbox_lookups_total",
                "alertmanager_notifications_total",
                "refused_connections_total",
                "bus_messages_total",
            )
        }
        self._children: dict[str, dict[tuple[str, ...], Counter]] = {name: {} for name in self._counters}
        self._duration = self._histogram("webhook_request_duration_seconds")
        self._durations: dict[str, Histogram] = {}
        self._sources: dict[str, str] = {}
        self._queue = self._gauge("intake_queue_events")
        self._open = self._gauge("connections")
        self._commit = self._histogram("ledger_commit_duration_seconds")
        self._commit_events = self._histogram("ledger_commit_events")
        self._dns = self._histogram("dns_query_duration_seconds")
        self._dns_restarts = self._counter("dns_resolver_restarts_total")
        self._dns_late = self._gauge("dns_looks_late_seconds")
        self._dns_healthy = self._gauge("dns_resolver_healthy")
        self._mailboxes = self._gauge("mailbox_lookups_waiting")
        self._bus_connected = self._gauge("bus_connected")
        self._spool_bytes = self._gauge("bus_spool_bytes")
        self._spool_messages = self._gauge("bus_spool_messages")
        self._lag = self._histogram("event_loop_lag_seconds")
        self._gauge("build_info").labels(version, revision, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        self.registry.register(WholeCollector(self._current, whole_budget))
        for outcome in Outcome:
            self._counted("dns_queries_total", (outcome.value,))
        for weight in Weight:
            self._counted("dns_second_opinions_total", (weight.value,))
        for name in MAILBOX_LOOKUP_OUTCOMES:
            self._counted("mailbox_lookups_total", (name,))
        for reason in CONNECTION_REASONS:
            self._counted("refused_connections_total", (reason,))
        for name in ("unknown_source", "invalid"):
            self._counted("webhook_requests_total", (UNKNOWN_SOURCE, name))

    def declare_source(self, name: str, provider: str) -> None:
        """Show a configured source from the start, all zeros: a counter that first appears at 1 shows no increase.
        What is configured costs nothing of the series budget."""
        self._sources[name] = provider
        left = self._left
        known = {
            "webhook_requests_total": REQUEST_OUTCOMES,
            "duplicate_events_total": DUPLICATE_REASONS,
            "refused_events_total": REFUSED_REASONS,
            "test_events_total": TEST_REASONS,
            "quarantined_requests_total": QUARANTINE_REASONS,
        }
        for metric, values in known.items():
            for value in values:
                self._counted(metric, (name, value))
        self._counted("unmatched_async_bounces_total", (name,))
        self._duration_of(name)
        self._left = left

    def declare_alertmanager(self, alertmanager: str) -> None:
        """Show a configured Alertmanager from the start, all zeros."""
        for outcome in NOTIFICATION_OUTCOMES:
            self._counted("alertmanager_notifications_total", (alertmanager, outcome))

    def request(self, source: str, outcome: str, seconds: float) -> None:
        """One request to the public listener. ``source`` is a configured name and ``outcome`` one of
        ``REQUEST_OUTCOMES``; any other path is ``unknown`` and ``unknown_source``, what is no HTTP ``unknown`` and
        ``invalid``."""
        self._counted("webhook_requests_total", (source, outcome)).inc()
        self._duration_of(source).observe(seconds)

    def connections(self, n: int) -> None:
        """So many connections of the public listener are open."""
        self._open.set(n)

    def connection_refused(self, reason: str) -> None:
        """One connection ended before its first request; ``reason`` is one of ``CONNECTION_REASONS``."""
        self._counted("refused_connections_total", (reason,)).inc()

    def applied(self, source: str, result: Applied) -> None:
        """What the ledger made of one batch of the source."""
        for counted, n in result.counted.items():
            child = self._event_children.get((source, counted))
            (child or self._admit_event(source, counted)).inc(n)
        for reason, n in result.duplicates.items():
            self._counted("duplicate_events_total", (source, reason)).inc(n)
        for reason, n in result.refused.items():
            self._counted("refused_events_total", (source, reason)).inc(n)
        if result.unmatched_async_bounces:
            self._counted("unmatched_async_bounces_total", (source,)).inc(result.unmatched_async_bounces)

    def refused(self, source: str, reason: str, n: int = 1) -> None:
        """``n`` events refused before they reached the ledger."""
        self._counted("refused_events_total", (source, reason)).inc(n)

    def tested(self, source: str, reason: str, n: int) -> None:
        """``n`` events left out as test traffic; ``reason`` is one of ``TEST_REASONS``."""
        self._counted("test_events_total", (source, reason)).inc(n)

    def quarantined(self, source: str, reason: str) -> None:
        """One request sealed away; ``reason`` is one of ``QUARANTINE_REASONS``."""
        self._counted("quarantined_requests_total", (source, reason)).inc()

    def notification(self, alertmanager: str, outcome: str) -> None:
        """One post to an Alertmanager; ``outcome`` is ``sent``, ``failed`` or ``rejected``."""
        self._counted("alertmanager_notifications_total", (alertmanager, outcome)).inc()

    def declare_bus(self, broker: str) -> None:
        """Show the bus from the start, all zeros."""
        for direction, outcomes in BUS_OUTCOMES.items():
            for outcome in outcomes:
                self._counted("bus_messages_total", (direction, outcome))
        self.bus_connected(broker, False)

    def bus(self, direction: str, outcome: str, n: int = 1) -> None:
        """``n`` messages over the broker; ``outcome`` is one of ``BUS_OUTCOMES`` of the direction."""
        self._counted("bus_messages_total", (direction, outcome)).inc(n)

    def bus_connected(self, broker: str, connected: bool) -> None:
        """Whether the broker has taken this agent."""
        self._bus_connected.labels(label_value(broker)).set(connected)

    def spool(self, size: int, messages: int) -> None:
        """What lies on an edge's disk, in bytes and messages."""
        self._spool_bytes.set(size)
        self._spool_messages.set(messages)

    def dns_query(self, outcome: str, seconds: float) -> None:
        """One question to a resolver; ``outcome`` is an ``agent.dns.answer.Outcome``."""
        self._counted("dns_queries_total", (str(outcome),)).inc()
        self._dns.observe(seconds)

    def dns_opinion(self, outcome: Weight) -> None:
        """One second opinion on bad news."""
        self._counted("dns_second_opinions_total", (outcome.value,)).inc()

    def dns_health(self, resolvers: Mapping[str, Health]) -> None:
        """The health of every configured resolver, by address; at most 20 are shown."""
        self._dns_healthy.clear()
        for resolver, health in list(resolvers.items())[:20]:
            if health is not Health.UNKNOWN:
                self._dns_healthy.labels(label_value(resolver)).set(health is Health.HEALTHY)

    def dns_restart(self) -> None:
        """The resolver's engine was started anew."""
        self._dns_restarts.inc()

    def dns_late(self, seconds: float) -> None:
        """By how much DNS checks are overdue."""
        self._dns_late.set(seconds)

    def mailbox_lookup(self, outcome: str) -> None:
        """One lookup of a recipient domain's MX; ``outcome`` is one of ``MAILBOX_LOOKUP_OUTCOMES``."""
        self._counted("mailbox_lookups_total", (outcome,)).inc()

    def mailboxes_waiting(self, domains: int) -> None:
        """Recipient domains that wait for a lookup."""
        self._mailboxes.set(domains)

    def commit(self, seconds: float, events: int) -> None:
        """One durable transaction of the ledger."""
        self._commit.observe(seconds)
        self._commit_events.observe(events)

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop was."""
        self._lag.observe(seconds)

    def queue_depth(self, events: int) -> None:
        """Events waiting for their commit."""
        self._queue.set(events)

    def render(
        self, state: State, accept: str = "", names: Sequence[str] = (), compress: bool = False
    ) -> tuple[bytes, str]:
        """The exposition and its content type. ``accept`` is the request's header (OpenMetrics or classic text),
        ``names`` restricts it to some metrics, ``compress`` applies gzip. Safe to run in a thread."""
        encoder, content_type = choose_encoder(accept)
        token = _pinned.set(state)
        try:
            body = encoder(self.registry.restricted_registry(names) if names else self.registry)
        finally:
            _pinned.reset(token)
        return (gzip.compress(body, 5) if compress else body), content_type

    def _current(self) -> State:
        return _pinned.get() or self._state()

    def _counted(self, metric: str, labels: tuple[str, ...]) -> Counter:
        child = self._children[metric].get(labels)
        return child or self._admit(metric, labels)

    def _admit(self, metric: str, labels: tuple[str, ...]) -> Counter:
        if self._spend(1):
            child = self._counters[metric].labels(*map(label_value, labels))
            self._children[metric][labels] = child
            return child
        self._folded.inc()
        kept = [label_value(v) if v in self._sources else OTHER for v in labels]
        return self._counters[metric].labels(*kept)

    def _admit_event(self, source: str, counted: Counted) -> Counter:
        cell, kind, bounce_class = counted
        klass = bounce_class.value if bounce_class else ""
        if self._spend(1):
            values = (source, cell.provider, cell.domain, cell.stream, cell.mailbox_provider)
            child = self._events.labels(*map(label_value, values), kind.value, klass)
            self._event_children[source, counted] = child
            return child
        self._folded.inc()
        provider = self._sources.get(source, OTHER)
        source = label_value(source) if source in self._sources else OTHER
        return self._events.labels(source, provider, OTHER, OTHER, OTHER, kind.value, klass)

    def _duration_of(self, source: str) -> Histogram:
        child = self._durations.get(source)
        if child is None:
            if self._spend(len(CATALOGUE["webhook_request_duration_seconds"].buckets) + 3):
                child = self._durations[source] = self._duration.labels(label_value(source))
            else:
                child = self._duration.labels(OTHER)
        return child

    def _spend(self, series: int) -> bool:
        if self._left < series:
            return False
        self._left -= series
        return True

    def _counter(self, name: str) -> Counter:
        metric = CATALOGUE[name]
        return Counter(PREFIX + name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        metric = CATALOGUE[name]
        return Gauge(PREFIX + name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        metric = CATALOGUE[name]
        return Histogram(PREFIX + name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets)
