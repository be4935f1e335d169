"""States as a living agent would hand them to the views."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.alerts.types import Cause, Incident, Onset
from agent.dns.changes import Change
from agent.dns.changes import Direction as Turn
from agent.dns.checks.base import Finding, Problem, Verdict, Watched
from agent.dns.dependents import Sender
from agent.dns.inventory import RecordSet
from agent.events import BounceClass
from agent.ledger.base import Cell, RecentBounce
from agent.views.state import AlertmanagerView, ListView, Readiness, SourceView, State
from agent.vitals.direction import Direction
from agent.vitals.forecast import Forecast
from agent.vitals.gate import GateState, Item, ItemState, PhaseGate
from agent.vitals.phases import PHASES
from agent.vitals.scopes import Explanation, PartVerdict
from agent.vitals.shifts import Shift
from agent.vitals.trends import DomainTrends
from agent.vitals.types import WINDOWS, Budget, BudgetState, DomainVitals, Judgement, Rate, Snapshot, TargetVerdict
from agent.vitals.volume import month_start

NOW = 1_790_000_000.0
HOUR, DAY = 3600.0, 86400.0

# Mails attempted in each window by a sender of about 70,000 a month.
VOLUME = {"1h": 97, "6h": 580, "24h": 2_310, "7d": 16_240, "30d": 69_800}


def rate(numerator: int, denominator: int, bounds: bool = True) -> Rate:
    """A rate with roughly the right bounds: what is shown is tested here, not the mathematics."""
    value = numerator / denominator
    half = 2 * (value * (1 - value) / denominator) ** 0.5 + 1.5 / denominator
    if not bounds:
        return Rate(value, None, None, numerator, denominator)
    return Rate(value, max(0.0, value - half), min(1.0, value + half), numerator, denominator)


def rates(n: int, bounce: float = 0.006, block: float = 0.002, complaint: float = 0.0004) -> dict[str, Rate]:
    hard, blocked, soft = round(n * bounce), round(n * block), round(n * 0.004)
    delivered = n - hard - blocked - soft
    return {
        "deliverability": rate(delivered, n),
        "bounce": rate(hard, n),
        "block": rate(blocked, n),
        "soft_bounce": rate(soft, n),
        "complaint": rate(round(delivered * complaint), delivered),
        "deferral": rate(round(n * 0.03), n, bounds=False),
        "suppression": rate(round(n * 0.001), n + round(n * 0.001)),
    }


def windows(share: float = 1.0, **mix: float) -> dict[str, dict[str, Rate]]:
    return {w: rates(n, **mix) for w in WINDOWS if (n := round(VOLUME[w] * share)) >= 3}


MONTH = month_start(NOW)


def parts() -> dict[str, dict[str, dict[str, dict[str, Rate]]]]:
    return {
        "provider": {"sendgrid": windows(0.7), "postmark": windows(0.3, bounce=0.004)},
        "mailbox_provider": {
            "gmail": windows(0.5),
            "microsoft": windows(0.2, block=0.06),
            "yahoo": windows(0.15),
            "apple": windows(0.05),
            "other": windows(0.1, bounce=0.02),
        },
        "stream": {"receipts": windows(0.4, bounce=0.002), "newsletter": windows(0.6, complaint=0.0009)},
    }


def judgement(target: str, verdict: str, limit: float, window: str, measured: Rate | None, reason: str) -> Judgement:
    return Judgement(target, TargetVerdict(verdict), limit, window, measured, reason)


def wider(measured: Rate) -> Rate:
    """With bounds half as wide again."""
    half = 0.75 * ((measured.upper or 0.0) - (measured.lower or 0.0))
    value = measured.value
    return Rate(value, max(0.0, value - half), min(1.0, value + half), measured.numerator, measured.denominator)


def anytime(measured: dict[str, dict[str, Rate]]) -> dict[str, dict[str, Rate]]:
    judged = {"24h": ("bounce", "deliverability"), "7d": ("bounce", "deliverability", "complaint")}
    found = {window: {name: wider(measured[window][name]) for name in names} for window, names in judged.items()}
    found["30d"] = {"complaint": wider(measured["30d"]["complaint"])}
    found["month"] = {name: wider(measured["30d"][name]) for name in judged["7d"]}
    return found


def domain_well() -> DomainVitals:
    measured = windows()
    return DomainVitals(
        domain="example.com",
        phase="growth",
        rates=measured,
        parts=parts(),
        attempted=VOLUME,
        judgements=(
            judgement("bounce", "met", 0.01, "7d", measured["7d"]["bounce"], "97 of 16,240 mails bounced in 7 days."),
            judgement(
                "deliverability", "met", 0.95, "24h", measured["24h"]["deliverability"], "2,282 of 2,310 accepted."
            ),
            judgement(
                "complaint",
                "undecided",
                0.001,
                "7d",
                measured["7d"]["complaint"],
                "6 complaints of 16,046 delivered mails: between the line and the limit, more mail will tell.",
            ),
            judgement("capacity", "met", 50_000, "30d", None, "69,800 mails in 30 days, 50,000 to 100,000 asked for."),
        ),
        monthly_volume=48_120,
        monthly_projection=71_400.0,
        last_event_at=NOW - 40,
        budgets=(
            Budget("bounce", BudgetState.LASTING, MONTH, 71_400, True, 714, 287, 427, 0.6, 0.59),
            Budget(
                "deliverability",
                BudgetState.RUNNING_OUT,
                MONTH,
                71_400,
                True,
                3_570,
                3_350,
                220,
                0.9,
                1.1,
                MONTH + 27 * DAY,
                MONTH + 26 * DAY,
                MONTH + 28 * DAY,
            ),
        ),
        anytime=anytime(measured),
    )


def domain_ill() -> DomainVitals:
    measured = windows(0.2, bounce=0.042, block=0.05)
    return DomainVitals(
        domain="news.example.org",
        phase="foundation",
        rates=measured,
        parts={"provider": {"mailgun": measured}, "mailbox_provider": {"gmail": measured}, "stream": {}},
        attempted={w: round(n * 0.2) for w, n in VOLUME.items()},
        judgements=(
            judgement("bounce", "breached", 0.01, "7d", measured["7d"]["bounce"], "136 of 3,248 mails bounced."),
            judgement("deliverability", "breached", 0.95, "7d", measured["7d"]["deliverability"], "2,937 of 3,248."),
            judgement("complaint", "insufficient_data", 0.001, "30d", None, "Fewer than 3,700 mails delivered."),
        ),
        monthly_volume=9_402,
        monthly_projection=None,
        last_event_at=NOW - 900,
        budgets=(Budget("bounce", BudgetState.TOO_LITTLE, MONTH, 9_402, False, 94, 390, -296, 4.1, 4.2),),
        anytime=anytime(measured),
    )


def watched(domain: str, finding: Finding, definitive_at: float = NOW - 120) -> Watched:
    last = finding if finding.verdict != Verdict.UNKNOWN else None
    return Watched(domain, finding, NOW - 60, NOW - 3 * DAY, definitive_at, last)


def findings() -> tuple[Watched, ...]:
    spf = "v=spf1 include:sendgrid.net include:spf.mtasv.net -all"
    return (
        watched("example.com", Finding("spf", "", Verdict.OK, "valid", "One valid record, 4 of 10 lookups used.",
            records=(spf,), ttl=3600, rfc="RFC 7208 4.6.4")),
        watched("example.com", Finding("dkim", "s1", Verdict.OK, "key_found", "RSA key of 2048 bits.",
            records=("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA" + "q" * 180,), ttl=300)),
        watched("example.com", Finding("dmarc", "", Verdict.WARN, "policy_none",
            "The policy is none: receivers are asked to do nothing about forged mail.",
            advice='Publish "v=DMARC1; p=quarantine; rua=mailto:reports@example.com" at _dmarc.example.com once '
            "reports show that your own mail passes.", rfc="RFC 7489 6.3", records=("v=DMARC1; p=none",), ttl=3600,
            problems=(Problem(Verdict.WARN, "policy_none", "The policy is none.", 'Publish "v=DMARC1; p=quarantine'
            '; rua=mailto:reports@example.com" at _dmarc.example.com.'),
            Problem(Verdict.WARN, "rua_many", "More than two report addresses.", "Name two at most in rua.")))),
        watched("example.com", Finding("ptr", "192.0.2.10", Verdict.UNKNOWN, "timeout",
            "No resolver answered within 3 seconds."), NOW - 5 * HOUR),
        watched("news.example.org", Finding("spf", "", Verdict.OK, "valid", "One valid record.", records=(spf,))),
        watched("news.example.org", Finding("dkim", "mg", Verdict.FAIL, "key_missing",
            "No key is published for the selector mg.",
            advice="Publish the TXT record that Mailgun shows under Domain settings at "
            "mg._domainkey.news.example.org.", rfc="RFC 6376 3.6.2")),
        watched("news.example.org", Finding("dmarc", "", Verdict.OK, "policy_enforced", "The policy is reject.",
            records=("v=DMARC1; p=reject",))),
    )  # fmt: skip


def dns_changes() -> tuple[Change, ...]:
    """The newest first: a policy turned down, a service's key gone, its include wider than before."""

    def held(name: str, role: str, *records: str) -> RecordSet:
        return RecordSet(name, "TXT", role, records)

    return (
        Change(NOW - 900, "example.com", held("_dmarc.example.com", "dmarc", "v=DMARC1; p=reject"),
            held("_dmarc.example.com", "dmarc", "v=DMARC1; p=none"),
            ("_dmarc.example.com: the policy for the domain is now none, before reject",), Turn.WEAKER, 0.64),
        Change(NOW - 5 * HOUR, "news.example.org", held("mte1._domainkey.news.example.org", "dkim", "v=DKIM1; p=MIIB"),
            held("mte1._domainkey.news.example.org", "dkim"),
            ("The DKIM key of mte1._domainkey.news.example.org is gone",), Turn.WEAKER, 0.018,
            (Sender(provider="mandrill"),)),
        Change(NOW - 2 * DAY, "example.com", held("sendgrid.net", "include", "v=spf1 ip4:192.0.2.0/24 ~all"),
            held("sendgrid.net", "include", "v=spf1 ip4:192.0.2.0/24 ip4:198.51.100.0/22 ~all"),
            ("include:sendgrid.net now authorises 198.51.100.0/22",), Turn.OTHER, None,
            (Sender("marketing", "sendgrid"),)),
        Change(NOW - 9 * DAY, "example.com", held("_smtp._tls.example.com", "tls_rpt"),
            held("_smtp._tls.example.com", "tls_rpt", "v=TLSRPTv1; rua=https://reports.example/v1"),
            ("The TLS reporting record of _smtp._tls.example.com is published",), Turn.STRONGER, 0.61),
    )  # fmt: skip


