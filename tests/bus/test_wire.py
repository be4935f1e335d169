"""What crosses the broker: complete for the ledger, free of addresses, and worth nothing to who has no key."""

from __future__ import annotations

import json
from array import array

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bus.wire import (
    BODY_BYTES,
    EVENTS_A_MESSAGE,
    EVENTS_BYTES,
    Confirmation,
    Header,
    Rejected,
    Seal,
    confirm,
    confirmed,
    join,
    pack,
    sign,
    to_wire,
    unpack,
    verify,
)
from agent.events import REASON_LENGTH, BounceClass, Event, Kind
from agent.intake.mailboxes import is_host
from agent.ledger.base import Batch, Cell
from agent.ledger.columns import Columns, to_columns
from agent.ledger.identity import DIGEST_BYTES, Identifier

KEY, OTHER = b"k" * 32, b"o" * 32
HEADER = Header("events", "0" * 32, "sg", "sendgrid", "sendgrid", "edge-1", 1000.5, "example.com")
CELL = Cell("example.com", "sendgrid", "news", "gmail")
IDENTIFIER = Identifier(b"i" * 32)


def batch(*events: Event, token: str = "", digest: bytes = b"") -> Batch:
    return Batch(
        "sg", "sendgrid", "sendgrid", 1000.5, events, [CELL] * len(events), IDENTIFIER.of("sendgrid", events), token,
        digest,
    )  # fmt: skip


def encoded(one: Batch) -> list[bytes]:
    return [join([part]) for _, part in pack(to_wire(one, IDENTIFIER.digests, is_host))]


def there_and_back(one: Batch) -> list[Columns]:
    return [b for payload in encoded(one) for b in unpack(HEADER, payload, lambda header, event: CELL)]


def rejected(properties: dict[str, str], payload: bytes, *keys: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        unpack(verify(properties, payload, keys or (KEY,)), payload, lambda header, event: CELL)
    return caught.value.reason


texts = st.text(max_size=40)
events = st.builds(
    Event,
    kind=st.sampled_from(Kind),
    at=st.floats(0, 4e9),
    recipient=st.sampled_from(["a@gmail.com", "", "x@[192.0.2.1]", "no at sign", "b@münchen.example"]) | texts,
    message_id=texts,
    bounce_class=st.sampled_from([None, *BounceClass]),
    domain=texts,
    smtp_code=st.none() | st.integers(-5, 2000),
    enhanced_code=texts,
    reason=st.text(max_size=REASON_LENGTH),
    asynchronous=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=5), st.text(st.characters(codec="ascii"), max_size=60), st.binary(max_size=16))
def test_what_the_ledger_needs_of_any_events_comes_through(given: list[Event], token: str, digest: bytes) -> None:
    sent = batch(*given, token=token, digest=digest)
    (got,) = there_and_back(sent)
    meant = to_columns(sent, IDENTIFIER)
    same = ("source", "scope", "received_at", "times", "kinds", "identities", "pairs", "token", "body_digest")
    for name in same if given else same[:-2]:
        assert getattr(got, name) == getattr(meant, name), name
    for had, has in zip(meant.bounces, got.bounces, strict=True):
        assert (has.position, has.bounce_class, has.asynchronous, has.named) == (
            had.position, had.bounce_class, had.asynchronous, had.named,
        )  # fmt: skip


def test_an_event_counts_in_the_cell_of_its_own_domain_and_stream() -> None:
    given = [
        Event(Kind.DELIVERED, 5.0, f"r@{recipient}", f"m{n}", domain=domain)
        for n, (domain, recipient) in enumerate([("a.example", "x.example"), ("b.example", "x.example")] * 3)
    ]
    (payload,) = encoded(batch(*given))
    (got,) = unpack(HEADER, payload, lambda _, event: Cell(event.domain, "", event.stream, event.recipient_domain))
    assert [got.cells[place] for place in array("I", got.places)] == [
        Cell(event.domain, "", "news", "x.example") for event in given
    ]


