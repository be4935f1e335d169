"""BIMI: mailbox providers may show the domain's logo (draft-brand-indicators-for-message-identification)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.dns.answer import Question
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, asked_once, conclude, lost
from agent.dns.dmarc_discovery import Discovery, discovered, discovery_questions
from agent.dns.page import Page, get, page
from agent.dns.taglist import lenient
from agent.suffix import registered_domain

_LARGEST = 32 * 1024  # octets of a logo
_AGE = 6 * 3600.0  # seconds for which a logo is not fetched again
_DRAFT = "BIMI draft section 4"
_ROOT = re.compile(rb"<svg\b[^>]{0,4000}>", re.I)


def plan(subject: Subject) -> Plan:
    """One finding for the domain, with the selector ``default``."""
    return (yield from asked_once(_plan(subject), {}))


def _plan(subject: Subject) -> Plan:
    domain = subject.domain
    names = list(dict.fromkeys(f"default._bimi.{d}" for d in (domain, registered_domain(domain)) if d))
    answers = yield tuple(Question(name, "TXT") for name in names)
    own = next((a for a in answers if a.records or not a.outcome.definitive), answers[0])
    name = own.question.name
    found = [text for text in own.records if text.lower().replace(" ", "").startswith("v=bimi1")]
    values = lenient(found[0]) if found else {}
    logo, proof = values.get("l", ""), values.get("a", "")
    problems: list[Problem] = []
    if not own.outcome.definitive:
        problems.append(lost(own))
    elif not found:
        problems.append(
            Problem(Verdict.OK, "bimi_absent", f"{domain} shows no logo.",
                    f'With DMARC enforced: {names[0]} TXT "v=BIMI1; l=https://{domain}/logo.svg; a=<certificate URL>"',
                    "RFC 9989, " + _DRAFT)
        )  # fmt: skip
    elif len(found) > 1:
        problems.append(
            Problem(Verdict.WARN, "multiple_records", f"{name} has {len(found)} BIMI records; none is used.",
                    f'Leave one: {name} TXT "{found[0][:1000]}"', _DRAFT)
        )  # fmt: skip
    elif not logo and not proof:
        problems.append(Problem(Verdict.OK, "bimi_declined", f"{domain} declares that it has no logo.", rfc=_DRAFT))
    else:
        *walked, existence = yield discovery_questions(domain)
        problems += _policy(discovered(domain, walked, existence))
        fetched = (yield (get(logo, limit=_LARGEST, redirects=3, max_age=_AGE),)) if logo else ()
        problems += _logo(name, logo, page(fetched[0]) if fetched else None)
        problems += _proof(name, proof)
    finding = conclude(
        "bimi", "", problems, ok="The logo is fit to be shown.", rfc=_DRAFT, records=found, answers=[own],
    )  # fmt: skip
    return (finding,)


def _policy(found: Discovery) -> Iterator[Problem]:
    if found.lost is not None and found.record is None:
        yield lost(found.lost)
    elif found.effective_policy not in ("quarantine", "reject"):
        yield Problem(
            Verdict.FAIL, "not_enforced", f"The DMARC policy of {found.domain} is "
            f"{found.effective_policy or 'missing'}: no logo is shown.",
            f"Set p=quarantine or p=reject at _dmarc.{found.policy_domain or found.domain}.", _DRAFT,
        )  # fmt: skip


def _logo(name: str, url: str, fetched: Page | None) -> Iterator[Problem]:
    if fetched is None or fetched.problem == "url":
        yield Problem(Verdict.FAIL, "bimi_logo", f"l= at {name} is no https: address of a logo.",
                      f'Publish: {name} TXT "v=BIMI1; l=https://<host>/logo.svg"', _DRAFT)  # fmt: skip
    elif fetched.problem == "too_large":
        yield Problem(Verdict.FAIL, "bimi_logo", f"The logo at {url[:200]} has more than 32 KB.",
                      "Make the SVG smaller.", _DRAFT)  # fmt: skip
    elif fetched.problem or fetched.status >= 500 or fetched.status == 429:
        detail = (
            f"The logo at {url[:200]} could not be fetched ({fetched.problem or fetched.status}; {fetched.outcome})."
        )
        yield Problem(Verdict.UNKNOWN, "indeterminate", detail, "Nothing to change: it is asked again soon.")
    elif fetched.status != 200:
        yield Problem(Verdict.FAIL, "bimi_logo", f"{url[:200]} answers with status {fetched.status}.",
                      "Serve the logo there.", _DRAFT)  # fmt: skip
    else:
        wrong = faults(fetched.body)
        if wrong:
            yield Problem(Verdict.FAIL, "bimi_logo", f"The logo at {url[:200]} {'; '.join(wrong)}.",
                          "Export it anew as SVG Tiny Portable/Secure.", _DRAFT)  # fmt: skip


def faults(svg: bytes) -> list[str]:
    """Where a picture breaks the profile SVG Tiny P/S, as far as the text shows it without being run."""
    root = _ROOT.search(svg)
    if root is None:
        return ["is no SVG"]
    head, lower = root[0].lower(), svg.lower()
    wrong = []
    if not re.search(rb"baseprofile\s*=\s*[\"']tiny-ps[\"']", head):
        wrong.append("has no baseProfile tiny-ps")
    if b"<title" not in lower:
        wrong.append("has no title")
    if re.search(rb"\s[xy]\s*=", head):
        wrong.append("has x or y at its root")
    if b"<script" in lower or re.search(rb"\son[a-z]{3,20}\s*=", lower):
        wrong.append("holds a script")
    if re.search(rb"href\s*=\s*[\"']\s*(https?:|//|data:)", lower) or b"<image" in lower:
        wrong.append("refers to something outside")
    return wrong


def _proof(name: str, url: str) -> Iterator[Problem]:
    if not url:
        yield Problem(Verdict.WARN, "bimi_unproven", f"The record at {name} names no mark certificate: Gmail and Apple "
                      "show no logo.", "Have a mark certificate (VMC or CMC) made and give its address in a=.",
                      _DRAFT)  # fmt: skip
    elif not url.lower().startswith("https://"):
        yield Problem(Verdict.FAIL, "bimi_proof", f"a= at {name} is no https: address.",
                      "Serve the certificate over https and give that address in a=.", _DRAFT)  # fmt: skip
