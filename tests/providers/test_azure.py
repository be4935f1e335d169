"""Azure Communication Services: both schemas, both validations, and every row of the mapping."""

from __future__ import annotations

import json

import pytest

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, Reply, WebhookRequest, azure
from tests.providers.cases import NOW, request

REPORT = "Microsoft.Communication.EmailDeliveryReportReceived"
ENGAGEMENT = "Microsoft.Communication.EmailEngagementTrackingReportReceived"
AT = "2023-11-14T22:13:20.2500000+00:00"
DATA: dict[str, object] = {
    "sender": "Shop@Mail.example",
    "recipient": "R@example.com",
    "messageId": "m1",
    "internetMessageId": "<x@mail.example>",
    "status": "Delivered",
    "deliveryStatusDetails": {"statusMessage": "250 2.0.0 OK"},
    "deliveryAttemptTimeStamp": AT,
}
VALIDATION = {
    "id": "v1",
    "topic": "/subscriptions/0",
    "subject": "",
    "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://evil.example/"},
    "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
    "eventTime": "2023-11-14T22:13:20Z",
    "metadataVersion": "1",
    "dataVersion": "1",
}


def grid(data: object, name: str = REPORT, **more: object) -> dict[str, object]:
    """An event of Event Grid's own schema."""
    return {"id": "e1", "topic": "t", "eventType": name, "eventTime": "2023-11-14T22:13:21Z", "data": data} | more


def cloud(data: object, name: str = REPORT, **more: object) -> dict[str, object]:
    """The same as a CloudEvent."""
    return {"id": "e1", "source": "t", "specversion": "1.0", "type": name, "time": AT, "data": data} | more


def one(name: str = REPORT, **changes: object) -> Event:
    """The event of one report, in either schema, batched or not."""
    data = {k: v for k, v in (DATA | changes).items() if v is not None}
    found = []
    for body in ([grid(data, name)], [cloud(data, name)], cloud(data, name)):
        parsed = azure.parse(request(json.dumps(body).encode()))
        assert parsed.malformed == 0
        found += parsed
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
    return found[0]


def test_a_delivery_in_full() -> None:
    event = one()
    assert event == Event(
        event.kind, NOW + 0.25, "r@example.com", "m1", "e1", domain="mail.example", provider_event="Delivered"
    )
    assert event.kind == "delivered"


