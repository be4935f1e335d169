"""A source labels what a payload says with what is configured, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.events import Event, Kind
from agent.intake import source as source_module
from agent.intake.source import OTHER_DOMAIN, Source
from agent.ledger.base import Cell
from agent.providers import PROVIDERS, AuthenticationError, Credentials, Parsed, ParseError, WebhookRequest

NOW = 1_764_000_000.0


class Fixed:
    """A provider whose request says what it was given."""

    CREDENTIALS = (("token",),)
    REPLAY_WINDOW = 0.0

    def __init__(self, *events: Event, malformed: int = 0) -> None:
        self.parsed = Parsed(events, malformed)

    def validate_credentials(self, credentials: Credentials) -> str | None:
        return None

    def authenticate(self, request: WebhookRequest, credentials: Credentials) -> None:
        if request.header("token") != credentials["token"]:
            raise AuthenticationError("wrong token")

    def parse(self, request: WebhookRequest) -> Parsed:
        if request.body == b"unreadable":
            raise ParseError("body is not JSON")
        return self.parsed


def event(domain: str = "", tags: tuple[str, ...] = (), recipient: str = "a@gmail.com") -> Event:
    return Event(kind=Kind.DELIVERED, at=NOW, domain=domain, tags=tags, recipient=recipient)


def request(body: bytes = b"", **headers: str) -> WebhookRequest:
    return WebhookRequest("POST", "/webhooks/main", "", headers, body, NOW)


def cells(*events: Event, **options: object) -> list[Cell]:
    source = Source("main", "sendgrid", Fixed(*events), {"token": "t"}, **options)  # type: ignore[arg-type]
    return list(source.read(request()).batch.cells)


@pytest.mark.parametrize(
    ("sending", "expected"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("news.example.com", "news.example.com"),
        ("x.news.example.com", "news.example.com"),
        ("notexample.com", "fallback.example"),
        ("example.com.evil.test", "fallback.example"),
        ("com", "fallback.example"),
        ("", "fallback.example"),
        (".", "fallback.example"),
        ("..example.com", "example.com"),
        ("example.com.", "fallback.example"),
        ("." * 253, "fallback.example"),
    ],
)
def test_a_domain_belongs_to_the_longest_configured_one_that_it_ends_in(sending: str, expected: str) -> None:
    options = {"domain": "fallback.example", "domains": ["example.com", "news.example.com", "fallback.example"]}
    assert cells(event(sending), **options)[0].domain == expected


def test_without_a_domain_of_the_source_it_is_other() -> None:
    assert [c.domain for c in cells(event("x.test"), event(), domains=["example.com"])] == [OTHER_DOMAIN] * 2


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((), "main"),
        (("bulk",), "bulk"),
        (("x", "news", "bulk"), "news"),
        (("bulk", "news"), "bulk"),
        (("NEWS", "x"), "main"),
        (("", "x"), "main"),
    ],
)
def test_the_stream_is_the_first_tag_that_is_configured(tags: tuple[str, ...], expected: str) -> None:
    assert cells(event(tags=tags), stream="main", streams=["news", "bulk"])[0].stream == expected


def test_without_configured_streams_tags_mean_nothing() -> None:
    assert cells(event(tags=("news",)))[0].stream == ""


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("a@gmail.com", "gmail"),
        ('"odd@local"@yahoo.de', "yahoo"),
        ("a@unknown.test", "other"),
        ("gmail.com", "other"),  # no at sign: somebody's name may look like a domain
        ("", "other"),
        ("a@", "other"),
        ("a@gmail.com ", "other"),
    ],
)
def test_the_mailbox_provider_follows_the_recipients_domain(recipient: str, expected: str) -> None:
    assert cells(event(recipient=recipient))[0].mailbox_provider == expected


def test_a_batch_says_where_it_came_from_and_runs_parallel_to_its_events() -> None:
    provider = Fixed(event("example.com"), event("x.test"), event("example.com"), malformed=2)
    source = Source("main", "sendgrid", provider, {"token": "t"}, domains=["example.com"])
    prepared = source.prepare(request(token="t"))
    batch = prepared.batch
    assert (batch.source, batch.provider, batch.scope, batch.received_at) == ("main", "sendgrid", "sendgrid", NOW)
    assert list(batch.events) == list(provider.parsed)
    assert [c.domain for c in batch.cells] == ["example.com", "other", "example.com"]
    assert prepared.malformed == 2


def test_nothing_is_parsed_before_it_is_proved() -> None:
    source = Source("main", "sendgrid", Fixed(), {"token": "t"})
    with pytest.raises(AuthenticationError):
        source.prepare(request(b"unreadable", token="wrong"))
    with pytest.raises(ParseError):
        source.prepare(request(b"unreadable", token="t"))


def test_hostile_names_neither_grow_the_cache_without_end_nor_make_new_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_CACHE", 500)
    provider = Fixed()
    source = Source("main", "sendgrid", provider, {}, domain="example.com", streams=["news"], domains=["example.com"])
    seen: set[Cell] = set()
    for i in range(100):
        provider.parsed = Parsed(event(f"d{i}-{j}.test", (f"t{i}-{j}",), f"a@r{i}-{j}.test") for j in range(50))
        seen.update(source.read(request()).batch.cells)
        assert len(source._cells) <= 500
    assert seen == {Cell("example.com", "sendgrid", "", "other")}


def test_long_tags_are_not_remembered() -> None:
    provider = Fixed(*(event(tags=(f"{i}" * 5000, "news")) for i in range(9)))
    source = Source("main", "sendgrid", provider, {}, streams=["news"])
    assert {c.stream for c in source.read(request()).batch.cells} == {"news"}
    assert not source._cells


def test_a_cached_label_is_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_CACHE", 3)
    provider = Fixed()
    source = Source("main", "sendgrid", provider, {}, streams=["s0", "s1"], domains=["d0.test", "d1.test"])
    many = [event(f"d{i % 3}.test", (f"s{i % 4}",), f"a@{('gmail.com', 'x.test')[i % 2]}") for i in range(60)]
    for chunk in range(0, 60, 7):
        provider.parsed = Parsed(many[chunk : chunk + 7])
        fresh = Source("main", "sendgrid", provider, {}, streams=["s0", "s1"], domains=["d0.test", "d1.test"])
        assert source.read(request()).batch.cells == fresh.read(request()).batch.cells


_names = st.text(st.characters(codec=None), max_size=20) | st.from_regex(r"[a-z.]{0,30}", fullmatch=True)


@settings(max_examples=100)
@given(domain=_names, tags=st.lists(_names, max_size=5), recipient=_names)
def test_labels_are_only_ever_configured_or_known_names(domain: str, tags: list[str], recipient: str) -> None:
    (cell,) = cells(event(domain, tuple(tags), recipient), domains=["example.com"], stream="s", streams=["news"])
    assert cell.domain in {"example.com", OTHER_DOMAIN}
    assert cell.stream in {"s", "news"}
    assert cell.mailbox_provider.replace("_", "").isalnum()


def test_a_real_provider_goes_all_the_way() -> None:
    body = json.dumps({
        "RecordType": "Delivery", "MessageID": "m1", "Recipient": "A@Hotmail.com", "MessageStream": "outbound",
        "DeliveredAt": "2025-11-24T16:00:00Z",
    }).encode()  # fmt: skip
    source = Source("pm", "postmark", PROVIDERS["postmark"], {}, domain="example.com", streams=["outbound"])
    batch = source.read(request(body)).batch
    assert batch.cells == [Cell("example.com", "postmark", "outbound", "microsoft")]
    assert batch.events[0].recipient == "a@hotmail.com"


def test_identities_of_the_generic_format_are_unique_within_their_source_alone() -> None:
    seen: list[str] = []

    def identify(scope: str, events: Sequence[Event]) -> list[bytes]:
        seen.append(scope)
        return [scope.encode() for _ in events]

    for provider in ("generic", "sendgrid"):
        for name in ("a", "b"):
            batch = Source(name, provider, Fixed(event()), {"token": "t"}, identify=identify).read(request()).batch
            assert (batch.source, batch.provider, batch.scope) == (name, provider, seen[-1])
            assert batch.identities == [seen[-1].encode()]
            assert batch.cells[0].provider == provider
    assert seen == ["generic:a", "generic:b", "sendgrid", "sendgrid"]


def sorted_out(recipients: Sequence[str], **options: object) -> tuple[dict[str, int], list[str]]:
    """Test traffic by reason, and the recipients of what is left in the batch."""
    provider = Fixed(*(event(recipient=recipient) for recipient in recipients))
    source = Source("main", "sendgrid", provider, {}, **options)  # type: ignore[arg-type]
    once, twice = source.read(request()), source.read(request())  # the second time from the cache
    assert (once.tests, once.batch.events, once.batch.cells) == (twice.tests, twice.batch.events, twice.batch.cells)
    return dict(once.tests), [e.recipient for e in once.batch.events]


def test_mail_to_seeds_is_left_out_and_counted_apart() -> None:
    seeds = ["seed@gmail.com", "seeds.example"]
    left_out = ["seed@gmail.com", "a@seeds.example", "b@deep.below.seeds.example"]
    kept = ["other@gmail.com", "seed@gmail.com.evil.test", "a@notseeds.example", "", "seed@", "seeds.example@x.test"]
    assert sorted_out([*left_out, *kept], seeds=seeds) == ({"seed": 3}, kept)
    assert sorted_out([*left_out, *kept]) == ({}, [*left_out, *kept])


def test_mail_to_a_domain_of_ones_own_is_left_out_when_that_is_wanted() -> None:
    recipients = ["boss@example.com", "x@sub.example.com", "x@example.org", "x@gmail.com"]
    assert sorted_out(recipients, domains=["example.com"]) == ({}, recipients)
    assert sorted_out(recipients, domains=["example.com"], own_domains=True) == ({"own_domain": 1}, recipients[1:])
    both = {"domains": ["example.com"], "own_domains": True, "seeds": ["example.com"]}
    assert sorted_out(recipients, **both) == ({"seed": 2}, recipients[2:])


def test_what_the_payload_calls_a_test_is_left_out_whoever_it_is_about() -> None:
    mail = [event(), Event(kind=Kind.BOUNCED, at=NOW, recipient="seed@gmail.com", test=True), event("x.test")]
    source = Source("main", "sendgrid", Fixed(*mail), {}, seeds=["seed@gmail.com"])
    prepared = source.read(request())
    assert prepared.tests == {"vendor": 1}
    assert list(prepared.batch.events) == [mail[0], mail[2]]
    assert len(prepared.batch.cells) == 2


@pytest.mark.parametrize(
    ("provider", "recipient"),
    [
        ("resend", "delivered@resend.dev"),
        ("resend", "bounced+user-1@resend.dev"),
        ("sendgrid", "example@test.com"),
        ("sendgrid", "any@sink.sendgrid.net"),
        ("sparkpost", "anna@yahoo.com.sink.sparkpostmail.com"),
        ("postmark", "hardbounce@bounce-testing.postmarkapp.com"),
        ("postmark", "test@blackhole.postmarkapp.com"),
    ],
)
def test_a_vendors_own_recipients_are_tests(provider: str, recipient: str) -> None:
    class Mixed(Fixed):
        TEST_RECIPIENTS = getattr(PROVIDERS[provider], "TEST_RECIPIENTS", ())

    people = [event(recipient=f"{recipient}.example"), event(recipient="anna@gmail.com")]
    source = Source("main", provider, Mixed(event(recipient=recipient), *people), {})
    prepared = source.read(request())
    assert prepared.tests == {"vendor": 1}
    assert list(prepared.batch.events) == people


def test_identities_are_those_of_the_events_that_are_left() -> None:
    mail = [event(recipient=f"{name}@x.test") for name in ("a", "seed", "b", "c")]
    source = Source(
        "main", "sendgrid", Fixed(*mail), {}, seeds=["seed@x.test"],
        identify=lambda scope, events: [e.recipient.encode() for e in events],
    )  # fmt: skip
    batch = source.read(request()).batch
    assert batch.identities == [b"a@x.test", b"b@x.test", b"c@x.test"]
    assert len(batch.cells) == 3


def test_test_traffic_grows_the_cache_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_CACHE", 50)
    provider = Fixed()
    source = Source("main", "sendgrid", provider, {}, seeds=["seeds.test", *(f"s@r{i}.test" for i in range(200))])
    for i in range(200):
        provider.parsed = Parsed(event(f"d{i}.test", recipient=f"{name}@r{i}.test") for name in ("s", "t"))
        provider.parsed.append(event(recipient=f"x@r{i}.seeds.test"))
        provider.parsed.append(event(recipient=f"x@plain{i}.test"))
        assert source.read(request()).tests == {"seed": 2}
        assert len(source._cells) + len(source._places) <= 50


def test_a_domain_that_waits_is_asked_for_once_a_batch_and_again_in_the_next() -> None:
    known: dict[str, str] = {}
    asked: list[str] = []

    def mailbox(domain: str) -> str:
        asked.append(domain)
        return known.get(domain, f"?{domain}")

    said = [event(recipient=f"{i}@example.net") for i in range(3)]
    source = Source("main", "sendgrid", Fixed(*said), {"token": "t"}, mailbox=mailbox)
    assert {c.mailbox_provider for c in source.read(request()).batch.cells} == {"?example.net"}
    assert asked == ["example.net"]
    known["example.net"] = "zoho"
    for _ in range(2):
        assert {c.mailbox_provider for c in source.read(request()).batch.cells} == {"zoho"}
    assert asked == ["example.net"] * 2


def test_a_known_mailbox_provider_is_asked_for_again_every_hour() -> None:
    names = iter(["zoho", "gmail"])
    source = Source("main", "sendgrid", Fixed(event()), {"token": "t"}, mailbox=lambda _: next(names))

    def label(at: float) -> str:
        (cell,) = source.read(WebhookRequest("POST", "/webhooks/main", "", {}, b"", at)).batch.cells
        return cell.mailbox_provider

    hour = NOW // 3600 * 3600
    assert [label(hour), label(hour + 3599), label(hour + 3600)] == ["zoho", "zoho", "gmail"]
