"""What comes in the dress of a bounce and is none: where a vendor names no class, the words decide."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.providers import PROVIDERS, WebhookRequest

NOW = 1_700_000_000.0
OUT_OF_OFFICE = "Automatic reply: out of office until Monday"
CHALLENGE = "Sender verification request: please confirm that you are human"
DELAY = "Warning: message still undelivered after 4 hours, will keep trying"
SUPPRESSED = "recipient address suppressed due to customer policy"
REFUSED = "550 5.1.1 user unknown; out of office"

BODIES: dict[str, Any] = {
    "generic": lambda text: {"kind": "bounced", "at": NOW, "recipient": "x@example.com", "reason": text},
    "mailjet": lambda text: {"event": "bounce", "time": int(NOW), "MessageID": 1, "comment": text},
    "sparkpost": lambda text: [
        {"msys": {"message_event": {"type": "out_of_band", "timestamp": str(int(NOW)), "raw_reason": text}}}
    ],
    "kumomta": lambda text: {
        "type": "OOB", "timestamp": int(NOW), "id": "a", "recipient": "x@example.com", "sender": "b@example.org",
        "response": {"code": 550 if text == REFUSED else None, "content": text},
    },
    "mailtrap": lambda text: {"events": [{"event": "bounce", "timestamp": int(NOW), "response": text}]},
    "mailgun": lambda text: {
        "signature": {},
        "event-data": {
            "event": "failed", "severity": "permanent", "timestamp": NOW, "id": "a", "recipient": "x@example.com",
            "flags": {"is-delayed-bounce": True}, "delivery-status": {"message": text},
        },
    },
    "unisender_go": lambda text: {
        "event_name": "transactional_email_status", "job_id": "a", "email": "x@example.com", "status": "hard_bounced",
        "event_time": "2023-11-14 22:13:20", "destination_response": text,
    },
    "sendgrid": lambda text: [
        {
            "event": "bounce", "timestamp": int(NOW), "email": "x@example.com", "sg_event_id": "a", "reason": text,
            "bounce_classification": "Unclassified",
        }
    ],
    "resend": lambda text: {
        "type": "email.bounced", "created_at": "2023-11-14T22:13:20Z",
        "data": {"email_id": "a", "to": ["x@example.com"], "bounce": {"diagnosticCode": [text]}},
    },
}  # fmt: skip


def _kind(provider: str, body: object) -> tuple[str, str | None]:
    request = WebhookRequest("POST", f"/webhooks/{provider}", "", {}, json.dumps(body).encode(), NOW)
    (event,) = PROVIDERS[provider].parse(request)
    return event.kind, event.bounce_class


@pytest.mark.parametrize("provider", BODIES)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OUT_OF_OFFICE, ("other", None)),
        (CHALLENGE, ("other", None)),
        (DELAY, ("other", None)),
        (SUPPRESSED, ("dropped", None)),
        (REFUSED, ("bounced", "hard")),
    ],
)
def test_a_report_without_a_class_is_what_its_words_say(
    provider: str, text: str, expected: tuple[str, str | None]
) -> None:
    assert _kind(provider, BODIES[provider](text)) == expected


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("Transient", OUT_OF_OFFICE, ("other", None)),
        ("Transient", CHALLENGE, ("other", None)),
        ("Transient", DELAY, ("bounced", "soft")),  # Amazon SES has given up.
        ("Transient", REFUSED, ("bounced", "soft")),
        ("Permanent", OUT_OF_OFFICE, ("bounced", "hard")),
    ],
)
def test_a_transient_bounce_of_amazon_can_be_an_answer(kind: str, text: str, expected: tuple[str, str | None]) -> None:
    body = BODIES["resend"](text)
    body["data"]["bounce"] |= {"type": kind, "subType": "General"}
    assert _kind("resend", body) == expected
