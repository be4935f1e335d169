"""What the large mailbox providers ask of senders, held against what is known of a domain.

It joins findings of the DNS checks, rates and refusals, and judges nothing anew: no alert comes of it, since each thing
it rests on has its own. Sources: Google, "Email sender guidelines" and its FAQ (2024-2025); Yahoo Sender Hub, "Sender
Requirements" (2024); Microsoft, "Strengthening Email Ecosystem" (April 2025); Apple, "Postmaster information for
iCloud Mail" (February 2025).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent.dns.checks.base import Finding, Verdict
from agent.vitals.types import DomainVitals, Rate

COMPLAINT_FINE, COMPLAINT_MOST = 0.001, 0.003  # of delivered mail
_COMPLAINT_WINDOWS = ("30d", "7d")


class Rule(msgspec.Struct, frozen=True):
    """``topic`` is ``spf``, ``dkim``, ``dmarc``, ``alignment``, ``ptr``, ``complaint``, ``unsubscribe``, ``tls``,
    ``format``, ``replies`` or ``forwarding``. ``required`` rules lead to refusals, the others are advice; ``asks`` is
    the rule in a sentence. ``bulk`` rules are for bulk senders: of others, SPF or DKIM is enough."""

    topic: str
    required: bool
    asks: str
    bulk: bool = False


class Provider(msgspec.Struct, frozen=True):
    """``id`` is a mailbox provider's name in metrics; ``bulk`` mails a day to it are what its bulk rules begin at, 0
    when it has published no number. ``codes`` are the enhanced status codes by which it refuses, and their topics."""

    id: str
    name: str
    source: str
    bulk: int
    rules: tuple[Rule, ...]
    codes: dict[str, str]


class Item(msgspec.Struct, frozen=True):
    """One rule and what is known of it: ``proof`` says what the verdict rests on, or what would prove it."""

    topic: str
    required: bool
    asks: str
    verdict: Verdict
    proof: str
    bulk: bool = False


class Assessment(msgspec.Struct, frozen=True):
    """One provider's rules for one domain. ``attempted`` are the mails to it of the last 24 hours, ``None`` when nobody
    counted; ``verdict`` is the worst of the required items, ``unknown`` only if nothing is worse."""

    provider: str
    name: str
    source: str
    bulk: int
    attempted: int | None
    verdict: Verdict
    items: tuple[Item, ...]


def _rules(must: str, should: str, bulk: str, **asks: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(topic, topic in must.split(), asks[topic], topic in bulk.split()) for topic in f"{must} {should}".split()
    )


_SPF = "SPF passes for the return path."
_DKIM = "Mail is signed with DKIM, with a key of 1024 bits at least."
_DMARC = "A DMARC record applies; p=none is enough."
_ALIGN = "SPF or DKIM is aligned with the From domain."
_PTR = "Sending addresses have reverse names that lead back to them."
_ONE_CLICK = "Marketing mail can be unsubscribed from with one click (RFC 8058) within two days."
_FORMAT = "Messages are well formed (RFC 5321, RFC 5322)."
_FORWARD = "Forwarded mail carries ARC headers (RFC 8617)."
_BULK = "dkim dmarc alignment unsubscribe"
_FBL = "Complaints stay below 0.3 % of delivered mail, best below 0.1 %."

PROVIDERS: tuple[Provider, ...] = (
    Provider(
        "gmail", "Gmail", "https://support.google.com/a/answer/81126", 5000,
        _rules(
            "spf dkim dmarc alignment ptr tls complaint unsubscribe format", "forwarding", _BULK, spf=_SPF, dkim=_DKIM,
            dmarc=_DMARC, alignment=_ALIGN, ptr=_PTR, tls="Mail is delivered over TLS.", complaint=_FBL,
            unsubscribe=_ONE_CLICK, forwarding=_FORWARD,
            format="Messages are well formed (RFC 5322), and none shows a Gmail address as its sender.",
        ),
        {
            "7.23": "ptr", "7.25": "ptr", "7.26": "alignment", "7.27": "spf", "7.29": "tls", "7.30": "dkim",
            "7.31": "dmarc", "7.32": "alignment", "7.40": "dmarc",
        },
    ),
    Provider(
        "yahoo", "Yahoo and AOL", "https://senders.yahooinc.com/best-practices/", 0,
        _rules(
            "spf dkim dmarc alignment ptr complaint unsubscribe format", "", _BULK, spf=_SPF, dkim=_DKIM, dmarc=_DMARC,
            alignment=_ALIGN, ptr=_PTR, complaint=_FBL, unsubscribe=_ONE_CLICK, format=_FORMAT,
        ),
        {},
    ),
    Provider(
        "microsoft", "Outlook.com", "https://techcommunity.microsoft.com/blog/microsoftdefenderforoffice365blog/4399730",
        5000,
        _rules(
            "spf dkim dmarc alignment", "ptr unsubscribe replies", "spf dkim dmarc alignment", spf=_SPF,
            dkim="Mail is signed with DKIM.", dmarc=_DMARC, replies="The addresses in From and Reply-To take replies.",
            alignment="SPF or DKIM, better both, is aligned with the From domain.", ptr=_PTR,
            unsubscribe="Marketing mail has a working way to unsubscribe.",
        ),
        {"7.515": "alignment"},
    ),
    Provider(
        "apple", "iCloud Mail", "https://support.apple.com/en-us/102322", 0,
        _rules(
            "spf dkim dmarc ptr unsubscribe format", "forwarding", "", spf=_SPF, dkim="Mail is signed with DKIM.",
            dmarc="A DMARC policy is published.", ptr=_PTR, unsubscribe="The unsubscribe link works at once.",
            format=_FORMAT, forwarding=_FORWARD,
        ),
        {},
    ),
)  # fmt: skip


def assess(
    findings: Iterable[Finding],
    vitals: DomainVitals | None = None,
    refusals: Iterable[tuple[str, str]] = (),
) -> tuple[Assessment, ...]:
    """Every provider's rules for one domain. ``vitals`` are its rates, ``None`` where no agent counts; ``refusals`` are
    its recent bounces as (mailbox provider, enhanced status code)."""
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    refused = list(refusals)
    return tuple(_assess(provider, by_check, vitals, refused) for provider in PROVIDERS)


def _assess(
    provider: Provider,
    findings: dict[str, list[Finding]],
    vitals: DomainVitals | None,
    refusals: Sequence[tuple[str, str]],
) -> Assessment:
    refused: dict[str, list[str]] = {}
    for mailbox_provider, code in refusals:
        topic = provider.codes.get(code.partition(".")[2])
        if mailbox_provider == provider.id and topic:
            refused.setdefault(topic, []).append(code)
    items = []
    for rule in provider.rules:
        verdict, proof = _known(provider, rule.topic, findings, vitals)
        if codes := refused.get(rule.topic):
            said = (
                f"{provider.name} refused {len(codes)} of the newest bounces for it ({', '.join(sorted(set(codes)))})."
            )
            verdict, proof = Verdict.FAIL, f"{said} {proof}"
        items.append(Item(rule.topic, rule.required, rule.asks, verdict, proof, rule.bulk))
    verdicts = {item.verdict for item in items if item.required}
    worst = next(v for v in (Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN, Verdict.OK) if v in verdicts)
    day = _part(provider, vitals, "24h", "deliverability")
    attempted = None if vitals is None else day.denominator if day else 0
    return Assessment(provider.id, provider.name, provider.source, provider.bulk, attempted, worst, tuple(items))


def _part(provider: Provider, vitals: DomainVitals | None, window: str, rate: str) -> Rate | None:
    if vitals is None:
        return None
    return vitals.parts.get("mailbox_provider", {}).get(provider.id, {}).get(window, {}).get(rate)


def _known(
    provider: Provider, topic: str, findings: dict[str, list[Finding]], vitals: DomainVitals | None
) -> tuple[Verdict, str]:
    match topic:
        case "spf":
            return _all_of(findings.get("spf", []), "the check of SPF")
        case "ptr":
            return _all_of(findings.get("ptr", []), "sending_ips, whose reverse names can then be looked up")
        case "dkim":
            return _one_of(findings.get("dkim", []))
        case "dmarc":
            return _all_of(findings.get("dmarc", []), "the check of DMARC")
        case "alignment":
            return _alignment(findings.get("alignment", []))
        case "complaint":
            return _complaints(provider, vitals)
        case "replies":
            return _all_of([f for f in findings.get("mx", []) if not f.subject], "the check of MX")
        case "format" | "forwarding":
            return Verdict.UNKNOWN, "A message shows it; the DNS cannot tell."
        case "tls":
            return Verdict.UNKNOWN, "The DNS cannot tell; what your service or mail server logs of its deliveries does."
        case _:
            return (
                Verdict.UNKNOWN,
                "A message proves it: List-Unsubscribe with https: and List-Unsubscribe-Post, both signed.",
            )


def _named(finding: Finding) -> str:
    return f"{finding.check}{' ' + finding.subject if finding.subject else ''}: {finding.reason}"


def _all_of(findings: Sequence[Finding], missing: str) -> tuple[Verdict, str]:
    """A rule that every finding must keep. A warning keeps it: its check says what is weak."""
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        if bad := [f for f in findings if f.verdict is verdict]:
            return verdict, f"{_named(bad[0])}. {bad[0].detail}"
    if not findings:
        return Verdict.UNKNOWN, f"Nothing is known yet; it would be by {missing}."
    return Verdict.OK, findings[0].detail


def _one_of(findings: Sequence[Finding]) -> tuple[Verdict, str]:
    """One usable key will do; a key in testing proves nothing to anybody."""
    usable = [f for f in findings if f.verdict in (Verdict.OK, Verdict.WARN) and f.subject and f.reason in _USABLE]
    if good := [f for f in usable if f.verdict is Verdict.OK]:
        return Verdict.OK, f"{_named(good[0])}. {good[0].detail}"
    if usable:
        return Verdict.WARN, f"{_named(usable[0])}. {usable[0].detail}"
    return _all_of([f for f in findings if f.verdict is not Verdict.WARN] or findings, "dkim_selectors")


# Reasons of findings about keys that verifiers do accept.
_USABLE = frozenset(("ok", "key_weak", "key_oversized", "multiple_records", "cname_chain", "key_ttl", "syntax_error"))


def _alignment(findings: Sequence[Finding]) -> tuple[Verdict, str]:
    """One aligned way is enough for every provider, so only streams without any break the rule."""
    if not findings:
        return Verdict.UNKNOWN, "Describe how the mail is sent (mail_streams), and the check of alignment tells."
    if bad := [f for f in findings if f.reason == "not_aligned"]:
        return Verdict.FAIL, f"{_named(bad[0])}. {bad[0].detail}"
    if lost := [f for f in findings if f.verdict is Verdict.UNKNOWN]:
        return Verdict.UNKNOWN, f"{_named(lost[0])}. {lost[0].detail}"
    if half := [f for f in findings if f.verdict is not Verdict.OK]:
        return Verdict.WARN, f"{_named(half[0])}. {half[0].detail}"
    return Verdict.OK, f"Every declared stream is aligned by SPF and by DKIM ({len(findings)})."


def _complaints(provider: Provider, vitals: DomainVitals | None) -> tuple[Verdict, str]:
    if provider.id == "gmail":
        return Verdict.UNKNOWN, "Gmail tells nobody who complained: its Postmaster Tools show the rate."
    if vitals is None:
        return Verdict.UNKNOWN, "No rates here: a running agent counts complaints."
    verdict, proof = Verdict.UNKNOWN, f"No mail to {provider.name} was counted."
    for window in _COMPLAINT_WINDOWS:
        rate = _part(provider, vitals, window, "complaint")
        if rate is None or rate.lower is None or rate.upper is None:
            continue
        says = f"{rate.numerator} complaints of {rate.denominator} delivered in {window} ({100 * rate.value:.3g} %, "
        says += f"95 % bounds {100 * rate.lower:.3g} % to {100 * rate.upper:.3g} %)."
        if rate.lower > COMPLAINT_MOST:
            return Verdict.FAIL, says
        if rate.lower > COMPLAINT_FINE:
            verdict, proof = Verdict.WARN, says
        elif rate.upper < COMPLAINT_MOST and verdict is not Verdict.WARN:
            verdict, proof = Verdict.OK, says
        elif verdict is Verdict.UNKNOWN:
            proof = f"Too little mail to tell: {says}"
    return verdict, proof
