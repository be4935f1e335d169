"""Every metric the agent exposes, in one table: name, type, labels and help text.

Names follow the Prometheus conventions (base units, ``_total`` on counters, ratios in 0..1, times as Unix seconds), so
that an age is ``time() - x``. Two halves: counters and histograms tell what this process did; the rest describes the
whole, and is exported by the leader alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from agent.vitals.types import RATES, SCOPES

PREFIX = "mailvitals_"
OTHER = "other"

# Chosen for the question each histogram answers: is a webhook acknowledged in time, does a resolver answer in time.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DNS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BATCH_BUCKETS = (1.0, 10.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

# What can become of a request to a source. ``accepted``, ``quarantined`` and ``probe`` (GET, HEAD) answer 2xx,
# ``unauthorized`` and ``replayed`` (a token with another body) 401, ``invalid`` another 4xx, ``too_large`` 413,
# ``overloaded``, ``unavailable`` and ``no_certificate`` 503.
REQUEST_OUTCOMES = (
    "accepted", "quarantined", "probe", "unauthorized", "invalid", "too_large", "overloaded", "unavailable",
    "no_certificate", "replayed",
)  # fmt: skip
# Requests to any other path count under one name, so that strangers create no series.
UNKNOWN_SOURCE = "unknown"
DUPLICATE_REASONS = ("same_event", "same_outcome")
REFUSED_REASONS = ("too_old", "in_future")
TEST_REASONS = ("vendor", "seed", "own_domain")
QUARANTINE_REASONS = ("unreadable", "malformed_items")
CONNECTION_REASONS = ("full", "address", "slow")
NOTIFICATION_OUTCOMES = ("sent", "failed", "rejected")
MAILBOX_LOOKUP_OUTCOMES = ("listed", "other", "failed", "given_up")
# What becomes of messages on the bus. Out: ``counted`` (a core has committed), ``refused`` (no core can read it),
# ``not_delivered`` and ``denied`` (by the broker), ``spooled`` and ``spool_full`` (on the disk instead), ``too_large``;
# ``published`` and ``cleared`` are verdicts and findings. In: ``counted``, and what went to the dead letters instead.
BUS_OUTCOMES = {
    "out": (
        "counted", "refused", "not_delivered", "denied", "spooled", "spool_full", "too_large", "published", "cleared",
    ),
    "in": ("counted", "forged", "version", "unreadable", "too_large"),
}  # fmt: skip
INCIDENT_STATES = ("open", "closing", "muted")
INCIDENT_LABELS = ("alert", "severity", "domain", "phase", "target", "check", "subject", "source")


class Metric(NamedTuple):
    """``whole`` tells the metrics that describe the whole from those that are local to one process."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    whole: bool = False
    buckets: tuple[float, ...] = ()


_EVENT_LABELS = ("source", "provider", "domain", "stream", "mailbox_provider", "kind", "bounce_class")

