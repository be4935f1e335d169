"""What the watch has published: masked, in order, and saved where it changed."""

from __future__ import annotations

import msgspec

from agent.dns.checks.base import Finding, Problem, Verdict, Watched
from agent.dns.published import Published, masked


def finding(verdict: str = "ok", subject: str = "", detail: str = "fine", ttl: int = 0) -> Finding:
    return Finding("probe", subject, Verdict(verdict), verdict, detail, ttl=ttl)


def test_everything_is_in_order_whatever_came_first() -> None:
    p = Published(["b.com", "a.com"])
    p.publish("b.com", "probe", (finding(subject="s2"), finding(subject="s1")), 1.0)
    p.publish("a.com", "spf", (finding(),), 1.0)
    p.publish("a.com", "dkim", (finding(),), 1.0)
    p.publish("a.com", "probe", (finding(subject="x"),), 1.0)
    keys = [(w.domain, w.finding.check, w.finding.subject) for w in p.all()]
    assert [(d, s) for d, _, s in keys] == [("a.com", ""), ("a.com", "x"), ("a.com", ""), ("b.com", "s1"), (
        "b.com", "s2",
    )]  # fmt: skip
    assert p.publish("b.com", "probe", (finding(subject="s2"),), 2.0) == {"s1"}
    assert [w.finding.subject for w in p.of("b.com")] == ["s2"]
    assert p.subjects("b.com", "probe") == {"s2"}


def test_no_address_is_kept_anywhere() -> None:
    record = "v=DMARC1; p=none; rua=mailto:me@a.com"
    bad = Finding(
        "probe", "", Verdict.WARN, "x", "sent to me@a.com", "ask you@a.com", records=(record,),
        problems=(Problem(Verdict.WARN, "x", "to me@a.com", "as you@a.com"),),
    )  # fmt: skip
    p = Published(["a.com"])
    p.publish("a.com", "probe", (bad,), 1.0)
    for text in (msgspec.json.encode(p.all()), msgspec.json.encode(masked(Watched("a.com", bad, 1, 1, 1, bad)))):
        assert b"@" not in text
        assert b"p=none; rua=" in text


def test_only_what_changed_is_saved_and_its_times_now_and_then() -> None:
    told: list[str] = []
    p = Published(["a.com"], on_change=lambda w: told.append(w.finding.reason))
    key = ("a.com", "probe", "")

    def saved(found: Finding, now: float) -> bool:
        p.publish("a.com", "probe", (found,), now)
        unsaved = p.unsaved()
        p.saved(unsaved)
        assert not p.unsaved()
        return key in unsaved

    assert saved(finding(), 1000.0)
    assert not saved(finding(), 1300.0)
    assert not saved(finding(ttl=77), 1600.0), "a TTL that counts down is no news"
    assert saved(finding(), 1900.0), "its times are a quarter of an hour old"
    assert saved(finding(detail="finer"), 1901.0)
    assert saved(finding("fail"), 1902.0)
    assert told == ["ok", "fail"]
    assert p.failing() == {("a.com", "probe")}
    assert p.all()[0].since == 1902.0
    assert saved(finding("unknown"), 1903.0)
    assert p.failing() == frozenset()
    last = p.all()[0].last_definitive
    assert last is not None
    assert last.verdict is Verdict.FAIL


def test_what_changes_while_it_is_saved_is_saved_again_and_what_fails_stays() -> None:
    p = Published(["a.com"])
    p.publish("a.com", "probe", (finding(subject="s1"), finding(subject="s2")), 1.0)
    under_way = p.unsaved()
    p.publish("a.com", "probe", (finding("fail", subject="s1"), finding(subject="s2")), 2.0)
    p.saved(under_way)
    assert {key[2] for key in p.unsaved()} == {"s1", "s2"}
    p.publish("a.com", "probe", (finding(subject="s2"),), 3.0)
    assert p.unsaved()["a.com", "probe", "s1"] is None
    p.saved(p.unsaved())
    assert not p.unsaved()


def test_what_an_earlier_run_knew_is_not_saved_again() -> None:
    old = finding("fail", subject="s1")
    p = Published(["a.com"], [Watched("a.com", old, 1000.0, 5.0, 1000.0, old)])
    assert p.failing() == {("a.com", "probe")}
    p.publish("a.com", "probe", (old,), 1010.0)
    assert not p.unsaved()
    (w,) = p.all()
    assert (w.since, w.checked_at) == (5.0, 1010.0)
    assert w.finding is old, "thousands of equal findings are not kept twice"
