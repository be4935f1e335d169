"""Elastic Email: the token, parameters in URL and body, and every row of the mapping."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, Parsed, ParseError, elastic_email
from tests.providers.cases import NOW, request

CREDENTIALS = {"token": ["old-token", "new-token"]}


def _by_url(query: str) -> Parsed:
    return elastic_email.parse(msgspec.structs.replace(request(b""), method="GET", query=query))


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("token=new-token&status=Sent", {}),
        ("status=Sent&token=old-token", {}),
        ("", {"authorization": "Bearer new-token"}),
    ],
)
def test_token_in_url_or_header(query: str, headers: dict[str, str]) -> None:
    elastic_email.authenticate(msgspec.structs.replace(request(b"", headers), query=query), CREDENTIALS)


@pytest.mark.parametrize(
    "query", ["", "token=", "token=x", "token=new-toke", "token=new-token1", "key=new-token", "token=%00", "token"]
)
def test_anything_else_is_refused(query: str) -> None:
    with pytest.raises(AuthenticationError):
        elastic_email.authenticate(msgspec.structs.replace(request(b"token=new-token"), query=query), CREDENTIALS)


def test_any_token_can_be_configured() -> None:
    assert elastic_email.validate_credentials(CREDENTIALS) is None


def _one(**changes: str) -> Event:
    fields = {"status": "Error", "date": "2023-11-14 22:13:20", "to": "R@Example.com", "messageid": "m1"} | changes
    form = urlencode(fields)
    given = [
        elastic_email.parse(request(form.encode())),
        elastic_email.parse(request(json.dumps(fields).encode())),
        _by_url(f"token=t&{form}"),
    ]
    assert given[0] == given[1] == given[2]
    assert given[0].malformed == 0
    (event,) = given[0]
    return event


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("Sent", "delivered"),
        ("Error", "bounced"),
        ("AbuseReport", "complained"),
        ("Unsubscribed", "unsubscribed"),
        ("Opened", "opened"),
        ("Clicked", "clicked"),
        ("Invented", "other"),
    ],
)
def test_statuses(status: str, kind: str) -> None:
    event = _one(status=status, target="https://example.com/a")
    assert (event.kind, event.provider_event, event.at) == (kind, status, NOW)
    assert (event.recipient, event.message_id) == ("r@example.com", "m1")
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")


@pytest.mark.parametrize(
    ("categories", "kind", "bounce_class"),
    [
        ("NoMailbox DNSProblem", "bounced", "hard"),
        (
            "GreyListed Throttled Timeout ConnectionProblem ConnectionTerminated AccountProblem",
            "bounced",
            "soft",
        ),
        ("Spam BlackListed SPFProblem WhitelistingProblem ContentFilter", "bounced", "block"),
        ("ManualCancel Ignore", "dropped", None),
        ("NotDelivered CodeError Unknown Invented", "bounced", "undetermined"),
    ],
)
def test_categories(categories: str, kind: str, bounce_class: str | None) -> None:
    for category in categories.split():
        event = _one(category=category)
        assert (event.kind, event.bounce_class, event.reason) == (kind, bounce_class, category)
        assert event.provider_event == "Error"
    assert _one().bounce_class == "undetermined"


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"from": "Shop <hello@B.example>"}, "domain", "b.example"),
        ({"channel": "newsletter"}, "tags", ("newsletter",)),
        ({"messageid": "", "transaction": "t1"}, "message_id", "t1"),
        ({"date": "2023-11-14T22:13:20Z"}, "at", NOW),
        ({"date": "11/14/2023 10:13:20 PM"}, "at", NOW),
        ({"date": "11/14/2023 22:13:20"}, "at", NOW),
        ({"category": "joan@example.com"}, "reason", "<address>"),
        ({"status": "joan@example.com"}, "provider_event", "<address>"),
    ],
)
def test_fields(fields: dict[str, str], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


@pytest.mark.parametrize(
    "form",
    ["status=Sent", "messageid=m", "status=Sent&date=14/14/2023 1:2:3", "status=Sent&date=1/2", "messageid=m&date=1"],
)
def test_without_status_or_time_it_is_malformed(form: str) -> None:
    for parsed in (elastic_email.parse(request(form.encode())), _by_url(form)):
        assert (list(parsed), parsed.malformed) == ([], 1)


@given(st.dictionaries(st.sampled_from(["status", "date", "to", "messageid", "category", "from", "x"]), st.text()))
def test_any_parameters_give_an_event_or_a_parse_error(fields: dict[str, str]) -> None:
    try:
        parsed = _by_url(urlencode(fields, errors="replace"))
    except ParseError:
        return
    assert len(parsed) + parsed.malformed == 1
