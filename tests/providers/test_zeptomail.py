"""ZeptoMail: the signature to the byte, and every row of the mapping."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, Parsed, ParseError, zeptomail
from tests.providers.cases import NOW, request

# Computed once with an invented key.
KEY, BODY, TS = "zepto-test-key", b'{"event_name":["hardbounce"]}', "1700000000000"
SIGNATURE = "u8P9r0XM/rEnxeV7N0tlT9A3C6VtFKsCE8fLpqIguCU="
CREDENTIALS = {"signing_secret": ["other", KEY]}


def _signature(s: str = SIGNATURE, ts: str = TS, rest: str = ";s-algorithm=HmacSHA256") -> dict[str, str]:
    return {"producer-signature": f"ts={ts};s={s}{rest}"}


@pytest.mark.parametrize("headers", [_signature(), _signature(quote(SIGNATURE, safe="")), _signature(rest="")])
def test_vector_is_accepted(headers: dict[str, str]) -> None:
    zeptomail.authenticate(request(BODY, headers), CREDENTIALS)
    zeptomail.authenticate(request(BODY, {"X-Key": "k"}), {"headers": {"X-Key": ["old", "k"]}})


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, {}),
        (BODY, {"producer-signature": ""}),
        (BODY, {"producer-signature": ";;=;s"}),
        (BODY, {"producer-signature": "\ud800"}),
        (BODY.replace(b"hard", b"soft"), _signature()),
        (json.dumps(json.loads(BODY)).encode(), _signature()),
        (BODY + b"\n", _signature()),
        (b"", _signature()),
        *[(BODY, _signature(s)) for s in ("", " ", "=", "x", "00" * 32, SIGNATURE[:-4], SIGNATURE.lower(), "é", "%")],
        *[
            (BODY, _signature(ts=ts))
            for ts in ("", " ", "1700000000001", "1700000000", "-1", "x", "²", "1" * 5000, "1700000000000.0")
        ],
        (BODY, _signature(rest=";s-algorithm=none")),
        (BODY, {"x-key": "k"}),
    ],
)
def test_whatever_was_not_signed_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        zeptomail.authenticate(request(body, headers), CREDENTIALS)


def test_another_key_and_another_time_are_refused() -> None:
    with pytest.raises(AuthenticationError):
        zeptomail.authenticate(request(BODY, _signature()), {"signing_secret": "other"})
    for age in (86400, 0, -600):
        zeptomail.authenticate(request(BODY, _signature(), NOW + age), CREDENTIALS)
    for age in (86401, -601, 10**8):
        with pytest.raises(AuthenticationError):
            zeptomail.authenticate(request(BODY, _signature(), NOW + age), CREDENTIALS)


def test_header_names_that_http_cannot_carry_are_reported() -> None:
    assert "header" in (zeptomail.validate_credentials({"headers": {"X Hook": "c"}}) or "")
    assert zeptomail.validate_credentials(CREDENTIALS | {"headers": {"X-Hook": "c"}}) is None


INFO = {
    "email_reference": "m1@bounce.example",
    "from": {"address": "hello@B.example", "name": "Shop"},
    "to": [{"email_address": {"address": "R@example.com", "name": "R"}}],
}
DETAIL = {"time": "2023-11-15T03:43:20+05:30", "diagnostic_message": "550 5.1.1 <joan@example.com> unknown user"}


def _parse(name: object = "hardbounce", details: object = None, info: object = None) -> Parsed:
    data = {"object": "email", "details": [DETAIL] if details is None else details}
    message = {"email_info": INFO if info is None else info, "event_data": [data]}
    body = {"event_name": [name], "event_message": [message], "mailagent_key": "agent-1", "webhook_request_id": "w"}
    return zeptomail.parse(request(json.dumps(body).encode()))


def _one(**arguments: object) -> Event:
    parsed = _parse(**arguments)
    assert parsed.malformed == 0
    (event,) = parsed
    return event


@pytest.mark.parametrize(
    ("name", "kind", "bounce_class"),
    [
        ("hardbounce", "bounced", "hard"),
        ("softbounce", "bounced", "soft"),
        ("email_open", "opened", None),
        ("email_link_click", "clicked", None),
        ("delivered", "delivered", None),
        ("feedback_loop", "complained", None),
        ("fbl", "complained", None),
        ("invented", "other", None),
    ],
)
def test_events(name: str, kind: str, bounce_class: str | None) -> None:
    event = _one(name=name, details=[DETAIL | {"clicked_link": "https://example.com/a"}])
    assert (event.kind, event.bounce_class, event.provider_event) == (kind, bounce_class, name)
    assert (event.at, event.recipient, event.message_id, event.event_id) == (NOW, "r@example.com", "m1", "")
    assert (event.domain, event.stream, event.tags) == ("b.example", "agent-1", ("agent-1",))
    assert event.reason == ("550 5.1.1 <<address>> unknown user" if kind == "bounced" else "")
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")


@pytest.mark.parametrize("name", ["hardbounce", "softbounce"])
def test_policy_makes_either_bounce_a_block(name: str) -> None:
    assert _one(name=name, details=[DETAIL | {"diagnostic_message": "550 5.7.1 refused"}]).bounce_class == "block"
    assert _one(name=name, details=[{"time": DETAIL["time"], "reason": "blacklisted"}]).bounce_class == "block"


def test_one_event_for_each_recipient() -> None:
    two = INFO | {"to": [{"address": "a@example.com"}, "b@example.com", {}, 7]}
    assert [e.recipient for e in _parse("delivered", info=two)] == ["a@example.com", "b@example.com", "7"]
    # Of two recipients nobody knows who opened.
    assert [e.recipient for e in _parse("email_open", info=two)] == [""]
    bounced = [DETAIL | {"bounced_recipient": f"{n}@example.com"} for n in "ab"]
    assert [e.recipient for e in _parse(details=bounced, info=two)] == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize(
    "arguments",
    [{"details": []}, {"details": [{}]}, {"details": "x"}, {"details": [{"time": "soon"}]}, {"name": ""}, {"name": {}}],
)
def test_without_name_or_time_it_is_malformed(arguments: dict[str, object]) -> None:
    parsed = _parse(**arguments)
    assert (list(parsed), parsed.malformed) == ([], 1)


@pytest.mark.parametrize("body", [b'{"event_name":["x"]}', b'{"event_name":["x"],"event_message":[null]}'])
def test_a_request_without_message_is_malformed(body: bytes) -> None:
    assert zeptomail.parse(request(body)).malformed == 1


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("2023-11-14T22:13:20Z"),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["event_name", "event_message", "email_info", "event_data", "details", "time", "to", "from",
                         "email_address", "address", "email_reference", "bounced_recipient", "clicked_link"]),
        inner, max_size=5,
    ),
)  # fmt: skip


@given(_json)
def test_any_json_raises_nothing_but_parse_errors(value: object) -> None:
    try:
        parsed = zeptomail.parse(request(json.dumps(value).encode()))
    except ParseError:
        return
    assert len(parsed) + parsed.malformed > 0
