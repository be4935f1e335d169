"""Troubles that senders have, each with its known cause: what the agent would have seen, look by look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from agent.alerts.bounce_hints import Hints
from agent.alerts.catalogue import Known, conditions
from agent.alerts.clues import dns_clues, onsets, volume_clues
from agent.alerts.sources import SourceHealth, source_conditions, unheard
from agent.alerts.types import Condition, Incident
from agent.bounce_rules import shipped
from agent.dns.changes import Change, describe
from agent.dns.checks.base import Finding, MailStream, Subject, Verdict, Watched
from agent.dns.dependents import senders
from agent.dns.inventory import RecordSet
from agent.ledger.base import Cell, Row
from agent.vitals.evaluate import evaluate
from agent.vitals.phases import PHASES
from agent.vitals.shifts import Shift
from agent.vitals.types import Rate

T = 1_790_000_400.0 // 3600 * 3600  # the hour in which trouble begins
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SHOP, CLUB = "shop.example", "club.example"
STREAMS = (
    MailStream("news", "sendgrid", selectors=("s1",)),
    MailStream("receipts", "mailgun", selectors=("mg",)),
    MailStream("alerts", "postmark", selectors=("pm",), ips=("192.0.2.9",)),
)
MAILBOXES = {"gmail": 0.5, "microsoft": 0.2, "yahoo": 0.1, "other": 0.2}


class Flow(NamedTuple):
    """Mail of one domain by one provider: messages an hour, and what becomes of them."""

    provider: str
    stream: str
    hourly: float
    domain: str = SHOP


FLOWS = (
    Flow("sendgrid", "news", 300), Flow("sendgrid", "tips", 100), Flow("mailgun", "receipts", 200),
    Flow("mailgun", "tips", 100), Flow("postmark", "alerts", 100),
)  # fmt: skip


class Fault(NamedTuple):
    """From ``T`` on, until ``ends``, the mail that has these parts bounces more, and is more."""

    hard: float = 0.0
    block: float = 0.0
    undetermined: float = 0.0
    complained: float = 0.0
    times: float = 1.0
    provider: str = ""
    stream: str = ""
    mailbox: str = ""
    domain: str = SHOP
    ends: float = float("inf")
    unseen: float = float("inf")  # its events do not arrive from then on

    def hits(self, flow: Flow, mailbox: str) -> bool:
        pairs = ((self.provider, flow.provider), (self.stream, flow.stream), (self.mailbox, mailbox))
        return flow.domain == self.domain and all(wanted in ("", had) for wanted, had in pairs)


class Scenario(NamedTuple):
    """``cause`` begins the key of the cause that must come first, of the breach of ``SHOP`` (``""``: there is no
    breach, or nothing explains it). ``pages`` are the alerts, by name and domain, that people are told of, once each.
    """

    name: str
    cause: str
    pages: tuple[tuple[str, str], ...]
    faults: tuple[Fault, ...] = ()
    findings: Callable[[float], list[Watched]] = lambda now: []
    changes: tuple[Change, ...] = ()
    volumes: tuple[Shift, ...] = ()
    hints: Mapping[str, int] = {}
    sources: Callable[[float], list[SourceHealth]] = lambda now: []
    flows: tuple[Flow, ...] = FLOWS
    looks: tuple[float, ...] = (5 * HOUR, 11 * HOUR, 20 * HOUR)


def rows(scenario: Scenario, now: float) -> list[Row]:
    """Twenty days of usual mail, in hours of late and in days before, and what is wrong since ``T``."""
    found: list[Row] = []
    today = int(now // DAY * DAY)
    hours = [(float(t), HOUR) for t in range(today - 2 * 86400, int(now), 3600)]
    days = [(float(t), DAY) for t in range(today - 20 * 86400, today - 2 * 86400, 86400)]
    for begin, whole in days + hours:
        length = min(whole, now - begin)
        for flow in scenario.flows:
            for mailbox, share in MAILBOXES.items():
                faults = [f for f in scenario.faults if T <= begin < f.ends and f.hits(flow, mailbox)]
                if any(begin >= f.unseen for f in faults):
                    continue
                n = flow.hourly * share * length / HOUR
                for fault in faults:
                    n *= fault.times
                counts = {name: sum(getattr(f, name) for f in faults) for name in ("hard", "block", "undetermined")}
                counts["hard"] += 0.003
                cell = Cell(flow.domain, flow.provider, flow.stream, mailbox)
                bounced = {measure: round(n * rate) for measure, rate in counts.items()}
                bounced["delivered"] = round(n) - sum(bounced.values())
                bounced["complained"] = round(n * sum(f.complained for f in faults))
                found += [(int(begin), cell, measure, count) for measure, count in bounced.items() if count > 0]
    return found


def look(scenario: Scenario, now: float, incidents: Iterable[Incident] = ()) -> list[Condition]:
    """The conditions at one moment, made as the agent makes them."""
    phases = {SHOP: "growth", CLUB: "growth"}
    known_rows = rows(scenario, now)
    recent = [row for row in known_rows if row[0] > now - 25 * HOUR]
    snapshot = evaluate(now, {d: PHASES[p] for d, p in phases.items()}, recent, known_rows, known_rows)
    findings, sources = scenario.findings(now), scenario.sources(now)
    shifts = [shift for shift in scenario.volumes if shift.at <= now]
    changes = [change for change in scenario.changes if change.at <= now]
    clues = dns_clues(findings, changes, {SHOP: STREAMS}, now, T - 20 * DAY)
    of_sources = source_conditions(sources, now, 24 * HOUR, "docs")
    not_heard = unheard(of_sources, sources, snapshot)
    own = [*clues.get(SHOP, ()), *volume_clues(SHOP, shifts, now), *not_heard.get(SHOP, ())]
    total = 50 if now > T else 0
    known = Known(
        clues={SHOP: own},
        onsets=onsets({SHOP: shifts}, incidents, now),
        hints={(SHOP, target): Hints(total, dict(scenario.hints)) for target in ("bounce", "deliverability")},
        words=shipped().hints,
        unheard=not_heard.keys(),
    )
    return conditions(snapshot, findings, phases, "docs", known=known) + of_sources


def change(role: str, name: str, before: str, after: str, at: float) -> Change:
    old, new = (RecordSet(name, "TXT", role, (text,) if text else ()) for text in (before, after))
    words, direction = describe(old, new)
    of = senders(Subject(SHOP, mail_streams=STREAMS), old, new)
    return Change(at, SHOP, old, new, words, direction, None, of)


def jump(scope: str, part: str, factor: float) -> Shift:
    """Of volume, in the hour in which trouble begins."""
    before, after = (Rate(n, n * 0.9, n * 1.1, round(n), 1) for n in (100.0, 100.0 * factor))
    return Shift(scope, part, "volume", T, T - HOUR, T + HOUR, before, after, "rising", 0.999)


def failing(check: str, subject: str, since: float, verdict: Verdict = Verdict.FAIL, detail: str = "It is wrong.",
            until: float = float("inf")) -> Callable[[float], list[Watched]]:  # fmt: skip
    """A check that is well until ``since`` and from ``until`` on."""

    def findings(now: float) -> list[Watched]:
        bad = since <= now < until
        finding = Finding(check, subject, verdict if bad else Verdict.OK, "reason", detail)
        return [Watched(SHOP, finding, now, since if bad else T - 10 * DAY, now, finding)]

    return findings


def several(*parts: Callable[[float], list[Watched]]) -> Callable[[float], list[Watched]]:
    return lambda now: [watched for part in parts for watched in part(now)]


def source(name: str, provider: str, refused_from: float = float("inf"), heard_until: float = float("inf"),
           ) -> Callable[[float], list[SourceHealth]]:  # fmt: skip
    def health(now: float) -> list[SourceHealth]:
        refused = now - 30 if now >= refused_from else 0.0
        heard = min(now - 60, heard_until, refused_from)
        # Nobody posts any more once the vendor has given up.
        refused = min(refused, refused_from + 3 * HOUR) if refused else 0.0
        return [SourceHealth(name, SHOP, "growth", heard, refused, None, provider)]

    return health


BREACH, DNS, LISTED = (("MailTargetBreached", SHOP),), (("MailDnsCheckFailing", SHOP),), (("MailBlocklisted", SHOP),)
SILENT, REFUSED = ("MailSourceSilent", SHOP), ("MailSourceRefused", SHOP)
SPF = "v=spf1 include:sendgrid.net include:mailgun.org include:spf.mtasv.net -all"
KEY = "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"
_NO_MAILGUN = SPF.replace(" include:mailgun.org", "")
_MORE_NEWS = jump("stream", "news", 6)

SCENARIOS = (
    Scenario("ESP outage", "part shop.example provider mailgun", BREACH,
        (Fault(undetermined=0.3, provider="mailgun"),)),
    Scenario("bad list imported", "volume shop.example stream news", BREACH,
        (Fault(hard=0.08, stream="news", times=6),), volumes=(_MORE_NEWS,), hints={"list": 44}),
    Scenario("old list, usual volume", "part shop.example stream news", BREACH, (Fault(hard=0.09, stream="news"),),
        hints={"list": 30}),
    Scenario("SPF lost an include", "dns shop.example spf", BREACH, (Fault(block=0.4, provider="mailgun"),),
        changes=(change("spf", SHOP, SPF, _NO_MAILGUN, T - 12 * MINUTE),), hints={"spf": 41}),
    Scenario("SPF lost an include, vague refusals", "dns shop.example spf", BREACH,
        (Fault(block=0.4, provider="mailgun"),), changes=(change("spf", SHOP, SPF, _NO_MAILGUN, T - 12 * MINUTE),)),
    Scenario("SPF record removed", "dns shop.example spf", DNS, (Fault(block=0.35),),
        failing("spf", "", T - 5 * MINUTE), (change("spf", SHOP, SPF, "", T - 6 * MINUTE),), hints={"spf": 45}),
    Scenario("DKIM key removed", "dns shop.example dkim mg", DNS,
        (Fault(block=0.5, provider="mailgun", mailbox="gmail"), Fault(block=0.4, provider="mailgun", mailbox="yahoo")),
        failing("dkim", "mg", T - 20 * MINUTE),
        (change("dkim", f"mg._domainkey.{SHOP}", KEY, "", T - 22 * MINUTE),), hints={"dkim": 38}),
    Scenario("DKIM key removed, its check unsure for hours", "dns shop.example dkim mg", BREACH,
        (Fault(block=0.95, provider="mailgun"),), failing("dkim", "mg", T + 8 * HOUR),
        (change("dkim", f"mg._domainkey.{SHOP}", KEY, "", T + 10 * MINUTE),), hints={"dkim": 38}),
    Scenario("DMARC to reject, a stream misaligned", "dns shop.example dmarc", BREACH,
        (Fault(block=0.9, stream="alerts"),),
        changes=(change("dmarc", f"_dmarc.{SHOP}", "v=DMARC1; p=none", "v=DMARC1; p=reject", T - 30 * MINUTE),),
        hints={"dmarc": 48}),
    Scenario("misaligned for long, then DMARC to reject", "dns shop.example dmarc", (*DNS, *BREACH),
        (Fault(block=0.9, stream="alerts"),), failing("alignment", "alerts", T - 9 * DAY),
        (change("dmarc", f"_dmarc.{SHOP}", "v=DMARC1; p=none", "v=DMARC1; p=reject", T - 30 * MINUTE),),
        hints={"dmarc": 48}),
    Scenario("blocklisted", "listing shop.example 192.0.2.1", LISTED, (Fault(block=0.2),),
        failing("blocklist", "192.0.2.1 spamhaus-zen", T + 10 * MINUTE), hints={"blocklist": 40, "reputation": 30}),
    Scenario("blocklisted by three lists", "listing shop.example 192.0.2.1", LISTED, (Fault(block=0.2),),
        several(failing("blocklist", "192.0.2.1 spamhaus-zen", T - 40 * MINUTE),
                failing("blocklist", "192.0.2.1 barracuda", T + HOUR, Verdict.WARN),
                failing("blocklist", "192.0.2.1 psbl", T + 2 * HOUR)), hints={"blocklist": 40}),
    Scenario("a mild listing turns grave", "", LISTED, (),
        several(failing("blocklist", "192.0.2.1 psbl", T, Verdict.WARN, until=T + 2 * HOUR),
                failing("blocklist", "192.0.2.1 psbl", T + 2 * HOUR)), looks=(HOUR, 3 * HOUR, 5 * HOUR)),
    Scenario("warm-up too fast", "volume shop.example", BREACH, (Fault(block=0.12, times=8),),
        volumes=(jump("", "", 8),), hints={"rate": 33}),
    Scenario("another ESP, too fast", "volume shop.example provider postmark", BREACH,
        (Fault(block=0.3, provider="postmark", times=10),),
        volumes=(jump("provider", "postmark", 10),),
        hints={"reputation": 40, "rate": 22}),
    Scenario("Microsoft throttles", "part shop.example mailbox_provider microsoft", BREACH,
        (Fault(block=0.45, mailbox="microsoft"),), hints={"rate": 42}),
    Scenario("Gmail policy", "part shop.example mailbox_provider gmail", BREACH, (Fault(block=0.3, mailbox="gmail"),),
        hints={"spf": 40, "dkim": 40}),
    Scenario("Yahoo filters content", "part shop.example mailbox_provider yahoo", BREACH,
        (Fault(block=0.7, mailbox="yahoo"),), hints={"content": 35}),
    Scenario("one stream bad", "part shop.example stream receipts", BREACH, (Fault(hard=0.07, stream="receipts"),)),
    Scenario("reverse name lost", "dns shop.example ptr 192.0.2.9", DNS, (Fault(block=0.8, provider="postmark"),),
        failing("ptr", "192.0.2.9", T - 4 * MINUTE), hints={"ptr": 46}, looks=(-MINUTE, 5 * HOUR, 20 * HOUR)),
    Scenario("the ESP's own SPF record", "dns shop.example spf", BREACH, (Fault(block=0.4, provider="sendgrid"),),
        changes=(change("include", "sendgrid.net", "v=spf1 ip4:192.0.2.0/24 -all", "v=spf1 ip4:198.51.100.0/24 -all",
                        T - 8 * MINUTE),), hints={"spf": 44}),
    Scenario("domain expired", "dns shop.example expiry", DNS, (Fault(hard=0.4),),
        failing("expiry", "", T - 30 * MINUTE), hints={"sender": 41}),
    Scenario("complaints after a blast", "volume shop.example stream news", BREACH,
        (Fault(complained=0.02, stream="news", times=6),), volumes=(_MORE_NEWS,)),
    Scenario("secret rotated, then silence", "", (REFUSED,), (), sources=source("mg", "mailgun", refused_from=T),
        looks=(HOUR, 5 * HOUR, 26 * HOUR, 30 * HOUR)),
    Scenario("resolver outage", "", (), (), failing("dkim", "mg", T, Verdict.UNKNOWN)),
    Scenario("a small sender's one bounce", "", (), (Fault(hard=0.08),), flows=(Flow("mailgun", "receipts", 0.6),)),
    Scenario("nothing explains it", "", BREACH, (Fault(hard=0.03),)),
    Scenario("trap: SPF edited as a bad list goes out", "volume shop.example stream news", BREACH,
        (Fault(hard=0.08, stream="news", times=6),), volumes=(_MORE_NEWS,),
        changes=(change("spf", SHOP, SPF, _NO_MAILGUN, T - 10 * MINUTE),), hints={"list": 44}),
    Scenario("trap: another ESP's key is removed", "part shop.example provider mailgun", (*DNS, *BREACH),
        (Fault(block=0.5, provider="mailgun"),), failing("dkim", "pm", T - 15 * MINUTE),
        (change("dkim", f"pm._domainkey.{SHOP}", KEY, "", T - 16 * MINUTE),)),
    Scenario("trap: a mild listing while Gmail filters content", "part shop.example mailbox_provider gmail",
        (*LISTED, *BREACH), (Fault(block=0.3, mailbox="gmail"),),
        failing("blocklist", "192.0.2.1 psbl", T - 20 * MINUTE, Verdict.WARN), hints={"content": 45}),
    Scenario("trap: SPF is changed in answer to refusals", "part shop.example provider sendgrid", BREACH,
        (Fault(block=0.4, provider="sendgrid"),),
        changes=(change("spf", SHOP, SPF.replace("-all", "~all"), SPF, T + 3 * HOUR),), hints={"reputation": 40}),
    Scenario("two causes, two domains", "part shop.example mailbox_provider microsoft",
        (*BREACH, ("MailTargetBreached", CLUB)),
        (Fault(block=0.45, mailbox="microsoft"), Fault(hard=0.06, domain=CLUB)),
        flows=(*FLOWS, Flow("ses", "club", 200, CLUB)), hints={"rate": 42}),
    Scenario("two causes, one domain", "part shop.example stream receipts", BREACH * 2,
        (Fault(hard=0.4, stream="receipts"), Fault(complained=0.02, stream="news", times=6)), volumes=(_MORE_NEWS,)),
    Scenario("better only because it is not heard", "part shop.example provider mailgun", (*BREACH, SILENT),
        (Fault(undetermined=0.3, provider="mailgun", unseen=T + 4 * HOUR),),
        sources=source("mg", "mailgun", heard_until=T + 4 * HOUR),
        looks=(2 * HOUR, 4 * HOUR, 29 * HOUR, 33 * HOUR)),
)  # fmt: skip


def moments(scenario: Scenario) -> Iterator[float]:
    """When the agent looks (Unix seconds)."""
    return (T + after for after in scenario.looks)