LOCAL = (
    Metric(
        "events_total", "counter", _EVENT_LABELS, "Events counted for the first time; repeats are in duplicate_events."
    ),
    Metric(
        "duplicate_events_total",
        "counter",
        ("source", "reason"),
        "Events recognised as already counted, and counted no second time.",
    ),
    Metric(
        "refused_events_total",
        "counter",
        ("source", "reason"),
        "Events not counted because their own time is too old or in the future.",
    ),
    Metric(
        "test_events_total",
        "counter",
        ("source", "reason"),
        "Events left out of every rate because nobody's mail is behind them; repeats are not recognised.",
    ),
    Metric(
        "unmatched_async_bounces_total",
        "counter",
        ("source",),
        "Asynchronous bounces that name no delivery: the most by which attempted can be overstated.",
    ),
    Metric("webhook_requests_total", "counter", ("source", "outcome"), "Requests to the public listener by outcome."),
    Metric(
        "webhook_request_duration_seconds",
        "histogram",
        ("source",),
        "Time from a request's arrival to its answer, commit included.",
        buckets=REQUEST_BUCKETS,
    ),
    Metric(
        "quarantined_requests_total",
        "counter",
        ("source", "reason"),
        "Authentic requests that could not be wholly read, sealed away for a replay.",
    ),
    Metric("connections", "gauge", (), "Open connections of the public listener."),
    Metric(
        "refused_connections_total",
        "counter",
        ("reason",),
        "Connections ended before their first request: no room, too many from one address, or no request in time.",
    ),
    Metric("intake_queue_events", "gauge", (), "Events received and waiting for their commit."),
    Metric(
        "ledger_commit_duration_seconds",
        "histogram",
        (),
        "Time one transaction of the ledger took, until durable.",
        buckets=COMMIT_BUCKETS,
    ),
    Metric("ledger_commit_events", "histogram", (), "Events in one transaction of the ledger.", buckets=BATCH_BUCKETS),
    Metric("dns_queries_total", "counter", ("outcome",), "Questions sent to resolvers by how they ended."),
    Metric(
        "dns_query_duration_seconds",
        "histogram",
        (),
        "Time until a resolver answered or the question timed out.",
        buckets=DNS_BUCKETS,
    ),
    Metric("dns_second_opinions_total", "counter", ("outcome",), "Bad news by what the second opinion made of it."),
    Metric(
        "dns_resolver_healthy",
        "gauge",
        ("resolver",),
        "1 while the resolver passes its self-check, 0 while it answers falsely; no series while nobody can tell.",
    ),
    Metric("dns_resolver_restarts_total", "counter", (), "Times the resolver's engine hung and was started anew."),
    Metric("dns_looks_late_seconds", "gauge", (), "By how much the next DNS check in turn is overdue."),
    Metric(
        "mailbox_lookups_total",
        "counter",
        ("outcome",),
        "Lookups of recipient domains' MX by what they told of the mailbox provider.",
    ),
    Metric("mailbox_lookups_waiting", "gauge", (), "Recipient domains that wait for a lookup of their MX."),
    Metric(
        "alertmanager_notifications_total",
        "counter",
        ("alertmanager", "outcome"),
        "Posts of alerts to each Alertmanager by outcome.",
    ),
    Metric(
        "bus_messages_total", "counter", ("direction", "outcome"), "Messages over the broker by what became of them."
    ),
    Metric("bus_connected", "gauge", ("broker",), "1 while the broker has taken this agent, else 0."),
    Metric("bus_spool_bytes", "gauge", (), "Bytes on an edge's disk that wait for a core."),
    Metric("bus_spool_messages", "gauge", (), "Messages on an edge's disk that wait for a core."),
    Metric(
        "event_loop_lag_seconds",
        "histogram",
        (),
        "How late the event loop woke up from a timed sleep.",
        buckets=LAG_BUCKETS,
    ),
    Metric(
        "series_folded_total",
        "counter",
        (),
        "Updates counted under the label value other because the series budget was spent.",
    ),
    Metric("build_info", "gauge", ("version", "revision", "python"), "Always 1; the labels tell what runs."),
    Metric("ready", "gauge", (), "1 when every condition of readiness holds, else 0."),
    Metric("alertmanagers", "gauge", (), "Alertmanagers configured for this agent to push alerts to."),
    Metric("leader", "gauge", (), "1 if this agent leads those that share its store: it alone exports the whole."),
)

_RATE_HELP = {
    "deliverability": "Share of attempted mail accepted by the recipient's server (not inbox placement)",
    "bounce": "Share of attempted mail that bounced for good, undetermined bounces included",
    "block": "Share of attempted mail refused because of the sender",
    "soft_bounce": "Share of attempted mail that bounced softly",
    "complaint": "Share of delivered mail that recipients reported as spam",
    "deferral": "Deferred message and recipient pairs per attempted mail",
    "suppression": "Share of mail that the provider dropped before an attempt",
}


def ratio_names(rate: str) -> tuple[str, ...]:
    """The metric names of a rate without prefix: the value and, where a rate has bounds, its two bounds."""
    name = f"{rate}_ratio"
    return (name,) if rate == "deferral" else (name, f"{name}_lower", f"{name}_upper")


def _ratios() -> list[Metric]:
    metrics = []
    for rate in RATES:
        for scope in ("", *SCOPES):
            labels = ("domain", scope, "window") if scope else ("domain", "window")
            of = f" within one {scope.replace('_', ' ')}" if scope else ""
            for name, end in zip(ratio_names(rate), ("", ", 95 % lower bound", ", 95 % upper bound"), strict=False):
                full = f"{scope}_{name}" if scope else name
                metrics.append(Metric(full, "gauge", labels, f"{_RATE_HELP[rate]}{of}{end}.", whole=True))
    return metrics


def _anytime() -> list[Metric]:
    return [
        Metric(
            f"{rate}_ratio_anytime_{end}",
            "gauge",
            ("domain", "window"),
            f"{_RATE_HELP[rate]}, {end} 95 % bound that holds at every look of a month at once.",
            whole=True,
        )
        for rate in ("deliverability", "bounce", "complaint")
        for end in ("lower", "upper")
    ]


def _part_verdicts() -> list[Metric]:
    return [
        Metric(
            f"{scope}_target_verdict",
            "gauge",
            ("domain", scope, "target", "verdict"),
            f"State set: 1 for the verdict of the target within one {scope.replace('_', ' ')}, 0 for the others.",
            whole=True,
        )
        for scope in SCOPES
    ]


