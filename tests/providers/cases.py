"""What every provider must get right, as bodies in each vendor's own words. One row per provider."""

from __future__ import annotations

import json
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode

from agent.providers import Credentials, WebhookRequest
from agent.simulate import SIMULATORS
from agent.simulate.base import sealed

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
_POSTAL = {
    "event": "MessageSent",
    "timestamp": 1700000000.0,
    "payload": {"message": {"message_id": "m1", "to": "r@example.com", "direction": "outgoing"}},
}
_TEXT = f"550 5.1.1 <{SECRET_PART}@example.com> no such user {SECRET_PART}%40example.com"

_SMTP2GO = {"event": "delivered", "time": "2023-11-14T22:13:20Z", "email_id": "m1", "rcpt": "r@example.com"}
_ELASTIC_EMAIL = {"status": "Sent", "date": "2023-11-14 22:13:20", "messageid": "m1", "to": "r@example.com"}
_KUMOMTA = {"type": "Delivery", "id": "m1", "recipient": "r@example.com", "timestamp": 1700000000}
_GENERIC = {"kind": "delivered", "at": 1700000000, "message_id": "m1", "recipient": "r@example.com"}
_UNISENDER_GO = {"job_id": "m1", "email": "r@example.com", "status": "delivered", "event_time": "2023-11-14 22:13:20"}


_BREVO = {"event": "delivered", "email": "r@example.com", "message-id": "<m1>", "ts_epoch": 1700000000000}
_MANDRILL = {"event": "send", "_id": "m1", "ts": 1700000000, "msg": {"email": "r@example.com"}}
_MAILJET = {"event": "sent", "time": 1700000000, "email": "r@example.com", "MessageID": "m1"}
_MAILGUN = {
    "event": "delivered",
    "timestamp": 1700000000,
    "recipient": "r@example.com",
    "message": {"headers": {"message-id": "m1"}},
}


def _unisender_go(*events: object) -> bytes:
    entries = [{"event_name": "transactional_email_status", "event_data": event} for event in events]
    return _json({"auth": "0" * 32, "events_by_user": [{"user_id": 1, "events": entries}]})


def _zeptomail(name: str, *details: object) -> bytes:
    info = {"email_reference": "m1@bounce.example", "to": [{"email_address": {"address": "r@example.com"}}]}
    message = {"email_info": info, "event_data": [{"object": "email", "details": details}]}
    return _json({"event_name": [name], "event_message": [message]})


_ZEPTOMAIL = {"time": "2023-11-14T22:13:20Z"}

# Vendors whose JSON is posted within a form, and in which field.
FORM_FIELDS = {"mandrill": "mandrill_events"}


def packed(provider: str, events: bytes) -> bytes:
    """JSON as the vendor posts it."""
    field = FORM_FIELDS.get(provider)
    return urlencode({field: events}).encode() if field else events


def unpacked(provider: str, body: bytes) -> bytes:
    """The JSON in a body of the vendor's."""
    field = FORM_FIELDS.get(provider)
    return parse_qs(body.decode())[field][0].encode() if field else body


def _mandrill(*items: object) -> bytes:
    return packed("mandrill", _json(items))


_SES_MAIL = {"messageId": "m1", "timestamp": "2023-11-14T22:13:00.000Z", "destination": ["r@example.com"]}
_SES = {
    "eventType": "Delivery",
    "mail": _SES_MAIL,
    "delivery": {"timestamp": "2023-11-14T22:13:20.000Z", "recipients": ["r@example.com"]},
}

_SCALEWAY = {
    "id": "e1",
    "type": "email_delivered",
    "created_at": "2023-11-14T22:13:20Z",
    "email_id": "m1",
    "email_to": "r@example.com",
}
_AZURE_DATA = {
    "recipient": "r@example.com",
    "messageId": "m1",
    "status": "Delivered",
    "deliveryAttemptTimeStamp": "2023-11-14T22:13:20.0000000+00:00",
}
_AZURE = {"id": "e1", "eventType": "Microsoft.Communication.EmailDeliveryReportReceived", "data": _AZURE_DATA}

