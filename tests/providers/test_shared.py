"""What holds for every provider."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.events import Event
from agent.providers import PROVIDERS, AuthenticationError, ParseError, Provider
from agent.providers.base import as_text, as_time, load_json
from agent.simulate import SIMULATORS
from tests.providers.cases import CASES, NOW, SECRET_PART, WITHOUT_REMOTE_TEXT, packed, request, signed, unpacked

DOCS = Path(__file__).parents[2] / "docs" / "providers"

every_provider = pytest.mark.parametrize("name", PROVIDERS)


def test_every_provider_has_its_cases_and_a_simulator() -> None:
    assert set(CASES) == set(PROVIDERS)
    assert set(SIMULATORS) == set(PROVIDERS)


@every_provider
def test_is_documented(name: str) -> None:
    table = (DOCS / "README.md").read_text("utf-8")
    assert f"| `{name}` |" in table
    page = (DOCS / f"{name}.md").read_text("utf-8")
    assert f"provider: {name}" in page
    assert all(credential in page for way in PROVIDERS[name].CREDENTIALS for credential in way)


@every_provider
def test_satisfies_the_protocol(name: str) -> None:
    provider: Provider = PROVIDERS[name]
    assert provider.CREDENTIALS
    assert all(provider.CREDENTIALS)
    assert provider.REPLAY_WINDOW >= 0


@every_provider
def test_genuine_request_is_accepted_and_read(name: str) -> None:
    keys = SIMULATORS[name].new_credentials()
    good = signed(name, CASES[name].good, keys.signing)
    PROVIDERS[name].authenticate(good, keys.settings)
    assert PROVIDERS[name].validate_credentials(keys.settings) is None
    parsed = PROVIDERS[name].parse(good)
    assert parsed.malformed == 0
    (event,) = parsed
    assert event.kind == "delivered"
    assert event.at == NOW
    assert event.recipient == "r@example.com"
    assert event.message_id == "m1"
    assert event.reason == ""


@every_provider
def test_forged_requests_are_refused(name: str) -> None:
    keys, other = SIMULATORS[name].new_credentials(), SIMULATORS[name].new_credentials()
    body = CASES[name].good
    for forged in (signed(name, body, other.signing), request(body)):
        with pytest.raises(AuthenticationError) as caught:
            PROVIDERS[name].authenticate(forged, keys.settings)
        assert "r@example.com" not in str(caught.value)


@every_provider
def test_without_credentials_nothing_is_accepted(name: str) -> None:
    keys = SIMULATORS[name].new_credentials()
    for empty in ({}, dict.fromkeys(keys.settings, ""), {key: [] for key in keys.settings}, {"headers": {}}):
        for attempt in (
            signed(name, b"x", keys.signing),
            request(b"x"),
            request(b"x", {"authorization": "Basic Og=="}),
        ):
            with pytest.raises(AuthenticationError):
                PROVIDERS[name].authenticate(attempt, empty)


@every_provider
def test_rotation_keeps_old_and_new_alive(name: str) -> None:
    old, new = SIMULATORS[name].new_credentials(), SIMULATORS[name].new_credentials()
    both = {key: [str(value), str(new.settings[key])] for key, value in old.settings.items()}
    for keys in (old, new):
        PROVIDERS[name].authenticate(signed(name, CASES[name].good, keys.signing), both)


@every_provider
def test_header_names_in_another_case_are_found(name: str) -> None:
    keys = SIMULATORS[name].new_credentials()
    good = signed(name, CASES[name].good, keys.signing)
    shouted = msgspec.structs.replace(good, headers={k.upper(): v for k, v in good.headers.items()})
    PROVIDERS[name].authenticate(shouted, keys.settings)


@every_provider
def test_unknown_event_becomes_other(name: str) -> None:
    parsed = PROVIDERS[name].parse(request(CASES[name].unknown))
    assert [(e.kind, e.provider_event) for e in parsed] == [("other", "teleported")]
    assert parsed.malformed == 0


@every_provider
def test_nothing_personal_in_a_reason(name: str) -> None:
    (event,) = PROVIDERS[name].parse(request(CASES[name].bounce))
    assert (event.kind, event.bounce_class) == ("bounced", "hard")
    if name in WITHOUT_REMOTE_TEXT:
        assert (event.smtp_code, event.enhanced_code) == (None, "")
    else:
        assert (event.smtp_code, event.enhanced_code) == (550, "5.1.1")
        assert "no such user" in event.reason
    assert SECRET_PART not in event.reason
    assert "@" not in event.reason


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.half_bad])
def test_half_bad_batch_keeps_the_good_half(name: str) -> None:
    parsed = PROVIDERS[name].parse(request(CASES[name].half_bad or b""))
    assert [e.kind for e in parsed] == ["delivered"]
    assert parsed.malformed == 1


@every_provider
def test_unreadable_item_is_counted(name: str) -> None:
    parsed = PROVIDERS[name].parse(request(CASES[name].all_bad))
    assert list(parsed) == []
    assert parsed.malformed == 1


@every_provider
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"null",
        b"1",
        b'"x"',
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"NaN",
        b"[{]",
        b"a=b&c=d",
    ],
)
def test_what_is_no_webhook_body_is_a_parse_error(name: str, body: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        PROVIDERS[name].parse(request(body))
    assert "a=b" not in str(caught.value)


def _read(name: str, body: bytes) -> None:
    """Parse; whatever comes out is within bounds."""
    try:
        parsed = PROVIDERS[name].parse(request(body))
    except ParseError:
        return
    for event in parsed:
        assert 0 < event.at < 1e11
        assert len(event.reason) <= 1000
        assert len(event.provider_event) <= 64
        assert max(len(event.message_id), len(event.event_id), len(event.recipient)) <= 512
        assert len(event.domain) <= 253
        assert (event.bounce_class is None) == (event.kind != "bounced")
        assert event.smtp_code is None or 200 <= event.smtp_code <= 599
        msgspec.convert(msgspec.to_builtins(event), Event)  # every field is of the type it should be


_KEYS = {name: simulator.new_credentials() for name, simulator in SIMULATORS.items()}


@every_provider
@given(body=st.binary(max_size=200), header=st.text(max_size=60), whole=st.booleans())
def test_arbitrary_bytes_raise_nothing_else(name: str, body: bytes, header: str, whole: bool) -> None:
    keys = _KEYS[name]
    genuine = SIMULATORS[name].sign(body, keys.signing, NOW)
    # Whatever says of a genuine request who sent it and when says something else.
    headers = {n: header if whole else value.partition(" ")[0] + " " + header for n, value in genuine.items()}
    with pytest.raises(AuthenticationError):
        PROVIDERS[name].authenticate(request(body, headers), keys.settings)
    _read(name, body)


_scalar = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(
        ["bounce", "delivered", "2023-11-14T22:13:20Z", 1700000000, "1700000000", 1.7e12, "a@b.example", 10**400]
    )
)
_value = st.recursive(_scalar, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))


def _objects(value: object) -> list[dict[str, object]]:
    """All objects within a JSON value, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [each for one in inner for each in _objects(one)]
    return [value, *found] if isinstance(value, dict) else found


