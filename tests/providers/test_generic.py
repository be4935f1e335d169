"""The generic format: the signature to the byte, every field, and CloudEvents."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Event, Kind
from agent.providers import AuthenticationError, ParseError, generic
from tests.providers.cases import NOW, request

SECRET, BODY = "generic-test-secret", b'[{"kind":"delivered","at":1700000000}]\n'
CREDENTIALS = {"signing_secret": ["another-test-secret", SECRET]}
PAGE = Path(__file__).parents[2] / "docs" / "providers" / "generic.md"


def _signature(body: bytes = BODY, timestamp: str = "1700000000") -> str:
    return hmac.new(SECRET.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _headers(signature: str | None = None, timestamp: str = "1700000000") -> dict[str, str]:
    return {
        "x-mailvitals-timestamp": timestamp,
        "x-mailvitals-signature": _signature() if signature is None else signature,
    }


def test_signature_is_accepted_within_the_hour() -> None:
    for age in (0, 3600, -600):
        generic.authenticate(request(BODY, _headers(), NOW + age), CREDENTIALS)
    for age in (3601, -601):
        with pytest.raises(AuthenticationError):
            generic.authenticate(request(BODY, _headers(), NOW + age), CREDENTIALS)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, {}),
        (BODY.rstrip(), _headers()),
        (BODY.replace(b"delivered", b"bounced"), _headers()),
        (json.dumps(json.loads(BODY)).encode(), _headers()),
        (b"", _headers()),
        *[
            (BODY, _headers(s))
            for s in ("", " ", "0", "é", "0" * 64, "0" * 63, _signature()[:-1], _signature().upper())
        ],
        (BODY, _headers(hmac.new(b"x", b"1700000000." + BODY, hashlib.sha256).hexdigest())),
        (BODY, _headers(hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest())),
        *[(BODY, _headers(timestamp=t)) for t in ("", " ", "1700000001", "x", "²", "1" * 5000, "1700000000.0", "-1")],
    ],
)
def test_whatever_was_not_signed_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        generic.authenticate(request(body, headers), CREDENTIALS)


def test_short_secrets_are_reported() -> None:
    assert "16" in (generic.validate_credentials({"signing_secret": [SECRET, "short"]}) or "")
    assert generic.validate_credentials(CREDENTIALS) is None


def test_the_documented_commands_sign() -> None:
    text = PAGE.read_text("utf-8")
    script = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert script is not None
    lines = [line for line in script[1].splitlines() if line.startswith(("body=", "timestamp=", "signature="))]
    shell = "\n".join([f"secret={SECRET}", *lines, 'printf "%s\\n%s\\n%s" "$timestamp" "$signature" "$body"'])
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", shell], capture_output=True, check=True, text=True)
    timestamp, signature, body = done.stdout.split("\n", 2)
    given = request(body.encode(), _headers(signature, timestamp), float(timestamp))
    generic.authenticate(given, CREDENTIALS)
    assert [event.kind for event in generic.parse(given)] == ["delivered"]
    event = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert event is not None
    (bounce,) = generic.parse(request(event[1].encode()))
    assert (bounce.kind, bounce.bounce_class, bounce.event_id) == ("bounced", "hard", "/mta/1 17")


def _one(**fields: object) -> Event:
    one = json.dumps({"kind": "bounced", "at": 1700000000} | fields)
    parsed, batched = generic.parse(request(one.encode())), generic.parse(request(f"[{one}]".encode()))
    assert parsed == batched
    assert parsed.malformed == 0
    (event,) = parsed
    return event


@pytest.mark.parametrize("kind", [*Kind, "invented"])
def test_kinds(kind: str) -> None:
    event = _one(kind=kind, reason="550 5.1.1 <joan@example.com> user unknown")
    assert event.kind == (kind if kind in list(Kind) else "other")
    assert (event.at, event.provider_event) == (NOW, kind)
    explained = kind in ("bounced", "deferred", "dropped")
    assert event.reason == ("550 5.1.1 <<address>> user unknown" if explained else "")
    assert (event.smtp_code, event.enhanced_code) == ((550, "5.1.1") if explained else (None, ""))
    assert event.bounce_class == ("hard" if kind == "bounced" else None)


@pytest.mark.parametrize(
    ("fields", "attribute", "expected"),
    [
        ({"at": "2023-11-14T23:13:20+01:00"}, "at", NOW),
        ({"at": 1700000000123}, "at", NOW + 0.123),
        ({"at": "1700000000"}, "at", NOW),
        ({"recipient": "R <R@Example.com>"}, "recipient", "r@example.com"),
        ({"message_id": 7}, "message_id", "7"),
        ({"event_id": "e1"}, "event_id", "e1"),
        ({"bounce_class": "block"}, "bounce_class", "block"),
        ({"bounce_class": "invented"}, "bounce_class", "undetermined"),
        ({"bounce_class": "invented", "enhanced_code": "5.1.1"}, "bounce_class", "hard"),
        ({"domain": " B.example"}, "domain", "b.example"),
        ({"stream": "news", "tags": ["a", 7, None, {}]}, "tags", ("news", "a", "7")),
        ({"tags": "a"}, "tags", ("a",)),
        ({"smtp_code": 452}, "smtp_code", 452),
        ({"smtp_code": "452", "reason": "550 no"}, "smtp_code", 452),
        ({"smtp_code": 10**9}, "smtp_code", None),
        ({"enhanced_code": "4.2.2", "reason": "550 5.1.1 no"}, "enhanced_code", "4.2.2"),
        ({"enhanced_code": "x"}, "enhanced_code", ""),
        ({"asynchronous": True}, "asynchronous", True),
        ({"asynchronous": "yes"}, "asynchronous", False),
        ({"discriminator": "2"}, "discriminator", "2"),
        ({"kind": "joan@example.com"}, "provider_event", "<address>"),
    ],
)
def test_fields(fields: dict[str, object], attribute: str, expected: object) -> None:
    assert getattr(_one(**fields), attribute) == expected


CLOUD = {
    "specversion": "1.0",
    "id": "17",
    "source": "/mta/1",
    "type": "com.example.mail.delivered",
    "time": "2023-11-14T22:13:20Z",
    "data": {"message_id": "m1", "recipient": "r@example.com"},
}


def test_cloud_events_lend_kind_time_and_id() -> None:
    for body in (json.dumps(CLOUD), json.dumps([CLOUD, CLOUD])):
        for event in generic.parse(request(body.encode())):
            assert (event.kind, event.at, event.event_id) == ("delivered", NOW, "/mta/1 17")
            assert (event.message_id, event.recipient) == ("m1", "r@example.com")
    own = {"kind": "opened", "at": 1700000001, "event_id": "e1"}
    (event,) = generic.parse(request(json.dumps(CLOUD | {"type": "delivered", "data": own}).encode()))
    assert (event.kind, event.at, event.event_id) == ("opened", NOW + 1, "e1")


@pytest.mark.parametrize(
    "bad",
    [
        None, 1, [], {}, {"kind": "opened"}, {"at": 1}, {"kind": "", "at": 1}, {"kind": [], "at": 1},
        {"kind": "opened", "at": "soon"}, {"kind": "opened", "at": -1}, CLOUD | {"data": None}, CLOUD | {"data": "x"},
        CLOUD | {"time": None}, CLOUD | {"type": None}, {"specversion": "1.0", "data_base64": "e30="},
    ],
)  # fmt: skip
def test_a_bad_event_does_not_hurt_its_neighbours(bad: object) -> None:
    good = {"kind": "opened", "at": 1700000000}
    parsed = generic.parse(request(json.dumps([good, bad, good]).encode()))
    assert ([event.kind for event in parsed], parsed.malformed) == (["opened", "opened"], 1)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("bounced"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*CLOUD, "kind", "at", "recipient", "reason", "smtp_code", "tags", "stream"]),
            inner,
            max_size=6,
        )
    ),
)


@given(_json)
def test_any_json_raises_nothing_but_parse_errors(value: object) -> None:
    try:
        generic.parse(request(json.dumps(value).encode()))
    except ParseError:
        return
    assert isinstance(value, dict | list)
