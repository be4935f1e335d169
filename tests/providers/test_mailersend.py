"""MailerSend: the signature to the byte, the ping that proves nothing, and every row of the mapping."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, mailersend
from agent.simulate import SIMULATORS
from tests.providers.cases import NOW, request, signed

# Computed once with an invented key, and with the published one.
BODY = rb'{"type":"activity.sent","url":"https:\/\/hooks.example.com\/ms"}'
SIGNATURE = "a95080215b7cbe49d4c5f8ab4fe90c4a801a2b27f3affbc6718d248164b95a57"
PING = b'{"type":"webhook.test","message":"This is a ping test message","created_at":"2026-03-27T07:24:20.577080Z"}'
PING_SIGNATURE = "a05470dca8b12a876fd6917935083275be2b5fc87433d6b82bbca07a6b82d74e"
CREDENTIALS = {"signing_secret": "ms-test-secret"}


def _by(secret: str, body: bytes) -> dict[str, str]:
    return {"signature": hmac.new(secret.encode(), body, "sha256").hexdigest()}


@pytest.mark.parametrize("secret", ["ms-test-secret", ["other", "ms-test-secret"], ("", "ms-test-secret")])
def test_vector_is_accepted(secret: str | list[str]) -> None:
    mailersend.authenticate(request(BODY, {"signature": SIGNATURE}), {"signing_secret": secret})


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (BODY.replace(b"sent", b"Sent"), SIGNATURE),
        (BODY.replace(rb"\/", b"/"), SIGNATURE),
        (BODY + b"\n", SIGNATURE),
        (b"", SIGNATURE),
        *[
            (BODY, signature)
            for signature in (
                "", " ", "00" * 32, SIGNATURE[:-1], SIGNATURE[:-2], SIGNATURE + "00", SIGNATURE.upper(),
                f" {SIGNATURE}", f"sha256={SIGNATURE}", "é" * 64, "\ud800", "zz" * 32, SIGNATURE + "\n",
            )
        ],
    ],
)  # fmt: skip
def test_whatever_was_not_signed_is_refused(body: bytes, signature: str) -> None:
    with pytest.raises(AuthenticationError):
        mailersend.authenticate(request(body, {"signature": signature}), CREDENTIALS)


def test_the_header_has_one_name() -> None:
    for headers in ({}, {"x-mailersend-signature": SIGNATURE}):
        with pytest.raises(AuthenticationError):
            mailersend.authenticate(request(BODY, headers), CREDENTIALS)


def test_keys_of_another_source_do_not_match() -> None:
    keys = SIMULATORS["mailersend"].new_credentials()
    with pytest.raises(AuthenticationError):
        mailersend.authenticate(signed("mailersend", BODY, keys.signing), CREDENTIALS)


def test_the_ping_is_accepted_and_counts_nothing() -> None:
    mailersend.authenticate(request(PING, {"signature": PING_SIGNATURE}), CREDENTIALS)
    mailersend.authenticate(request(PING, _by("ms-test-secret", PING)), CREDENTIALS)
    parsed = mailersend.parse(request(PING))
    assert (list(parsed), parsed.malformed) == ([], 0)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"activity.hard_bounced","created_at":"2023-11-14T22:13:20Z"}',
        b'{"type":"webhook.tests"}', b'{"type":["webhook.test"]}', b'{"data":{"type":"webhook.test"}}',
        b'[{"type":"webhook.test"}]', b"webhook.test", b"", b"[" * 100_000,
        b'{"type":"webhook.test","type":"activity.sent"}', b'{"type":"webhook.test","\xff":1,"type":"activity.sent"}',
    ],
)  # fmt: skip
def test_the_published_secret_signs_nothing_but_pings(body: bytes) -> None:
    with pytest.raises(AuthenticationError):
        mailersend.authenticate(request(body, _by(mailersend.PING_SECRET, body)), CREDENTIALS)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"webhook.test","data":{"id":"x","type":"hard_bounced","email":"a@b.example"},'
        b'"created_at":"2023-11-14T22:13:20Z"}',
        b'{"type":"activity.sent","created_at":"2023-11-14T22:13:20Z","type":"webhook.test"}',
        b'{"type":"webhook.test","message":"\xff","created_at":"2023-11-14T22:13:20Z"}',
        b'{"type":" webhook.test ","created_at":7}',
    ],
)
def test_whatever_passes_for_a_ping_counts_nothing(body: bytes) -> None:
    mailersend.authenticate(request(body, _by(mailersend.PING_SECRET, body)), CREDENTIALS)
    parsed = mailersend.parse(request(body))
    assert (list(parsed), parsed.malformed) == ([], 0)


def test_the_published_secret_is_no_credential() -> None:
    published = {"signing_secret": ["mine", mailersend.PING_SECRET]}
    assert "published" in (mailersend.validate_credentials(published) or "")
    assert mailersend.validate_credentials(CREDENTIALS) is None
    with pytest.raises(AuthenticationError):
        mailersend.authenticate(request(BODY, _by(mailersend.PING_SECRET, BODY)), published)


def test_a_ping_to_a_source_without_secrets_is_refused() -> None:
    for credentials in ({}, {"signing_secret": ""}, {"signing_secret": mailersend.PING_SECRET}):
        with pytest.raises(AuthenticationError):
            mailersend.authenticate(request(PING, {"signature": PING_SIGNATURE}), credentials)


def _fat(name: str = "delivered", morph: object = None, **fields: object) -> dict[str, Any]:
    email = {
        "object": "email", "id": "email-1", "created_at": "2023-11-14T22:00:00Z", "from": "hello@Sender.example",
        "status": "rejected", "tags": ["spring"], "message": {"id": "message-1"},
        "recipient": {"id": "x", "email": "R@Example.com"},
    }  # fmt: skip
    data = {"object": "activity", "id": "event-1", "type": name, "created_at": "2023-11-14T22:13:20.000000Z"}
    return {
        "type": f"activity.{name}",
        "domain_id": "d1",
        "created_at": "2023-11-14T22:13:25.000000Z",
        "webhook_id": "w1",
        "url": "https://hooks.example.com/ms",
        "data": data | {"email": email, "morph": morph} | fields,
    }


def _flat(name: str = "delivered", meta: object = None, **fields: object) -> dict[str, Any]:
    data = {
        "id": "event-1", "type": name, "domain_id": "d1", "message_id": "message-1", "email_id": "email-1",
        "email": "R@Example.com", "tags": ["spring"], "meta": [] if meta is None else meta,
    }  # fmt: skip
    return {"type": f"activity.{name}", "created_at": "2023-11-14T22:13:20.000000Z", "data": data | fields}


def _one(record: dict[str, Any]) -> Event:
    parsed = mailersend.parse(request(json.dumps(record).encode()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


def test_both_generations_tell_the_same() -> None:
    event = _one(_fat())
    assert event == Event(
        event.kind, NOW, "r@example.com", "message-1", "event-1", domain="sender.example", tags=("spring",),
        provider_event="activity.delivered",
    )  # fmt: skip
    flat = _one(_flat())
    assert flat == Event(
        event.kind, NOW, "r@example.com", "message-1", "event-1", tags=("spring",), provider_event="activity.delivered"
    )  # fmt: skip


@pytest.mark.parametrize("shape", [_fat, _flat])
@pytest.mark.parametrize(
    ("name", "kind", "bounce_class"),
    [
        ("sent", "accepted", None),
        ("delivered", "delivered", None),
        ("deferred", "deferred", None),
        ("soft_bounced", "bounced", "soft"),
        ("hard_bounced", "bounced", "hard"),
        ("suppressed", "dropped", None),
        ("opened", "opened", None),
        ("opened_unique", "opened", None),
        ("clicked", "clicked", None),
        ("clicked_unique", "clicked", None),
        ("unsubscribed", "unsubscribed", None),
        ("spam_complaint", "complained", None),
        ("survey_opened", "other", None),
        ("survey_submitted", "other", None),
        ("brand_new", "other", None),
    ],
)
def test_kinds(shape: Any, name: str, kind: str, bounce_class: str | None) -> None:
    event = _one(shape(name))
    assert (event.kind, event.bounce_class) == (kind, bounce_class)
    assert (event.provider_event, event.asynchronous) == (f"activity.{name}", False)


@pytest.mark.parametrize(
    "name",
    [
        "recipient.on_hold_added", "recipient.on_hold_removed", "maintenance.start", "maintenance.end",
        "sender_identity.verified", "inbound_forward.failed", "bulk_email.completed", "email_single.verified",
        "email_list.verified",
    ],
)  # fmt: skip
@pytest.mark.parametrize("data", [{"id": "x", "email": {"odd": []}}, [], None, "x"])
def test_what_is_no_activity_is_other(name: str, data: object) -> None:
    event = _one({"type": name, "created_at": "2023-11-14 22:13:20", "data": data})
    assert (event.kind, event.provider_event, event.at) == ("other", name, NOW)


def test_the_bare_type_serves_when_there_is_no_other() -> None:
    record = _fat("hard_bounced")
    del record["type"]
    assert (_one(record).kind, _one(record).provider_event) == ("bounced", "activity.hard_bounced")


@pytest.mark.parametrize(
    ("name", "reason", "expected"),
    [
        ("soft_bounced", "Unknown reason", "soft"),
        ("soft_bounced", "", "soft"),
        ("soft_bounced", "452 4.2.2 mailbox full", "soft"),
        ("soft_bounced", "550 5.7.1 refused", "block"),
        ("soft_bounced", "554 blocked using zen.spamhaus.org", "block"),
        ("soft_bounced", "550 user unknown", "soft"),
        ("hard_bounced", "Unknown reason", "hard"),
        ("hard_bounced", "550 5.1.1 gone", "hard"),
    ],
)
def test_classes_of_bounces(name: str, reason: str, expected: str) -> None:
    details = {"object": "recipient_bounce", "reason": reason, "readable_reason": "Why"}
    assert _one(_fat(name, details)).bounce_class == expected
    assert _one(_flat(name, details)).bounce_class == expected
    assert _one(_flat(name, details)).reason == (reason or "Why")


def test_codes_and_reasons() -> None:
    event = _one(_fat("hard_bounced", {"reason": "550 5.1.1 <joan@example.com> unknown"}))
    assert (event.smtp_code, event.enhanced_code, event.reason) == (550, "5.1.1", "550 5.1.1 <<address>> unknown")
    event = _one(_fat("unsubscribed", {"object": "recipient_unsubscribe", "reason": "550 no longer wanted"}))
    assert (event.smtp_code, event.enhanced_code, event.reason) == (None, "", "")


@pytest.mark.parametrize("shape", [_fat, _flat])
def test_clicks_of_one_time_differ_by_link(shape: Any) -> None:
    assert _one(shape("clicked", {"url": "https://a.example/x"})).discriminator == "https://a.example/x"
    assert _one(shape("opened", {"url": "https://a.example/x"})).discriminator == ""
    assert _one(shape("clicked")).discriminator == ""


@pytest.mark.parametrize(
    ("record", "attribute", "expected"),
    [
        (_flat(message_id=None), "message_id", "email-1"),
        (_flat(message_id=12), "message_id", "12"),
        (_flat(id=7), "event_id", "7"),
        (_flat(id="x" * 600), "event_id", "x" * 512),
        (_flat(tags=None), "tags", ()),
        (_flat(tags="x"), "tags", ()),
        (_flat(tags=["a", 7, None, {}]), "tags", ("a", "7")),
        (_flat(tags=[str(n) for n in range(50)]), "tags", tuple(str(n) for n in range(32))),
        (_flat(email=None), "recipient", ""),
        (_flat(email=["x"]), "recipient", ""),
        (_flat(meta="x"), "kind", "delivered"),
        (_flat(created_at=7), "at", 7.0),
        (_fat(email={}), "recipient", ""),
        (_fat(email={"recipient": "x", "id": "e1"}), "message_id", "e1"),
        (_fat(email={"recipient": {"email": 7}, "message": {"id": 5}}), "recipient", "7"),
        (_fat(email={"recipient": {"email": 7}, "message": {"id": 5}}), "message_id", "5"),
        (_fat(email={"from": ["x"], "tags": {"a": 1}}), "tags", ()),
        (_fat(morph=[]), "kind", "delivered"),
        (_fat(created_at=None), "at", NOW + 5),
        (_fat(created_at="soon"), "at", NOW + 5),
        (_fat("x" * 100), "provider_event", "activity." + "x" * 55),
        (_fat("joan@example.com"), "provider_event", "<address>"),
    ],
)
def test_fields(record: dict[str, Any], attribute: str, expected: object) -> None:
    assert getattr(_one(record), attribute) == expected


@pytest.mark.parametrize(
    "record",
    [
        {}, {"type": "activity.sent"}, {"type": "activity.sent", "created_at": "soon"}, {"type": ""},
        {"created_at": "2023-11-14T22:13:20Z"}, {"type": {}, "created_at": "2023-11-14T22:13:20Z", "data": {}},
        {"type": "activity.delivered", "data": {"email": {"created_at": "2023-11-14T22:13:20Z"}}},
    ],
)  # fmt: skip
def test_records_without_name_or_time_are_malformed(record: dict[str, object]) -> None:
    parsed = mailersend.parse(request(json.dumps(record).encode()))
    assert (list(parsed), parsed.malformed) == ([], 1)


def test_an_array_is_not_a_record() -> None:
    with pytest.raises(ParseError):
        mailersend.parse(request(b"[" + BODY + b"]"))
