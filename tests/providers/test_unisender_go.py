"""Unisender Go: the proof to the byte, and every row of the mapping."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, Parsed, ParseError, unisender_go
from agent.simulate import SIMULATORS
from tests.providers.cases import NOW, request, signed

# Computed once with an invented key.
KEY, AUTH = "uni-test-api-key", "27265e3dca4f4b8418437bdad49efc9f"
BODY = b'{"auth":"27265e3dca4f4b8418437bdad49efc9f","events_by_user":[{"user_id":1,"events":[]}]}'
CREDENTIALS = {"api_key": ["other-key", KEY]}


def test_vector_is_accepted() -> None:
    unisender_go.authenticate(request(BODY), CREDENTIALS)
    assert list(unisender_go.parse(request(BODY))) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"{",
        b"[" * 100_000,
        BODY + b"\n",
        BODY + b"\x80\x00",
        BODY.replace(b"1", b"2"),
        json.dumps(json.loads(BODY)).encode(),
        BODY.replace(AUTH.encode(), AUTH.upper().encode()),
        BODY.replace(b"2726", b"\\u00327 26"),
        BODY.replace(b'"events":[]', f'"events":["{AUTH}"]'.encode()),
        *[
            BODY.replace(f'"{AUTH}"'.encode(), value)
            for value in (
                b'""', b'" "', b'"{"', b"0", b"null", b"[]", b"{}", b'"a"', b"true",
                f'"{AUTH[:-1]}"'.encode(), f'"{AUTH}0"'.encode(), f'["{AUTH}"]'.encode(), b'"' + b"0" * 32 + b'"',
                '"２7265e3dca4f4b8418437bdad49efc9f"'.encode(),
            )
        ],
    ],
)  # fmt: skip
def test_whatever_was_not_signed_is_refused(body: bytes) -> None:
    with pytest.raises(AuthenticationError):
        unisender_go.authenticate(request(body), CREDENTIALS)


def test_another_key_is_refused() -> None:
    for credentials in ({"api_key": "other"}, {"api_key": ""}, {}):
        with pytest.raises(AuthenticationError):
            unisender_go.authenticate(request(BODY), credentials)


def test_the_proof_is_found_in_bodies_that_are_not_clean_json() -> None:
    keys = SIMULATORS["unisender_go"].new_credentials()
    body = b'{"auth":"' + b"0" * 32 + b'","city":"M\xfcnchen\n","status":"sent","event_time":"2023-11-14 22:13:20"}'
    genuine = signed("unisender_go", body, keys.signing)
    unisender_go.authenticate(genuine, keys.settings)
    assert [event.kind for event in unisender_go.parse(genuine)] == ["accepted"]


def test_keys_with_white_space_are_reported() -> None:
    assert "white space" in (unisender_go.validate_credentials({"api_key": ["good", "bad\n"]}) or "")
    assert unisender_go.validate_credentials(CREDENTIALS) is None


DATA = {"job_id": "1ZymBc-00041N-9X", "email": "R@Example.com", "event_time": "2023-11-14 22:13:20"}
EVENT = "transactional_email_status"


def _batch(*entries: object) -> Parsed:
    return unisender_go.parse(request(json.dumps({"auth": AUTH, "events_by_user": [{"events": entries}]}).encode()))


def _one(**changes: object) -> Event:
    data = DATA | changes
    parsed = _batch({"event_name": EVENT, "event_data": data})
    flat = unisender_go.parse(request(json.dumps({"auth": AUTH, "event_name": EVENT, "user_id": 1} | data).encode()))
    assert parsed == flat
    assert (parsed.malformed, flat.malformed) == (0, 0)
    (event,) = parsed
    return event


@pytest.mark.parametrize(
    ("status", "kind", "bounce_class"),
    [
        ("accepted", "accepted", None),
        ("sent", "accepted", None),
        ("delivered", "delivered", None),
        ("soft_bounced", "deferred", None),
        ("hard_bounced", "bounced", "hard"),
        ("spam", "complained", None),
        ("unsubscribed", "unsubscribed", None),
        ("opened", "opened", None),
        ("clicked", "clicked", None),
        ("subscribed", "other", None),
        ("invented", "other", None),
    ],
)
def test_statuses(status: str, kind: str, bounce_class: str | None) -> None:
    event = _one(status=status, url="https://example.com/a")
    assert (event.kind, event.bounce_class, event.provider_event) == (kind, bounce_class, status)
    assert (event.at, event.recipient, event.message_id) == (NOW, "r@example.com", "1ZymBc-00041N-9X")
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")


@pytest.mark.parametrize(
    ("statuses", "kind", "bounce_class"),
    [
        ("err_spam_rejected err_blacklisted", "bounced", "block"),
        ("err_mailbox_full err_too_large err_unreachable err_delivery_failed err_lost", "bounced", "soft"),
        ("err_unsubscribed err_skip_letter err_spam_skipped", "dropped", None),
        (
            "err_user_unknown err_user_inactive err_mailbox_discarded err_domain_inactive "
            "err_destination_misconfigured",
            "bounced",
            "hard",
        ),
        ("err_invented", "bounced", "undetermined"),
    ],
)
def test_statuses_of_hard_bounces(statuses: str, kind: str, bounce_class: str | None) -> None:
    for status in statuses.split():
        info = {"delivery_status": status, "destination_response": "554 5.5.0 failed for joan@example.com"}
        event = _one(status="hard_bounced", delivery_info=info)
        assert (event.kind, event.bounce_class, event.smtp_code, event.enhanced_code) == (
            kind,
            bounce_class,
            554,
            "5.5.0",
        )
        assert event.reason == "554 5.5.0 failed for <address>"
        assert event == _one(status="hard_bounced", **info)


def test_domain_and_stream_come_from_metadata() -> None:
    event = _one(status="delivered", metadata={"from_domain": "B.example", "stream": "news"})
    assert (event.domain, event.stream, event.tags) == ("b.example", "news", ("news",))
    assert (_one(status="delivered", metadata=["x"]).domain, _one(status="delivered").tags) == ("", ())


def test_a_spam_block_is_other() -> None:
    data = {
        "block_time": "2023-11-14 22:13:20",
        "block_type": "one_smtp",
        "domain": "a.example",
        "domain_status": "blocked",
    }
    (event,) = _batch({"event_name": "transactional_spam_block", "event_data": data})
    assert (event.kind, event.at, event.recipient, event.domain) == ("other", NOW, "", "")
    assert (event.provider_event, event.discriminator) == ("transactional_spam_block", "a.example one_smtp blocked")


def test_fields_of_other_types_are_read_one_by_one() -> None:
    event = _one(status="hard_bounced", job_id=12, event_time=1700000000, delivery_info={"destination_response": 550})
    assert (event.message_id, event.at, event.reason, event.bounce_class) == ("12", NOW, "550", "undetermined")


@pytest.mark.parametrize(
    "entry",
    [
        None, 1, "x", [], {}, {"event_name": EVENT}, {"event_data": None}, {"event_data": {"status": "sent"}},
        {"event_data": DATA}, {"event_data": DATA | {"status": "sent", "event_time": "soon"}},
        {"event_name": "transactional_spam_block", "event_data": {}},
    ],
)  # fmt: skip
def test_a_bad_entry_does_not_hurt_its_neighbours(entry: object) -> None:
    good = {"event_name": EVENT, "event_data": DATA | {"status": "sent"}}
    parsed = _batch(good, entry, good)
    assert ([event.kind for event in parsed], parsed.malformed) == (["accepted", "accepted"], 1)


_json = st.recursive(
    st.none() | st.integers() | st.text(max_size=9) | st.sampled_from(["2023-11-14 22:13:20", "hard_bounced"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["auth", "events_by_user", "events", "event_name", "event_data", "status", "event_time",
                         "delivery_info", "destination_response", "metadata", "stream", "block_time"]),
        inner, max_size=5,
    ),
)  # fmt: skip


@given(_json)
def test_any_json_raises_nothing_else(value: object) -> None:
    body = request(json.dumps(value).encode())
    with pytest.raises(AuthenticationError):
        unisender_go.authenticate(body, CREDENTIALS)
    try:
        unisender_go.parse(body)
    except ParseError:
        return
    assert isinstance(value, dict)