def incidents() -> tuple[Incident, ...]:
    def labels(name: str, severity: str, **more: str) -> dict[str, str]:
        return {"alertname": name, "severity": severity, "domain": "news.example.org", "phase": "foundation", **more}

    return (
        Incident(
            labels("MailTargetBreached", "critical", target="bounce"),
            {
                "summary": "Bounce target breached",
                "description": "Bounce rate 4.2 % (3.3 % to 5.3 %) over 7d, limit 1 %: 136 of 3,248 mails.",
            },
            NOW - 7 * HOUR,
            also=(labels("MailTargetBreached", "critical", target="deliverability"),),
            causes=(
                Cause(
                    "dns",
                    "dns news.example.org spf",
                    "news.example.org no longer authorises include:mailgun.org",
                    9,
                    True,
                    NOW - 8 * HOUR,
                    (
                        "seen 12 min before the rate moved",
                        "41 of the 50 newest bounces point to SPF",
                        "96% of the failures beyond the target are of mail sent through mailgun, which it touches",
                    ),
                ),
                Cause(
                    "part",
                    "part news.example.org mailbox_provider gmail",
                    "mail to gmail fails and other mail does not: "
                    "120 of 1,600, 88% of the failures beyond the target in 50% of the mail",
                    2,
                    False,
                ),
                Cause(
                    "volume",
                    "volume news.example.org",
                    "mail of news.example.org grew to 2.1 times its usual volume",
                    -1,
                    False,
                    NOW - 9 * HOUR,
                    ("seen 72 min before the rate moved",),
                    ("41 of the 50 newest bounces point to SPF",),
                ),
            ),
            onset=Onset(NOW - 7.8 * HOUR, NOW - 8 * HOUR, NOW - 7 * HOUR),
        ),
        Incident(
            labels("MailDnsCheckFailing", "critical", check="dkim", subject="mg"),
            {"summary": "DKIM key missing", "description": "No key is published for the selector mg."},
            NOW - 26 * HOUR,
            NOW - 600,
        ),
    )


