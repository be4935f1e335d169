"""Simulated Azure Communication Services: batches of Event Grid's own schema, and CloudEvents."""

from __future__ import annotations

import itertools
import secrets as tokens
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from uuid import UUID

import msgspec

from agent.clock import HOUR, MINUTE
from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# Reports of final states and of engagement; none of anything between, or of complaints.
VOICE = Voice(
    reports_accepted=False,
    names_domain=frozenset(Kind),
    async_ids=True,
    silent=frozenset({Kind.DEFERRED, Kind.COMPLAINED, Kind.UNSUBSCRIBED}),
    names_stream=False,
)
# Microsoft Learn, "Event Grid message delivery and retry": for a day at most.
RETRY = Schedule(
    delays=(10.0, 30.0, MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR),
    taken=range(200, 205),
    final=frozenset({400, 403, 413}),
)

_PREFIX = "Microsoft.Communication."
_TOPIC = "/subscriptions/0/resourceGroups/simulated/providers/microsoft.communication/communicationservices/simulated"
_STATUSES: dict[Kind | BounceClass, tuple[str, ...]] = {
    Kind.DELIVERED: ("Delivered",),
    Kind.DROPPED: ("Suppressed",),
    BounceClass.HARD: ("Bounced",),
    BounceClass.SOFT: ("Failed",),
    BounceClass.BLOCK: ("FilteredSpam", "Quarantined", "Failed"),
    BounceClass.UNDETERMINED: ("Failed",),
}
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """Batches as Event Grid posts them, of either schema in turn."""
    left = iter(items)
    for number in itertools.count():
        group = list(itertools.islice(left, batch))
        if not group:
            return
        cloud = bool(number % 2)
        events = [_event(item, cloud) for item in group]
        one = cloud and len(events) == 1
        yield Request(_encode(events[0] if one else events), len(events), group[-1].emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The headers, with the first ``token`` as a bearer's: the simulator does not write URLs."""
    live = secrets(credentials, "token")
    if not live:
        raise ValueError("posting as Event Grid needs a token")
    return {
        "Content-Type": "application/json; charset=utf-8",
        "aeg-event-type": "Notification",
        "Authorization": f"Bearer {live[0]}",
    }


def new_credentials() -> KeyPair:
    """A fresh token; both ends need the same."""
    both = {"token": tokens.token_hex(16)}
    return KeyPair(both, both)


def _id(text: str) -> str:
    return str(UUID(bytes=blake2b(text.encode(), digest_size=16).digest()))


def _event(item: Item, cloud: bool) -> dict[str, object]:
    at = datetime.fromtimestamp(item.at, UTC).isoformat(timespec="microseconds")
    data: dict[str, object] = {
        "sender": f"hello@{item.domain}",
        "recipient": item.recipient,
        "messageId": _id(item.recipient),
    }
    if item.kind in (Kind.OPENED, Kind.CLICKED):
        name = "EmailEngagementTrackingReportReceived"
        clicked = item.kind is Kind.CLICKED
        data |= {
            "userActionTimeStamp": at,
            "engagementContext": f"https://{item.domain}/offer/{item.choice % 50}" if clicked else "",
            "userAgent": "Mozilla/5.0",
            "engagementType": "click" if clicked else "view",
        }
    else:
        name = "EmailDeliveryReportReceived"
        statuses = _STATUSES[item.bounce_class or item.kind]
        data |= {
            "status": statuses[item.choice % len(statuses)],
            "deliveryStatusDetails": {"statusMessage": remote_text(item).text},
            "deliveryAttemptTimeStamp": at,
        }
    event: dict[str, object] = {"id": _id(f"{item.recipient}/{item.serial}/{item.id_version}"), "data": data}
    subject = f"sender/hello@{item.domain}/message/{_id(item.recipient)}"
    if cloud:
        return event | {"source": _TOPIC, "subject": subject, "type": _PREFIX + name, "time": at, "specversion": "1.0"}
    return event | {
        "topic": _TOPIC, "subject": subject, "eventType": _PREFIX + name, "eventTime": at, "dataVersion": "1.0",
        "metadataVersion": "1",
    }  # fmt: skip