WHOLE = (
    *_ratios(),
    *_anytime(),
    *_part_verdicts(),
    Metric("attempted", "gauge", ("domain", "window"), "Mails attempted: delivered plus bounced.", whole=True),
    Metric(
        "target_verdict",
        "gauge",
        ("domain", "phase", "target", "verdict"),
        "State set: 1 for the verdict of the target that holds now, 0 for the others.",
        whole=True,
    ),
    Metric(
        "dns_check_verdict",
        "gauge",
        ("domain", "check", "subject", "verdict"),
        "State set: 1 for the verdict of the DNS check that holds now, 0 for the others.",
        whole=True,
    ),
    Metric(
        "blocklist_listed",
        "gauge",
        ("address", "list"),
        "1 while a blocklist lists the address or domain, 0 while it does not; no series while that is not known.",
        whole=True,
    ),
    Metric(
        "blocklist_health",
        "gauge",
        ("list", "health"),
        "State set: 1 for what the list's own test entries say of it; only a usable one is believed.",
        whole=True,
    ),
    Metric(
        "dns_last_success_timestamp_seconds",
        "gauge",
        ("domain", "check"),
        "When the check last came to a definitive finding for every subject.",
        whole=True,
    ),
    Metric(
        "target_budget_allowed",
        "gauge",
        ("domain", "target"),
        "Failures that the target allows for this calendar month (UTC), by its projected volume.",
        whole=True,
    ),
    Metric(
        "target_budget_used", "gauge", ("domain", "target"), "Failures in this calendar month (UTC) so far.", whole=True
    ),
    Metric(
        "target_budget_burn_rate",
        "gauge",
        ("domain", "target", "window"),
        "Failure rate in multiples of what the target allows; 1 uses the budget exactly up.",
        whole=True,
    ),
    Metric(
        "target_budget_state",
        "gauge",
        ("domain", "target", "state"),
        "State set: 1 for what is known of how long the month's budget lasts, 0 for the others.",
        whole=True,
    ),
    *(
        Metric(
            f"target_budget_ends{end}_timestamp_seconds",
            "gauge",
            ("domain", "target"),
            f"The day on which the month's budget ends {at}; no series while it lasts or nobody can tell.",
            whole=True,
        )
        for end, at in (
            ("", "at the rate of the last seven days"),
            ("_earliest", "at the upper 95 % bound of that rate"),
            ("_latest", "at the lower 95 % bound of that rate"),
        )
    ),
    Metric("monthly_volume", "gauge", ("domain",), "Mails attempted in this calendar month (UTC) so far.", whole=True),
    Metric(
        "monthly_volume_projected",
        "gauge",
        ("domain",),
        "Mails to be attempted by the end of this calendar month (UTC) at the usual pace.",
        whole=True,
    ),
    Metric("incidents", "gauge", ("domain", "state"), "Incidents by domain and state.", whole=True),
    Metric(
        "incident_open",
        "gauge",
        INCIDENT_LABELS,
        "1 for each incident that people are to be told of: not over, and not muted.",
        whole=True,
    ),
    Metric(
        "rate_direction",
        "gauge",
        ("domain", "rate", "direction"),
        "State set: 1 for where the last seven days are heading against the seven before, 0 for the other directions.",
        whole=True,
    ),
    Metric(
        "rate_shift_timestamp_seconds",
        "gauge",
        ("domain", "rate"),
        "When the rate, or the volume, last shifted within 30 days; no series while it did not.",
        whole=True,
    ),
    *(
        Metric(
            f"capacity_reached{end}_timestamp_seconds",
            "gauge",
            ("domain", "limit"),
            f"When the volume reaches the limit of the phase or of the sending plan{words}.",
            whole=True,
        )
        for end, words in (("", ""), ("_earliest", ", at the earliest"), ("_latest", ", at the latest"))
    ),
    Metric(
        "phase_gate",
        "gauge",
        ("domain", "phase", "state"),
        "State set: 1 for whether the domain is ready for its next phase, 0 for the others.",
        whole=True,
    ),
    Metric(
        "phase_gate_earliest_timestamp_seconds",
        "gauge",
        ("domain", "phase"),
        "When the domain can be ready for its next phase at the earliest; no series where no date can be given.",
        whole=True,
    ),
    Metric(
        "source_last_event_timestamp_seconds",
        "gauge",
        ("source",),
        "Time of the newest event of the source, by the event's own clock.",
        whole=True,
    ),
    Metric(
        "source_last_received_timestamp_seconds",
        "gauge",
        ("source",),
        "When the source last had events counted.",
        whole=True,
    ),
    Metric(
        "source_expected_events",
        "gauge",
        ("source",),
        "Events that the source's own rhythm lets expect at least since it fell silent; 0 while it speaks.",
        whole=True,
    ),
    Metric(
        "alertmanager_last_success_timestamp_seconds",
        "gauge",
        ("alertmanager",),
        "When the Alertmanager last accepted a post of this agent.",
        whole=True,
    ),
    Metric("last_evaluation_timestamp_seconds", "gauge", (), "When rates and verdicts were last computed.", whole=True),
    Metric(
        "parts_folded",
        "gauge",
        (),
        "Providers, mailbox providers and streams shown as other because the series budget was spent.",
        whole=True,
    ),
)

CATALOGUE: dict[str, Metric] = {metric.name: metric for metric in (*LOCAL, *WHOLE)}
