"""The status page in a real browser: what a reader sees, and that no text from outside becomes markup."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp.test_utils import TestServer

from agent.alerts.mutes import Mute, read
from agent.alerts.types import Cause, Incident
from agent.dns.changes import Change
from agent.dns.changes import Direction as Turn
from agent.dns.checks.base import Finding, Verdict
from agent.dns.dependents import Sender
from agent.dns.inventory import RecordSet
from agent.events import BounceClass
from agent.ledger.base import Cell, RecentBounce
from agent.views.http import create_app
from agent.views.metrics import Metrics
from agent.views.state import AlertmanagerView, Readiness, SourceView, State
from agent.vitals.types import Snapshot
from tests.servers.chromium import Tab, chromium
from tests.unit.views import states
from tests.unit.views.test_http import Box

EVIL = '<img src=x onerror="window.owned=1"><script>window.owned=2</script>"\'&lt;b>'


@contextlib.asynccontextmanager
async def page(tmp_path: Path, box: Box, token: str | None = None) -> AsyncIterator[tuple[Tab, str]]:
    checked: list[str] = []

    async def check_now(domain: str) -> None:
        checked.append(domain)
        box.change(findings=tuple(f for f in box.state.findings if f.domain != domain))

    class Mutes:
        async def mute(self, body: bytes) -> Mute:
            mute = msgspec.structs.replace(read(body, states.NOW), why=EVIL)
            box.change(mutes=(mute,))
            return mute

        async def unmute(self, mute_id: str) -> None:
            assert [mute.id for mute in box.state.mutes] == [mute_id]
            box.change(mutes=())

    metrics = Metrics(lambda: box.state, version="1.2.3")
    app = create_app(
        metrics, lambda: box.state, private_token=token, healthy=lambda: (True, ""), check_now=check_now, mutes=Mutes()
    )
    async with TestServer(app) as server, chromium(tmp_path) as tab:
        yield tab, str(server.make_url("/"))


async def ready(tab: Tab, url: str, **view: Any) -> None:
    await tab.open(url, **view)
    await tab.wait("document.querySelector('#link').textContent === 'live'")


async def test_what_a_reader_sees(tmp_path: Path) -> None:
    box = Box(states.state(demo=True))
    async with page(tmp_path, box) as (tab, url):
        await ready(tab, url)
        text = await tab.text()
        for expected in (
            "Something is wrong with your mail", "This traffic is simulated", "example.org: bounce target breached",
            "growth phase", "0.60 %", "✓ within target", "✕ breached", "≈ undecided", "… too little data",
            "0.47 % to 0.73 % · 7d · 97 of 16,240",
            "However often you look: 0.40 % to 0.79 % in 7d, 0.51 % to 0.69 % this month so far (0.60 %)",
            "heading for 71,400", "no projection before 7 days",
            "no longer authorises include:mailgun.org", "What may have caused it", "seen 12 min before the rate moved",
            "with news.example.org · deliverability", "No key is published for the selector mg.",
            "RSA key of 2048 bits.", "DKIM key missing", "critical, open",
            "sendgrid-main", "signature does not match", "Mailbox over quota", "http://alertmanager-1:9093",
            "Ready for enterprise", "day 9 of 14 proven below 1 %", "at the earliest", "8.40 times the week before",
            "Shifted from 0.50 % to 3.00 %", "reached since", "Foundation: 2–4 weeks, USD 20–25 a month",
            "connection refused", "It does not say whether a mail reached the inbox", "microsoft",
        ):  # fmt: skip
            assert expected.lower() in text.lower(), expected
        arrows = await tab.run("[...document.querySelectorAll('.arrow')].map((a) => a.closest('tr').textContent)")
        assert {row.startswith("Provider mailgun") for row in arrows} == {True}
        labels = await tab.run("[...document.querySelectorAll('.track')].map((t) => t.getAttribute('aria-label'))")
        assert "bounce 0.60 %, between 0.47 % and 0.73 %; limit 1.00 %" in labels
        assert tab.complaints == []
        # Details open by keyboard, and what is open survives a redraw.
        await tab.run("document.querySelector('details[data-key=\"example.com dmarc \"]').open = true")
        box.change(
            findings=(*box.state.findings, states.watched("example.com", Finding("mx", "", Verdict.OK, "r", "d")))
        )
        await tab.wait("document.querySelector('details[data-key=\"example.com mx \"]')")
        assert 'Publish "v=DMARC1; p=quarantine' in await tab.text()
        assert "Name two at most in rua." in await tab.text()


async def test_sender_rules_are_fetched_when_somebody_looks(tmp_path: Path) -> None:
    box = Box(states.state())
    async with page(tmp_path, box) as (tab, url):
        await ready(tab, url)
        assert "Postmaster Tools" not in await tab.text()
        rules = "document.querySelector('details[data-rules=\"example.com\"]')"
        await tab.run(f"{rules}.open = true")
        await tab.wait(f"{rules}.textContent.includes('Postmaster Tools')")
        assert "p=none is enough" in await tab.text()
        box.change(
            findings=(*box.state.findings, states.watched("example.com", Finding("mx", "", Verdict.OK, "r", "d")))
        )
        await tab.wait("document.querySelector('details[data-key=\"example.com mx \"]')")
        await tab.wait(f"{rules}.textContent.includes('Postmaster Tools')")
        assert tab.complaints == []


async def test_the_verdict_is_where_the_bar_says(tmp_path: Path) -> None:
    """The limit and the interval are drawn at their places on the scale: 1 % of 3 % is a third."""
    async with page(tmp_path, Box(states.state())) as (tab, url):
        await ready(tab, url)
        at = await tab.run(
            "(() => { const t = document.querySelector('.track'), w = t.getBoundingClientRect();"
            " const x = (s) => { const r = t.querySelector(s).getBoundingClientRect();"
            " return [(r.left - w.left) / w.width, (r.right - w.left) / w.width]; };"
            " return [x('.limit'), x('.interval'), x('.beyond')]; })()"
        )
        bounce = states.domain_well().rates["7d"]["bounce"]
        (limit, _), (low, high), (beyond, end) = at
        assert abs(limit - 1 / 3) < 0.01
        assert abs(beyond - 1 / 3) < 0.01
        assert abs(end - 1) < 0.01
        assert bounce.lower is not None
        assert bounce.upper is not None
        assert abs(low - bounce.lower / 0.03) < 0.01
        assert abs(high - bounce.upper / 0.03) < 0.01


async def test_it_follows_the_agent_and_says_when_it_cannot(tmp_path: Path) -> None:
    box = Box(states.first_minute())
    async with page(tmp_path, box) as (tab, url):
        await ready(tab, url)
        text = await tab.text()
        assert "Taking the first measurements" in text
        assert "Waiting for the first evaluation" in text
        box.state = states.state()
        await tab.wait("document.querySelector('#overall').textContent.includes('Something is wrong')", 5)
        await tab.run("document.querySelector('button[data-check=\"news.example.org\"]').click()")
        await tab.wait("document.querySelectorAll('.checks details:not([data-rules])').length === 4", 5)
        await tab.run("document.querySelector('#incidents button[data-mute]').click()")
        await tab.wait("document.querySelector('#incidents').textContent.includes('muted until')", 5)
        (mute,) = box.state.mutes
        assert mute.matchers == box.state.incidents[0].labels
        assert await tab.run("document.querySelectorAll('#incidents img').length") == 0
        await tab.run("document.querySelector('#incidents button[data-unmute]').click()")
        await tab.wait("!document.querySelector('#incidents').textContent.includes('muted until')", 5)
        assert box.state.mutes == ()


async def test_mail_of_unconfigured_domains_is_shown_as_such(tmp_path: Path) -> None:
    shown = states.state()
    assert shown.snapshot is not None
    stray = msgspec.structs.replace(states.domain_well(), domain="other", phase="", judgements=())
    domains = {**shown.snapshot.domains, "other": stray}
    box = Box(msgspec.structs.replace(shown, snapshot=Snapshot(states.NOW, domains)))
    async with page(tmp_path, box) as (tab, url):
        await ready(tab, url)
        text = await tab.run("document.querySelector('article[aria-label=\"other\"]').innerText")
        assert "Mail of domains that are not configured" in text
        assert "no phase, no targets" in text
        assert "Check now" not in text


async def test_signing_in_by_the_address(tmp_path: Path) -> None:
    async with page(tmp_path, Box(states.state()), "s3cret") as (tab, url):
        await ready(tab, f"{url}?token=s3cret")
        assert await tab.run("location.search") == ""
        assert "example.com" in await tab.text()


def hostile() -> State:
    vitals = msgspec.structs.replace(
        states.domain_well(), domain=EVIL, phase=EVIL, parts={"stream": {EVIL: states.windows()}},
        judgements=tuple(msgspec.structs.replace(j, reason=EVIL) for j in states.domain_well().judgements),
    )  # fmt: skip
    finding = Finding(EVIL, EVIL, Verdict.FAIL, EVIL, EVIL, EVIL, EVIL, (EVIL,))
    incident = Incident({"alertname": EVIL, "severity": EVIL, "domain": EVIL, "check": EVIL, "subject": EVIL},
                        {"summary": EVIL, "description": EVIL}, states.NOW, also=({"domain": EVIL, "check": EVIL},),
                        causes=(Cause(EVIL, EVIL, EVIL, 1, True, 1.0, (EVIL,), (EVIL,)),))  # fmt: skip
    return states.state(
        version=EVIL, snapshot=Snapshot(states.NOW, {EVIL: vitals}), findings=(states.watched(EVIL, finding),),
        incidents=(incident,), domain_phases={EVIL: EVIL}, readiness=(Readiness(EVIL, False, EVIL),),
        sources=(SourceView(EVIL, EVIL, EVIL, 1, 1, {EVIL: 1}, 0, EVIL, 1),),
        recent_bounces=(RecentBounce(1, EVIL, Cell(EVIL, EVIL, EVIL, EVIL), BounceClass.HARD, 550, EVIL, EVIL),),
        alertmanagers=(AlertmanagerView(EVIL, 0, EVIL),),
        dns_changes=(Change(1, EVIL, RecordSet(EVIL, "TXT", EVIL, (EVIL,)), RecordSet(EVIL, "TXT", EVIL, (EVIL,)),
                            (EVIL,), Turn.WEAKER, 0.5, (Sender(EVIL, EVIL),)),),
    )  # fmt: skip


async def test_a_bounce_is_explained(tmp_path: Path) -> None:
    async with page(tmp_path, Box(states.state())) as (tab, url):
        await ready(tab, url)
        text = await tab.text()
        assert "the sending address or its network is on Microsoft's own list" in text
        assert "points to: a blocklist, the sender's reputation" in text


async def test_dns_changes_are_told_in_words_with_the_mail_they_concern(tmp_path: Path) -> None:
    box = Box(states.state())
    async with page(tmp_path, box) as (tab, url):
        await ready(tab, url)
        text = await tab.run("document.querySelector('#changes').innerText")
        for expected in (
            "↘ weaker", "the policy for the domain is now none, before reject",
            "64.0 % of the mail of the day before depends on it: all that example.com sends",
            "what news.example.org sends through mandrill", "concerns what marketing sends; none of it was counted",
            "→ changed", "↗ stronger", "9 d ago",
        ):  # fmt: skip
            assert expected in text, expected
        first = "document.querySelector('#changes details')"
        await tab.run(f"{first}.open = true")
        assert "v=DMARC1; p=reject" in await tab.text()
        box.change(dns_changes=states.dns_changes()[:2])
        await tab.wait("document.querySelectorAll('#changes li').length === 2", 5)
        assert await tab.run(f"{first}.open"), "what is open survives a redraw"
        box.change(dns_changes=())
        await tab.wait("document.querySelector('#changes').innerText.includes('None since')", 5)
        assert tab.complaints == []


async def test_text_never_becomes_markup(tmp_path: Path) -> None:
    async with page(tmp_path, Box(hostile())) as (tab, url):
        await ready(tab, url)
        await tab.run("document.querySelectorAll('details:not([data-rules])').forEach((d) => { d.open = true; })")
        text = await tab.text()
        assert text.count("onerror=") > 20  # shown as what it is
        assert await tab.run("window.owned === undefined")
        assert await tab.run("document.querySelectorAll('img, script').length") == 2  # the page's own icon and script
        assert await tab.run("document.querySelectorAll('[onerror]').length") == 0
        assert tab.complaints == []


async def test_it_fits_a_phone_and_the_dark(tmp_path: Path) -> None:
    async with page(tmp_path, Box(states.state())) as (tab, url):
        for dark in (False, True):
            await ready(tab, url, width=360, height=800, dark=dark)
            assert await tab.run("document.documentElement.scrollWidth") == 360
            low = await tab.run(CONTRAST)
            assert low == [], f"too little contrast: {low}"


# Every text against the nearest background behind it, by the formula of WCAG 2.2 (relative luminance, 1.4.3: 4.5 to 1).
CONTRAST = """(() => {
  const rgb = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    const pair = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) low.push([e.className, e.textContent.slice(0, 30), ratio.toFixed(2)]);
  }
  return low;
})()"""  # noqa: E501
