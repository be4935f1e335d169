"""Mailgun: the signature within the body, both kinds of posts, and every row of the mapping."""

from __future__ import annotations

import hmac
import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import AuthenticationError, ParseError, mailgun
from agent.simulate import SIMULATORS
from tests.providers.cases import NOW, request, signed

# Computed once with an invented key.
KEY = "key-test-0123456789abcdef"
TOKEN = "0123456789abcdef0123456789abcdef0123456789abcdef01"
SIGNATURE = "00acb9dc07fc205f70729668f70bb604de74560916cb92014974119b829ba634"
PROOF = {"timestamp": "1700000000", "token": TOKEN, "signature": SIGNATURE}
DATA = {"event": "delivered", "timestamp": 1700000000.25, "recipient": "R@example.com"}
CREDENTIALS = {"signing_key": KEY}


def _json(**proof: object) -> bytes:
    return json.dumps({"signature": PROOF | proof, "event-data": DATA}).encode()


def _multipart(*pairs: tuple[str, str], boundary: str = "3b1c0f") -> bytes:
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in pairs]
    attached = f'--{boundary}\r\nContent-Disposition: form-data; name="event"; filename="m.eml"\r\n\r\nopened\r\n'
    return ("".join(parts) + attached + f"--{boundary}--\r\n").encode()


@pytest.mark.parametrize(
    "body",
    [
        _json(),
        _json(timestamp=1700000000),
        _json().replace(b"R@", b"\xff@"),
        urlencode({"event": "opened"} | PROOF).encode(),
        # A variable of the sender's that shadows a field comes first.
        urlencode([("token", "x"), ("timestamp", "1"), ("signature", "y"), *PROOF.items()]).encode(),
        _multipart(("event", "bounced"), *PROOF.items()),
    ],
)
@pytest.mark.parametrize("key", [KEY, ["other", KEY], ("", KEY)])
def test_vector_is_accepted_in_every_kind_of_body(body: bytes, key: str) -> None:
    mailgun.authenticate(request(body), {"signing_key": key})


@pytest.mark.parametrize("name", PROOF)
@pytest.mark.parametrize(
    "value", ["", " ", None, 0, [], {}, "x", "é", "\ud800", "1700000001", TOKEN, SIGNATURE.upper(), SIGNATURE[:-1],
              SIGNATURE + "0", "00" * 32, "1" * 5000, "²", "+1700000000", " 1700000000"],
)  # fmt: skip
def test_whatever_was_not_signed_is_refused(name: str, value: object) -> None:
    if PROOF[name] == value:
        return
    proofs = {k: v for k, v in (PROOF | {name: value}).items() if v is not None}
    form = urlencode({k: str(v).encode("utf-8", "replace") for k, v in proofs.items()}).encode()
    bodies = [_json(**{name: value}), json.dumps({"signature": proofs, "event-data": DATA}).encode(), form]
    for body in bodies:
        with pytest.raises(AuthenticationError):
            mailgun.authenticate(request(body), CREDENTIALS)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"[" * 100_000, b'{"event-data":{}}', b'{"signature":null}', b'{"signature":"x"}',
        b'{"signature":[1]}', b"--", b"--x", b"--" * 1000, b"--b\r\n" * 2000, b"a=1&" * 2000, b"\xff",
        b"--" + b"x" * 100 + b"\r\n",
    ],
)  # fmt: skip
def test_without_a_proof_nothing_is_accepted(body: bytes) -> None:
    with pytest.raises(AuthenticationError):
        mailgun.authenticate(request(body), CREDENTIALS)


def test_keys_of_others_do_not_match() -> None:
    with pytest.raises(AuthenticationError):
        mailgun.authenticate(request(_json()), {"signing_key": [KEY[:-1], KEY + "0", "é"]})
    # A digit that moves from the token into the timestamp leaves the signed text as it is, but not the time.
    shifted = {"timestamp": "17000000000", "token": TOKEN[1:]}
    assert hmac.digest(KEY.encode(), "".join(shifted.values()).encode(), "sha256").hex() == SIGNATURE
    with pytest.raises(AuthenticationError):
        mailgun.authenticate(request(_json(**shifted)), CREDENTIALS)


@pytest.mark.parametrize("age", [0, 8 * 3600, 9 * 3600, -1, -600])
def test_age_within_the_window(age: float) -> None:
    mailgun.authenticate(request(_json(), at=NOW + age), CREDENTIALS)