def sources() -> tuple[SourceView, ...]:
    return (
        SourceView("sendgrid-main", "sendgrid", "example.com", NOW - 3, NOW - 40,
            {"accepted": 18_204, "unauthorized": 3}, 0, "signature does not match", NOW - 9 * HOUR),
        SourceView("postmark-receipts", "postmark", "example.com", NOW - 90, NOW - 95, {"accepted": 5_022}, 2,
            "unreadable", NOW - 2 * DAY),
        SourceView("mailgun-news", "mailgun", "news.example.org", NOW - 890, NOW - 900, {"accepted": 2_911}, 0, "", 0),
    )  # fmt: skip


def bounces() -> tuple[RecentBounce, ...]:
    rows = [
        (30, "sendgrid-main", "sendgrid", "gmail", "hard", 550, "5.1.1", "The account <address> does not exist."),
        (75, "sendgrid-main", "sendgrid", "microsoft", "block", 550, "5.7.1",
            "Unfortunately, messages from [192.0.2.10] weren't sent. Please contact your Internet service provider "
            "since part of their network is on our block list (S3150)."),
        (400, "postmark-receipts", "postmark", "yahoo", "soft", 452, "4.2.2", "Mailbox over quota"),
        (2_100, "mailgun-news", "mailgun", "other", "undetermined", None, "", "smtp; connection dropped"),
    ]  # fmt: skip
    return tuple(
        RecentBounce(NOW - age, source, Cell("example.com", provider, "newsletter", mailbox), BounceClass(klass), code,
            enhanced, reason)
        for age, source, provider, mailbox, klass, code, enhanced, reason in rows
    )  # fmt: skip


