"""What DNS and blocklists tell, as clues."""

from __future__ import annotations

import pytest

from agent.alerts.causes import Clue, Kind
from agent.alerts.clues import dns_clues, dns_key, onsets, volume_clues
from agent.alerts.types import Incident, Onset
from agent.dns.changes import Change, describe
from agent.dns.checks.base import Finding, MailStream, Subject, Verdict, Watched
from agent.dns.dependents import senders
from agent.dns.inventory import RecordSet
from agent.vitals.shifts import Shift
from agent.vitals.types import Rate

NOW = 1_790_000_000.0
DAY = 86400.0
NAME = "shop.example"
STREAMS = (
    MailStream("news", "sendgrid", selectors=("s1",)),
    MailStream("bills", "postmark", selectors=("pm", "s1"), ips=("192.0.2.9",)),
    MailStream("own", "", selectors=("own",)),
)
SPF = "v=spf1 include:sendgrid.net include:mailgun.org ip4:192.0.2.9 -all"


def changed(role: str, name: str, before: str, after: str, at: float = NOW - 60) -> Change:
    old, new = (RecordSet(name, "TXT", role, (text,) if text else ()) for text in (before, after))
    words, direction = describe(old, new)
    return Change(at, NAME, old, new, words, direction, None, senders(Subject(NAME, mail_streams=STREAMS), old, new))


def watched(check: str, subject: str, verdict: Verdict = Verdict.FAIL, since: float = NOW - 60) -> Watched:
    finding = Finding(check, subject, verdict, "reason", "It is wrong.")
    return Watched(NAME, finding, NOW, since, NOW, finding)


def clues(*known: Change | Watched, seen_from: float = NOW - 30 * DAY) -> list[Clue]:
    found = dns_clues(
        [one for one in known if isinstance(one, Watched)], [one for one in known if isinstance(one, Change)],
        {NAME: STREAMS}, NOW, seen_from,
    )  # fmt: skip
    return found.get(NAME, [])


def test_a_change_touches_the_mail_of_those_that_depend_on_it() -> None:
    (clue,) = clues(changed("spf", NAME, SPF, SPF.replace(" include:mailgun.org", "")))
    assert (clue.kind, clue.at, clue.covers) == (Kind.DNS, NOW - 60, {"provider": frozenset(("mailgun",))})
    (key,) = clues(changed("dkim", f"pm._domainkey.{NAME}", "v=DKIM1; p=", ""))
    assert key.covers == {"provider": frozenset(("postmark",)), "stream": frozenset(("bills",))}
    (of_all,) = clues(changed("spf", NAME, SPF, ""))
    assert of_all.covers == {}


def test_only_what_became_weaker_has_points_to_begin_with() -> None:
    (weaker,) = clues(changed("dmarc", f"_dmarc.{NAME}", "v=DMARC1; p=reject", "v=DMARC1; p=none"))
    (stronger,) = clues(changed("dmarc", f"_dmarc.{NAME}", "v=DMARC1; p=none", "v=DMARC1; p=reject"))
    assert (weaker.weight, stronger.weight) == (1, 0)


def test_a_change_and_the_check_that_complains_of_it_are_one_with_the_time_of_the_change() -> None:
    gone = changed("dkim", f"pm._domainkey.{NAME}", "v=DKIM1; p=", "", NOW - 600)
    (clue,) = clues(watched("dkim", "pm"), gone)
    assert (clue.key, clue.at) == (f"dns {NAME} dkim pm", NOW - 600)
    assert clue.says == f"The DKIM key of pm._domainkey.{NAME} is gone"


@pytest.mark.parametrize(
    ("check", "subject", "key"),
    [
        ("spf", "", f"dns {NAME} spf"),
        ("spf", "192.0.2.9", f"dns {NAME} spf"),
        ("dkim", "pm", f"dns {NAME} dkim pm"),
        ("ptr", "192.0.2.9", f"dns {NAME} ptr 192.0.2.9"),
        ("alignment", "bills", f"dns {NAME} alignment bills"),
        ("change", f"dmarc _dmarc.{NAME}", f"dns {NAME} dmarc"),
        ("change", f"dkim pm._domainkey.{NAME}", f"dns {NAME} dkim pm"),
        ("change", "include sendgrid.net", f"dns {NAME} spf"),
        ("blocklist", "192.0.2.9 psbl", f"listing {NAME} 192.0.2.9"),
    ],
)
def test_findings_of_one_thing_have_one_key(check: str, subject: str, key: str) -> None:
    assert dns_key(NAME, check, subject) == key