@cache
def _fields(name: str) -> list[str]:
    """Every field that a provider's bodies have."""
    cases = [json.loads(unpacked(name, case)) for case in CASES[name] if case]
    return sorted({key for case in cases for each in _objects(case) for key in each})


@every_provider
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), base=st.sampled_from(["good", "bounce", "unknown"]))
def test_any_field_may_be_anything(name: str, data: st.DataObject, base: str) -> None:
    body = json.loads(unpacked(name, getattr(CASES[name], base)))
    for _ in range(data.draw(st.integers(1, 4))):
        objects = _objects(body)
        target = data.draw(st.integers(0, len(objects) - 1))
        objects[target][data.draw(st.sampled_from(_fields(name)))] = data.draw(_value)
    escaped, plain = json.dumps(body), json.dumps(body, ensure_ascii=False)
    _read(name, packed(name, escaped.encode()))
    if plain != escaped:
        _read(name, packed(name, plain.encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1700000000, 1.7e9),
        (1700000000.25, 1.7e9 + 0.25),
        ("1700000000", 1.7e9),
        ("1700000000.5", 1.7e9 + 0.5),
        (1700000000123, 1.7e9 + 0.123),
        ("2023-11-14T22:13:20Z", 1.7e9),
        ("2023-11-14T22:13:20.1234567Z", 1.7e9 + 0.123456),
        ("2023-11-14T22:13:20.123456789+00:00", 1.7e9 + 0.123456),
        ("2023-11-14T17:13:20.0000000-05:00", 1.7e9),
        ("2023-11-14 22:13:20", 1.7e9),
        *[
            (value, None)
            for value in (
                None, True, "", "soon", 0, -1, float("nan"), float("inf"), "nan", "inf", "-5", 1e30, 10**400, [], {},
                "0001-01-01T00:00:00Z", "9999-99-99", "1" * 100, 1_700_000_000_000_000,
            )
        ],
    ],
)  # fmt: skip
def test_times(value: object, expected: float | None) -> None:
    assert as_time(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "a"),
        (1, "1"),
        (True, ""),
        (None, ""),
        ([], ""),
        ("\ud800é", "?é"),
        (10**50, ""),
        (2**53 + 1, "9007199254740993"),
    ],
)
def test_texts(value: object, expected: str) -> None:
    assert as_text(value) == expected


def test_lenient_json_takes_what_the_strict_decoder_refuses() -> None:
    assert load_json(b'["\xff", "a\nb", "\\ud800"]') == ["\ufffd", "a\nb", "\ud800"]