def trends() -> dict[str, DomainTrends]:
    day = NOW // DAY * DAY
    worse = Shift(
        "", "", "bounce", NOW - 30 * HOUR, NOW - 33 * HOUR, NOW - 28 * HOUR, rate(80, 16_000), rate(90, 3_000),
        "worsening", 0.9999,
    )  # fmt: skip
    part = msgspec.structs.replace(worse, scope="provider", part="mailgun")
    before, after = rate(80, 16_000), rate(136, 3_248)
    return {
        "example.com": DomainTrends(
            NOW - 200,
            (),
            (
                Direction("", "", "bounce", "steady", 0.95, 1.02, 0.9, 1.15, rate(97, 16_240), rate(95, 16_100)),
                Direction("", "", "deliverability", "cannot_tell", 0.0),
                Direction("", "", "volume", "rising", 0.999, 1.31, 1.25, 1.4),
            ),
            (
                Forecast("phase", 100_000, False, day + 20 * DAY, day + 14 * DAY, None, day + 180 * DAY, 0.3, 0.1, 0.5),
                Forecast("plan", 60_000, True, *[day - 2 * DAY] * 3, day + 180 * DAY, 0.3, 0.1, 0.5),
            ),
        ),
        "news.example.org": DomainTrends(
            NOW - 200,
            (worse, part),
            (
                Direction("", "", "bounce", "worsening", 0.999, 8.4, 6.2, 11.0, after, before),
                Direction("provider", "mailgun", "bounce", "worsening", 0.999, 8.4, 6.2, 11.0, after, before),
            ),
            (),
            (
                PartVerdict("provider", "mailgun", "bounce", TargetVerdict.BREACHED, 136, 3_248, NOW - 30 * HOUR),
                PartVerdict("mailbox_provider", "gmail", "bounce", TargetVerdict.MET, 2, 1_900),
            ),
            (Explanation("bounce", "through mailgun only", 130, 1_200, 6, 2_048),),
        ),
    }  # fmt: skip


