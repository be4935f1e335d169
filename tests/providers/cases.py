"""What every provider must get right, as bodies in each vendor's own words. One row per provider."""

from __future__ import annotations

import json
from typing import NamedTuple

from agent.providers import Credentials, WebhookRequest
from agent.simulate import SIMULATORS

NOW = 1_700_000_000.0
SECRET_PART = "joan.of.arc"


class Case(NamedTuple):
    """``good`` holds one delivery to ``r@example.com`` at NOW; ``unknown`` one event with an unheard-of name;
    ``bounce`` a bounce whose remote text names SECRET_PART's address; ``half_bad`` one good item and one that cannot
    be read (``None`` where a request holds but one item); ``all_bad`` nothing but such an item."""

    good: bytes
    unknown: bytes
    bounce: bytes
    half_bad: bytes | None
    all_bad: bytes


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_SENDGRID = {
    "email": "r@example.com",
    "timestamp": 1700000000,
    "event": "delivered",
    "sg_event_id": "e1",
    "sg_message_id": "m1",
}
_POSTMARK = {
    "RecordType": "Delivery",
    "Recipient": "r@example.com",
    "MessageID": "m1",
    "DeliveredAt": "2023-11-14T22:13:20.0000000Z",
}
_SPARKPOST = {"type": "delivery", "message_id": "m1", "raw_rcpt_to": "r@example.com", "timestamp": "1700000000"}
_RESEND = {
    "type": "email.delivered",
    "created_at": "2023-11-14T22:13:20.000Z",
    "data": {"email_id": "m1", "to": ["r@example.com"]},
}
_MAILERSEND = {
    "type": "activity.delivered",
    "created_at": "2023-11-14T22:13:20.000000Z",
    "data": {"message_id": "m1", "email": "r@example.com", "meta": []},
}
_MAILTRAP = {"event": "delivery", "message_id": "m1", "email": "r@example.com", "timestamp": 1700000000}
_TEXT = f"550 5.1.1 <{SECRET_PART}@example.com> no such user {SECRET_PART}%40example.com"

CASES: dict[str, Case] = {
    "sendgrid": Case(
        good=_json([_SENDGRID]) + b"\r\n",
        unknown=_json([_SENDGRID | {"event": "teleported"}]),
        bounce=_json([_SENDGRID | {"event": "bounce", "type": "bounce", "reason": _TEXT}]),
        half_bad=_json([_SENDGRID, {"event": "delivered"}]),
        all_bad=_json([{"event": "delivered"}]),
    ),
    "postmark": Case(
        good=_json(_POSTMARK),
        unknown=_json(_POSTMARK | {"RecordType": "teleported"}),
        bounce=_json(
            {
                "RecordType": "Bounce",
                "Type": "HardBounce",
                "ID": 1,
                "Email": "r@example.com",
                "BouncedAt": "2023-11-14T22:13:20Z",
                "Details": "smtp;" + _TEXT,
            }
        ),
        half_bad=None,
        all_bad=_json({"RecordType": "Delivery"}),
    ),
    "sparkpost": Case(
        good=_json([{"msys": {"message_event": _SPARKPOST}}]),
        unknown=_json([{"msys": {"message_event": _SPARKPOST | {"type": "teleported"}}}]),
        bounce=_json(
            [{"msys": {"message_event": _SPARKPOST | {"type": "bounce", "bounce_class": "10", "raw_reason": _TEXT}}}]
        ),
        half_bad=_json([{"msys": {"message_event": _SPARKPOST}}, {"msys": {"message_event": {"type": "delivery"}}}]),
        all_bad=_json([{"msys": {"message_event": {"type": "delivery"}}}]),
    ),
    "resend": Case(
        good=_json(_RESEND),
        unknown=_json(_RESEND | {"type": "teleported"}),
        bounce=_json(
            {
                "type": "email.bounced",
                "created_at": "2023-11-14T22:13:20.000Z",
                "data": {
                    "to": ["r@example.com"],
                    "bounce": {"type": "Permanent", "diagnosticCode": ["smtp; " + _TEXT]},
                },
            }
        ),
        half_bad=None,
        all_bad=_json({"type": "email.delivered"}),
    ),
    "mailersend": Case(
        good=_json(_MAILERSEND),
        unknown=_json(_MAILERSEND | {"type": "teleported"}),
        bounce=_json(
            {
                "type": "activity.hard_bounced",
                "created_at": "2023-11-14T22:13:20.000000Z",
                "data": {"email": {"recipient": {"email": "r@example.com"}}, "morph": {"reason": _TEXT}},
            }
        ),
        half_bad=None,
        all_bad=_json({"type": "activity.delivered"}),
    ),
    "mailtrap": Case(
        good=_json({"events": [_MAILTRAP]}),
        unknown=_json({"events": [_MAILTRAP | {"event": "teleported"}]}),
        bounce=_json({"events": [_MAILTRAP | {"event": "bounce", "response": f"bounced ({_TEXT})"}]}),
        half_bad=_json({"events": [_MAILTRAP, {"event": "delivery"}]}),
        all_bad=_json({"events": [{"event": "delivery"}]}),
    ),
}


def request(body: bytes, headers: dict[str, str] | None = None, at: float = NOW) -> WebhookRequest:
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return WebhookRequest("POST", "/webhooks/test", "", lower, body, at)


def signed(provider: str, body: bytes, credentials: Credentials, at: float = NOW) -> WebhookRequest:
    return request(body, SIMULATORS[provider].sign(body, credentials, at), at)