@pytest.mark.parametrize("age", [9 * 3600 + 1, 10**7, -601])
def test_age_outside_the_window(age: float) -> None:
    with pytest.raises(AuthenticationError):
        mailgun.authenticate(request(_json(), at=NOW + age), CREDENTIALS)


def test_any_text_may_be_a_key() -> None:
    assert mailgun.validate_credentials(CREDENTIALS) is None


def test_a_retry_bears_the_same_token() -> None:
    keys = SIMULATORS["mailgun"].new_credentials()
    bodies = [json.loads(signed("mailgun", _json(), keys.signing, NOW + at).body) for at in (0, 60)]
    assert bodies[0]["signature"]["token"] == bodies[1]["signature"]["token"]
    assert bodies[0]["signature"] != bodies[1]["signature"]
    with pytest.raises(ValueError):
        SIMULATORS["mailgun"].sign(b"", {}, NOW)


def _one(*, status: dict[str, object] | None = None, **changes: object) -> Event:
    data = DATA | {"message": {"headers": {"message-id": "m1@shop.example"}}, "id": "e1"} | changes
    if status is not None:
        data["delivery-status"] = status
    parsed = mailgun.parse(request(json.dumps({"signature": PROOF, "event-data": data}).encode()))
    assert parsed.malformed == 0
    (event,) = parsed
    return event


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("accepted", "accepted"),
        ("rejected", "dropped"),
        ("delivered", "delivered"),
        ("complained", "complained"),
        ("unsubscribed", "unsubscribed"),
        ("opened", "opened"),
        ("clicked", "clicked"),
        ("stored", "other"),
        ("list_member_uploaded", "other"),
        ("brand new", "other"),
    ],
)
def test_events(name: str, kind: str) -> None:
    event = _one(event=name, status=None, url="https://example.com/a", reject={"reason": "Sandbox"})
    assert (event.kind, event.provider_event, event.at) == (kind, name, NOW + 0.25)
    assert (event.recipient, event.message_id, event.event_id) == ("r@example.com", "m1@shop.example", "e1")
    assert event.discriminator == ("https://example.com/a" if kind == "clicked" else "")
    assert event.reason == ("Sandbox" if kind == "dropped" else "")


USER = "550 5.1.1 unknown user"
SPAM = "550 5.7.1 refused"
VAGUE = "554 5.5.0 transaction failed"


@pytest.mark.parametrize(
    ("reason", "code", "text", "kind", "bounce_class"),
    [
        ("suppress-bounce", 605, "Not delivering to previously bounced address", "dropped", None),
        ("suppress-complaint", 607, "", "dropped", None),
        ("suppress-unsubscribe", None, "", "dropped", None),
        ("generic", 605, "", "dropped", None),
        ("generic", "606", "", "dropped", None),
        (None, 607, "", "dropped", None),
        ("espblock", 550, USER, "bounced", "block"),
        ("generic", 498, "No MX for nowhere.example", "bounced", "hard"),
        ("bounce", 498, "", "bounced", "hard"),
        ("old", 451, "450 4.2.0 later", "bounced", "soft"),
        ("old", 602, "Too old", "bounced", "soft"),
        ("generic", 499, "Too many attempts", "bounced", "soft"),
        ("bounce", 550, USER, "bounced", "hard"),
        ("bounce", 550, SPAM, "bounced", "block"),
        ("bounce", 554, VAGUE, "bounced", "hard"),
        ("bounce", 552, "mailbox full", "bounced", "soft"),
        ("generic", 550, USER, "bounced", "hard"),
        ("generic", 550, SPAM, "bounced", "block"),
        ("generic", 554, VAGUE, "bounced", "undetermined"),
        ("hardfail", 554, VAGUE, "bounced", "undetermined"),
        (None, None, "", "bounced", "undetermined"),
    ],
)
def test_permanent_failures(reason: str | None, code: object, text: str, kind: str, bounce_class: str | None) -> None:
    status = {"code": code, "message": text, "attempt-no": 3}
    event = _one(event="failed", severity="permanent", reason=reason, status=status)
    assert (event.kind, event.bounce_class, event.asynchronous) == (kind, bounce_class, False)
    assert (event.provider_event, event.discriminator) == ("failed", "")
    deferred = _one(event="failed", severity="temporary", reason=reason, status=status)
    assert (deferred.kind, deferred.bounce_class, deferred.discriminator) == ("deferred", None, "3")


