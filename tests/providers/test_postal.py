"""Postal: the signatures to the byte, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, postal
from agent.simulate import SIMULATORS
from tests.providers.cases import NOW, request, signed

# Computed once with an invented key.
KEY = (
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA8xspl+fNYNotXCripRdbh+6KYhmmwyuQ3lcEAnL6DEUFSmimgcyeuqr4g6sQQn3Ul5H4mihA"
    "S4pDYYBnlmDH/OwPdnBVqbl/rgStncDdyHbrk00FlT53Wtbh14zWun0A4YsmPBf8vBB3hP6pn/q08ujYmPowUxyQyLXFu9pfGuUw+71ye8JbpCz5t+1k"
    "AX0PsL9T8Bdq0GnhiLZ7U/EC4glb0vBONo17QM71hm8a+6j6sK8lbvIZzZjQyqK9Jnqp5h16rr8ZuHybz3p4eboQRyG8CAu3rnX5mMYHhuRGqNzQlkJ8"
    "B9/EM8ZkS8cp2xiFvPvtlsXvjnAMlK40YDQ4lQIDAQAB"
)
BODY = b'{"event":"MessageSent","timestamp":1700000000.5,"payload":{},"uuid":"u1"}'
SHA1 = (
    "tO/onQE/e1u3uOUmtRst6RQFv5LGwuliS4u7LpBGcSpQeQNvbGyEIyqeNASB7l4CxsFn2wXVnVti9b3FnWNr+9buBD4vZVmre3PRO1ETX3M021XxImVE"
    "Y/B01TCH3v/orKSMVt9k7Fbuzb2bAn5l+SpkPBB7lMjAj6zSysdDuzsq9sk249x+v+J3q+WZ/R8WE4+4Nr8+5wWPlH5cE5EJ2mn/v5UT5Kya0pcK6nqb"
    "dBjzufCWZEpRAckdMquZMIB/DUck7EdpNhaPQihPfcd8I8EI5zdrRlxbxqzJFPQh/9r1z8xWPB0ynd48YR2T8qJyehbfCjSiB6sTvwkNBP5epg=="
)
SHA256 = (
    "fkaHPQPXM8o36P76doYvE90pO/BUz8yLel2pY1iCZ+77MfIdwyGN0TGqWq9Z8+dCWf/4RD2Ah9lu+Nr1+xXfXAkCWiKmYvrS2xY5kbdPFJ6E4n10LKYH"
    "5cTdiagvvNoYz1/BRM5XC8emFVppRhJ/2d12EqvEXvpesGrGrI0RAa2boyjZfIQOTCC/GwquUWa5+3hSSKq9V4a2DOMw4+1FgdsHgc4KzbUXz4zaWvMM"
    "DrY3USkpSrHscktSWkrQ0hnIfndjU76vg8IYeybvoxNJ0G/RyQ/oB8J30rzPEz+qj+7J+upoT5IxqjJr8cOWHMWVjOjzzI5o82DlJvX8FLh/DQ=="
)
BOTH = {"x-postal-signature": SHA1, "x-postal-signature-256": SHA256, "x-postal-signature-kid": "k"}
CREDENTIALS = {"public_key": KEY}
PEM = load_der_public_key(b64decode(KEY)).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
RECORD = f"v=DKIM1; t=s; h=sha256; p={KEY};"


def _der(key: object) -> str:
    return b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()  # type: ignore[attr-defined]


NO_RSA = [
    "nonsense",
    "é",
    "AAAA",
    KEY[:-8],
    "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    "v=DKIM1; t=s; h=sha256; p=;",
    _der(ec.generate_private_key(ec.SECP256R1()).public_key()),
    # 512 bits, which anyone can factor.
    "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKNwapOQ6rQJHetP1HRlJBIh1OsOsUBiXb3rXXE3xpWAxAha0MH+UPRblOko+5T2JqIb+xKf9Vi3oTM3tKv"
    "vffUCAwEAAQ==",
]


@pytest.mark.parametrize(
    "key",
    [
        KEY, PEM, PEM.replace("\n", "\\n"), f" {KEY[:64]}\n{KEY[64:]}\n", RECORD, RECORD.removesuffix(";"), f"p={KEY}",
        f'"v=DKIM1; t=s; h=sha256; " "p={KEY[:100]}" "{KEY[100:]};"', ["nonsense", KEY], ("", KEY),
    ],
)  # fmt: skip
def test_vector_is_accepted(key: str | list[str]) -> None:
    postal.authenticate(request(BODY, BOTH), {"public_key": key})


def test_either_signature_serves_alone() -> None:
    postal.authenticate(request(BODY, {"x-postal-signature-256": SHA256}), CREDENTIALS)
    postal.authenticate(request(BODY, {"x-postal-signature": SHA1}), CREDENTIALS)
    postal.authenticate(request(BODY, BOTH | {"x-postal-signature": "nonsense"}), CREDENTIALS)


def test_the_better_signature_decides_where_there_is_one() -> None:
    for bad in ("nonsense", SHA1, b64encode(bytes(256)).decode()):
        with pytest.raises(AuthenticationError):
            postal.authenticate(request(BODY, BOTH | {"x-postal-signature-256": bad}), CREDENTIALS)


@pytest.mark.parametrize("body", [BODY.replace(b"u1", b"u2"), BODY + b"\n", json.dumps(json.loads(BODY)).encode(), b""])
def test_a_changed_body_is_refused(body: bytes) -> None:
    for headers in (BOTH, {"x-postal-signature": SHA1}):
        with pytest.raises(AuthenticationError):
            postal.authenticate(request(body, headers), CREDENTIALS)


@pytest.mark.parametrize("name", ["x-postal-signature", "x-postal-signature-256"])
@pytest.mark.parametrize(
    "signature",
    [
        "", " ", "=", "not base64!", SHA256[:-4], SHA256[4:], SHA256 + "AAAA", f" {SHA256}", "é", "\ud800", "AAAA",
        b64encode(bytes(256)).decode(), b64encode(b"\xff" * 256).decode(), "00" * 32,
    ],
)  # fmt: skip
def test_whatever_is_no_signature_is_refused(name: str, signature: str) -> None:
    with pytest.raises(AuthenticationError):
        postal.authenticate(request(BODY, {name: signature}), CREDENTIALS)


def test_signatures_do_not_stand_in_for_each_other() -> None:
    for headers in ({"x-postal-signature": SHA256}, {"x-postal-signature-256": SHA1}, {"x-postal-signature-kid": "k"}):
        with pytest.raises(AuthenticationError):
            postal.authenticate(request(BODY, headers), CREDENTIALS)


@pytest.mark.parametrize("key", NO_RSA)
def test_a_key_that_is_none_never_matches_and_is_reported(key: str) -> None:
    with pytest.raises(AuthenticationError):
        postal.authenticate(request(BODY, BOTH), {"public_key": key})
    sentence = postal.validate_credentials({"public_key": [KEY, key]})
    assert sentence is not None
    assert "public_key" in sentence
    assert key not in sentence


def test_good_keys_are_not_reported() -> None:
    small = _der(rsa.generate_private_key(65537, 1024).public_key())
    assert postal.validate_credentials({"public_key": [KEY, PEM, RECORD, small]}) is None


def test_keys_of_another_source_do_not_match() -> None:
    keys = SIMULATORS["postal"].new_credentials()
    with pytest.raises(AuthenticationError):
        postal.authenticate(signed("postal", BODY, keys.signing), CREDENTIALS)


MESSAGE = {
    "id": 12345, "token": "abcdef123", "direction": "outgoing", "message_id": "5817a64332f44@rp.postal.example",
    "to": "R@Example.com", "from": "hello@Sender.example", "subject": "Hi", "timestamp": 1699999000.25,
    "spam_status": "NotSpam", "tag": "welcome",
}  # fmt: skip


def _one(event: str = "MessageSent", message: dict[str, object] | None = None, **payload: object) -> Event:
    record = {
        "event": event,
        "timestamp": 1700000000.5,
        "payload": {"message": MESSAGE | (message or {})} | payload,
        "uuid": "u1",
    }
    parsed = postal.parse(request(json.dumps(record).encode()))
    assert parsed.malformed == 0
    (found,) = parsed
    return found


def test_a_delivery_in_full() -> None:
    event = _one(
        status="Sent", details="Message for r@example.com accepted by mx.example.net (192.0.2.40)",
        output="250 2.0.0 OK", sent_with_ssl=True, timestamp=1700000000.25, time=0.25,
    )  # fmt: skip
    assert event == Event(
        event.kind, NOW + 0.5, "r@example.com", "5817a64332f44@rp.postal.example", "u1", domain="sender.example",
        tags=("welcome",), provider_event="MessageSent",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MessageSent", "delivered"),
        ("MessageDelayed", "deferred"),
        ("MessageDeliveryFailed", "bounced"),
        ("MessageHeld", "deferred"),
        ("MessageBounced", "bounced"),
        ("MessageLoaded", "opened"),
        ("MessageLinkClicked", "clicked"),
        ("BrandNew", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    event = _one(name)
    assert (event.kind, event.provider_event) == (kind, name)
    assert (event.bounce_class is not None) == (kind == "bounced")
    assert event.asynchronous == (name == "MessageBounced")


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("DomainDNSError", {"server": {"uuid": "s"}, "domain": "sender.example", "spf_status": "OK", "mx_error": None}),
        ("SendLimitApproaching", {"server": {"uuid": "s"}, "volume": 90, "limit": 100}),
        ("SendLimitExceeded", {"server": {"uuid": "s"}, "volume": 101, "limit": 100}),
        ("SendLimitExceeded", None),
    ],
)
def test_what_is_not_about_a_message_is_other(name: str, payload: object) -> None:
    body = json.dumps({"event": name, "timestamp": 1700000000, "payload": payload, "uuid": "u1"}).encode()
    (event,) = postal.parse(request(body))
    assert (event.kind, event.provider_event, event.recipient, event.at) == ("other", name, "", NOW)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("550 5.1.1 <r@example.com> no such user", "hard"),
        ("552 5.2.2 mailbox full", "soft"),
        ("452 4.2.2 mailbox full", "soft"),
        ("554 5.7.1 blocked", "block"),
        ("554 blocked using zen.spamhaus.org", "block"),
        ("554 5.5.0 Transaction failed", "undetermined"),
        ("", "undetermined"),
    ],
)
def test_classes_of_failed_deliveries(output: str, expected: str) -> None:
    event = _one("MessageDeliveryFailed", status="HardFail", details="Permanent SMTP delivery error", output=output)
    assert (event.kind, event.bounce_class, event.asynchronous) == ("bounced", expected, False)
    assert event.reason == (output.replace("r@example.com", "<address>") or "Permanent SMTP delivery error")


@pytest.mark.parametrize(
    "details",
    [
        "Message's domain no longer exist",
        "Message doesn't have an RCPT to",
        "Message is likely spam. Threshold is 5.0 and the message scored 7.1.",
        "Recipient added to suppression list",
    ],
)
def test_what_postal_refused_by_itself_is_a_drop(details: str) -> None:
    event = _one("MessageDeliveryFailed", status="HardFail", details=details, output="")
    assert (event.kind, event.bounce_class, event.reason) == ("dropped", None, details)


def test_a_refusal_that_fills_the_suppression_list_is_still_a_bounce() -> None:
    event = _one(
        "MessageDeliveryFailed",
        details="Permanent SMTP delivery error. Recipient added to suppression list (too many hard fails)",
        output="550 5.1.1 no such user",
    )
    assert (event.kind, event.bounce_class, event.reason) == ("bounced", "hard", "550 5.1.1 no such user")


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("Recipient (r@example.com) is on the suppression list (reason: too many hard fails)", "dropped"),
        ("Recipient (r@example.com) is on the suppression list", "dropped"),
        ("Credential is configured to hold all messages authenticated by it.", "deferred"),
        ("Message held because send limit (100) has been reached.", "deferred"),
        ("Server is in development mode.", "deferred"),
        ("Mail server has been suspended.", "deferred"),
        ("", "deferred"),
    ],
)
def test_held_messages(details: str, kind: str) -> None:
    event = _one("MessageHeld", status="Held", details=details)
    assert event.kind == kind
    assert event.reason == details.replace("r@example.com", "<address>")


@pytest.mark.parametrize("name", ["MessageBounced", "MessageDelayed", "MessageSent", "BrandNew"])
def test_a_bounce_is_known_by_what_it_holds(name: str) -> None:
    bounce = {"id": 1, "direction": "incoming", "to": "psrp@rp.postal.example", "from": "", "message_id": "other"}
    record = {"event": name, "timestamp": NOW, "payload": {"original_message": MESSAGE, "bounce": bounce}, "uuid": "u"}
    (event,) = postal.parse(request(json.dumps(record).encode()))
    assert (event.kind, event.bounce_class, event.asynchronous) == ("bounced", "undetermined", True)
    assert (event.message_id, event.recipient) == ("5817a64332f44@rp.postal.example", "r@example.com")
    assert (event.domain, event.smtp_code, event.provider_event) == ("sender.example", None, name)


@pytest.mark.parametrize("name", ["MessageSent", "MessageDeliveryFailed", "MessageDelayed", "MessageHeld"])
def test_incoming_mail_counts_nothing(name: str) -> None:
    body = {"event": name, "timestamp": NOW, "payload": {"message": MESSAGE | {"direction": "incoming"}}}
    parsed = postal.parse(request(json.dumps(body).encode()))
    assert (list(parsed), parsed.malformed) == ([], 0)


def test_clicks_of_one_time_differ_by_link() -> None:
    assert _one("MessageLinkClicked", url="https://a.example/x", token="t").discriminator == "https://a.example/x"
    assert _one("MessageLoaded", url="https://a.example/x").discriminator == ""


@pytest.mark.parametrize(
    ("message", "attribute", "expected"),
    [
        ({"message_id": "<a@b.example>"}, "message_id", "a@b.example"),
        ({"message_id": None}, "message_id", "abcdef123"),
        ({"message_id": None, "token": None}, "message_id", ""),
        ({"message_id": "x" * 600}, "message_id", "x" * 512),
        ({"to": None}, "recipient", ""),
        ({"to": ["x"]}, "recipient", ""),
        ({"from": ""}, "domain", ""),
        ({"from": "Name <a@b.example>"}, "domain", "b.example"),
        ({"tag": None}, "tags", ()),
        ({"tag": 5}, "tags", ("5",)),
        ({"tag": ["a"]}, "tags", ()),
        ({"id": "x", "timestamp": "y", "direction": 5}, "kind", "delivered"),
    ],
)
def test_fields(message: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(message=message), attribute) == expected


def test_names_are_bounded_and_masked() -> None:
    assert _one("x" * 100).provider_event == "x" * 64
    assert _one("joan@example.com").provider_event == "<address>"


def test_the_payload_has_a_time_when_the_record_has_none() -> None:
    for at in ("null", '"soon"', "-1"):
        body = b'{"event":"MessageSent","timestamp":%s,"payload":{"timestamp":1700000000.25}}' % at.encode()
        assert [event.at for event in postal.parse(request(body))] == [NOW + 0.25]


@pytest.mark.parametrize(
    "record",
    [
        {}, {"event": "MessageSent"}, {"event": "MessageSent", "timestamp": "soon"}, {"timestamp": 1700000000},
        {"event": "", "timestamp": 1700000000}, {"event": {}, "timestamp": 1700000000},
        {"event": "MessageSent", "payload": {"message": {"timestamp": 1700000000}}},
    ],
)  # fmt: skip
def test_records_without_name_or_time_are_malformed(record: dict[str, object]) -> None:
    parsed = postal.parse(request(json.dumps(record).encode()))
    assert (list(parsed), parsed.malformed) == ([], 1)


def test_an_array_is_not_a_record() -> None:
    with pytest.raises(ParseError):
        postal.parse(request(b"[" + BODY + b"]"))