def test_neither_recipient_nor_message_id_is_on_the_bus() -> None:
    one = Event(
        Kind.BOUNCED, 5.0, recipient="jane.roe@mail.example", message_id="<secret-id@mx.example>", event_id="secret-2",
        domain="jane.roe@example.com", reason="550 <address> unknown", discriminator="https://secret.example",
    )  # fmt: skip
    (payload,) = encoded(batch(one))
    assert b"jane" not in payload
    assert b"secret" not in payload
    (event,) = json.loads(payload)
    assert event["recipient_domain"] == "mail.example"
    assert event["recipient_hash"] == IDENTIFIER.digest("jane.roe@mail.example").hex()
    assert event["has_message_id"] is True


@pytest.mark.parametrize("recipient", ["jane roe", "jane%40mail.example", "a@[192.0.2.1]", "a@jane_roe", "a@b@c d"])
def test_what_is_no_host_name_stays_at_the_edge(recipient: str) -> None:
    (payload,) = encoded(batch(Event(Kind.OPENED, 5.0, recipient=recipient)))
    assert "recipient_domain" not in json.loads(payload)[0]


def test_large_batches_are_cut_by_number_and_by_size() -> None:
    many = encoded(batch(*(Event(Kind.DELIVERED, float(n), message_id=f"m{n}") for n in range(EVENTS_A_MESSAGE + 1))))
    assert [len(json.loads(p)) for p in many] == [EVENTS_A_MESSAGE, 1]
    worst = Event(Kind.BOUNCED, 1.0, message_id="m", reason='"' * REASON_LENGTH, bounce_class=BounceClass.HARD)
    large = encoded(batch(*[worst] * 300))
    assert len(large) > 1
    assert all(len(p) <= EVENTS_BYTES for p in large)
    assert sum(len(json.loads(p)) for p in large) == 300


def test_a_batch_without_events_is_a_sign_of_life() -> None:
    (payload,) = encoded(batch())
    assert payload == b"[]"
    (got,) = there_and_back(batch())
    assert not got.size
    assert got.received_at == 1000.5


def test_requests_with_tokens_stay_apart() -> None:
    delivered = Event(Kind.DELIVERED, 1.0, message_id="m")
    ones = [batch(delivered, token="a", digest=b"1"), batch(delivered), batch(delivered), batch(delivered, token="b")]
    parts = [part for one in ones for _, part in pack(to_wire(one, IDENTIFIER.digests, is_host))]
    got = unpack(HEADER, join(parts), lambda header, event: CELL)
    assert [(b.token, b.body_digest, b.size) for b in got] == [("a", b"1", 1), ("", b"", 2), ("b", b"", 1)]


def test_either_key_of_a_rotation_is_believed_and_no_other() -> None:
    for signing in (KEY, OTHER):
        assert verify(sign(HEADER, b"[]", signing), b"[]", (KEY, OTHER)) == HEADER
    assert rejected(sign(HEADER, b"[]", b"x" * 32), b"[]", KEY, OTHER) == "forged"


def test_nothing_that_is_signed_can_be_changed() -> None:
    good = sign(HEADER, b"[]", KEY)
    assert verify(good | {"added-by-a-bridge": "1"}, b"[]", (KEY,)) == HEADER
    assert rejected(good, b"[] ") == "forged"
    for name in good:
        assert rejected(good | {name: "x"}, b"[]") == "forged", name
        assert rejected({k: v for k, v in good.items() if k != name}, b"[]") == "forged", name
    # Nor may one value flow into the next.
    assert rejected(good | {"source": "sgs", "provider": "endgrid"}, b"[]") == "forged"


