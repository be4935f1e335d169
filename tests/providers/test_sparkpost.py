"""SparkPost: who may post, and every row of the mapping."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, sparkpost
from tests.providers.cases import NOW, request

BASIC = {"username": "sparkpost", "password": ["old-secret", "new-secret"]}


def _basic(pair: str, scheme: str = "Basic") -> dict[str, str]:
    return {"authorization": f"{scheme} {b64encode(pair.encode()).decode()}"}


@pytest.mark.parametrize("headers", [_basic("sparkpost:old-secret"), _basic("sparkpost:new-secret", "basic")])
@pytest.mark.parametrize("body", [b'[{"msys":{}}]', b"[]", b"anything"])
def test_every_live_password_is_enough(headers: dict[str, str], body: bytes) -> None:
    sparkpost.authenticate(request(body, headers), BASIC)


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": ""}, {"authorization": "Basic"}, {"authorization": "Basic ###"},
        {"authorization": "Basic \ud800"}, {"authorization": "Basic " + b64encode(b"\xff\xfe").decode()},
        _basic("sparkpost:wrong"), _basic("other:new-secret"), _basic("sparkpost"), _basic("sparkpost:"),
        _basic("sparkpost:new-secret", "Bearer"), {"x-messagesystems-webhook-token": "new-secret"},
    ],
)  # fmt: skip
def test_anything_less_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        sparkpost.authenticate(request(b'[{"msys":{}}]', headers), BASIC)


def test_a_user_name_that_http_cannot_carry_is_reported() -> None:
    assert "colon" in (sparkpost.validate_credentials({"username": "a:b", "password": "c"}) or "")
    assert sparkpost.validate_credentials(BASIC) is None


DATA = {
    "type": "delivery",
    "event_id": "92356927693813856",
    "message_id": "000443ee14578172be22",
    "timestamp": "1700000000",
    "rcpt_to": "r@example.com",
    "raw_rcpt_to": "R@Example.com",
    "friendly_from": "hello@Sender.example",
    "msg_from": "msprvs1=1=bounces@bounce.example",
}


def _one(wrapper: str = "message_event", **fields: object) -> Event:
    parsed = sparkpost.parse(request(json.dumps([{"msys": {wrapper: DATA | fields}}]).encode()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


def test_a_delivery_in_full() -> None:
    event = _one(campaign_id="spring", rcpt_tags=["vip", "de"], delv_method="esmtp", reason="250 OK", error_code="250")
    assert event == Event(
        event.kind, NOW, "r@example.com", "000443ee14578172be22", "92356927693813856", domain="sender.example",
        tags=("spring", "vip", "de"), provider_event="delivery",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrapper", "name", "kind"),
    [
        ("message_event", "injection", "accepted"),
        ("message_event", "delivery", "delivered"),
        ("message_event", "delay", "deferred"),
        ("message_event", "bounce", "bounced"),
        ("message_event", "out_of_band", "bounced"),
        ("message_event", "policy_rejection", "dropped"),
        ("gen_event", "generation_failure", "dropped"),
        ("message_event", "generation_failure", "dropped"),
        ("gen_event", "generation_rejection", "dropped"),
        ("message_event", "spam_complaint", "complained"),
        ("unsubscribe_event", "list_unsubscribe", "unsubscribed"),
        ("unsubscribe_event", "link_unsubscribe", "unsubscribed"),
        ("track_event", "open", "opened"),
        ("track_event", "initial_open", "opened"),
        ("track_event", "amp_open", "opened"),
        ("track_event", "amp_initial_open", "opened"),
        ("track_event", "click", "clicked"),
        ("track_event", "amp_click", "clicked"),
        ("message_event", "sms_status", "other"),
        ("relay_event", "relay_injection", "other"),
        ("ab_test_event", "ab_test_completed", "other"),
        ("brand_new_event", "brand_new", "other"),
    ],
)
def test_kinds(wrapper: str, name: str, kind: str) -> None:
    event = _one(wrapper, type=name, bounce_class="10")
    assert (event.kind, event.provider_event) == (kind, name)
    assert (event.bounce_class is not None) == (kind == "bounced")
    assert event.asynchronous == (name == "out_of_band")


@pytest.mark.parametrize("name", ["bounce", "out_of_band"])
@pytest.mark.parametrize("number", [str, int])
@pytest.mark.parametrize(
    ("classes", "kind", "bounce_class"),
    [
        ((1,), "bounced", "undetermined"),
        ((10, 30), "bounced", "hard"),
        ((20, 21, 22, 23, 24, 40, 70), "bounced", "soft"),
        ((25,), "dropped", None),
        ((50, 51, 52, 53, 54), "bounced", "block"),
        ((60, 100), "other", None),
        ((80,), "other", None),
        ((90,), "unsubscribed", None),
    ],
)
def test_classes(name: str, number: type, classes: tuple[int, ...], kind: str, bounce_class: str | None) -> None:
    for each in classes:
        # The number decides, whatever the text says.
        event = _one(type=name, bounce_class=number(each), raw_reason="552 5.2.2 mailbox full", error_code="552")
        assert (event.kind, event.bounce_class) == (kind, bounce_class), each
        assert event.asynchronous == (name == "out_of_band" and kind == "bounced")
        assert bool(event.reason) == (kind in ("bounced", "dropped"))
        assert (event.smtp_code is None) == (kind not in ("bounced", "dropped"))


@pytest.mark.parametrize("number", [None, "", "999", "ten", 10.5, [10]])
def test_a_class_not_known_is_read_from_the_reply(number: object) -> None:
    assert _one(type="bounce", bounce_class=number, raw_reason="550 5.1.1 no such user").bounce_class == "hard"
    assert _one(type="bounce", bounce_class=number, raw_reason="554 5.7.1 no").bounce_class == "block"
    assert _one(type="bounce", bounce_class=number, error_code="451").bounce_class == "soft"
    assert _one(type="bounce", bounce_class=number).bounce_class == "undetermined"


def test_the_full_reason_goes_before_the_masked_one() -> None:
    event = _one(
        type="bounce", bounce_class="10", error_code="550", raw_reason="550 5.1.1 <joan@example.com> unknown",
        reason="550 5.1.1 <...> unknown",
    )  # fmt: skip
    assert (event.smtp_code, event.enhanced_code, event.reason) == (550, "5.1.1", "550 5.1.1 <<address>> unknown")
    assert _one(type="bounce", bounce_class="10", reason="550 5.1.1 gone").enhanced_code == "5.1.1"


def test_suppression_is_a_drop_with_its_reason() -> None:
    text = "554 5.7.1 recipient address suppressed due to customer policy"
    event = _one(type="policy_rejection", bounce_class="25", error_code="554", raw_reason=text)
    assert (event.kind, event.bounce_class, event.reason, event.smtp_code) == ("dropped", None, text, 554)


@pytest.mark.parametrize(("feedback", "kind"), [("abuse", "complained"), (None, "complained"), ("not-spam", "other")])
def test_complaints(feedback: str | None, kind: str) -> None:
    assert _one(type="spam_complaint", fbtype=feedback).kind == kind


def test_the_probe_counts_nothing() -> None:
    for body in (b'[{"msys":{}}]', b"[]", b'[{"msys":{}},{"msys":{}}]', b'[{"msys":{},"cust":{"id":1}}]'):
        parsed = sparkpost.parse(request(body))
        assert (list(parsed), parsed.malformed) == ([], 0)


def test_text_messages_are_no_mail() -> None:
    items = [{"msys": {"message_event": DATA | {"delv_method": method}}} for method in ("sms", "apns", "ESMTP")]
    parsed = sparkpost.parse(request(json.dumps(items).encode()))
    assert (len(parsed), parsed.malformed) == (1, 0)


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"event_id": 92356927693813856}, "event_id", "92356927693813856"),
        ({"event_id": "16eb5f3b-28d2-4a3e-a4ba-3ebb4d7c5b9a"}, "event_id", "16eb5f3b-28d2-4a3e-a4ba-3ebb4d7c5b9a"),
        ({"event_id": 2**70}, "event_id", str(2**70)),
        ({"event_id": None}, "event_id", ""),
        ({"event_id": {}}, "event_id", ""),
        ({"timestamp": 1700000000}, "at", NOW),
        ({"timestamp": 1700000000.5}, "at", NOW + 0.5),
        ({"timestamp": "2023-11-14T23:13:20.000+01:00"}, "at", NOW),
        ({"raw_rcpt_to": None}, "recipient", "r@example.com"),
        ({"raw_rcpt_to": None, "rcpt_to": None}, "recipient", ""),
        ({"message_id": 12}, "message_id", "12"),
        ({"friendly_from": "Hello <a@b.example>"}, "domain", "b.example"),
        ({"friendly_from": None, "mailfrom": "a@c.example"}, "domain", "c.example"),
        ({"friendly_from": None}, "domain", ""),
        ({"friendly_from": 7}, "domain", ""),
        ({"rcpt_tags": "vip"}, "tags", ()),
        ({"rcpt_tags": ["a", 7, None, {}]}, "tags", ("a", "7")),
        ({"rcpt_tags": [str(n) for n in range(50)]}, "tags", tuple(str(n) for n in range(32))),
        ({"campaign_id": 5, "rcpt_tags": None}, "tags", ("5",)),
        ({"type": "delay", "num_retries": "3"}, "discriminator", "3"),
        ({"type": "delay", "num_retries": 3}, "discriminator", "3"),
        ({"type": "click", "target_link_url": "https://a.example/x?y=z"}, "discriminator", "https://a.example/x?y=z"),
        ({"type": "open", "target_link_url": "https://a.example/"}, "discriminator", ""),
        ({"type": "bounce", "error_code": 550}, "smtp_code", 550),
        ({"type": "bounce", "error_code": "999", "raw_reason": "451 later"}, "smtp_code", 451),
        ({"type": "bounce", "error_code": "²50"}, "smtp_code", None),
        ({"type": "x" * 100}, "provider_event", "x" * 64),
        ({"type": "joan@example.com"}, "provider_event", "<address>"),
    ],
)  # fmt: skip
def test_fields(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


GOOD = json.dumps({"msys": {"message_event": DATA}}).encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"{}", b"null", b"7", b'"x"', b"[]", b'{"msys":null}', b'{"msys":[]}', b'{"msys":{"message_event":null}}',
        b'{"msys":{"message_event":[]}}', b'{"msys":{"message_event":{}}}',
        b'{"msys":{"message_event":{"type":"delivery"}}}', b'{"msys":{"message_event":{"timestamp":"1700000000"}}}',
        b'{"msys":{"message_event":{"type":"delivery","timestamp":"soon"}}}',
        b'{"msys":{"message_event":{"type":"delivery","timestamp":-1}}}',
        b'{"msys":{"message_event":{"type":{},"timestamp":1700000000}}}',
        b'{"msys":{"message_event":{"type":"delivery","timestamp":' + b"9" * 5000 + b"}}}",
    ],
)  # fmt: skip
def test_a_bad_item_does_not_hurt_its_neighbours(bad: bytes) -> None:
    parsed = sparkpost.parse(request(b"[" + GOOD + b"," + bad + b"," + GOOD + b"]"))
    assert [event.kind for event in parsed] == ["delivered", "delivered"]
    assert parsed.malformed == 1


@pytest.mark.parametrize("odd", [b'"\xff"', b'"\x01\n"', b'"\\ud800"', b"[" * 200 + b"]" * 200, b"1e400"])
def test_odd_values_in_one_item_do_not_hurt_its_neighbours(odd: bytes) -> None:
    named = GOOD.replace(b'"type"', b'"campaign_id":' + odd + b',"rcpt_meta":' + odd + b',"type"')
    parsed = sparkpost.parse(request(b"[" + GOOD + b"," + named + b"]"))
    assert [event.recipient for event in parsed] == ["r@example.com", "r@example.com"]
    for tag in parsed[1].tags:
        tag.encode("utf-8")


def test_an_object_is_not_a_batch() -> None:
    with pytest.raises(ParseError):
        sparkpost.parse(request(GOOD))
