"""The vocabulary keeps no address and survives any text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.events import MASK, REASON_LENGTH, Event, Kind, mask_addresses, reason_text

ADDRESSES = [
    "john.doe@example.com",
    "JOHN+tag@EXAMPLE.COM",
    "o'brien@example.com",
    "john@localhost",
    "john@[192.0.2.1]",
    "john@[IPv6:2001:db8::1]",
    '"john doe"@example.com',
    '"john\\"doe"@example.com',
    '"john@doe"@example.com',
    "john%40example.com",
    "john%2540example.com",
    "john&#64;example.com",
    "john&#x40;example.com",
    "john&commat;example.com",
    "john\\u0040example.com",
    "john＠example.com",  # a full-width at sign
    "jöhn@bücher.example",
    "用户@例え.テスト",
    "john@xn--bcher-kva.example",
    "bounce+john=example.com@relay.example",
    "bounces-123-john=example.com@em.example",
    "prvs=0123456789=john@example.com",
    "SRS0=HHH=TT=example.com=john@forward.example",
    "john%example.com@relay.example",
    "relay!john@example.com",
    "john/department=sales@example.com",
    "CORP\\john@example.com",
    "john|doe@example.com",
    "john @ example.com",
    "john@",
]
SURROUNDINGS = [
    "{}",
    "550 5.1.1 <{}>: unknown",
    "to=<{}>,",
    "mailto:{}",
    "({})",
    "said: {}; gone",
    "rfc822;{} x",
    "'{}'",
]


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_part_of_an_address_survives(address: str, surrounding: str) -> None:
    masked = mask_addresses(surrounding.format(address))
    assert MASK in masked
    assert "john" not in masked.lower()
    assert "doe" not in masked
    assert "用户" not in masked
    assert "jöhn" not in masked


@pytest.mark.parametrize(
    "text",
    [
        "550 5.1.1 User unknown",
        "4.2.2 over quota 100%",
        "",
        "at 10:00 @",
        "relay=mx.example.com[192.0.2.1]:25",
        "a %4 &#6",
    ],
)
def test_text_without_an_address_is_left_alone(text: str) -> None:
    assert mask_addresses(text) == text


def test_what_surrounds_an_address_is_kept() -> None:
    assert mask_addresses("550 5.1.1 <a@b.example>: Recipient address rejected, see https://x.example/1") == (
        "550 5.1.1 <<address>>: Recipient address rejected, see https://x.example/1"
    )


local = st.text("abcdefXYZ0189.!#$%&'*+/=?^_`{|}~-é漢", min_size=1, max_size=64)
domain = st.from_regex(r"[a-z0-9é]{1,20}(\.[a-z]{2,6}){0,2}", fullmatch=True)


@settings(max_examples=200, deadline=None)
@given(local, domain, st.sampled_from(["@", "%40", "&#64;"]), st.sampled_from(["<{}>", "{} rejected", "x, {}", "{}"]))
def test_any_atom_is_masked_whole(local: str, domain: str, at: str, around: str) -> None:
    marked = "SECRET" + local
    assert "SECRET" not in mask_addresses(around.format(marked + at + domain))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_masking_leaves_no_address_behind_and_is_stable(text: str) -> None:
    masked = mask_addresses(text)
    assert mask_addresses(masked) == masked


@pytest.mark.parametrize(
    "unit", ["a", "a@", "@", '"', '\\"', '"a', "%40", "a%40", "&#64;", "a@[", " @ ", "&#0", "a.", "=40"]
)
def test_masking_is_linear(unit: str) -> None:
    text = unit * (200_000 // len(unit)) + "@x"
    start = time.perf_counter()
    mask_addresses(text)
    assert time.perf_counter() - start < 2


@settings(max_examples=200, deadline=None)
@given(st.text(), st.integers(1, 3000))
def test_reason_is_short_and_one_line(text: str, times: int) -> None:
    reason = reason_text(text * times)
    assert len(reason) <= REASON_LENGTH
    assert "\n" not in reason
    assert "\x00" not in reason


@pytest.mark.parametrize("length", range(4080, 4100))
def test_an_address_across_the_cut_is_not_half_shown(length: int) -> None:
    # Long addresses shrink when masked, so that the end of what is read would still be within a reason.
    filler = ("b" * 300 + "@x.example ") * 20
    text = filler[: length - 8].rpartition(" ")[0] + " "
    text += " " * (length - 8 - len(text)) + "john.doe@example.com is unknown"
    assert "john" not in reason_text(text)


def test_reason_keeps_the_words() -> None:
    assert reason_text("550-5.1.1 The email account\r\n550 5.1.1  does not exist\x00") == (
        "550-5.1.1 The email account 550 5.1.1 does not exist"
    )


def test_kinds_compare_as_strings() -> None:
    event = Event(Kind.BOUNCED, 1.0)
    assert event.kind == "bounced"
    assert f"{event.kind}" == "bounced"