@pytest.mark.parametrize(
    ("text", "bounce_class"), [(USER, "hard"), (SPAM, "block"), (VAGUE, "undetermined"), ("452 4.2.2 full", "soft")]
)
def test_delayed_bounces_are_asynchronous_and_judged_by_their_text(text: str, bounce_class: str) -> None:
    event = _one(
        event="failed", severity="permanent", reason="bounce", flags={"is-delayed-bounce": True},
        status={"message": text}, envelope={},
        message={"headers": {"message-id": "m1@x.example", "from": "Shop <a@B.example>"}},
    )  # fmt: skip
    assert (event.kind, event.asynchronous, event.bounce_class) == ("bounced", True, bounce_class)
    assert (event.domain, event.message_id) == ("b.example", "m1@x.example")


@pytest.mark.parametrize("name", ["delivered", "failed", "complained", "opened"])
@pytest.mark.parametrize("flag", ["is-test-mode", "is-system-test"])
def test_mail_in_test_mode_is_a_test_of_its_kind(name: str, flag: str) -> None:
    assert _one(event=name, severity="permanent", flags={flag: True}).test
    assert _one(event=name, severity="permanent", flags={flag: "true"}).test
    plain = _one(event=name, severity="permanent", flags={flag: False})
    assert not plain.test
    assert plain.kind == _one(event=name, severity="permanent", flags={flag: True}).kind


@pytest.mark.parametrize("number", ["20130503182626.18666.16540", "20130503192659.13651.20287"])
def test_the_samples_of_the_webhook_tester_are_tests(number: str) -> None:
    sample = {"headers": {"message-id": f"{number}@mg.example.com", "to": "Alice <alice@example.com>"}}
    assert _one(event="delivered", message=sample).test
    assert not _one(event="delivered", message={"headers": {"message-id": f"1{number}@mg.example.com"}}).test


@pytest.mark.parametrize(
    ("to", "recipients"),
    [
        ("Joan <Joan@example.com>", ["joan@example.com"]),
        ('"A, B" <a@x.example>, b@y.example, a@x.example', ["a@x.example", "b@y.example"]),
        ("nobody", [""]),
        ("", [""]),
    ],
)
def test_a_rejected_message_is_dropped_for_each_of_its_recipients(to: str, recipients: list[str]) -> None:
    data = {"event": "rejected", "timestamp": 1700000000, "message": {"headers": {"message-id": "m1", "to": to}}}
    parsed = mailgun.parse(request(json.dumps({"event-data": data}).encode()))
    assert [(e.kind, e.recipient) for e in parsed] == [("dropped", each) for each in recipients]


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"envelope": {"sender": "bounce+a=b@MG.shop.example"}}, "domain", "mg.shop.example"),
        ({"message": {"headers": {"from": "Jo <a@b.example>"}}}, "domain", "b.example"),
        ({}, "domain", "shop.example"),
        ({"message": {"headers": {"message-id": "<1@localhost>"}}}, "domain", ""),
        ({"message": {"headers": {"message-id": "<1@x.example>"}}}, "message_id", "1@x.example"),
        ({"message": None, "envelope": None, "flags": None, "tags": None}, "message_id", ""),
        ({"message": [], "envelope": "x", "flags": 7, "tags": {}}, "domain", ""),
        ({"tags": ["a", 7, None, ""]}, "tags", ("a", "7")),
        ({"tags": "a"}, "tags", ("a",)),
        ({"tags": [str(n) for n in range(50)]}, "tags", tuple(str(n) for n in range(32))),
        ({"timestamp": "1700000000.5"}, "at", NOW + 0.5),
        ({"recipient": None}, "recipient", ""),
        ({"recipient": 5}, "recipient", "5"),
        ({"id": "x" * 600}, "event_id", "x" * 512),
        ({"event": "joan@example.com"}, "provider_event", "<address>"),
        ({"delivery-status": None}, "kind", "delivered"),
        ({"delivery-status": [1]}, "kind", "delivered"),
        ({"severity": 5, "flags": {"is-delayed-bounce": "true"}, "event": "failed"}, "asynchronous", True),
    ],
)
def test_fields(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        ({"code": 550, "enhanced-code": "5.2.1", "message": "550 5.1.1 x"}, (550, "5.2.1")),
        ({"code": 550, "enhanced-code": "", "message": "550 5.1.1 x"}, (550, "5.1.1")),
        ({"code": 498, "enhanced-code": "", "message": "No MX"}, (None, "")),
        ({"code": 499, "message": "421 4.4.2 lost"}, (421, "4.4.2")),
        ({"code": "5.1.1", "message": ""}, (None, "5.1.1")),
        ({"code": "550"}, (550, "")),
        ({"code": [], "message": 7}, (None, "")),
        ({"description": "550 5.1.1 x"}, (550, "5.1.1")),
    ],
)
def test_codes(status: dict[str, object], codes: tuple[int | None, str]) -> None:
    event = _one(event="failed", severity="permanent", status=status)
    assert (event.smtp_code, event.enhanced_code) == codes


