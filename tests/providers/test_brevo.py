"""Brevo: three ways to prove a request, single and batched bodies, whose clock is believed, and every row."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, brevo
from agent.simulate import SIMULATORS, Scenario, Traffic
from tests.providers.cases import NOW, request

BASIC = {"username": "brevo", "password": ["old", "new"]}
TOKEN = {"token": "t1"}
HEADERS = {"headers": {"X-Hook-Key": ["k1", "k2"], "X-Hook-Part": "p"}}


def _basic(pair: str) -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(pair.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "credentials"),
    [
        (_basic("brevo:new"), BASIC),
        (_basic("brevo:old"), BASIC | TOKEN | HEADERS),
        ({"authorization": "Bearer t1"}, TOKEN),
        ({"authorization": "Bearer t1"}, BASIC | TOKEN | HEADERS),
        ({"x-hook-key": "k2", "x-hook-part": "p"}, HEADERS),
        ({"x-hook-key": "k1", "x-hook-part": "p"}, BASIC | TOKEN | HEADERS),
    ],
)
def test_any_way_is_enough(headers: dict[str, str], credentials: dict[str, object]) -> None:
    brevo.authenticate(request(b"{}", headers), credentials)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": ""}, {"authorization": "Basic !"}, _basic("brevo:x"), _basic("x:new"), _basic(":"),
        {"authorization": "Bearer"}, {"authorization": "Bearer new"}, {"authorization": "Bearer k1"},
        {"x-hook-key": "k1"}, {"x-hook-key": "k3", "x-hook-part": "p"}, {"x-hook-key": "", "x-hook-part": ""},
    ],
)  # fmt: skip
def test_anything_less_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        brevo.authenticate(request(b"{}", headers), BASIC | TOKEN | HEADERS)  # type: ignore[arg-type]


def test_credentials_that_http_cannot_carry_are_reported() -> None:
    assert "colon" in (brevo.validate_credentials({"username": "a:b", "password": "c"}) or "")
    assert "header" in (brevo.validate_credentials({"headers": {"X Hook": "c"}}) or "")
    assert brevo.validate_credentials(BASIC | TOKEN | HEADERS) is None  # type: ignore[arg-type]


ITEM = {"email": "R@Example.com", "message-id": "<m1@smtp-relay.mailin.fr>", "ts_epoch": 1700000000000}


def _one(**changes: object) -> Event:
    item = {"event": "delivered"} | ITEM | {name.replace("_id", "-id"): value for name, value in changes.items()}
    bodies = (item, [item], {"events": [item]}, {"count": 1, "anything": [item]})
    single, *batched = (brevo.parse(request(json.dumps(body).encode())) for body in bodies)
    assert all(parsed == single and parsed.malformed == 0 for parsed in (single, *batched))
    (event,) = single
    return event


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("request", "accepted"),
        ("delivered", "delivered"),
        ("deferred", "deferred"),
        ("soft_bounce", "bounced"),
        ("hard_bounce", "bounced"),
        ("invalid_email", "dropped"),
        ("blocked", "dropped"),
        ("error", "dropped"),
        ("spam", "complained"),
        ("complaint", "complained"),
        ("unsubscribe", "unsubscribed"),
        ("unsubscribed", "unsubscribed"),
        ("opened", "opened"),
        ("unique_opened", "opened"),
        ("proxy_open", "other"),
        ("unique_proxy_open", "other"),
        ("click", "clicked"),
        ("list_addition", "other"),
        ("brand new", "other"),
    ],
)
def test_events(name: str, kind: str) -> None:
    event = _one(event=name, reason="some words", link="https://example.com/a")
    assert (event.kind, event.provider_event, event.at) == (kind, name, NOW)
    assert (event.recipient, event.message_id, event.event_id) == ("r@example.com", "m1@smtp-relay.mailin.fr", "")
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")
    assert event.reason == ("some words" if kind in ("bounced", "deferred", "dropped") else "")


@pytest.mark.parametrize(
    ("name", "reason", "bounce_class"),
    [
        ("hard_bounce", "550 5.1.1 no such user", "hard"),
        ("hard_bounce", "", "hard"),
        ("hard_bounce", "452 4.2.2 mailbox full", "hard"),
        ("hard_bounce", " RecipientError: 550 5.7.1 refused", "block"),
        ("hard_bounce", "554 blocked using zen.spamhaus.org", "block"),
        ("soft_bounce", "452 4.2.2 mailbox full", "soft"),
        ("soft_bounce", None, "soft"),
        ("soft_bounce", "550 5.1.1 no such user", "soft"),
        ("soft_bounce", "421 4.7.0 too many complaints", "block"),
    ],
)
def test_bounces(name: str, reason: str | None, bounce_class: str) -> None:
    event = _one(event=name, reason=reason)
    assert (event.kind, event.bounce_class) == ("bounced", bounce_class)


@pytest.mark.parametrize("reason", [" RecipientError: 550 5.1.1 <joan@example.com> unknown",
                                    "550 RecipientError: 550 5.1.1 <joan@example.com> unknown"])  # fmt: skip
def test_a_deferral_stays_one_whatever_code_it_bears(reason: str) -> None:
    event = _one(event="deferred", reason=reason)
    assert (event.kind, event.bounce_class, event.smtp_code, event.enhanced_code) == ("deferred", None, 550, "5.1.1")
    assert event.reason.endswith("<<address>> unknown")


HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"ts_epoch": 1700000000123}, NOW + 0.123),
        ({"ts_epoch": 1700000000}, NOW),
        ({"ts_epoch": "1700000000000"}, NOW),
        ({"ts_epoch": NOW - 60, "ts": NOW + 2 * HOUR, "ts_event": NOW + 2 * HOUR}, NOW - 60),
        ({"ts_epoch": None, "s_epoch": (NOW - 60) * 1000, "ts": NOW + 2 * HOUR}, NOW - 60),
        # Local times: not believed about the hour, only about the month.
        ({"ts_epoch": None, "ts": NOW + 2 * HOUR}, NOW),
        ({"ts_epoch": None, "ts_event": NOW - 11 * HOUR, "ts": NOW - 30 * DAY}, NOW),
        ({"ts_epoch": "soon", "date": "2023-11-15 08:13:20"}, NOW),
        ({"ts_epoch": None, "ts": NOW - 3 * DAY}, NOW - 3 * DAY),
        ({"ts_epoch": None, "date": "2023-11-04 22:13:20"}, NOW - 10 * DAY),
    ],
)
def test_whose_clock_is_believed(fields: dict[str, object], at: float) -> None:
    assert _one(**fields).at == at


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"tags": ["a", 7, None, ""], "tag": "b"}, "tags", ("a", "7")),
        ({"tag": '["a","b"]'}, "tags", ("a", "b")),
        ({"tags": [], "tag": ["a"]}, "tags", ("a",)),
        ({"tag": "news"}, "tags", ("news",)),
        ({"tag": "[news"}, "tags", ("[news",)),
        ({"tag": "[" * 50_000}, "tags", ("[" * 255,)),
        ({"tag": "", "tags": None}, "tags", ()),
        ({"X-Mailin-custom": '{"from_domain":"Shop.example","x":1}'}, "domain", "shop.example"),
        ({"X-Mailin-custom": "custom_header_1:value"}, "domain", ""),
        ({"X-Mailin-custom": {"from_domain": "a.example"}}, "domain", ""),
        ({"message_id": None}, "message_id", ""),
        ({"message_id": 12}, "message_id", "12"),
        ({"email": None}, "recipient", ""),
        ({"event": "joan@example.com"}, "provider_event", "<address>"),
    ],
)
def test_fields(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


GOOD = json.dumps({"event": "delivered"} | ITEM).encode()


@pytest.mark.parametrize("bad", [b"{}", b"null", b"7", b"[]", b'{"event":"delivered"}', b'{"ts_epoch":1700000000000}',
                                 b'{"event":"delivered","ts_epoch":"soon"}', b'{"event":7.5,"ts":[]}'])  # fmt: skip
def test_a_bad_item_does_not_hurt_its_neighbours(bad: bytes) -> None:
    batch = b"[" + GOOD + b"," + bad + b"," + GOOD + b"]"
    for body in (batch, b'{"events":' + batch + b"}"):
        parsed = brevo.parse(request(body))
        assert [event.kind for event in parsed] == ["delivered", "delivered"]
        assert parsed.malformed == 1


@pytest.mark.parametrize("body", [b"{}", b'{"tags":["a"]}', b'{"x":[]}', b'{"event":"","ts_epoch":1700000000000}'])
def test_an_object_that_is_no_event_is_malformed(body: bytes) -> None:
    parsed = brevo.parse(request(body))
    assert (list(parsed), parsed.malformed) == ([], 1)


def test_mail_that_came_in_is_left_out() -> None:
    parsed = brevo.parse(request(b'{"items":[{"Uuid":["x"],"Subject":"Hello"}]}'))
    assert (list(parsed), parsed.malformed) == ([], 0)


def test_bodies_that_are_not_quite_json_are_read() -> None:
    assert [e.kind for e in brevo.parse(request(GOOD.replace(b"R@", b"\xff@")))] == ["delivered"]
    assert [e.kind for e in brevo.parse(request(b" [" + GOOD.replace(b"R@", b"\n@") + b"]"))] == ["delivered"]


def test_simulated_bodies_are_bare_or_batched() -> None:
    simulator = SIMULATORS["brevo"]
    for batch, first in ((1, b"{"), (5, b"[")):
        traffic = Traffic(Scenario(start=NOW, messages=20), simulator.VOICE)
        assert {sent.body[:1] for sent in simulator.requests(traffic, batch)} == {first}
    traffic = Traffic(Scenario(start=NOW, messages=600), simulator.VOICE)
    assert max(sent.reports for sent in simulator.requests(traffic, 1000)) == 500
    with pytest.raises(ValueError):
        simulator.sign(b"", {"username": "u"}, NOW)


@given(st.recursive(st.none() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_any_json_gives_events_or_a_parse_error(value: object) -> None:
    try:
        parsed = brevo.parse(request(json.dumps(value).encode()))
    except ParseError:
        assert not isinstance(value, list | dict)
    else:
        assert not parsed
        assert parsed.malformed >= (len(value) if isinstance(value, list) else 0)
