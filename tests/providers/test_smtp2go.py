"""SMTP2GO: who may post, both kinds of body, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, smtp2go
from tests.providers.cases import NOW, request

CREDENTIALS = {"username": "smtp2go", "password": ["old", "new"]}


def _basic(pair: str) -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(pair.encode()).decode()}


def test_every_live_password_is_taken() -> None:
    for password in ("old", "new"):
        smtp2go.authenticate(request(b"", _basic(f"smtp2go:{password}")), CREDENTIALS)


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, _basic("smtp2go:x"), _basic("x:new"), _basic(":"), {"authorization": "Bearer new"}],
)
def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        smtp2go.authenticate(request(b"", headers), CREDENTIALS)


def test_user_names_that_cannot_be_sent_are_reported() -> None:
    assert "colon" in (smtp2go.validate_credentials({"username": "a:b", "password": "p"}) or "")
    assert smtp2go.validate_credentials(CREDENTIALS) is None


def _one(**changes: str) -> Event:
    fields = {"event": "bounce", "time": "2023-11-14T22:13:20Z", "rcpt": "R@Example.com", "email_id": "m1"} | changes
    given = [smtp2go.parse(request(body)) for body in (json.dumps(fields).encode(), urlencode(fields).encode())]
    assert given[0] == given[1]
    assert [parsed.malformed for parsed in given] == [0, 0]
    (event,) = given[0]
    return event


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("processed", "accepted"),
        ("delivered", "delivered"),
        ("bounce", "bounced"),
        ("reject", "dropped"),
        ("spam", "complained"),
        ("unsubscribe", "unsubscribed"),
        ("resubscribe", "other"),
        ("open", "opened"),
        ("click", "clicked"),
        ("brand new", "other"),
    ],
)
def test_events(name: str, kind: str) -> None:
    event = _one(event=name, message="550 5.1.1 unknown user", url="https://example.com/a")
    assert (event.kind, event.provider_event, event.at) == (kind, name, NOW)
    assert (event.recipient, event.message_id, event.event_id) == ("r@example.com", "m1", "")
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")
    assert bool(event.reason) == (kind in ("bounced", "dropped"))


@pytest.mark.parametrize(
    ("bounce", "message", "expected"),
    [
        ("hard", "550 5.1.1 unknown user", "hard"),
        ("hard", "", "hard"),
        ("HARD", "", "hard"),
        ("soft", "452 4.2.2 mailbox full", "soft"),
        ("soft", "", "soft"),
        ("hard", "550 5.7.1 refused", "block"),
        ("soft", "421 4.7.0 deferred", "block"),
        ("hard", "554 blocked using zen.spamhaus.org", "block"),
        ("hard", "550 5.1.1 spam filter: unknown", "hard"),
        ("", "550 5.1.1 unknown user", "hard"),
        ("odd", "554 5.5.0 failed", "undetermined"),
    ],
)
def test_classes_of_bounces(bounce: str, message: str, expected: str) -> None:
    assert _one(bounce=bounce, message=message).bounce_class == expected


def test_text_may_stand_in_context() -> None:
    event = _one(context="550 5.1.1 <joan@example.com> unknown")
    assert (event.smtp_code, event.enhanced_code, event.reason) == (550, "5.1.1", "550 5.1.1 <<address>> unknown")


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"from": "Shop <hello@B.example>", "sender": "x@c.example"}, "domain", "b.example"),
        ({"sender": "x@c.example"}, "domain", "c.example"),
        ({"auth": "newsletter"}, "tags", ("newsletter",)),
        ({"auth": "api-0123456789"}, "stream", ""),
        ({"time": "2023-11-14 22:13:20"}, "at", NOW),
        ({"event": "joan@example.com"}, "provider_event", "<address>"),
        ({"email_id": "x" * 600}, "message_id", "x" * 512),
    ],
)
def test_fields(fields: dict[str, str], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


@pytest.mark.parametrize("body", [b"event=bounce", b"email_id=m1", b"event=open&time=soon", b'{"event":7,"time":[]}'])
def test_without_name_or_time_it_is_malformed(body: bytes) -> None:
    parsed = smtp2go.parse(request(body))
    assert (list(parsed), parsed.malformed) == ([], 1)


@pytest.mark.parametrize("body", [b"event=x&" * 300, b"event=" + b"x" * 300_000, b"[]", b"event"])
def test_what_is_no_form_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        smtp2go.parse(request(body))


@given(
    st.dictionaries(
        st.sampled_from(["event", "time", "rcpt", "email_id", "bounce", "message", "from", "auth"]), st.text()
    )
)
def test_any_form_gives_an_event_or_a_parse_error(fields: dict[str, str]) -> None:
    try:
        parsed = smtp2go.parse(request(urlencode(fields, errors="replace").encode()))
    except ParseError:
        return
    assert len(parsed) + parsed.malformed == 1