# The older kind.

FORM = {
    "recipient": "r@example.com", "domain": "shop.example", "Message-Id": "<m1@host.example>", "tag": "news", **PROOF,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "kind", "bounce_class"),
    [
        ({"event": "delivered"}, "delivered", None),
        ({"event": "opened"}, "opened", None),
        ({"event": "clicked", "url": "https://example.com"}, "clicked", None),
        ({"event": "complained"}, "complained", None),
        ({"event": "unsubscribed"}, "unsubscribed", None),
        ({"event": "bounced", "code": "550", "error": USER}, "bounced", "hard"),
        ({"event": "bounced", "code": "5.1.1", "error": "smtp; unknown"}, "bounced", "hard"),
        ({"event": "bounced", "code": "5.7.1"}, "bounced", "block"),
        ({"event": "bounced", "code": "554", "error": VAGUE}, "bounced", "hard"),
        ({"event": "dropped", "reason": "hardfail", "code": "605", "description": "Not delivering"}, "dropped", None),
        ({"event": "dropped", "reason": "hardfail", "code": "550", "description": USER}, "bounced", "hard"),
        ({"event": "dropped", "reason": "old", "code": "602", "description": "Too old"}, "bounced", "soft"),
        ({"event": "brand new"}, "other", None),
    ],
)
def test_form_posts(fields: dict[str, str], kind: str, bounce_class: str | None) -> None:
    pairs = {**FORM, **fields}
    bodies = [urlencode(pairs).encode(), _multipart(*pairs.items())]
    given = [mailgun.parse(request(body)) for body in bodies]
    assert given[0] == given[1]
    (event,) = given[0]
    assert (event.kind, event.bounce_class, event.provider_event) == (kind, bounce_class, fields["event"])
    assert (event.recipient, event.message_id, event.at) == ("r@example.com", "m1@host.example", NOW)
    assert (event.domain, event.tags) == ("shop.example", ("news",))


def test_variables_of_the_sender_do_not_shadow_the_fields_of_a_form() -> None:
    pairs = [("event", "opened"), ("timestamp", "5"), *FORM.items(), ("event", "delivered")]
    (event,) = mailgun.parse(request(urlencode(pairs).encode()))
    assert (event.kind, event.at) == ("opened", NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"event=delivered", b"event=delivered&timestamp=soon", b"signature=x", b'{"event-data":{}}',
        b'{"event-data":null}', b'{"event-data":{"event":7,"timestamp":[]}}', _multipart(("event", "opened")),
    ],
)  # fmt: skip
def test_without_name_or_time_it_is_malformed(body: bytes) -> None:
    parsed = mailgun.parse(request(body))
    assert (list(parsed), parsed.malformed) == ([], 1)


@pytest.mark.parametrize(
    "body", [b"event=x&" * 2000, b"[]", b'{"event":"x"}', b"event", b"--b\r\n" * 2000, b"--" + b"x" * 200, b"--b--"]
)
def test_what_is_no_event_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        mailgun.parse(request(body))


@given(
    st.lists(st.tuples(st.sampled_from([*FORM, "event", "code", "error", "to", "url"]), st.text(max_size=30))),
    st.booleans(),
    st.binary(max_size=30),
)
def test_any_form_gives_an_event_or_a_parse_error(pairs: list[tuple[str, str]], parts: bool, junk: bytes) -> None:
    body = (
        _multipart(*pairs).replace(b"3b1c", junk or b"3b1c") if parts else urlencode(pairs, errors="replace").encode()
    )
    with pytest.raises(AuthenticationError):
        mailgun.authenticate(request(body), CREDENTIALS)
    try:
        parsed = mailgun.parse(request(body))
    except ParseError:
        return
    assert bool(parsed) != bool(parsed.malformed)
