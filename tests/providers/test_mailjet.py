"""Mailjet: who may post, bare and grouped bodies, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, mailjet
from agent.simulate import SIMULATORS, Scenario, Traffic
from tests.providers.cases import NOW, request

CREDENTIALS = {"username": "mailjet", "password": ["old", "new"]}


def _basic(pair: str) -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(pair.encode()).decode()}


def test_every_live_password_is_taken() -> None:
    for password in ("old", "new"):
        mailjet.authenticate(request(b"", _basic(f"mailjet:{password}")), CREDENTIALS)


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": "Basic !"}, _basic("mailjet:x"), _basic("x:new"), _basic(":"),
     {"authorization": "Bearer new"}],
)  # fmt: skip
def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        mailjet.authenticate(request(b"", headers), CREDENTIALS)


def test_user_names_that_cannot_be_sent_are_reported() -> None:
    assert "colon" in (mailjet.validate_credentials({"username": "a:b", "password": "p"}) or "")
    assert mailjet.validate_credentials(CREDENTIALS) is None


def _one(**changes: object) -> Event:
    item = {"event": "bounce", "time": 1700000000, "email": "R@Example.com", "MessageID": 19421777835146490} | changes
    bare, grouped = (mailjet.parse(request(json.dumps(body).encode())) for body in (item, [item]))
    assert bare == grouped
    assert bare.malformed == grouped.malformed == 0
    (event,) = bare
    return event


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sent", "delivered"),
        ("bounce", "bounced"),
        ("blocked", "dropped"),
        ("spam", "complained"),
        ("unsub", "unsubscribed"),
        ("open", "opened"),
        ("click", "clicked"),
        ("brand new", "other"),
    ],
)
def test_events(name: str, kind: str) -> None:
    event = _one(event=name, error="preblocked", url="https://example.com/a", smtp_reply="sent (250 2.0.0 OK)")
    assert (event.kind, event.provider_event, event.at) == (kind, name, NOW)
    assert (event.recipient, event.message_id, event.event_id) == ("r@example.com", "19421777835146490", "")
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")
    assert event.reason == ("preblocked" if kind in ("bounced", "dropped") else "")


@pytest.mark.parametrize(
    ("hard", "related_to", "error", "kind", "bounce_class"),
    [
        (False, "domain", "greylisted", "deferred", None),
        (None, "domain", "greylisted", "deferred", None),
        (True, "domain", "greylisted", "bounced", "hard"),
        (True, "spam", "sender blocked", "bounced", "block"),
        (False, "spam", "content blocked", "bounced", "block"),
        (False, "spam", "policy issue", "bounced", "block"),
        (True, "domain", "relay/access denied", "bounced", "block"),
        (True, "recipient", "blacklisted", "bounced", "block"),
        (True, "recipient", "anything", "bounced", "hard"),
        ("true", None, None, "bounced", "hard"),
        (1, None, None, "bounced", "hard"),
        (False, "recipient", "user unknown", "bounced", "hard"),
        (False, "recipient", "Mailbox Inactive", "bounced", "hard"),
        (False, "domain", "invalid domain", "bounced", "hard"),
        (None, "domain", "no mail host", "bounced", "hard"),
        (False, "recipient", "quota exceeded", "bounced", "soft"),
        (False, "system", "connection issue", "bounced", "soft"),
        ("false", None, None, "bounced", "soft"),
        (None, "system", "protocol issue", "bounced", "soft"),
        (None, "recipient", "quota exceeded", "bounced", "soft"),
        (None, None, None, "bounced", "undetermined"),
        (None, None, "new error", "bounced", "undetermined"),
    ],
)
def test_bounces(hard: object, related_to: str | None, error: str | None, kind: str, bounce_class: str | None) -> None:
    event = _one(hard_bounce=hard, error_related_to=related_to, error=error, blocked=True)
    assert (event.kind, event.bounce_class) == (kind, bounce_class)


def test_blocked_says_nothing_of_the_receiving_server() -> None:
    event = _one(event="blocked", error_related_to="spam", error="sender blocked", hard_bounce=True)
    assert (event.kind, event.bounce_class) == ("dropped", None)


def test_the_comment_is_the_remote_text() -> None:
    event = _one(hard_bounce=True, error="user unknown", comment="smtp; 550 5.1.1 <joan@example.com> unknown")
    assert (event.smtp_code, event.enhanced_code) == (550, "5.1.1")
    assert event.reason == "smtp; 550 5.1.1 <<address>> unknown"


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"MessageID": 1152921504606846977}, "message_id", "1152921504606846977"),
        ({"MessageID": "17"}, "message_id", "17"),
        ({"MessageID": 0, "Message_GUID": "g"}, "message_id", "g"),
        ({"MessageID": None, "Message_GUID": "g"}, "message_id", "g"),
        ({"MessageID": [], "Message_GUID": None}, "message_id", ""),
        ({"customcampaign": "news", "CustomID": "id1"}, "tags", ("news", "id1")),
        ({"customcampaign": "", "CustomID": None}, "tags", ()),
        ({"customcampaign": 7}, "tags", ("7",)),
        ({"Payload": '{"from_domain":"Shop.example","x":1}'}, "domain", "shop.example"),
        ({"Payload": '{"from_domain":7}'}, "domain", ""),
        ({"Payload": "{" * 5000}, "domain", ""),
        ({"Payload": '{"a":' + "[" * 50_000}, "domain", ""),
        ({"Payload": "text"}, "domain", ""),
        ({"Payload": ""}, "domain", ""),
        ({"Payload": {"from_domain": "a.example"}}, "domain", ""),
        ({"time": "1700000000"}, "at", NOW),
        ({"email": None}, "recipient", ""),
        ({"event": "joan@example.com"}, "provider_event", "<address>"),
    ],
)
def test_fields(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


@pytest.mark.parametrize("bad", [b"{}", b"null", b"7", b"[]", b'{"event":"sent"}', b'{"event":"sent","time":"soon"}',
                                 b'{"event":7.5,"time":[]}', b'{"time":1700000000}'])  # fmt: skip
def test_a_bad_item_does_not_hurt_its_neighbours(bad: bytes) -> None:
    good = b'{"event":"sent","time":1700000000,"MessageID":1,"email":"r@example.com"}'
    parsed = mailjet.parse(request(b"[" + good + b"," + bad + b"," + good + b"]"))
    assert [event.kind for event in parsed] == ["delivered", "delivered"]
    assert parsed.malformed == 1


def test_bodies_that_are_not_quite_json_are_read() -> None:
    parsed = mailjet.parse(request(b' [{"event":"sent","time":1700000000,"CustomID":"a\nb\xff"}]'))
    assert [event.tags for event in parsed] == [("a\nb\ufffd",)]
    parsed = mailjet.parse(request(b'{"event":"open","time":1700000000,"url":"\xff"}'))
    assert [event.kind for event in parsed] == ["opened"]


def test_an_empty_group_is_no_error() -> None:
    parsed = mailjet.parse(request(b"[]"))
    assert (list(parsed), parsed.malformed) == ([], 0)


def test_simulated_bodies_are_bare_or_grouped() -> None:
    simulator = SIMULATORS["mailjet"]
    for batch, first in ((1, b"{"), (5, b"[")):
        traffic = Traffic(Scenario(start=NOW, messages=20), simulator.VOICE)
        assert {sent.body[:1] for sent in simulator.requests(traffic, batch)} == {first}
    with pytest.raises(ValueError):
        simulator.sign(b"", {"username": "u"}, NOW)


@given(st.recursive(st.none() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_any_json_gives_events_or_a_parse_error(value: object) -> None:
    try:
        parsed = mailjet.parse(request(json.dumps(value).encode()))
    except ParseError:
        assert not isinstance(value, list | dict)
    else:
        assert len(parsed) + parsed.malformed == (len(value) if isinstance(value, list) else 1)
