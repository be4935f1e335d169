"""Simulated ZeptoMail: one message per request, signed, or behind secret headers."""

from __future__ import annotations

import hmac
import secrets as tokens
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from hashlib import blake2b

import msgspec

from agent.events import BounceClass, Kind
from agent.providers.base import Credentials, header_secrets, secrets
from agent.simulate.base import KeyPair, Request
from agent.simulate.retry import ASSUMED, Schedule
from agent.simulate.traffic import Item, Voice
from agent.simulate.wording import remote_text

# It has two words for bounces, and none for mail it took, put off or held back, nor for opt-outs.
VOICE = Voice(
    reports_accepted=False,
    names_domain=frozenset(Kind),
    async_ids=True,
    silent=frozenset({Kind.DEFERRED, Kind.DROPPED, Kind.UNSUBSCRIBED}),
    classes={BounceClass.UNDETERMINED: BounceClass.HARD},
)
# Only that 200 takes it is documented.
RETRY = Schedule(delays=ASSUMED.delays, taken=frozenset({200}), confirmed=False)

_NAMES = {
    Kind.DELIVERED: "delivered",
    Kind.OPENED: "email_open",
    Kind.CLICKED: "email_link_click",
    Kind.COMPLAINED: "feedback_loop",
}
_INDIA = timezone(timedelta(hours=5, minutes=30))
_encode = msgspec.json.Encoder().encode


def requests(items: Iterable[Item], batch: int) -> Iterator[Request]:
    """One event each: ZeptoMail does not batch, whatever ``batch`` is."""
    for item in items:
        yield Request(_encode(_payload(item)), 1, item.emitted_at)


def sign(body: bytes, credentials: Credentials, now: float) -> dict[str, str]:
    """The signature by the first ``signing_secret``, and secret headers, whichever are among the credentials."""
    headers = {"Content-Type": "application/json;charset=UTF-8"}
    headers |= {name: values[0] for name, values in header_secrets(credentials).items()}
    if keys := secrets(credentials, "signing_secret"):
        timestamp = str(int(now * 1000))
        digest = hmac.digest(keys[0].encode(), timestamp.encode("ascii") + body, "sha256")
        signature = b64encode(digest).decode("ascii")
        headers["Producer-Signature"] = f"ts={timestamp};s={signature};s-algorithm=HmacSHA256"
    if len(headers) == 1:
        raise ValueError("signing as ZeptoMail needs a signing_secret, or headers")
    return headers


def new_credentials() -> KeyPair:
    """A fresh secret; both ends need the same."""
    both = {"signing_secret": tokens.token_urlsafe(32)}
    return KeyPair(both, both)


def _time(at: int, zone: timezone) -> str:
    return datetime.fromtimestamp(at, zone).isoformat()


def _payload(item: Item) -> dict[str, object]:
    name = _NAMES.get(item.kind) or ("softbounce" if item.bounce_class is BounceClass.SOFT else "hardbounce")
    return {
        "event_name": [name],
        "event_message": [
            {
                "email_info": {
                    "email_reference": f"{blake2b(item.recipient.encode()).hexdigest()[:32]}@bounce.{item.domain}",
                    "subject": "Simulated message",
                    "from": {"address": f"hello@{item.domain}", "name": "Simulated sender"},
                    "to": [{"email_address": {"address": item.recipient, "name": ""}}],
                },
                "event_data": [{"object": "email", "details": [_detail(item)]}],
                "request_id": blake2b(item.recipient.encode(), digest_size=6).hexdigest(),
            }
        ],
        "mailagent_key": item.stream,
        "webhook_request_id": blake2b(f"{item.serial}/{item.id_version}".encode(), digest_size=16).hexdigest(),
    }


def _detail(item: Item) -> dict[str, object]:
    detail: dict[str, object] = {"time": _time(item.at, _INDIA if item.choice % 2 else UTC)}
    if item.kind is Kind.BOUNCED:
        detail |= {
            "reason": "Uncategorized" if item.choice % 3 else "Invalid recipient",
            "bounced_recipient": item.recipient,
            "diagnostic_message": remote_text(item).text,
        }
    elif item.kind is Kind.CLICKED:
        detail["clicked_link"] = f"https://{item.domain}/offer/{item.choice % 50}"
    return detail
