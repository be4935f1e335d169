"""KumoMTA: who may post, and every row of both mappings."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, kumomta
from tests.providers.cases import NOW, request

CREDENTIALS = {"token": ["old-token", "new-token"], "headers": {"X-Key": "k", "X-Part": "p"}}


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": "Bearer new-token"}, ""),
        ({"authorization": "bearer old-token"}, ""),
        ({}, "token=new-token"),
        ({"x-key": "k", "x-part": "p"}, ""),
    ],
)
def test_either_way_is_enough(headers: dict[str, str], query: str) -> None:
    kumomta.authenticate(msgspec.structs.replace(request(b"", headers), query=query), CREDENTIALS)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer x"},
        {"authorization": "Basic new-token"},
        {"authorization": "new-token"},
        {"x-key": "k"},
        {"x-key": "k", "x-part": ""},
    ],
)
def test_anything_less_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        kumomta.authenticate(request(b"", headers), CREDENTIALS)


def test_header_names_that_http_cannot_carry_are_reported() -> None:
    assert "header" in (kumomta.validate_credentials({"headers": {"X Hook": "c"}}) or "")
    assert kumomta.validate_credentials(CREDENTIALS) is None


RECORD = {
    "type": "Bounce",
    "id": "m1",
    "sender": "bounces@B.example",
    "recipient": "R@Example.com",
    "queue": "news:shop@example.com",
    "response": {
        "code": 554,
        "enhanced_code": {"class": 5, "subject": 5, "detail": 0},
        "content": "failed for joan@example.com",
        "command": "RCPT",
    },
    "timestamp": 1700000000,
    "event_time": "2023-11-14T22:13:20.123456789Z",
    "num_attempts": 3,
    "bounce_classification": "Uncategorized",
    "reception_protocol": "ESMTP",
}


def _one(**changes: object) -> Event:
    parsed = kumomta.parse(request(json.dumps(RECORD | changes).encode()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


@pytest.mark.parametrize(
    ("name", "kind", "bounce_class"),
    [
        ("Reception", "accepted", None),
        ("Delivery", "delivered", None),
        ("TransientFailure", "deferred", None),
        ("Delayed", "other", None),
        ("Bounce", "bounced", "undetermined"),
        ("Expiration", "bounced", "soft"),
        ("AdminBounce", "dropped", None),
        ("OOB", "bounced", "undetermined"),
        ("Feedback", "other", None),
        ("Rejection", "dropped", None),
        ("AdminRebind", "other", None),
        ("DeferredInjectionRebind", "other", None),
        ("XferOut", "other", None),
        ("XferIn", "other", None),
        ("Invented", "other", None),
    ],
)
def test_types(name: str, kind: str, bounce_class: str | None) -> None:
    event = _one(type=name)
    own_id = name in ("OOB", "Feedback")
    assert (event.kind, event.bounce_class, event.provider_event) == (kind, bounce_class, name)
    assert (event.at, event.recipient, event.asynchronous) == (NOW + 0.123456, "r@example.com", name == "OOB")
    assert (event.message_id, event.event_id) == (("", "m1") if own_id else ("m1", ""))
    assert event.tags == (() if own_id else ("news", "shop"))
    explained = kind in ("bounced", "deferred", "dropped")
    assert event.reason == ("554 5.5.0 failed for <address>" if explained else "")
    assert (event.smtp_code, event.enhanced_code) == ((554, "5.5.0") if explained else (None, ""))
    assert event.discriminator == ("3" if kind == "deferred" else "")


@pytest.mark.parametrize(
    ("names", "kind", "bounce_class"),
    [
        ("InvalidRecipient BadDomain InactiveMailbox RoutingErrors", "bounced", "hard"),
        (
            "QuotaIssues TransientFailure BadConnection NoAnswerFromHost MessageExpired DNSFailure BadConfiguration "
            "ProtocolErrors TooManyRecipients",
            "bounced",
            "soft",
        ),
        (
            "SpamBlock SpamContent SpamRelated ContentRelated PolicyRelated VirusRelated ProhibitedAttachment "
            "RelayDenied RelayingIssues AuthenticationFailed InvalidSender",
            "bounced",
            "block",
        ),
        ("AutoReply ChallengeResponse Subscribe", "other", None),
        ("Unsubscribe", "unsubscribed", None),
        ("Uncategorized OurOwnClass", "bounced", "undetermined"),
    ],
)
def test_classifications(names: str, kind: str, bounce_class: str | None) -> None:
    for name in names.split():
        for record_type in ("Bounce", "OOB"):
            event = _one(type=record_type, bounce_classification=name)
            assert (event.kind, event.bounce_class) == (kind, bounce_class)
    assert _one(type="Expiration", bounce_classification="InvalidRecipient").bounce_class == "soft"


def test_without_a_classifier_the_reply_decides() -> None:
    reply = {"code": 550, "enhanced_code": {"class": 5, "subject": 7, "detail": 1}, "content": "no"}
    assert _one(response=reply).bounce_class == "block"
    assert _one(response={"code": 550, "enhanced_code": None, "content": "user unknown"}).bounce_class == "hard"
    assert _one(response={"code": 450, "content": ""}).bounce_class == "soft"


@pytest.mark.parametrize(
    "response",
    [None, 5, [], {"code": "x"}, {"code": 10**9}, {"code": True}, {"enhanced_code": {"class": 9}}, {"content": []}],
)
def test_odd_responses(response: object) -> None:
    event = _one(response=response)
    assert (event.smtp_code, event.enhanced_code, event.reason) == (None, "", "")


def test_every_recipient_has_an_event() -> None:
    parsed = kumomta.parse(request(json.dumps(RECORD | {"recipient": ["a@example.com", "b@example.com"]}).encode()))
    assert [event.recipient for event in parsed] == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize(
    ("feedback_type", "kind"),
    [("abuse", "complained"), ("Fraud", "complained"), ("virus", "complained"), ("not-spam", "other"), (None, "other")],
)
def test_feedback_is_one_complaint_about_our_mail(feedback_type: object, kind: str) -> None:
    report = {
        "feedback_type": feedback_type,
        "version": 1,
        "original_mail_from": "<bounces@Shop.example>",
        "original_rcpto_to": ["a@example.com", "b@example.com"],
    }
    event = _one(type="Feedback", sender="fbl@isp.example", feedback_report=report)
    assert (event.kind, event.recipient, event.domain) == (kind, "a@example.com", "shop.example")
    report = {"feedback_type": feedback_type, "reported_domain": ["Shop.example"]}
    assert _one(type="Feedback", feedback_report=report).domain == "shop.example"


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({}, "domain", "b.example"),
        ({"headers": {"From": "Shop <hello@Shop.example>"}}, "domain", "shop.example"),
        ({"headers": {"From": ["hello@shop.example"]}}, "domain", "shop.example"),
        ({"headers": []}, "domain", "b.example"),
        ({"queue": "shop@example.com"}, "tags", ("shop",)),
        ({"queue": ":shop@example.com"}, "stream", "shop"),
        ({"queue": "news:@example.com"}, "tags", ("news",)),
        ({"queue": "example.com"}, "tags", ()),
        ({"queue": None}, "tags", ()),
        ({"event_time": None}, "at", NOW),
        ({"event_time": "soon", "timestamp": "1700000000"}, "at", NOW),
        ({"id": 7}, "message_id", "7"),
        ({"type": "Reception", "sender": ""}, "kind", "other"),
        ({"recipient": {}}, "recipient", ""),
    ],
)
def test_fields(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


def test_records_about_the_hook_itself_are_left_out() -> None:
    own = RECORD | {"reception_protocol": "LogRecord"}
    parsed = kumomta.parse(request(json.dumps([own, RECORD, own]).encode()))
    assert (len(parsed), parsed.malformed) == (1, 0)


@pytest.mark.parametrize("bad", [None, 1, [], {}, {"type": ""}, {"type": "Delivery", "timestamp": "soon"}])
def test_a_bad_record_does_not_hurt_its_neighbours(bad: object) -> None:
    parsed = kumomta.parse(request(json.dumps([RECORD, bad, RECORD | {"id": 7}]).encode()))
    assert ([event.message_id for event in parsed], parsed.malformed) == (["m1", "7"], 1)


_json = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["Bounce", "OOB", "Feedback"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*RECORD, "code", "content", "class", "feedback_report", "original_rcpto_to", "headers"]),
            inner,
            max_size=6,
        )
    ),
)


@given(_json)
def test_any_json_raises_nothing_but_parse_errors(value: object) -> None:
    try:
        kumomta.parse(request(json.dumps(value).encode()))
    except ParseError:
        return
    assert isinstance(value, dict | list)
