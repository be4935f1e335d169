"""SendGrid: the signature to the byte, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.events import BounceClass, Event
from agent.providers import AuthenticationError, sendgrid
from agent.simulate import SIMULATORS
from tests.providers.cases import NOW, request, signed

# Computed once with an invented key; the signature covers the CR LF at the end of the body.
KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE97RRpXq/iSpluw+lEzfjfigtMNbsn3dYHtw7Dx8cj/OfI8dAxuU8JqQYktvivvlaXR0JEOnNeb54zuI1"
    "buyueA=="
)
SIGNATURE = "MEUCIQDcuIoQ8WTr2CQa3hH5a43FurvZqVyliobhNXsMQc4mqAIgS9yl//yysIHxbaInucDayvORYtSHHAwki5t/RehVM3w="
BODY = b'[{"email":"r@example.com","timestamp":1700000000,"event":"delivered","sg_event_id":"e1"}]\r\n'
HEADERS = {
    "x-twilio-email-event-webhook-signature": SIGNATURE,
    "x-twilio-email-event-webhook-timestamp": "1700000000",
}
CREDENTIALS = {"verification_key": KEY}
FIXTURES = Path(__file__).parent / "fixtures" / "sendgrid"


def _pem(der: str) -> str:
    key = load_der_public_key(b64decode(der))
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _der(key: object) -> str:
    return b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()  # type: ignore[attr-defined]


NOT_P256 = [
    "nonsense",
    "é",
    "AAAA",
    KEY[:-8],
    KEY.replace("4zuI1", "4zuI2"),  # a point that is not on the curve
    "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    _der(ec.generate_private_key(ec.SECP384R1()).public_key()),
    _der(rsa.generate_private_key(65537, 2048).public_key()),
    _der(ed25519.Ed25519PrivateKey.generate().public_key()),
]


@pytest.mark.parametrize(
    "key", [KEY, _pem(KEY), _pem(KEY).replace("\n", "\\n"), f" {KEY[:64]}\n{KEY[64:]}\n", ["nonsense", KEY], ("", KEY)]
)
def test_vector_is_accepted(key: str | list[str]) -> None:
    sendgrid.authenticate(request(BODY, HEADERS), {"verification_key": key})


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY.rstrip(b"\r\n"), {}),
        (BODY.replace(b"\r\n", b"\n"), {}),
        (BODY.replace(b"e1", b"e2"), {}),
        (json.dumps(json.loads(BODY)).encode(), {}),
        (b"", {}),
        *[
            (BODY, {"x-twilio-email-event-webhook-signature": signature})
            for signature in (
                "", " ", "=", "not base64!", SIGNATURE[:-4], SIGNATURE[4:], SIGNATURE + "AAAA", f" {SIGNATURE}", "é",
                "\ud800", b64encode(b"\x30\x06\x02\x01\x00\x02\x01\x00").decode(), b64encode(bytes(72)).decode(),
                "00" * 32,
            )
        ],
        *[
            (BODY, {"x-twilio-email-event-webhook-timestamp": timestamp})
            for timestamp in (
                "", " ", "1700000001", "1699999999", "1700000000.0", "+1700000000", " 1700000000", "1700000000 ", "-1",
                "x", "１７０００００００００", "²", "1" * 5000, "01700000000", "1_700_000_000",
            )
        ],
    ],
)  # fmt: skip
def test_whatever_was_not_signed_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        sendgrid.authenticate(request(body, HEADERS | headers), CREDENTIALS)


@pytest.mark.parametrize("missing", HEADERS)
def test_missing_header_is_refused(missing: str) -> None:
    with pytest.raises(AuthenticationError):
        sendgrid.authenticate(request(BODY, {k: v for k, v in HEADERS.items() if k != missing}), CREDENTIALS)


@pytest.mark.parametrize("age", [0, 3600, 86399, 86400, -1, -600])
def test_age_within_the_window(age: float) -> None:
    sendgrid.authenticate(request(BODY, HEADERS, NOW + age), CREDENTIALS)


@pytest.mark.parametrize("age", [86401, 10**7, -601, -(10**7)])
def test_age_outside_the_window(age: float) -> None:
    with pytest.raises(AuthenticationError):
        sendgrid.authenticate(request(BODY, HEADERS, NOW + age), CREDENTIALS)


@pytest.mark.parametrize("key", NOT_P256, ids=range(len(NOT_P256)))
def test_a_key_that_is_none_never_matches_and_is_reported(key: str) -> None:
    with pytest.raises(AuthenticationError):
        sendgrid.authenticate(request(BODY, HEADERS), {"verification_key": key})
    sentence = sendgrid.validate_credentials({"verification_key": [KEY, key]})
    assert sentence is not None
    assert "verification_key" in sentence
    assert key not in sentence


def test_good_keys_are_not_reported() -> None:
    assert sendgrid.validate_credentials({"verification_key": [KEY, _pem(KEY)]}) is None


def _one(**fields: object) -> Event:
    item = {"email": "r@example.com", "timestamp": 1700000000, "event": "delivered", "sg_message_id": "m.1"} | fields
    parsed = sendgrid.parse(request(json.dumps([item]).encode()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("processed", "accepted"),
        ("delivered", "delivered"),
        ("deferred", "deferred"),
        ("bounce", "bounced"),
        ("dropped", "dropped"),
        ("open", "opened"),
        ("click", "clicked"),
        ("spamreport", "complained"),
        ("unsubscribe", "unsubscribed"),
        ("group_unsubscribe", "unsubscribed"),
        ("group_resubscribe", "other"),
        ("account_status_change", "other"),
        ("never_heard_of", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    event = _one(event=name)
    assert event.kind == kind
    assert event.provider_event == name
    assert (event.bounce_class is not None) == (kind == "bounced")


HARD, SOFT, BLOCK, UNDETERMINED = BounceClass.HARD, BounceClass.SOFT, BounceClass.BLOCK, BounceClass.UNDETERMINED


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"type": "blocked"}, BLOCK),
        ({"type": "blocked", "bounce_classification": "Invalid Address", "status": "5.1.1"}, BLOCK),
        ({"type": "expired"}, SOFT),
        ({"type": "expired", "bounce_classification": "Reputation"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Reputation"}, BLOCK),
        ({"type": "bounce", "bounce_classification": "Content"}, BLOCK),
        ({"type": "bounce", "bounce_classification": "Frequency or Volume Too High"}, BLOCK),
        ({"type": "bounce", "bounce_classification": "reputation"}, BLOCK),
        ({"type": "bounce", "bounce_classification": "Mailbox Unavailable", "status": "4.2.0"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Mailbox Unavailable", "status": "5.2.2"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Mailbox Unavailable", "reason": "552 mailbox full"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Mailbox Unavailable", "reason": "450 try later"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Mailbox Unavailable", "status": "5.2.1"}, HARD),
        ({"type": "bounce", "bounce_classification": "Mailbox Unavailable"}, HARD),
        ({"type": "bounce", "bounce_classification": "Technical"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Technical Failure", "status": "5.4.4"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Invalid Address", "status": "5.7.1"}, HARD),
        ({"type": "bounce"}, HARD),
        ({"type": "bounced", "reason": "554 blocked"}, HARD),
        ({"type": "bounce", "bounce_classification": "Unclassified", "status": "5.7.1"}, BLOCK),
        ({"type": "bounce", "bounce_classification": "Unclassified", "reason": "550 5.1.1 gone"}, HARD),
        ({"type": "bounce", "bounce_classification": "Unclassified", "reason": "421 busy"}, SOFT),
        ({"type": "bounce", "bounce_classification": "Unclassified", "reason": "554 no"}, UNDETERMINED),
        ({"type": "bounce", "bounce_classification": "Brand New Class", "reason": "550 user unknown"}, HARD),
        ({}, UNDETERMINED),
    ],
)
def test_classes_of_bounces(fields: dict[str, str], expected: BounceClass) -> None:
    assert _one(event="bounce", **fields).bounce_class is expected


@pytest.mark.parametrize(
    "reason",
    [
        "Bounced Address", "Unsubscribed Address", "Spam Reporting Address", "Invalid", "Invalid SMTPAPI header",
        "Spam Content", "Recipient List over Package Quota",
    ],
)  # fmt: skip
def test_drops_are_no_bounces(reason: str) -> None:
    event = _one(event="dropped", reason=reason, type="bounce", status="5.0.0")
    assert (event.kind, event.bounce_class, event.reason, event.enhanced_code) == ("dropped", None, reason, "5.0.0")


def test_every_documented_payload() -> None:
    parsed = sendgrid.parse(request((FIXTURES / "all_types.json").read_bytes()))
    assert parsed.malformed == 0
    message = "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0"
    assert [event.at for event in parsed] == [float(1513299569 + n) for n in range(12)]
    assert {event.recipient for event in parsed} == {"recipient@example.com"}
    assert {event.message_id for event in parsed} == {message, ""}
    assert len({event.event_id for event in parsed}) == 12
    processed, delivered, deferred, bounce, later, dropped, opened, click, *_ = parsed
    assert (processed.domain, processed.tags, processed.stream) == ("", ("cat facts",), "")
    assert (delivered.domain, delivered.tags, delivered.reason) == ("news.sender.example", ("cat facts", "weekly"), "")
    assert (deferred.domain, deferred.smtp_code, deferred.reason) == ("", 400, "400 try again later")
    assert deferred.discriminator == "5"
    assert (bounce.bounce_class, bounce.smtp_code, bounce.enhanced_code) == ("hard", 550, "5.1.1")
    assert bounce.reason == "550 5.1.1 <<address>>: Recipient address rejected: User unknown"
    assert (bounce.domain, bounce.asynchronous) == ("news.sender.example", False)
    assert (later.bounce_class, later.asynchronous, later.message_id, later.domain) == ("hard", True, "", "")
    assert (dropped.reason, dropped.asynchronous) == ("Bounced Address", False)
    assert (opened.kind, opened.discriminator) == ("opened", "")
    assert (click.kind, click.discriminator) == ("clicked", "http://www.example.com/")
    assert [event.kind for event in parsed[8:]] == ["complained", "unsubscribed", "unsubscribed", "other"]


def test_async_bounce_without_the_key_at_all() -> None:
    item = {"email": "r@example.com", "timestamp": 1, "event": "bounce", "type": "bounce"}
    (event,) = sendgrid.parse(request(json.dumps([item]).encode()))
    assert event.asynchronous
    assert not _one(event="dropped", sg_message_id=None).asynchronous


@pytest.mark.parametrize(
    ("fields", "domain"),
    [
        ({"from_domain": " Mail.Example.COM "}, "mail.example.com"),
        ({"from_domain": "a.example", "smtp-id": "<1@b.example>"}, "a.example"),
        ({"smtp-id": "<1@B.example>"}, "b.example"),
        ({"smtp-id": "1@b.example"}, "b.example"),
        ({"smtp-id": "<1@ismtpd-555>"}, ""),
        ({"smtp-id": "<1@ismtpd0042p1las1.sendgrid.net>"}, ""),
        ({"smtp-id": "<1@geopod-ismtpd-2-1>"}, ""),
        ({"smtp-id": "<1@xvfrpp.sendgrid.net>"}, ""),
        ({"smtp-id": "<1@localhost>"}, ""),
        ({"smtp-id": ""}, ""),
        ({"smtp-id": "@"}, ""),
        ({}, ""),
    ],
)
def test_sending_domain(fields: dict[str, str], domain: str) -> None:
    assert _one(**fields).domain == domain


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"timestamp": "1700000001"}, "at", 1700000001.0),
        ({"timestamp": 1700000001.5}, "at", 1700000001.5),
        ({"timestamp": 1700000001500}, "at", 1700000001.5),
        ({"timestamp": "1700000001500"}, "at", 1700000001.5),
        ({"asm_group_id": "7"}, "kind", "delivered"),
        ({"category": None}, "tags", ()),
        ({"category": ""}, "tags", ()),
        ({"category": []}, "tags", ()),
        ({"category": ["a", 7, None, {}]}, "tags", ("a", "7")),
        ({"category": {"a": 1}}, "tags", ()),
        ({"category": [str(n) for n in range(50)]}, "tags", tuple(str(n) for n in range(32))),
        ({"email": None}, "recipient", ""),
        ({"email": 5}, "recipient", "5"),
        ({"email": " A@B.Example "}, "recipient", "a@b.example"),
        ({"sg_event_id": 12}, "event_id", "12"),
        ({"sg_event_id": "x" * 600}, "event_id", "x" * 512),
        ({"sg_message_id": None}, "message_id", ""),
        ({"response": {"nested": ["x"]}}, "reason", ""),
        ({"type": 5, "url": False, "attempt": []}, "kind", "delivered"),
        ({"event": "deferred", "attempt": 3}, "discriminator", "3"),
        ({"event": "deferred", "reason": "450 4.2.0 later"}, "enhanced_code", "4.2.0"),
        ({"event": "bounce", "status": "nonsense", "reason": "550 5.1.1 x"}, "enhanced_code", "5.1.1"),
        ({"event": "bounce", "status": 5, "reason": "550 5.1.1 x"}, "enhanced_code", "5.1.1"),
        ({"event": "x" * 100}, "provider_event", "x" * 64),
        ({"event": "joan@example.com"}, "provider_event", "<address>"),
    ],
)
def test_fields_of_other_types_are_read_one_by_one(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


GOOD = b'{"email":"r@example.com","timestamp":1700000000,"event":"delivered","sg_message_id":"m"}'


@pytest.mark.parametrize(
    "bad",
    [
        b"{}", b"null", b"7", b'"x"', b"[]",
        b'{"event":"delivered"}', b'{"timestamp":1700000000}', b'{"event":"","timestamp":1700000000}',
        b'{"event":7,"timestamp":1700000000}', b'{"event":null,"timestamp":1700000000}',
        *[b'{"event":"delivered","timestamp":%s}' % t for t in (
            b"0", b"-1", b"1e30", b"1e400", b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b'"soon"', b"[1]",
            b"9" * 5000, b"1700000000000000",
        )],
        b'{"event":"delivered","timestamp":1700000000,"x":' + b"9" * 5000 + b',"email":7}',
    ],
)  # fmt: skip
def test_a_bad_item_does_not_hurt_its_neighbours(bad: bytes) -> None:
    parsed = sendgrid.parse(request(b"[" + GOOD + b"," + bad + b"," + GOOD + b"]"))
    assert [event.kind for event in parsed] == ["delivered", "delivered"]
    assert parsed.malformed == 1


@pytest.mark.parametrize(
    "odd", [b'{"a":"\xff"}', b'{"a":"\x01\n"}', b'{"a":"\\ud800"}', b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"]
)
def test_odd_text_in_one_item_does_not_hurt_its_neighbours(odd: bytes) -> None:
    named = odd.replace(b"{", b'{"event":"open","timestamp":1700000000,"email":"R@x.example",', 1)
    parsed = sendgrid.parse(request(b"[" + GOOD + b"," + named + b"]"))
    assert [(event.kind, event.recipient) for event in parsed] == [
        ("delivered", "r@example.com"),
        ("opened", "r@x.example"),
    ]
    reason = odd.replace(b'{"a"', b'{"event":"dropped","timestamp":1700000000,"reason"', 1)
    parsed = sendgrid.parse(request(b"[" + GOOD + b"," + reason + b"]"))
    assert [event.kind for event in parsed] == ["delivered", "dropped"]
    parsed[1].reason.encode("utf-8")


def test_empty_array_is_no_error() -> None:
    parsed = sendgrid.parse(request(b"[]"))
    assert (list(parsed), parsed.malformed) == ([], 0)


def test_keys_of_another_source_do_not_match() -> None:
    keys = SIMULATORS["sendgrid"].new_credentials()
    with pytest.raises(AuthenticationError):
        sendgrid.authenticate(signed("sendgrid", BODY, keys.signing), CREDENTIALS)