@pytest.mark.parametrize("payload", [
    b"", b"{}", b"nonsense", b"[1]", b"[" * 5000, b'[{"kind":"delivered","at":1}]',
    b'[{"id":"xyz","kind":"delivered","at":1}]', b'[{"id":"%s","kind":"eaten","at":1}]' % (b"0" * 24),
    b'[{"id":"%s","kind":"deferred","at":1}]' % (b"0" * 24),
    b'[{"id":"%s","kind":"opened","pair":"%s","at":1}]' % (b"0" * 24, b"0" * 24),
    b'[{"id":"%s","kind":"opened","at":"now"}]' % (b"0" * 24),
    b'[{"id":"%s","kind":"opened","at":1}]' % (b"0 " * 12), b'[{"id":"%s","kind":"opened","at":1}]' % (b"g" * 24),
    b'[{"id":"%s","kind":"deferred","pair":"12","at":1}]' % (b"0" * 24),
])  # fmt: skip
def test_authentic_nonsense_is_unreadable_and_says_whose(payload: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        unpack(verify(sign(HEADER, payload, KEY), payload, (KEY,)), payload, lambda header, event: CELL)
    assert (caught.value.reason, caught.value.header) == ("unreadable", HEADER)


def test_too_many_and_too_large_are_refused() -> None:
    event = b'{"id":"%s","kind":"opened","at":1}' % (b"0" * 24)
    many = join([event] * (EVENTS_A_MESSAGE + 1))
    assert rejected(sign(HEADER, many, KEY), many) == "too_large"
    padded = b"[" + b" " * EVENTS_BYTES + b"]"
    assert rejected(sign(HEADER, padded, KEY), padded) == "too_large"
    huge = b"x" * (5 * 1024 * 1024)
    assert rejected(sign(HEADER, huge, KEY), huge) == "too_large"


def test_a_newer_version_adds_fields_and_a_newer_format_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    event = b'[{"id":"%s","kind":"opened","at":1,"mood":"fine"}]' % (b"0" * 24)
    assert len(unpack(HEADER, event, lambda header, event: CELL)) == 1
    monkeypatch.setattr("agent.bus.wire.VERSION", "2")
    newer = sign(HEADER, b"[]", KEY)
    monkeypatch.undo()
    assert rejected(newer, b"[]") == "version"


@pytest.mark.parametrize("change", [
    {"source": "SG"}, {"source": "a/b"}, {"edge": "#"}, {"edge": "a/b"}, {"id": "1"}, {"provider": "x y"},
    {"what": "else"}, {"domain": "d" * 254},
])  # fmt: skip
def test_even_who_has_the_key_names_nothing_odd(change: dict[str, str]) -> None:
    odd = msgspec.structs.replace(HEADER, **change)
    assert rejected(sign(odd, b"[]", KEY), b"[]") == "unreadable"


def test_a_confirmation_is_worth_nothing_without_the_key_or_for_another_message() -> None:
    properties, payload = confirm(Confirmation("a" * 32, "counted"), KEY)
    assert confirmed(properties, payload, (OTHER, KEY)) == Confirmation("a" * 32, "counted")
    forged = payload.replace(b"a" * 32, b"b" * 32)
    for bad, key in ((forged, KEY), (payload, OTHER), (b"x" * 2000, KEY)):
        with pytest.raises(Rejected, match="signature"):
            confirmed(properties, bad, (key,))
    # Neither is the signature of a message one of a confirmation.
    with pytest.raises(Rejected, match="signature"):
        confirmed(sign(HEADER, payload, KEY), payload, (KEY,))


def test_a_seal_opens_for_the_same_key_about_the_same_thing() -> None:
    seal = Seal(b"i" * 40)
    sealed = seal.close(b"plain", b"n" * 12, "quarantine sg")
    assert b"plain" not in sealed
    assert Seal(b"i" * 40).open(sealed, "quarantine sg") == b"plain"
    for other, text in ((Seal(b"j" * 40), "quarantine sg"), (seal, "quarantine pm")):
        with pytest.raises(ValueError, match="altered"):
            other.open(sealed, text)
    with pytest.raises(ValueError, match="Nonce"):
        seal.open(b"", "quarantine sg")
    assert BODY_BYTES > 10 * 1024 * 1024
    assert DIGEST_BYTES == 12
