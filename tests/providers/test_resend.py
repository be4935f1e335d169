"""Resend: the signature to the byte, and every row of the mapping."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode

import pytest

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, resend
from agent.simulate import SIMULATORS
from tests.providers.cases import NOW, request, signed

# Computed once with an invented key.
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u"
BODY = b'{"type":"email.delivered","created_at":"2023-11-14T22:13:20.000Z","data":{"email_id":"e1"}}'
SIGNATURE = "v1,VgAe1Vr33Z9FRfNm7fD4lPDqfI5Y5cTvRDGb0hulPtA="
HEADERS = {"svix-id": "msg_test123", "svix-timestamp": "1700000000", "svix-signature": SIGNATURE}
CREDENTIALS = {"signing_secret": SECRET}
OTHER = "v1," + b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "secret", [SECRET, SECRET.removeprefix("whsec_"), f" {SECRET}\n", ["whsec_AAAA", SECRET], ("", "?", SECRET)]
)
def test_vector_is_accepted(secret: str | list[str]) -> None:
    resend.authenticate(request(BODY, HEADERS), {"signing_secret": secret})


@pytest.mark.parametrize(
    "signatures",
    [f"{OTHER} {SIGNATURE}", f"{SIGNATURE} {OTHER}", f"v1a,xyz {SIGNATURE}", f"v2,AAAA , {SIGNATURE} "],
)
def test_any_signature_of_the_list_is_enough(signatures: str) -> None:
    resend.authenticate(request(BODY, HEADERS | {"svix-signature": signatures}), CREDENTIALS)


def test_standard_webhooks_names_are_as_good() -> None:
    renamed = {name.replace("svix", "webhook"): value for name, value in HEADERS.items()}
    resend.authenticate(request(BODY, renamed), CREDENTIALS)
    resend.authenticate(request(BODY, renamed | {"svix-id": "msg_x"}), CREDENTIALS)
    with pytest.raises(AuthenticationError):
        resend.authenticate(request(BODY, HEADERS | {"svix-signature": ""}), CREDENTIALS)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY.replace(b"e1", b"e2"), {}),
        (BODY + b"\n", {}),
        (json.dumps(json.loads(BODY)).encode(), {}),
        (b"", {}),
        *[
            (BODY, {"svix-signature": signature})
            for signature in (
                "", " ", "v1", "v1,", "v1, ", OTHER, SIGNATURE[3:], SIGNATURE[:-1], SIGNATURE + "A", SIGNATURE.lower(),
                SIGNATURE.replace("v1,", "v2,"), SIGNATURE.replace("v1,", "v1a,"), SIGNATURE.replace(",", ", "),
                "v1,not base64!", "v1,é", "v1,\ud800", "00" * 32, " ".join([OTHER] * 16 + [SIGNATURE]),
            )
        ],
        *[
            (BODY, {"svix-timestamp": timestamp})
            for timestamp in (
                "", " ", "1700000001", "1700000000.0", "+1700000000", " 1700000000", "-1", "x",
                "１７０００００００００", "²", "1" * 5000, "01700000000",
            )
        ],
        *[(BODY, {"svix-id": identity}) for identity in ("", "msg_test124", "msg_test123.", "\ud800")],
    ],
)  # fmt: skip
def test_whatever_was_not_signed_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        resend.authenticate(request(body, HEADERS | headers), CREDENTIALS)


@pytest.mark.parametrize("missing", HEADERS)
def test_missing_header_is_refused(missing: str) -> None:
    with pytest.raises(AuthenticationError):
        resend.authenticate(request(BODY, {k: v for k, v in HEADERS.items() if k != missing}), CREDENTIALS)


@pytest.mark.parametrize("age", [0, 299, 300, -300])
def test_age_within_the_window(age: float) -> None:
    resend.authenticate(request(BODY, HEADERS, NOW + age), CREDENTIALS)


@pytest.mark.parametrize("age", [301, -301, 10**7, -(10**7)])
def test_age_outside_the_window(age: float) -> None:
    with pytest.raises(AuthenticationError):
        resend.authenticate(request(BODY, HEADERS, NOW + age), CREDENTIALS)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_?", "whsec_é", "nonsense!", "whsec_A"])
def test_a_secret_without_a_key_never_matches_and_is_reported(secret: str) -> None:
    # An empty key signs like any other, so whoever guessed that it is empty could sign.
    forged = "v1," + b64encode(hmac.digest(b"", b"msg_test123.1700000000." + BODY, "sha256")).decode()
    for signature in (SIGNATURE, forged):
        with pytest.raises(AuthenticationError):
            resend.authenticate(request(BODY, HEADERS | {"svix-signature": signature}), {"signing_secret": secret})
    sentence = resend.validate_credentials({"signing_secret": [SECRET, secret]})
    assert sentence is not None
    assert "signing_secret" in sentence
    assert resend.validate_credentials(CREDENTIALS) is None


def test_keys_of_another_source_do_not_match() -> None:
    keys = SIMULATORS["resend"].new_credentials()
    with pytest.raises(AuthenticationError):
        resend.authenticate(signed("resend", BODY, keys.signing), CREDENTIALS)


def _one(name: str = "email.delivered", **data: object) -> Event:
    record = {
        "type": name,
        "created_at": "2023-11-14T22:13:20.000Z",
        "data": {
            "email_id": "e1",
            "created_at": "2023-11-14T22:00:00.000Z",
            "from": "Acme <hello@Sender.example>",
            "to": ["R@Example.com", "second@example.com"],
            "subject": "Hi",
            "tags": {"category": "welcome"},
        }
        | data,
    }
    parsed = resend.parse(request(json.dumps(record).encode(), {"svix-id": "msg_1"}))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


def test_a_delivery_in_full() -> None:
    event = _one()
    assert event == Event(
        event.kind, NOW, "r@example.com", "e1", "msg_1", domain="sender.example", tags=("welcome",),
        provider_event="email.delivered",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("email.sent", "accepted"),
        ("email.delivered", "delivered"),
        ("email.delivery_delayed", "deferred"),
        ("email.delivered_delayed", "deferred"),
        ("email.bounced", "bounced"),
        ("email.suppressed", "dropped"),
        ("email.failed", "dropped"),
        ("email.complained", "complained"),
        ("email.opened", "opened"),
        ("email.clicked", "clicked"),
        ("email.scheduled", "other"),
        ("email.received", "other"),
        ("contact.updated", "other"),
        ("domain.created", "other"),
        ("email.brand_new", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    event = _one(name)
    assert (event.kind, event.provider_event, event.asynchronous) == (kind, name, False)
    assert (event.bounce_class is not None) == (kind == "bounced")


@pytest.mark.parametrize(
    ("bounce", "expected"),
    [
        ({"type": "Permanent", "subType": "General"}, "hard"),
        ({"type": "Permanent", "subType": "NoEmail"}, "hard"),
        ({"type": "Permanent", "subType": "NoEmail", "diagnosticCode": ["smtp; 550 5.7.1 no"]}, "block"),
        ({"type": "Permanent", "subType": "ContentRejected"}, "block"),
        ({"type": "Permanent", "subType": "AttachmentRejected"}, "block"),
        ({"type": "Transient", "subType": "General"}, "soft"),
        ({"type": "Transient", "subType": "MailboxFull", "diagnosticCode": ["smtp; 552 5.2.2 full"]}, "soft"),
        ({"type": "Transient", "subType": "MessageTooLarge"}, "soft"),
        ({"type": "Transient", "subType": "ContentRejected"}, "block"),
        ({"type": "Transient", "subType": "AttachmentRejected"}, "block"),
        ({"type": "Transient", "subType": "General", "diagnosticCode": ["smtp; 550 5.4.4 no such domain"]}, "hard"),
        ({"type": "Undetermined", "subType": "Undetermined", "message": "550 5.1.1 gone"}, "undetermined"),
        # Older payloads hold nothing but the text.
        ({"message": "550 5.1.1 no such user"}, "hard"),
        ({"message": "452 4.2.2 mailbox full"}, "soft"),
        ({"message": "554 5.7.1 blocked"}, "block"),
        ({"message": "It bounced."}, "undetermined"),
        ({"type": "BrandNew", "diagnosticCode": ["smtp; 550 5.1.1 gone"]}, "hard"),
        ({}, "undetermined"),
        (None, "undetermined"),
    ],
)
def test_classes_of_bounces(bounce: object, expected: str) -> None:
    event = _one("email.bounced", bounce=bounce)
    assert (event.kind, event.bounce_class) == ("bounced", expected)


@pytest.mark.parametrize(
    "bounce",
    [
        {"message": "Resend has suppressed sending to this address because it is on the suppression list."},
        {"type": "Permanent", "subType": "Suppressed", "message": "x"},
        {"type": "Permanent", "subType": "OnAccountSuppressionList", "message": "x"},
    ],
)
def test_suppression_told_as_a_bounce_is_a_drop(bounce: dict[str, str]) -> None:
    event = _one("email.bounced", bounce=bounce)
    assert (event.kind, event.bounce_class) == ("dropped", None)
    assert event.reason


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("email.bounced", {"bounce": {"diagnosticCode": ["smtp; 550 5.1.1 <a@b.example> no", "x"], "message": "m"}},
         "smtp; 550 5.1.1 <<address>> no"),
        ("email.bounced", {"bounce": {"diagnosticCode": [], "message": "m"}}, "m"),
        ("email.bounced", {"bounce": {"diagnosticCode": "550 no", "message": "m"}}, "550 no"),
        ("email.suppressed", {"suppressed": {"reason": "previous_bounce", "message": "On the list"}}, "On the list"),
        ("email.suppressed", {"suppressed": {"reason": "previous_bounce"}}, "previous_bounce"),
        ("email.failed", {"failed": {"reason": "reached_daily_quota"}}, "reached_daily_quota"),
        ("email.delivered", {"bounce": {"message": "m"}}, ""),
    ],
)  # fmt: skip
def test_reasons(name: str, data: dict[str, object], reason: str) -> None:
    assert _one(name, **data).reason == reason


@pytest.mark.parametrize(
    ("data", "attribute", "expected"),
    [
        ({"to": "One <R@b.example>"}, "recipient", "r@b.example"),
        ({"to": ["One <R@b.example>", "two@b.example"]}, "recipient", "r@b.example"),
        ({"to": []}, "recipient", ""),
        ({"to": None}, "recipient", ""),
        ({"to": {"a": 1}}, "recipient", ""),
        ({"from": "a@b.example"}, "domain", "b.example"),
        ({"from": None}, "domain", ""),
        ({"from": ["x"]}, "domain", ""),
        ({"email_id": 12}, "message_id", "12"),
        ({"email_id": "x" * 600}, "message_id", "x" * 512),
        ({"tags": {"a": "x", "b": 7, "c": None}}, "tags", ("x", "7")),
        ({"tags": [{"name": "a", "value": "x"}, "y", {}]}, "tags", ("x", "y")),
        ({"tags": "x"}, "tags", ()),
        ({"tags": {str(n): str(n) for n in range(50)}}, "tags", tuple(str(n) for n in range(32))),
        ({"bounce": "x", "click": []}, "kind", "delivered"),
    ],
)
def test_fields(data: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**data), attribute) == expected


def test_clicks_of_one_time_differ_by_link() -> None:
    click = {"link": "https://a.example/x?y=z", "timestamp": "2023-11-14T22:13:20.000Z"}
    assert _one("email.clicked", click=click).discriminator == "https://a.example/x?y=z"
    assert _one("email.opened", click=click).discriminator == ""
    assert _one("email.clicked").discriminator == ""


@pytest.mark.parametrize("header", ["svix-id", "webhook-id"])
def test_the_id_of_the_request_is_the_event_id(header: str) -> None:
    (event,) = resend.parse(request(BODY, {header: "x" * 600}))
    assert event.event_id == "x" * 512
    (event,) = resend.parse(request(BODY))
    assert (event.event_id, event.message_id, event.recipient) == ("", "e1", "")


@pytest.mark.parametrize(
    "record",
    [
        {}, {"type": "email.delivered"}, {"type": "email.delivered", "created_at": "soon"},
        {"created_at": "2023-11-14T22:13:20.000Z"}, {"type": "", "created_at": "2023-11-14T22:13:20.000Z"},
        {"type": {}, "created_at": "2023-11-14T22:13:20.000Z"},
        # The message's own time is not that of what happened to it.
        {"type": "email.delivered", "data": {"created_at": "2023-11-14T22:13:20.000Z"}},
    ],
)  # fmt: skip
def test_records_without_name_or_time_are_malformed(record: dict[str, object]) -> None:
    parsed = resend.parse(request(json.dumps(record).encode()))
    assert (list(parsed), parsed.malformed) == ([], 1)


def test_an_array_is_not_a_record() -> None:
    with pytest.raises(ParseError):
        resend.parse(request(b"[" + BODY + b"]"))
