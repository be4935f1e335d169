"""Postmark: who may post, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, postmark
from tests.providers.cases import NOW, request

FIXTURES = Path(__file__).parent / "fixtures" / "postmark"
BASIC = {"username": "postmark", "password": ["old-secret", "new-secret"]}
HEADERS = {"headers": {"X-Hook-Key": ["k1", "k2"], "X-Hook-Part": "p"}}


def _basic(pair: str, scheme: str = "Basic") -> dict[str, str]:
    return {"authorization": f"{scheme} {b64encode(pair.encode()).decode()}"}


@pytest.mark.parametrize(
    ("headers", "credentials"),
    [
        (_basic("postmark:new-secret"), BASIC),
        (_basic("postmark:old-secret", "basic"), BASIC),
        (_basic("u:a:b"), {"username": "u", "password": "a:b"}),
        (_basic("ü:ß"), {"username": "ü", "password": "ß"}),
        ({"x-hook-key": "k2", "x-hook-part": "p"}, HEADERS),
        ({"x-hook-key": "k1", "x-hook-part": "p"}, BASIC | HEADERS),
        (_basic("postmark:new-secret"), BASIC | HEADERS),
    ],
)
def test_either_way_is_enough(headers: dict[str, str], credentials: dict[str, object]) -> None:
    postmark.authenticate(request(b"{}", headers), credentials)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "credentials"),
    [
        ({}, BASIC | HEADERS),
        (_basic("postmark:wrong"), BASIC),
        (_basic("other:new-secret"), BASIC),
        (_basic("postmark"), BASIC),
        (_basic("postmark:"), {"username": "postmark", "password": ""}),
        (_basic("postmark:new-secret", "Bearer"), BASIC),
        ({"authorization": "Basic"}, BASIC),
        ({"authorization": "Basic ###"}, BASIC),
        ({"authorization": "Basic " + b64encode(b"\xff\xfe").decode()}, BASIC),
        ({"authorization": "Basic \ud800"}, BASIC),
        ({"x-hook-key": "k1"}, HEADERS),
        ({"x-hook-key": "k3", "x-hook-part": "p"}, HEADERS),
        ({"x-hook-key": "", "x-hook-part": "p"}, HEADERS),
        ({"x-hook-key": "k1", "x-hook-part": "p"}, {"headers": {"X-Hook-Key": "", "X-Hook-Part": ""}}),
        (_basic("postmark:new-secret"), HEADERS),
    ],
)
def test_anything_less_is_refused(headers: dict[str, str], credentials: dict[str, object]) -> None:
    with pytest.raises(AuthenticationError):
        postmark.authenticate(request(b"{}", headers), credentials)  # type: ignore[arg-type]


def test_credentials_that_http_cannot_carry_are_reported() -> None:
    assert "colon" in (postmark.validate_credentials({"username": "a:b", "password": "c"}) or "")
    assert "header" in (postmark.validate_credentials({"headers": {"X Hook": "c"}}) or "")
    assert postmark.validate_credentials(BASIC | HEADERS) is None  # type: ignore[arg-type]


def _one(**fields: object) -> Event:
    record = {
        "RecordType": "Bounce",
        "MessageID": "m1",
        "Email": "r@example.com",
        "BouncedAt": "2023-11-14T22:13:20Z",
    } | fields
    parsed = postmark.parse(request(json.dumps(record).encode()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


@pytest.mark.parametrize(
    ("bounce_type", "kind", "bounce_class"),
    [
        ("HardBounce", "bounced", "hard"),
        ("SoftBounce", "bounced", "soft"),
        ("Transient", "deferred", None),
        ("DnsError", "deferred", None),
        ("Blocked", "bounced", "block"),
        ("SpamNotification", "bounced", "block"),
        ("VirusNotification", "bounced", "block"),
        ("DMARCPolicy", "bounced", "block"),
        ("ChallengeVerification", "other", None),
        ("AutoResponder", "other", None),
        ("AddressChange", "other", None),
        ("OpenRelayTest", "other", None),
        ("BadEmailAddress", "dropped", None),
        ("ManuallyDeactivated", "dropped", None),
        ("Unconfirmed", "dropped", None),
        ("SMTPApiError", "dropped", None),
        ("TemplateRenderingFailed", "dropped", None),
        ("InboundError", "other", None),
        ("Unsubscribe", "unsubscribed", None),
        ("Subscribe", "other", None),
        ("Unknown", "bounced", "undetermined"),
        ("SpamComplaint", "complained", None),
        ("BrandNewType", "other", None),
    ],
)
def test_types_of_bounces(bounce_type: str, kind: str, bounce_class: str | None) -> None:
    event = _one(Type=bounce_type, Details="smtp;550 5.1.1 no such user")
    assert (event.kind, event.bounce_class) == (kind, bounce_class)
    assert event.provider_event == f"Bounce:{bounce_type}"
    assert bool(event.reason) == (kind in ("bounced", "deferred", "dropped"))


def test_a_bounce_without_type_is_undetermined() -> None:
    assert _one().bounce_class == "undetermined"
    assert _one(Type=None, TypeCode=1).bounce_class == "undetermined"


def test_policy_makes_a_hard_bounce_a_block() -> None:
    assert _one(Type="HardBounce", Details="smtp;550 5.7.1 no").bounce_class == "block"
    assert _one(Type="HardBounce", Details="smtp;550 blocked as spam").bounce_class == "hard"
    assert _one(Type="SoftBounce", Details="smtp;450 4.7.1 no").bounce_class == "soft"


@pytest.mark.parametrize(
    ("suppress", "reason", "kind"),
    [
        (True, "ManualSuppression", "unsubscribed"),
        ("true", "ManualSuppression", "unsubscribed"),
        (True, "HardBounce", "other"),
        (True, "SpamComplaint", "other"),
        (True, None, "other"),
        (False, None, "other"),
        (False, "ManualSuppression", "other"),
        (None, "ManualSuppression", "other"),
    ],
)
def test_subscription_changes(suppress: object, reason: str | None, kind: str) -> None:
    event = _one(
        RecordType="SubscriptionChange", BouncedAt=None, ChangedAt="2023-11-14T22:13:20Z", SuppressSending=suppress,
        SuppressionReason=reason, ID=5,
    )  # fmt: skip
    assert (event.kind, event.event_id, event.provider_event) == (kind, "", "SubscriptionChange")


def _fixture(name: str) -> Event:
    parsed = postmark.parse(request((FIXTURES / f"{name}.json").read_bytes()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


MESSAGE = "883953f4-6105-42a2-a16a-77a8eac79483"
AT = 1572971634.907025


def test_documented_delivery() -> None:
    event = _fixture("delivery")
    assert event == Event(
        event.kind, AT, "john@example.com", MESSAGE, stream="outbound", tags=("outbound", "welcome-email"),
        provider_event="Delivery", test=True,
    )  # fmt: skip
    assert event.kind == "delivered"


def test_what_the_test_button_posts_is_a_test_and_no_other_message() -> None:
    assert all(_fixture(name).test for name in ("delivery", "bounce", "open", "click", "subscription_change"))
    body = (FIXTURES / "delivery.json").read_bytes().replace(MESSAGE.encode(), MESSAGE.replace("8", "9").encode())
    assert not postmark.parse(request(body))[0].test


def test_documented_bounce() -> None:
    event = _fixture("bounce")
    assert (event.kind, event.bounce_class, event.smtp_code, event.enhanced_code) == ("bounced", "hard", 550, "5.1.1")
    assert event.at == AT + 5 * 3600
    assert (event.event_id, event.message_id) == ("4323372036854775807", MESSAGE)
    assert (event.recipient, event.domain) == ("arthur@example.com", "sender.example")
    assert event.reason == "smtp;550 5.1.1 <<address>>: Recipient address rejected: User unknown"
    assert not event.asynchronous


def test_documented_complaint() -> None:
    event = _fixture("spam_complaint")
    assert (event.kind, event.event_id, event.domain, event.reason) == ("complained", "42", "sender.example", "")
    assert event.provider_event == "SpamComplaint"


def test_documented_subscription_change() -> None:
    event = _fixture("subscription_change")
    assert (event.kind, event.stream, event.at) == ("unsubscribed", "newsletter", 1580554414.416071)


def test_documented_open_and_click() -> None:
    opened, clicked = _fixture("open"), _fixture("click")
    assert (opened.kind, opened.at, opened.discriminator) == ("opened", AT, "")
    assert (clicked.kind, clicked.discriminator, clicked.tags) == (
        "clicked",
        "https://example.com/a?b=c",
        ("outbound",),
    )


def test_misdirected_inbound_mail_is_other() -> None:
    event = _fixture("inbound")
    assert (event.kind, event.provider_event, event.at) == ("other", "Inbound", NOW)


def test_unsubscribe_may_lack_recipient_and_time() -> None:
    event = _fixture("unsubscribe_bounce")
    assert (event.kind, event.recipient, event.at, event.event_id) == ("unsubscribed", "", NOW, "77")


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("a@B.example", "b.example"),
        ("Name <a@b.example>", "b.example"),
        ('"Jo @ home" <a@b.example>', "b.example"),
        (" a@b.example (comment)", "b.example"),
        ("nobody", ""),
        ("a@", ""),
        ("", ""),
        (None, ""),
        (7, ""),
    ],
)
def test_sending_domain(sender: object, domain: str) -> None:
    assert _one(Type="HardBounce", From=sender).domain == domain


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"ID": "77"}, "event_id", "77"),
        ({"ID": 2**63 + 1}, "event_id", str(2**63 + 1)),
        ({"ID": 0}, "event_id", ""),
        ({"ID": None}, "event_id", ""),
        ({"ID": {}}, "event_id", ""),
        ({"Tag": 5, "MessageStream": "s"}, "tags", ("s", "5")),
        ({"Tag": None, "MessageStream": None}, "tags", ()),
        ({"MessageID": 12}, "message_id", "12"),
        ({"Email": ["x"]}, "recipient", ""),
        ({"Details": "", "Description": "Why"}, "reason", "Why"),
        ({"Details": 550}, "smtp_code", 550),
        ({"BouncedAt": 1700000000}, "at", 1.7e9),
        ({"BouncedAt": "2023-11-15T00:13:20.0000000+02:00"}, "at", 1.7e9),
        ({"Type": "joan@example.com"}, "provider_event", "Bounce:<address>"),
    ],
)
def test_fields_of_other_types_are_read_one_by_one(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**({"Type": "HardBounce"} | fields)), attribute) == expected


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"RecordType": ""},
        {"RecordType": 7.5, "BouncedAt": "soon"},
        {"RecordType": "Delivery", "Recipient": "r@example.com"},
        {"RecordType": "Delivery", "DeliveredAt": "soon"},
        {"RecordType": "Delivery", "DeliveredAt": "0001-01-01T00:00:00Z"},
        {"RecordType": "Bounce", "Type": "HardBounce", "BouncedAt": ""},
        {"RecordType": "Bounce", "Type": "HardBounce", "BouncedAt": [1]},
        {"RecordType": "Bounce", "Type": "Unsubscribe", "BouncedAt": "soon"},
        {"RecordType": "Open"},
    ],
)
def test_records_without_name_or_time_are_malformed(record: dict[str, object]) -> None:
    parsed = postmark.parse(request(json.dumps(record).encode()))
    assert (list(parsed), parsed.malformed) == ([], 1)


def test_an_array_is_not_a_record() -> None:
    with pytest.raises(ParseError):
        postmark.parse(request(b'[{"RecordType":"Delivery"}]'))
