"""Mailtrap: the signature to the byte, both formats of a body, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, WebhookRequest, mailtrap
from agent.simulate import SIMULATORS
from tests.providers.cases import NOW, request, signed

# Computed once with an invented key, which is used as text although it looks like hex.
SECRET = "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6"
BODY = (
    b'{"events":[{"event":"delivery","message_id":"m1","email":"r@example.com","timestamp":1700000000,'
    b'"event_id":"ev1"}]}'
)
SIGNATURE = "7fc9e2f26ce003998c08a127106900925dcecb5f2d6de36dd34291c56eb83bcd"
CREDENTIALS = {"signing_secret": SECRET}
BASIC = {"username": "mt", "password": ["old-secret", "new-secret"]}
TOKEN = {"token": ["old-token", "new-token"]}


def _basic(pair: str) -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(pair.encode()).decode()}


def _with_query(query: str) -> WebhookRequest:
    return msgspec.structs.replace(request(BODY), query=query)


@pytest.mark.parametrize("secret", [SECRET, ["other", SECRET], ("", SECRET)])
def test_vector_is_accepted(secret: str | list[str]) -> None:
    mailtrap.authenticate(request(BODY, {"mailtrap-signature": SIGNATURE}), {"signing_secret": secret})


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (BODY.replace(b"m1", b"m2"), SIGNATURE),
        (BODY + b"\n", SIGNATURE),
        (json.dumps(json.loads(BODY)).encode(), SIGNATURE),
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
        mailtrap.authenticate(request(body, {"mailtrap-signature": signature}), CREDENTIALS)


def test_missing_header_is_refused() -> None:
    for headers in ({}, {"signature": SIGNATURE}, _basic("mt:new-secret")):
        with pytest.raises(AuthenticationError):
            mailtrap.authenticate(request(BODY, headers), CREDENTIALS)


def test_keys_of_another_source_do_not_match() -> None:
    keys = SIMULATORS["mailtrap"].new_credentials()
    with pytest.raises(AuthenticationError):
        mailtrap.authenticate(signed("mailtrap", BODY, keys.signing), CREDENTIALS)


@pytest.mark.parametrize(
    ("given", "credentials"),
    [
        (request(BODY, _basic("mt:old-secret")), BASIC),
        (request(BODY, _basic("mt:new-secret")), BASIC | TOKEN),
        (request(BODY, {"authorization": "Bearer new-token"}), TOKEN),
        (_with_query("token=old-token"), TOKEN),
        (_with_query("a=b&token=new-token"), TOKEN | BASIC),
        (_with_query("token=new-token"), CREDENTIALS | TOKEN),
        (request(BODY, {"mailtrap-signature": SIGNATURE}), CREDENTIALS | TOKEN | BASIC),
    ],
)
def test_the_other_ways(given: WebhookRequest, credentials: dict[str, object]) -> None:
    mailtrap.authenticate(given, credentials)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "credentials"),
    [
        (request(BODY, _basic("mt:wrong")), BASIC),
        (request(BODY, _basic("mt:new-token")), TOKEN),
        (request(BODY), BASIC | TOKEN),
        (_with_query("token="), {"token": ""}),
        (_with_query("token=wrong"), TOKEN),
        (_with_query("tokens=new-token"), TOKEN),
        (_with_query("token=new-token"), BASIC),
        (request(BODY, {"mailtrap-signature": SIGNATURE}), BASIC | TOKEN),
    ],
)
def test_anything_less_is_refused(given: WebhookRequest, credentials: dict[str, object]) -> None:
    with pytest.raises(AuthenticationError):
        mailtrap.authenticate(given, credentials)  # type: ignore[arg-type]


def test_a_user_name_that_http_cannot_carry_is_reported() -> None:
    assert "colon" in (mailtrap.validate_credentials({"username": "a:b", "password": "c"}) or "")
    assert mailtrap.validate_credentials(BASIC | TOKEN | CREDENTIALS) is None  # type: ignore[operator]


@pytest.mark.parametrize("credentials", [CREDENTIALS, BASIC, TOKEN, BASIC | CREDENTIALS])
def test_the_simulator_signs_in_every_way(credentials: dict[str, object]) -> None:
    mailtrap.authenticate(signed("mailtrap", BODY, credentials), credentials)  # type: ignore[arg-type]


ITEM = {
    "event": "delivery",
    "event_id": "ev1",
    "message_id": "m1",
    "email": "R@Example.com",
    "timestamp": 1700000000,
    "sending_stream": "bulk",
    "category": "spring",
}


def _one(**fields: object) -> Event:
    parsed = mailtrap.parse(request(json.dumps({"events": [ITEM | fields]}).encode()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


def test_a_delivery_in_full() -> None:
    event = _one()
    assert event == Event(
        event.kind, NOW, "r@example.com", "m1", "ev1", stream="bulk", tags=("bulk", "spring"), provider_event="delivery"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("delivery", "delivered"),
        ("soft bounce", "deferred"),
        ("soft_bounce", "deferred"),
        ("bounce", "bounced"),
        ("suspension", "dropped"),
        ("reject", "dropped"),
        ("spam", "complained"),
        ("spam_complaint", "complained"),
        ("unsubscribe", "unsubscribed"),
        ("open", "opened"),
        ("click", "clicked"),
        ("brand_new", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    event = _one(event=name)
    assert (event.kind, event.provider_event, event.asynchronous) == (kind, name, False)
    assert (event.bounce_class is not None) == (kind == "bounced")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response": "bounced (550 5.1.1 <x@y.example> no such user)", "response_code": 550}, "hard"),
        ({"response": "bounced (552 5.2.2 mailbox full)", "response_code": 552}, "soft"),
        ({"response": "bounced (554 5.7.1 refused)", "response_code": 554}, "block"),
        ({"response": "bounced (554 blocked using zen.spamhaus.org)", "response_code": 554}, "block"),
        ({"response": "", "response_code": 451}, "soft"),
        ({"response": "bounced (554 5.5.0 no)", "bounce_category": "unavailable"}, "hard"),
        ({"response": "Who knows"}, "hard"),
        ({}, "hard"),
    ],
)
def test_classes_of_bounces(fields: dict[str, object], expected: str) -> None:
    assert _one(event="bounce", **fields).bounce_class == expected


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"event": "bounce", "response": "bounced (550 5.1.1 <x@y.example> no)", "response_code": 550}, "reason",
         "bounced (550 5.1.1 <<address>> no)"),
        ({"event": "bounce", "response": "bounced (550 5.1.1 no)"}, "smtp_code", 550),
        ({"event": "bounce", "response": "bounced (550 5.1.1 no)"}, "enhanced_code", "5.1.1"),
        ({"event": "bounce", "response": "550 no", "response_code": 551}, "smtp_code", 551),
        ({"event": "bounce", "response": "550 no", "response_code": "9999"}, "smtp_code", 550),
        ({"event": "soft bounce", "response": "soft bounce (450 4.2.0 later)"}, "enhanced_code", "4.2.0"),
        ({"event": "suspension", "reason": "Too many bounces"}, "reason", "Too many bounces"),
        ({"event": "reject", "reason": "On the list"}, "reason", "On the list"),
        ({"response": "250 2.0.0 OK", "response_code": 250}, "smtp_code", None),
        ({"response": "250 2.0.0 OK"}, "reason", ""),
        ({"event": "click", "url": "https://a.example/x"}, "discriminator", "https://a.example/x"),
        ({"event": "open", "url": "https://a.example/x"}, "discriminator", ""),
        ({"timestamp": "1700000000"}, "at", NOW),
        ({"timestamp": 1700000000500}, "at", NOW + 0.5),
        ({"timestamp": "2023-11-14T22:13:20Z"}, "at", NOW),
        ({"event_id": 7}, "event_id", "7"),
        ({"event_id": "x" * 600}, "event_id", "x" * 512),
        ({"message_id": None}, "message_id", ""),
        ({"email": None}, "recipient", ""),
        ({"email": ["x"]}, "recipient", ""),
        ({"sending_stream": None, "category": 5}, "tags", ("5",)),
        ({"category": {}}, "tags", ("bulk",)),
        ({"custom_variables": {"a": [1]}}, "kind", "delivered"),
        ({"event": "Soft Bounce"}, "kind", "deferred"),
        ({"event": "x" * 100}, "provider_event", "x" * 64),
        ({"event": "joan@example.com"}, "provider_event", "<address>"),
    ],
)  # fmt: skip
def test_fields(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


OPENED = ITEM | {"event": "open", "timestamp": 1700000001}
LINES = json.dumps(ITEM).encode() + b"\n" + json.dumps(OPENED).encode()


@pytest.mark.parametrize(
    "body",
    [
        LINES, LINES + b"\n", LINES.replace(b"\n", b"\r\n"), b"\n\n" + LINES.replace(b"\n", b"\n \n") + b"\n\n",
        json.dumps({"events": [ITEM, OPENED]}).encode(), json.dumps({"events": [ITEM, OPENED]}, indent=2).encode(),
    ],
)  # fmt: skip
def test_both_formats_tell_the_same(body: bytes) -> None:
    parsed = mailtrap.parse(request(body))
    assert [(event.kind, event.at, event.message_id) for event in parsed] == [
        ("delivered", NOW, "m1"),
        ("opened", NOW + 1, "m1"),
    ]
    assert parsed.malformed == 0


def test_a_single_line_is_one_event() -> None:
    for body in (json.dumps(ITEM).encode(), json.dumps(ITEM | {"events": None}).encode() + b"\n"):
        parsed = mailtrap.parse(request(body))
        assert ([event.kind for event in parsed], parsed.malformed) == (["delivered"], 0)


def test_an_empty_batch_is_no_error() -> None:
    parsed = mailtrap.parse(request(b'{"events":[]}'))
    assert (list(parsed), parsed.malformed) == ([], 0)


GOOD = json.dumps(ITEM).encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"{}", b"null", b"7", b'"x"', b"[]", b'{"event":"open"}', b'{"timestamp":1700000000}',
        b'{"event":"open","timestamp":0}', b'{"event":"open","timestamp":"soon"}', b'{"event":{},"timestamp":1}',
        b'{"event":"open","timestamp":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_bad_item_does_not_hurt_its_neighbours(bad: bytes) -> None:
    for body in (b'{"events":[' + GOOD + b"," + bad + b"," + GOOD + b"]}", GOOD + b"\n" + bad + b"\n" + GOOD):
        parsed = mailtrap.parse(request(body))
        assert [event.kind for event in parsed] == ["delivered", "delivered"]
        assert parsed.malformed == 1


@pytest.mark.parametrize("bad", [b"{", b"x", b'{"event":"open"', b"[" * 100_000])
def test_a_broken_line_does_not_hurt_its_neighbours(bad: bytes) -> None:
    parsed = mailtrap.parse(request(GOOD + b"\n" + bad + b"\n" + GOOD))
    assert ([event.kind for event in parsed], parsed.malformed) == (["delivered", "delivered"], 1)


@pytest.mark.parametrize("odd", [b'"\xff"', b'"\x01"', b'"\\ud800"', b"[" * 200 + b"]" * 200, b"1e400"])
def test_odd_values_in_one_item_do_not_hurt_its_neighbours(odd: bytes) -> None:
    named = GOOD.replace(b'"spring"', odd)
    for body in (b'{"events":[' + GOOD + b"," + named + b"]}", GOOD + b"\n" + named):
        parsed = mailtrap.parse(request(body))
        assert [event.recipient for event in parsed] == ["r@example.com", "r@example.com"]
        "".join(parsed[1].tags).encode("utf-8")


@pytest.mark.parametrize(
    "body", [b"[" + GOOD + b"]", b"null\nnull", b"1\n2", b"a=b\nc=d", b"\n\n", b'{"events":[' + GOOD]
)
def test_what_is_neither_format_is_an_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        mailtrap.parse(request(body))


@given(st.lists(st.sampled_from([GOOD, b"{}", b"[1]", b"", b"\xff", b'{"events":[]}', b"9" * 30]), max_size=8))
def test_lines_are_read_one_by_one(lines: list[bytes]) -> None:
    try:
        parsed = mailtrap.parse(request(b"\n".join(lines)))
    except ParseError:
        assert GOOD not in lines
        return
    assert len(parsed) == lines.count(GOOD)
