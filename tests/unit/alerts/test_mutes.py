"""Mutes: what can be asked for, and which incidents one concerns."""

from __future__ import annotations

import msgspec
import pytest

from agent.alerts.mutes import MuteError, muted_until, read

NOW = 1_790_000_000.0
LABELS = {"alertname": "MailTargetBreached", "severity": "critical", "domain": "example.com", "target": "bounce"}


def asked(**changes: object) -> bytes:
    return msgspec.json.encode({"matchers": {"domain": "example.com"}, "hours": 4, "why": "moving", **changes})


def test_a_mute_lasts_as_long_as_was_asked_and_ends_by_itself() -> None:
    mute = read(asked(), NOW)
    assert (mute.since, mute.until, mute.why) == (NOW, NOW + 4 * 3600, "moving")
    assert muted_until(LABELS, [mute], NOW) == mute.until
    assert muted_until(LABELS, [mute], mute.until - 1) == mute.until
    assert muted_until(LABELS, [mute], mute.until) == 0


@pytest.mark.parametrize(
    ("matchers", "concerned"),
    [
        ({"domain": "example.com"}, True),
        (LABELS, True),
        ({"domain": "example.com", "target": "complaint"}, False),
        ({"domain": "example.co"}, False),
        ({"source": "mailgun"}, False),
    ],
)
def test_every_matcher_has_to_agree(matchers: dict[str, str], concerned: bool) -> None:
    assert bool(muted_until(LABELS, [read(asked(matchers=matchers), NOW)], NOW)) is concerned


def test_the_longest_of_several_counts_and_none_mutes_nothing() -> None:
    short, long = read(asked(hours=1), NOW), read(asked(matchers={"target": "bounce"}, hours=2), NOW)
    assert muted_until(LABELS, [long, short], NOW) == NOW + 7200
    assert muted_until(LABELS, [], NOW) == 0


def test_asking_again_changes_how_long() -> None:
    assert read(asked(), NOW).id == read(asked(hours=9, why=""), NOW + 60).id
    assert read(asked(), NOW).id != read(asked(matchers={"domain": "example.org"}), NOW).id


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"\xff", b'{"matchers":{"domain":"\xff"},"hours":1}',
        asked(matchers={}), asked(matchers={"instance": "a"}), asked(matchers={"domain": ""}),
        asked(matchers={"domain": 1}),
        asked(matchers={"domain": "x" * 301}), asked(hours=0), asked(hours=-1), asked(hours=720.1), asked(hours="4"),
        asked(hours=1e308), asked(why="x" * 301), asked(until=5), b'{"hours":4}', b'{"matchers":{"domain":"a"}}',
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(body: bytes) -> None:
    with pytest.raises(MuteError, match=r"\w"):
        read(body, NOW)


def test_no_address_is_kept() -> None:
    mute = read(asked(why="ask jane.doe@example.com", matchers={"subject": "jane.doe@example.com"}), NOW)
    assert "jane" not in msgspec.json.encode(mute).decode()