@pytest.mark.parametrize(
    ("status", "text", "kind", "bounce_class"),
    [
        ("Delivered", "", "delivered", None),
        ("delivered", "", "delivered", None),
        ("Bounced", "", "bounced", "hard"),
        ("Bounced", "550 5.2.2 mailbox full", "bounced", "hard"),
        ("Bounced", "550 5.7.1 policy", "bounced", "block"),
        ("FilteredSpam", "", "bounced", "block"),
        ("Quarantined", "550 5.1.1 no such user", "bounced", "block"),
        ("Failed", "550 5.1.1 no such user", "bounced", "hard"),
        ("Failed", "452 4.2.2 mailbox full", "bounced", "soft"),
        ("Failed", "554 5.7.1 blocked", "bounced", "block"),
        ("Failed", "", "bounced", "undetermined"),
        ("Suppressed", "", "dropped", None),
        ("Expanded", "", "other", None),
        ("BrandNew", "", "other", None),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_statuses(status: str, text: str, kind: str, bounce_class: str | None, nested: bool) -> None:
    event = one(status=status, deliveryStatusDetails={"statusMessage": text} if nested else text)
    assert (event.kind, event.bounce_class, event.provider_event) == (kind, bounce_class, status)
    assert event.reason == (text if kind in ("bounced", "dropped") else "")


@pytest.mark.parametrize(
    ("what", "kind"),
    [("view", "opened"), ("View", "opened"), ("click", "clicked"), ("Click", "clicked"), ("x", "other")],
)
def test_engagement(what: str, kind: str) -> None:
    event = one(
        ENGAGEMENT, engagementType=what, engagementContext="https://a.example/x", userActionTimeStamp=AT,
        deliveryAttemptTimeStamp=None, status=None,
    )  # fmt: skip
    assert (event.kind, event.at, event.provider_event) == (kind, NOW + 0.25, what)
    assert event.discriminator == ("https://a.example/x" if kind == "clicked" else "")


@pytest.mark.parametrize("name", ["deliveryAttemptTimestamp", "userActionTimestamp", "userActionTimeStamp"])
def test_times_in_every_spelling(name: str) -> None:
    assert one(**{"deliveryAttemptTimeStamp": None, name: AT}).at == NOW + 0.25


def test_the_event_has_a_time_when_the_report_has_none() -> None:
    data = {k: v for k, v in DATA.items() if k != "deliveryAttemptTimeStamp"}
    for body, at in (([grid(data)], NOW + 1), ([cloud(data)], NOW + 0.25)):
        (event,) = azure.parse(request(json.dumps(body).encode()))
        assert event.at == at
    parsed = azure.parse(request(json.dumps([grid(data, eventTime=None)]).encode()))
    assert (list(parsed), parsed.malformed) == ([], 1)


def test_other_types_are_other() -> None:
    event = one("Microsoft.Communication.SMSReceived")
    assert (event.kind, event.provider_event) == ("other", "SMSReceived")
    assert one("Contoso.Thing").provider_event == "Contoso.Thing"


@pytest.mark.parametrize("status", [5, None, [], {}])
def test_a_report_without_a_status_is_other(status: object) -> None:
    event = one(status=status)
    assert event.kind == "other"


def test_neighbours_of_what_cannot_be_read_count() -> None:
    body = [grid(DATA), None, 5, grid({"status": []}, eventTime=[]), grid("x", eventTime=None), grid(DATA, id="e2")]
    parsed = azure.parse(request(json.dumps(body).encode()))
    assert [event.event_id for event in parsed] == ["e1", "e2"]
    assert parsed.malformed == 4


@pytest.mark.parametrize("body", [b"", b"5", b'"x"', b"null", b"{", b"[{]", b"[" * 100_000])
def test_what_is_no_event_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        azure.parse(request(body))


def test_a_new_subscription_is_answered_with_its_code() -> None:
    body = json.dumps([VALIDATION]).encode()
    given = request(body, {"aeg-event-type": "SubscriptionValidation"})
    assert azure.follow_up(given) == Reply(
        b'{"validationResponse":"512d38b6-c7b8-40c8-89fe-f46f9e9622b6"}', "application/json"
    )
    parsed = azure.parse(given)
    assert (list(parsed), parsed.malformed) == ([], 0)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ([VALIDATION], "Notification"),
        ([VALIDATION], ""),
        ([grid({"validationCode": "x"})], "SubscriptionValidation"),
        ([VALIDATION | {"data": {}}], "SubscriptionValidation"),
        ([VALIDATION | {"data": None}], "SubscriptionValidation"),
        ([VALIDATION | {"data": {"validationCode": ["x"]}}], "SubscriptionValidation"),
        ([], "SubscriptionValidation"),
        ("x", "SubscriptionValidation"),
    ],
)
def test_nothing_else_is_answered(body: object, kind: str) -> None:
    assert azure.follow_up(request(json.dumps(body).encode(), {"aeg-event-type": kind})) is None


@pytest.mark.parametrize("origin", ["eventgrid.azure.net", "EventGrid.Azure.net ", "eventgrid.azure.cn"])
def test_cloud_events_are_allowed_in(origin: str) -> None:
    answer = azure.answer_options({"webhook-request-origin": origin, "webhook-request-rate": "120"})
    assert answer is not None
    assert answer["WebHook-Allowed-Origin"] == origin.strip().lower()
    assert answer["WebHook-Allowed-Rate"] == "*"


@pytest.mark.parametrize(
    "origin", ["", "*", "evil.example", "eventgrid.azure.net.evil.example", "eventgrid.azure.net\r\nX: y"]
)
def test_nobody_else_is_allowed_in(origin: str) -> None:
    assert azure.answer_options({"webhook-request-origin": origin}) is None
    assert azure.answer_options({}) is None


def asked(query: str = "", **headers: str) -> WebhookRequest:
    return WebhookRequest(
        "POST", "/webhooks/az", query, {k.replace("_", "-"): v for k, v in headers.items()}, b"[]", NOW
    )


CREDENTIALS = {"token": ["old", "new"], "headers": {"X-One": "1", "X-Two": ["2", "3"]}}


def test_the_token_or_all_headers_are_enough() -> None:
    for given in (
        asked("token=old"),
        asked("a=b&token=new"),
        asked(authorization="Bearer new"),
        asked(x_one="1", x_two="3"),
    ):
        azure.authenticate(given, CREDENTIALS)


@pytest.mark.parametrize(
    "given",
    [asked(), asked("token="), asked("token=x"), asked(x_one="1"), asked(x_one="1", x_two="1"), asked("Token=old")],
)
def test_everything_else_is_refused(given: WebhookRequest) -> None:
    with pytest.raises(AuthenticationError):
        azure.authenticate(given, CREDENTIALS)


def test_a_header_that_http_cannot_carry_is_reported() -> None:
    assert azure.validate_credentials(CREDENTIALS) is None
    assert "headers" in str(azure.validate_credentials({"headers": {"a b": "c"}}))