def gates() -> dict[str, PhaseGate]:
    day = NOW // DAY * DAY
    passed, blocking, unknown = ItemState
    well = (
        Item("bounce", blocking, "day 9 of 14 proven below 1 %; 97 of 16,240 failed in 7 days", day + 5 * DAY),
        Item("deliverability", passed, "14 days below 5 % are proven; 282 of 16,240 failed in 7 days", day),
        Item("mailbox_providers", passed, "each that takes 10% of the mail is within the targets: gmail", day),
        Item("dns", unknown, "1 DNS check without an answer: ptr 192.0.2.10", day),
        Item("duration", passed, "4 to 8 weeks are planned for growth, 6.0 have passed since 2026-08-09", day),
    )  # fmt: skip
    ill = (
        Item("bounce", blocking, "breached now: 136 of 3,248 mails bounced.", day + 18 * DAY),
        Item("complaint", unknown, "1 complaints of 2,937 in 30 days: too few to prove below 0.1 %", None),
    )
    return {
        "example.com": PhaseGate("example.com", "growth", "enterprise", GateState.NOT_YET, day + 5 * DAY, well, 6.0),
        "news.example.org": PhaseGate("news.example.org", "foundation", "growth", GateState.NOT_YET, None, ill, None),
    }


def state(**changes: Any) -> State:
    """Two domains, one well and one ill, as the leader sees them."""
    made = State(
        version="0.1.0",
        now=NOW,
        started_at=NOW - 3 * DAY,
        demo=False,
        leader=True,
        readiness=(Readiness("store", True), Readiness("intake", True), Readiness("evaluation", True)),
        snapshot=Snapshot(NOW - 4, {"example.com": domain_well(), "news.example.org": domain_ill()}),
        phases=PHASES,
        findings=findings(),
        incidents=incidents(),
        sources=sources(),
        recent_bounces=bounces(),
        alertmanagers=(
            AlertmanagerView("http://alertmanager-0:9093", NOW - 20, ""),
            AlertmanagerView("http://alertmanager-1:9093", NOW - 3 * HOUR, "connection refused"),
        ),
        domain_phases={"example.com": "growth", "news.example.org": "foundation"},
        dns_changes=dns_changes(),
        trends=trends(),
        gates=gates(),
        blocklists=(
            ListView("psbl", "usable", {"192.0.2.1": True, "192.0.2.2": False}),
            ListView("spamcop", "refused", {"192.0.2.1": None, "192.0.2.2": None}),
        ),
    )
    return msgspec.structs.replace(made, **changes)


def first_minute() -> State:
    """A new agent before anything was evaluated or received."""
    return state(
        snapshot=None,
        dns_changes=(),
        findings=(),
        incidents=(),
        sources=tuple(
            msgspec.structs.replace(s, last_received_at=0.0, last_event_at=0.0, requests={}, quarantined=0,
                last_error="", last_error_at=0.0) for s in sources()
        ),
        recent_bounces=(),
        alertmanagers=(),
        trends={},
        gates={},
        readiness=(Readiness("store", True), Readiness("evaluation", False, "the first one is under way")),
    )  # fmt: skip
