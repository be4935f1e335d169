"""Scaleway: both envelopes, the handshake, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from agent.events import Event
from agent.providers import AuthenticationError, Confirm, Ended, ParseError, WebhookRequest, scaleway
from tests.providers.cases import NOW, request

RECORD: dict[str, object] = {
    "id": "e1",
    "type": "email_delivered",
    "organization_id": "o",
    "project_id": "p",
    "domain_id": "d",
    "domain_name": "Shop.example",
    "created_at": "2023-11-14T22:13:20.250000Z",
    "email_id": "m1",
    "email_from": "a@other.example",
    "email_to": "R@example.com",
    "email_headers": [{"key": "Subject", "value": "Hi"}],
    "email_queued_at": "2023-11-14T22:13:00Z",
    "email_try_count": 1,
    "email_response_code": 250,
    "email_response_message": "250 ok",
}
CREDENTIALS = {"token": ["old", "new"], "username": "u", "password": "p"}


def wrapped(message: str, kind: str = "Notification", **more: object) -> bytes:
    return json.dumps(
        {"Type": kind, "MessageId": "x", "TopicArn": "arn:scw:sns:fr-par:p:t", "Message": message} | more
    ).encode()


def one(**changes: object) -> Event:
    """The event of a record, bare or not."""
    text = json.dumps(RECORD | changes)
    bare, inside = scaleway.parse(request(text.encode())), scaleway.parse(request(wrapped(text + "\n")))
    assert list(bare) == list(inside)
    assert bare.malformed == inside.malformed == 0
    (event,) = bare
    return event


def asked(query: str, **headers: str) -> WebhookRequest:
    return WebhookRequest("POST", "/webhooks/scw", query, headers, b"{}", NOW)


@pytest.mark.parametrize(
    "given",
    [
        asked("token=old"),
        asked("a=b&token=new"),
        asked("", authorization="Bearer new"),
        asked("", authorization="Basic " + b64encode(b"u:p").decode()),
    ],
)
def test_any_live_secret_is_enough(given: WebhookRequest) -> None:
    scaleway.authenticate(given, CREDENTIALS)


@pytest.mark.parametrize(
    "given",
    [
        asked(""),
        asked("token="),
        asked("token=Old"),
        asked("token=oldnew"),
        asked("xtoken=old"),
        asked("", authorization="Bearer"),
        asked("", authorization="Basic " + b64encode(b"u:x").decode()),
        asked("token=old" + "&x=y" * 2000),
    ],
)
def test_everything_else_is_refused(given: WebhookRequest) -> None:
    with pytest.raises(AuthenticationError):
        scaleway.authenticate(given, CREDENTIALS)


def test_a_colon_in_a_user_name_is_reported() -> None:
    assert scaleway.validate_credentials(CREDENTIALS) is None
    assert "username" in str(scaleway.validate_credentials({"username": ["u", "a:b"], "password": "p"}))


def test_a_delivery_in_full() -> None:
    event = one()
    assert event == Event(
        event.kind,
        NOW + 0.25,
        "r@example.com",
        "m1",
        "e1",
        domain="shop.example",
        provider_event="email_delivered",
    )
    assert event.kind == "delivered"


@pytest.mark.parametrize(
    ("name", "kind", "bounce_class"),
    [
        ("email_queued", "accepted", None),
        ("email_delivered", "delivered", None),
        ("email_deferred", "deferred", None),
        ("email_dropped", "bounced", "hard"),
        ("email_mailbox_not_found", "bounced", "hard"),
        ("email_spam", "bounced", "block"),
        ("email_blocklisted", "dropped", None),
        ("blocklist_created", "other", None),
        ("unknown_type", "other", None),
        ("brand_new", "other", None),
    ],
)
def test_mapping(name: str, kind: str, bounce_class: str | None) -> None:
    event = one(type=name, email_response_code=550, email_response_message="550 5.1.1 <r@example.com> no such user")
    assert (event.kind, event.bounce_class, event.provider_event) == (kind, bounce_class, name)
    with_reason = kind in ("bounced", "deferred", "dropped")
    assert (event.smtp_code, event.enhanced_code) == ((550, "5.1.1") if with_reason else (None, ""))
    assert ("no such user" in event.reason) == with_reason
    assert "r@example.com" not in event.reason
    assert event.discriminator == ("1" if kind == "deferred" else "")


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("552 5.2.2 mailbox full", 552, "soft"),
        ("550 5.7.1 blocked", 550, "block"),
        ("554 5.5.0 Transaction failed", 554, "undetermined"),
        ("", 550, "undetermined"),
        ("", 421, "soft"),
        ("", None, "undetermined"),
    ],
)
def test_a_dropped_mail_is_a_bounce_by_what_was_answered(text: str, code: int | None, expected: str) -> None:
    event = one(type="email_dropped", email_response_code=code, email_response_message=text)
    assert (event.kind, event.bounce_class, event.smtp_code) == ("bounced", expected, code)


@pytest.mark.parametrize("code", [0, 99, 600, -550, "5500", "x", "²50", 10**30, [], True])
def test_what_is_no_code_is_none(code: object) -> None:
    assert one(type="email_dropped", email_response_code=code, email_response_message="").smtp_code is None


def test_two_names_of_one_bounce_are_one_outcome() -> None:
    names = ("email_dropped", "email_mailbox_not_found")
    events = [one(type=name, id=name, email_response_message="550 5.1.1 no such user") for name in names]
    assert len({(event.message_id, event.recipient, event.bounce_class) for event in events}) == 1


def test_what_stands_in_for_a_missing_field() -> None:
    assert one(domain_name=None).domain == "other.example"
    assert one(domain_name="", email_from="").domain == ""
    assert one(type="email_deferred", email_response_message="", email_error="421 later").reason == "421 later"
    blocked = one(type="email_blocklisted", email_response_message=None, blocklist_reason="full since May")
    assert blocked.reason == "full since May"


@pytest.mark.parametrize("changes", [{"type": ""}, {"type": None}, {"created_at": None}, {"created_at": "soon"}])
def test_a_record_without_name_or_time_is_malformed(changes: dict[str, object]) -> None:
    parsed = scaleway.parse(request(json.dumps(RECORD | changes).encode()))
    assert (list(parsed), parsed.malformed) == ([], 1)


@pytest.mark.parametrize("message", ["", "hello", "[]", "5", "{"])
def test_a_message_that_is_no_record_is_a_parse_error(message: str) -> None:
    with pytest.raises(ParseError):
        scaleway.parse(request(wrapped(message)))


@pytest.mark.parametrize(
    "url",
    [
        "https://sns.mnq.fr-par.scaleway.com/?Action=ConfirmSubscription&Token=x",
        "https://sns.mnq.fr-par.scw.cloud/confirm?Token=x",
    ],
)
def test_a_subscription_is_confirmed_at_a_host_of_scaleways(url: str) -> None:
    given = request(wrapped("Please confirm", "SubscriptionConfirmation", SubscribeURL=url))
    assert scaleway.parse(given) == []
    assert scaleway.follow_up(given) == Confirm(url)
    ended = request(wrapped("Bye", "UnsubscribeConfirmation", SubscribeURL=url))
    assert scaleway.parse(ended) == []
    assert scaleway.follow_up(ended) == Ended()


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        5,
        "http://sns.mnq.fr-par.scaleway.com/",
        "https://scaleway.com.evil.example/",
        "https://evilscaleway.com/",
        "https://a@sns.scaleway.com/",
        "https://sns.scaleway.com:8443/",
        "https://sns.scaleway.com/\n",
        "https://127.0.0.1/",
        "https://sns.scaleway.com/" + "x" * 3000,
    ],
)
def test_a_subscription_is_confirmed_nowhere_else(url: object) -> None:
    given = request(wrapped("Please confirm", "SubscriptionConfirmation", SubscribeURL=url))
    assert scaleway.parse(given) == []
    assert scaleway.follow_up(given) is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"Confirmation", json.dumps(RECORD).encode(), wrapped("Confirmation")]
)
def test_other_requests_ask_for_nothing(body: bytes) -> None:
    assert scaleway.follow_up(request(body)) is None