@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.WARN, Verdict.UNKNOWN])
def test_only_what_fails_is_a_clue(verdict: Verdict) -> None:
    assert clues(watched("dkim", "pm", verdict)) == []


def test_what_was_so_from_the_first_look_may_always_have_been() -> None:
    (old,) = clues(watched("ptr", "192.0.2.9", since=NOW - 60), seen_from=NOW - 300)
    assert old.at is None
    (new,) = clues(watched("ptr", "192.0.2.9", since=NOW - 60), seen_from=NOW - 3600)
    assert (new.at, new.covers) == (NOW - 60, {"provider": frozenset(("postmark",))})


def test_of_several_lists_with_an_address_the_gravest_counts() -> None:
    found = clues(
        watched("blocklist", "192.0.2.9 psbl", Verdict.WARN, NOW - 900),
        watched("blocklist", "192.0.2.9 spamhaus-zen", Verdict.FAIL, NOW - 60),
        watched("blocklist", "192.0.2.9 barracuda", Verdict.FAIL, NOW - 30),
        watched("blocklist", "192.0.2.7 psbl", Verdict.UNKNOWN),
        watched("blocklist", "192.0.2.8 psbl", Verdict.OK),
    )
    (listing,) = found
    assert (listing.kind, listing.weight, listing.at) == (Kind.LISTING, 2, NOW - 60)


def test_what_is_a_week_old_is_no_news_and_the_latest_change_counts() -> None:
    first = changed("spf", NAME, SPF, "v=spf1 -all", NOW - 900)
    last = changed("spf", NAME, "v=spf1 -all", SPF, NOW - 300)
    old = changed("dmarc", f"_dmarc.{NAME}", "v=DMARC1; p=none", "", NOW - 8 * DAY)
    (clue,) = clues(last, first, old)
    assert clue.at == NOW - 300


def shift(rate: str, direction: str, at: float, *, scope: str = "", part: str = "", before: float = 100.0) -> Shift:
    old, new = Rate(before, None, None, 1, 1), Rate(420.0, None, None, 1, 1)
    return Shift(scope, part, rate, at, at - 7200, at + 3600, old, new, direction, 0.999)  # type: ignore[arg-type]


def test_jumps_of_volume() -> None:
    found = volume_clues(
        NAME,
        [
            shift("volume", "rising", NOW - 8 * DAY),
            shift("volume", "falling", NOW - DAY),
            shift("bounce", "worsening", NOW - DAY),
            shift("volume", "rising", NOW - 2 * DAY),
            shift("volume", "rising", NOW - DAY),
            shift("volume", "rising", NOW - DAY, scope="stream", part="news", before=0.0),
        ],
        NOW,
    )
    assert [(clue.key, clue.at, clue.late) for clue in found] == [
        (f"volume {NAME}", NOW - DAY, 7200), (f"volume {NAME} stream news", NOW - DAY, 7200),
    ]  # fmt: skip
    assert [clue.says for clue in found] == [
        f"mail of {NAME} grew to 4.2 times its usual volume", "mail of the stream news began to be sent",
    ]  # fmt: skip
    assert found[1].covers == {"stream": frozenset(("news",))}


def test_when_a_rate_moved_is_what_tells_it_most_narrowly() -> None:
    labels = {"alertname": "MailTargetBreached", "domain": NAME, "target": "bounce"}
    rough, fine = Onset(NOW, NOW - DAY, NOW), Onset(NOW, NOW - 600, NOW)
    moved = shift("bounce", "worsening", NOW - 3600)
    of_shift = Onset(moved.at, moved.earliest, moved.latest)

    def known(*incidents: Incident, shifts: tuple[Shift, ...] = (moved,)) -> Onset | None:
        return onsets({NAME: shifts}, incidents, NOW).get((NAME, "bounce"))

    assert known() == of_shift
    assert known(Incident(labels, {}, NOW, onset=rough)) == of_shift
    assert known(Incident(labels, {}, NOW, onset=fine)) == fine
    assert known(Incident({"check": "spf"}, {}, NOW, also=(labels,), onset=fine)) == fine
    assert known(Incident(labels, {}, NOW, NOW, NOW, onset=fine)) == of_shift, "that one is over"
    others = (
        shift("bounce", "improving", NOW - 60), shift("bounce", "worsening", NOW - 8 * DAY),
        shift("bounce", "worsening", NOW - 60, scope="stream", part="news"), shift("complaint", "worsening", NOW - 60),
    )  # fmt: skip
    assert known(shifts=others) is None