CASES: dict[str, Case] = {
    "scaleway": Case(
        good=_json(_SCALEWAY),
        unknown=_json(_SCALEWAY | {"type": "teleported"}),
        bounce=_json(
            _SCALEWAY | {"type": "email_dropped", "email_response_code": 550, "email_response_message": _TEXT}
        ),
        half_bad=None,
        all_bad=_json({"type": "email_delivered"}),
    ),
    "azure": Case(
        good=_json([_AZURE]),
        unknown=_json([_AZURE | {"data": _AZURE_DATA | {"status": "teleported"}}]),
        bounce=_json(
            [_AZURE | {"data": _AZURE_DATA | {"status": "Bounced", "deliveryStatusDetails": {"statusMessage": _TEXT}}}]
        ),
        half_bad=_json([_AZURE, {"eventType": "Microsoft.Communication.EmailDeliveryReportReceived"}]),
        all_bad=_json([{"id": "e1"}]),
    ),
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
    "ses": Case(
        good=_json(_SES),
        unknown=_json(_SES | {"eventType": "teleported"}),
        bounce=_json(
            {
                "eventType": "Bounce",
                "mail": _SES_MAIL,
                "bounce": {
                    "bounceType": "Permanent",
                    "bounceSubType": "General",
                    "timestamp": "2023-11-14T22:13:20.000Z",
                    "bouncedRecipients": [
                        {"emailAddress": "r@example.com", "status": "5.1.1", "diagnosticCode": f"smtp; {_TEXT}"}
                    ],
                },
            }
        ),
        half_bad=None,
        all_bad=_json({"eventType": "Delivery", "mail": {"messageId": "m1"}}),
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
    "elastic_email": Case(
        good=_json(_ELASTIC_EMAIL),
        unknown=_json(_ELASTIC_EMAIL | {"status": "teleported"}),
        bounce=_json(_ELASTIC_EMAIL | {"status": "Error", "category": "NoMailbox"}),
        half_bad=None,
        all_bad=_json({"status": "Sent"}),
    ),
    "generic": Case(
        good=_json([_GENERIC]),
        unknown=_json(_GENERIC | {"kind": "teleported"}),
        bounce=_json(_GENERIC | {"kind": "bounced", "reason": _TEXT}),
        half_bad=_json([_GENERIC, {"kind": "delivered"}]),
        all_bad=_json([None]),
    ),
    "kumomta": Case(
        good=_json(_KUMOMTA),
        unknown=_json(_KUMOMTA | {"type": "teleported"}),
        bounce=_json(
            _KUMOMTA
            | {
                "type": "Bounce",
                "bounce_classification": "Uncategorized",
                "response": {
                    "code": 550,
                    "enhanced_code": {"class": 5, "subject": 1, "detail": 1},
                    "content": _TEXT.removeprefix("550 5.1.1 "),
                },
            }
        ),
        half_bad=_json([_KUMOMTA, {"type": "Delivery"}]),
        all_bad=_json({"type": "Delivery"}),
    ),
    "smtp2go": Case(
        good=_json(_SMTP2GO),
        unknown=_json(_SMTP2GO | {"event": "teleported"}),
        bounce=_json(_SMTP2GO | {"event": "bounce", "bounce": "hard", "message": _TEXT}),
        half_bad=None,
        all_bad=_json({"event": "delivered"}),
    ),
    "unisender_go": Case(
        good=_unisender_go(_UNISENDER_GO),
        unknown=_unisender_go(_UNISENDER_GO | {"status": "teleported"}),
        bounce=_unisender_go(
            _UNISENDER_GO | {"status": "hard_bounced", "delivery_info": {"destination_response": _TEXT}}
        ),
        half_bad=_unisender_go(_UNISENDER_GO, {"status": "delivered"}),
        all_bad=_unisender_go(None),
    ),
    "zeptomail": Case(
        good=_zeptomail("delivered", _ZEPTOMAIL),
        unknown=_zeptomail("teleported", _ZEPTOMAIL),
        bounce=_zeptomail("hardbounce", _ZEPTOMAIL | {"diagnostic_message": _TEXT}),
        half_bad=_zeptomail("delivered", _ZEPTOMAIL, {"time": "soon"}),
        all_bad=_zeptomail("delivered", {}),
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
    "mailgun": Case(
        good=_json({"event-data": _MAILGUN}),
        unknown=_json({"event-data": _MAILGUN | {"event": "teleported"}}),
        bounce=_json(
            {
                "event-data": _MAILGUN
                | {
                    "event": "failed",
                    "severity": "permanent",
                    "reason": "bounce",
                    "delivery-status": {"code": 550, "enhanced-code": "5.1.1", "message": _TEXT},
                    "flags": {"is-delayed-bounce": False},
                }
            }
        ),
        half_bad=None,
        all_bad=_json({"event-data": {"event": "delivered"}}),
    ),
    "brevo": Case(
        good=_json(_BREVO),
        unknown=_json([_BREVO | {"event": "teleported"}]),
        bounce=_json({"events": [_BREVO | {"event": "hard_bounce", "reason": " RecipientError: " + _TEXT}]}),
        half_bad=_json([_BREVO, {"event": "delivered"}]),
        all_bad=_json({"event": "delivered"}),
    ),
    "mandrill": Case(
        good=_mandrill(_MANDRILL),
        unknown=_mandrill(_MANDRILL | {"event": "teleported"}),
        bounce=_mandrill({"event": "hard_bounce", "ts": 1700000000, "msg": {"diag": f"smtp;{_TEXT}"}}),
        half_bad=_mandrill(_MANDRILL, {"event": "send"}),
        all_bad=_mandrill({"event": "send"}),
    ),
    "mailjet": Case(
        good=_json(_MAILJET),
        unknown=_json([_MAILJET | {"event": "teleported"}]),
        bounce=_json([_MAILJET | {"event": "bounce", "hard_bounce": True, "error": "user unknown", "comment": _TEXT}]),
        half_bad=_json([_MAILJET, {"event": "sent"}]),
        all_bad=_json({"event": "sent"}),
    ),
    "mailtrap": Case(
        good=_json({"events": [_MAILTRAP]}),
        unknown=_json({"events": [_MAILTRAP | {"event": "teleported"}]}),
        bounce=_json({"events": [_MAILTRAP | {"event": "bounce", "response": f"bounced ({_TEXT})"}]}),
        half_bad=_json({"events": [_MAILTRAP, {"event": "delivery"}]}),
        all_bad=_json({"events": [{"event": "delivery"}]}),
    ),
    "postal": Case(
        good=_json(_POSTAL),
        unknown=_json(_POSTAL | {"event": "teleported"}),
        bounce=_json(
            {"event": "MessageDeliveryFailed", "timestamp": 1700000000.0, "payload": {"details": "", "output": _TEXT}}
        ),
        half_bad=None,
        all_bad=_json({"event": "MessageSent"}),
    ),
}

# Vendors whose reports quote nothing of what the remote server said.
WITHOUT_REMOTE_TEXT = frozenset({"elastic_email"})


def request(body: bytes, headers: dict[str, str] | None = None, at: float = NOW) -> WebhookRequest:
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return WebhookRequest("POST", "/webhooks/test", "", lower, body, at)


def signed(provider: str, body: bytes, credentials: Credentials, at: float = NOW) -> WebhookRequest:
    body = sealed(SIMULATORS[provider], body, credentials, at)
    return request(body, SIMULATORS[provider].sign(body, credentials, at), at)
