"""Mandrill: the signature over URL and form, the key that everyone knows, and every row of the mapping."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, mandrill
from agent.simulate import SIMULATORS, Scenario, Traffic
from tests.providers.cases import NOW, request

# Computed once with an invented key.
KEY = "mandrill-test-key"
URL = "https://user:pass@hooks.example.com/mandrill"
EVENTS = '[{"event":"send","_id":"abc","ts":1700000000}]'
SIGNATURE = "R7t8Zy0un7H0ss9bxEwQlQZA11o="
CREDENTIALS = {"signing_key": KEY, "url": URL}


def _form(events: str | bytes, **more: str) -> bytes:
    return urlencode({"mandrill_events": events, **more}).encode()


def _headers(value: str) -> dict[str, str]:
    return {"x-mandrill-signature": value}


@pytest.mark.parametrize("key", [KEY, ["other", KEY], ("", KEY)])
@pytest.mark.parametrize("url", [URL, [URL + "/", URL]])
def test_vector_is_accepted(key: str, url: str) -> None:
    mandrill.authenticate(request(_form(EVENTS), _headers(SIGNATURE)), {"signing_key": key, "url": url})


def test_every_field_is_signed_in_the_order_of_the_names_and_byte_for_byte() -> None:
    text = "a" + "mandrill_events" + EVENTS + "z" + "\xfc &+%"
    fields = urlencode({"z": b"\xfc &+%", "mandrill_events": EVENTS, "a": ""}).encode()
    mandrill.authenticate(request(fields, _headers(mandrill.signature(URL, text, KEY))), CREDENTIALS)
    raw = fields.replace(b"%FC", b"\xfc")
    assert raw != fields
    mandrill.authenticate(request(raw, _headers(mandrill.signature(URL, text, KEY))), CREDENTIALS)


@pytest.mark.parametrize(
    "given",
    ["", " ", "x", "é", "\ud800", SIGNATURE[:-1], SIGNATURE + " ", SIGNATURE.lower(), "====", SIGNATURE * 100,
     mandrill.signature(URL, "mandrill_events" + EVENTS, "other"),
     mandrill.signature(URL, "mandrill_events" + EVENTS, "test-webhook"),
     mandrill.signature(URL + "/", "mandrill_events" + EVENTS, KEY),
     mandrill.signature("", "mandrill_events" + EVENTS, KEY)],
)  # fmt: skip
def test_other_signatures_are_refused(given: str) -> None:
    with pytest.raises(AuthenticationError):
        mandrill.authenticate(request(_form(EVENTS), _headers(given)), CREDENTIALS)


@pytest.mark.parametrize(
    "body",
    [
        _form(EVENTS.replace("abc", "abd")), _form(EVENTS + " "), _form(json.dumps(json.loads(EVENTS))),
        _form(EVENTS, a="b"), _form(EVENTS) * 2, _form(EVENTS) + b"&" + _form(EVENTS), EVENTS.encode(), b"",
        b"mandrill_events", _form(""), b"a=1&" * 1000 + _form(EVENTS), b"mandrill_event=s" + EVENTS.encode(),
    ],
)  # fmt: skip
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(AuthenticationError):
        mandrill.authenticate(request(body, _headers(SIGNATURE)), CREDENTIALS)


def test_both_the_key_and_the_url_are_indispensable() -> None:
    for credentials in ({}, {"signing_key": KEY}, {"url": URL}, {"signing_key": "", "url": URL}):
        with pytest.raises(AuthenticationError):
            mandrill.authenticate(request(_form(EVENTS), _headers(SIGNATURE)), credentials)


def test_an_empty_post_is_proved_as_every_other() -> None:
    empty = request(_form("[]"), _headers(mandrill.signature(URL, "mandrill_events[]", KEY)))
    mandrill.authenticate(empty, CREDENTIALS)
    parsed = mandrill.parse(empty)
    assert (list(parsed), parsed.malformed) == ([], 0)


@pytest.mark.parametrize("events", ["[]", EVENTS])
def test_the_key_that_everyone_knows_proves_nothing(events: str) -> None:
    headers = _headers(mandrill.signature(URL, "mandrill_events" + events, "test-webhook"))
    with pytest.raises(AuthenticationError):
        mandrill.authenticate(request(_form(events), headers), CREDENTIALS)
    problem = mandrill.validate_credentials({"signing_key": [KEY, "test-webhook"], "url": URL})
    assert "everyone knows" in (problem or "")


@pytest.mark.parametrize("url", [URL, "http://h", "https://h.example:8443/a?b=c", [URL, "https://h.example/"]])
def test_urls_as_they_can_be_entered(url: str) -> None:
    assert mandrill.validate_credentials({"signing_key": KEY, "url": url}) is None


@pytest.mark.parametrize(
    "url", ["hooks.example.com/a", "/webhooks/a", "ftp://h/a", "https://", "https://h/a b", "https://h/a\n", "https://[",
            [URL, "x"]],
)  # fmt: skip
def test_what_is_no_url_is_reported(url: str) -> None:
    assert "url" in (mandrill.validate_credentials({"signing_key": KEY, "url": url}) or "")


def _one(inner: dict[str, object] | None = None, /, **changes: object) -> Event:
    message = {"_id": "m1", "email": "R@Example.com", "sender": "hello@Shop.example", "tags": ["news"]} | (inner or {})
    item = {"event": "send", "ts": 1700000000, "_id": "m1", "msg": message} | changes
    parsed = mandrill.parse(request(_form(json.dumps([item]))))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("send", "delivered"),
        ("delivered", "delivered"),
        ("deferral", "deferred"),
        ("hard_bounce", "bounced"),
        ("soft_bounce", "bounced"),
        ("reject", "dropped"),
        ("spam", "complained"),
        ("unsub", "unsubscribed"),
        ("open", "opened"),
        ("click", "clicked"),
        ("brand new", "other"),
    ],
)
def test_events(name: str, kind: str) -> None:
    event = _one({"diag": "some words"}, event=name, url="https://example.com/a")
    assert (event.kind, event.provider_event, event.at) == (kind, name, NOW)
    assert (event.recipient, event.message_id, event.event_id) == ("r@example.com", "m1", "")
    assert (event.domain, event.tags, event.test) == ("shop.example", ("news",), False)
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")
    assert event.reason == ("some words" if kind in ("bounced", "deferred", "dropped") else "")


@pytest.mark.parametrize(
    ("name", "diag", "bounce_class"),
    [
        ("hard_bounce", "smtp;550 5.1.1 no such user", "hard"),
        ("hard_bounce", None, "hard"),
        ("hard_bounce", "smtp;452 4.2.2 full", "hard"),
        ("hard_bounce", "smtp;550 5.7.1 refused", "block"),
        ("hard_bounce", "smtp;554 blocked using zen.spamhaus.org", "block"),
        ("soft_bounce", "smtp;452 4.2.2 full", "soft"),
        ("soft_bounce", "", "soft"),
        ("soft_bounce", "smtp;550 5.1.1 no such user", "soft"),
        ("soft_bounce", "smtp;421 4.7.0 deferred", "block"),
    ],
)
def test_bounces(name: str, diag: str | None, bounce_class: str) -> None:
    event = _one({"diag": diag, "bounce_description": "bad_mailbox"}, event=name)
    assert (event.kind, event.bounce_class) == ("bounced", bounce_class)
    assert event.reason == (diag or "bad_mailbox")


@pytest.mark.parametrize("name", ["whitelist", "blacklist", "allowlist", "denylist"])
def test_changes_of_lists_are_other_and_may_lack_everything(name: str) -> None:
    sync = {"type": name, "action": "add", "reject": {"email": "joan@example.com", "reason": "hard-bounce"}}
    (event,) = mandrill.parse(request(_form(json.dumps([sync]))))
    assert event == Event(event.kind, NOW, provider_event=name)
    assert event.kind == "other"
    (event,) = mandrill.parse(request(_form(json.dumps([sync | {"ts": 1600000000}]))))
    assert event.at == 1.6e9


def test_mail_that_came_in_is_left_out() -> None:
    parsed = mandrill.parse(request(_form('[{"event":"inbound","ts":1700000000,"msg":{"email":"in@example.com"}}]')))
    assert (list(parsed), parsed.malformed) == ([], 0)


def test_the_vendors_own_examples_are_tests() -> None:
    assert _one({"email": "example.webhook@mandrillapp.com"}).test


@pytest.mark.parametrize(
    ("inner", "fields", "attribute", "expected"),
    [
        ({}, {"_id": None}, "message_id", "m1"),
        ({"_id": None}, {"_id": None}, "message_id", ""),
        ({}, {"_id": 12}, "message_id", "12"),
        ({"subaccount": "shop"}, {}, "tags", ("news", "shop")),
        ({"tags": "a", "subaccount": None}, {}, "tags", ("a",)),
        ({"tags": ["a", 7, None, ""], "subaccount": 5}, {}, "tags", ("a", "7", "5")),
        ({"tags": None}, {}, "tags", ()),
        ({"sender": "Jo <jo@b.example>"}, {}, "domain", "b.example"),
        ({"sender": None}, {}, "domain", ""),
        ({"email": ["x"]}, {}, "recipient", ""),
        ({}, {"ts": "1700000000"}, "at", NOW),
        ({}, {"msg": None}, "recipient", ""),
        ({}, {"msg": "x", "_id": "m2"}, "message_id", "m2"),
        ({}, {"event": "joan@example.com"}, "provider_event", "<address>"),
        ({"diag": "smtp;550 5.1.1 <joan@example.com> no"}, {"event": "reject"}, "reason",
         "smtp;550 5.1.1 <<address>> no"),
    ],
)  # fmt: skip
def test_fields(inner: dict[str, object], fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(inner, **fields), attribute) == expected


@pytest.mark.parametrize("bad", ["{}", "null", "7", "[]", '{"event":"send"}', '{"event":"send","ts":"soon"}',
                                 '{"event":7.5,"ts":[]}', '{"ts":1700000000}', '{"type":[]}'])  # fmt: skip
def test_a_bad_item_does_not_hurt_its_neighbours(bad: str) -> None:
    good = '{"event":"send","ts":1700000000,"_id":"m1"}'
    parsed = mandrill.parse(request(_form(f"[{good},{bad},{good}]")))
    assert [event.kind for event in parsed] == ["delivered", "delivered"]
    assert parsed.malformed == 1


def test_fields_that_are_not_quite_json_are_read() -> None:
    for junk in (b"\xff", b"\n"):
        events = b'[{"event":"send","ts":1700000000,"_id":"' + junk + b'"}]'
        assert [event.kind for event in mandrill.parse(request(_form(events)))] == ["delivered"]


@pytest.mark.parametrize(
    "body", [_form(""), _form("{}"), _form("null"), _form("["), _form("[" * 100_000), _form("[]") + b"&" + _form("[]"),
             b"[]", EVENTS.encode(), b"mandrill_events", b"a=1&" * 1000],
)  # fmt: skip
def test_what_is_no_list_of_events_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        mandrill.parse(request(body))


def test_simulated_batches_are_no_larger_than_real_ones() -> None:
    simulator = SIMULATORS["mandrill"]
    traffic = Traffic(Scenario(start=NOW, messages=1200), simulator.VOICE)
    assert max(sent.reports for sent in simulator.requests(traffic, 5000)) == 1000
    with pytest.raises(ValueError):
        simulator.sign(b"", {"signing_key": KEY}, NOW)


@given(
    st.binary(max_size=60),
    st.recursive(st.none() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)),
)
def test_any_form_gives_events_or_a_parse_error(junk: bytes, value: object) -> None:
    for events in (junk, json.dumps(value).encode()):
        with pytest.raises(AuthenticationError):
            mandrill.authenticate(request(_form(events), _headers(SIGNATURE)), CREDENTIALS)
        try:
            parsed = mandrill.parse(request(_form(events)))
        except ParseError:
            continue
        assert not parsed
        assert parsed.malformed == len(json.loads(events.decode("utf-8", "replace"), strict=False))
