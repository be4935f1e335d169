"""MTA-STS: other servers deliver to the domain over proven TLS only (RFC 8461). Without it the domain does as well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, conclude, lost
from agent.dns.page import Page, get, page
from agent.dns.taglist import lenient

_EXCHANGES = 20  # compared with the policy
_LONGEST = 31_557_600  # seconds (section 3.2)
_RENEWED = 14 * 86_400.0  # seconds before its end by which a certificate is renewed everywhere
_SHORT = 604_800  # seconds of max_age below which the policy is forgotten between two mails
# The server has spoken, and a sender would give up; everything else may be this machine's trouble.
_REFUSED = {"redirect": "sends elsewhere, which senders do not follow", "too_large": "is longer than 64 KiB"}


class Policy(msgspec.Struct, frozen=True):
    """A policy file; ``mx`` are the patterns in their order, lower case. ``max_age`` is in seconds."""

    mode: str
    max_age: int
    mx: tuple[str, ...]


def plan(subject: Subject) -> Plan:
    """One finding for the domain."""
    domain = subject.domain
    name, host = f"_mta-sts.{domain}", f"mta-sts.{domain}"
    url = f"https://{host}/.well-known/mta-sts.txt"
    txt, mx, a = yield (Question(name, "TXT"), Question(domain, "MX"), Question(host, "A"))
    found = [text for text in txt.records if text.startswith("v=STSv1;")]
    # A name that does not exist, or has an address already, is not asked for the other kind.
    (aaaa,) = (a,) if a.outcome in (Outcome.ANSWER, Outcome.NXDOMAIN) else (yield (Question(host, "AAAA"),))
    served = Outcome.ANSWER in (a.outcome, aaaa.outcome)
    fetched: Page | None = None
    if txt.outcome.definitive and served:
        (answer,) = yield (get(url),)
        fetched = page(answer)
    records = list(found)
    problems: list[Problem] = []
    if not txt.outcome.definitive:
        problems.append(lost(txt))
    elif not found:
        problems.append(_absent(domain, name, txt, fetched))
    else:
        problems += _record(name, found)
        if fetched is None:
            problems.append(_nowhere(domain, host, a, aaaa))
        elif fetched.status != 200:
            problems.append(_unfetched(url, fetched))
        else:
            records += fetched.body.decode("latin-1").splitlines()
            problems += [*_policy(domain, host, fetched, mx), *_certificate(host, fetched)]
    finding = conclude(
        "mta_sts", "", problems, ok="The policy is enforced and names every mail host.", rfc="RFC 8461 section 3",
        records=records, answers=[txt],
    )  # fmt: skip
    return (finding,)


def _absent(domain: str, name: str, txt: Answer, fetched: Page | None) -> Problem:
    publish = f'Publish: {name} TXT "v=STSv1; id=1"'
    if any("stsv1" in text.lower() for text in txt.records):
        return Problem(Verdict.FAIL, "syntax_error", f"The record at {name} does not begin \"v=STSv1;\".", publish,
                       "RFC 8461 section 3.1")  # fmt: skip
    if fetched is not None and fetched.status == 200 and read(fetched.body)[0] is not None:
        detail = f"{domain} serves a policy, but without the record at {name} nobody looks for it."
        return Problem(Verdict.WARN, "sts_txt_missing", detail, publish, "RFC 8461 section 3.1")
    return Problem(Verdict.OK, "sts_absent", f"{domain} has no MTA-STS policy.",
                   f"To have mail to {domain} sent over proven TLS only, serve a policy and then publish {name}.",
                   "RFC 8461 section 3.1")  # fmt: skip


def _record(name: str, found: list[str]) -> Iterator[Problem]:
    if len(found) > 1:
        yield Problem(Verdict.FAIL, "multiple_records", f"{name} has {len(found)} records, so there is no policy.",
                      f'Leave one: {name} TXT "{found[0][:1000]}"', "RFC 8461 section 3.1")  # fmt: skip
    elif not re.fullmatch(r"[A-Za-z0-9]{1,32}", lenient(found[0]).get("id", "")):
        yield Problem(Verdict.FAIL, "syntax_error", f"The record at {name} has no id= of 1 to 32 letters and digits.",
                      f'Publish: {name} TXT "v=STSv1; id=1"', "RFC 8461 section 3.1")  # fmt: skip


def _nowhere(domain: str, host: str, a: Answer, aaaa: Answer) -> Problem:
    for answer in (a, aaaa):
        if not answer.outcome.definitive:
            return lost(answer)
    return Problem(
        Verdict.FAIL, "sts_fetch", f"{host} has no address, so the policy of {domain} cannot be fetched.",
        f"Publish an address for {host} and serve /.well-known/mta-sts.txt there.", "RFC 8461 section 3.3",
    )  # fmt: skip


def _unfetched(url: str, fetched: Page) -> Problem:
    serve = f"Serve the policy itself, with status 200, at {url}"
    if fetched.problem == "tls":
        return Problem(Verdict.FAIL, "sts_cert", f"{url} has no certificate that proves its name.",
                       f"Install a valid certificate for {fetched.question.name}.", "RFC 8461 section 3.3")  # fmt: skip
    if fetched.problem in _REFUSED:
        return Problem(Verdict.FAIL, "sts_fetch", f"{url} {_REFUSED[fetched.problem]}.", serve, "RFC 8461 3.3")
    if fetched.outcome is Outcome.ANSWER and 200 < fetched.status < 500 and fetched.status != 429:
        return Problem(Verdict.FAIL, "sts_fetch", f"{url} answers with status {fetched.status}.", serve, "RFC 8461 3.3")
    if fetched.outcome is Outcome.ANSWER:
        return Problem(Verdict.UNKNOWN, "indeterminate", f"{url} answered with status {fetched.status}.",
                       "Nothing to change: it is asked again soon.")  # fmt: skip
    return lost(fetched)


def _certificate(host: str, fetched: Page) -> Iterator[Problem]:
    """A certificate that should have been renewed by now: ones that last some days are renewed in their last ones."""
    begin, end = fetched.certificate
    left = end - fetched.at
    if end and left < min(_RENEWED, (end - begin) / 4):
        yield Problem(
            Verdict.WARN, "sts_cert_expiring", f"The certificate of {host} ends on "
            f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d}, in {max(0.0, left) / 86_400:.0f} days; without one, senders "
            "that know the policy keep mail back.", f"Renew the certificate of {host}.", "RFC 8461 section 3.3",
        )  # fmt: skip


def read(body: bytes) -> tuple[Policy | None, str]:
    """The policy of a file, or ``None`` and what is wrong with it (section 3.2)."""
    values: dict[str, str] = {}
    patterns: list[str] = []
    for line in body.decode("latin-1").splitlines()[:1000]:
        key, colon, value = (part.strip(" \t") for part in line.partition(":"))
        if colon and key == "mx":
            patterns.append(value.lower().rstrip("."))
        elif colon:
            values.setdefault(key, value)
    age = values.get("max_age", "")
    if values.get("version") != "STSv1":
        return None, "version is not STSv1"
    if values.get("mode") not in ("enforce", "testing", "none"):
        return None, "mode is none of enforce, testing, none"
    if not (age.isascii() and age.isdigit() and len(age) <= 10 and int(age) <= _LONGEST):
        return None, f"max_age is no number of seconds up to {_LONGEST}"
    if not patterns and values["mode"] != "none":
        return None, "it names no mx"
    odd = [p for p in patterns if not re.fullmatch(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+", p)]
    if odd:
        return None, f"mx {odd[0][:100]!r} is no host name"
    return Policy(values["mode"], int(age), tuple(patterns)), ""


def covers(pattern: str, host: str) -> bool:
    """Whether a pattern names the host; ``*.`` stands for exactly one label (section 4.1)."""
    return host.partition(".")[2] == pattern[2:] if pattern.startswith("*.") else host == pattern


def _policy(domain: str, host: str, fetched: Page, mx: Answer) -> Iterator[Problem]:
    policy, wrong = read(fetched.body)
    if policy is None:
        yield Problem(Verdict.FAIL, "sts_policy", f"The policy at {host} cannot be read: {wrong}.",
                      "Serve: version: STSv1, mode: testing, mx: <each mail host>, max_age: 1209600, one to a line.",
                      "RFC 8461 section 3.2")  # fmt: skip
        return
    exchanges = [exchange for _, exchange in mx.mx()][:_EXCHANGES] or ([domain] if mx.outcome.definitive else [])
    strangers = [e for e in exchanges if not any(covers(p, e) for p in policy.mx)]
    unused = [p for p in policy.mx if not any(covers(p, e) for e in exchanges)]
    if policy.mode == "none":
        yield Problem(Verdict.OK, "sts_none", "The policy is being withdrawn (mode none).")
        return
    if not mx.outcome.definitive:
        yield lost(mx)
    elif strangers:
        enforced = policy.mode == "enforce"
        names = ", ".join(strangers)[:300]
        yield Problem(
            Verdict.FAIL if enforced else Verdict.WARN, "sts_mx",
            f"The policy does not name {names}" + ("; mail for it is kept back." if enforced else "."),
            f"Add to the policy: mx: {strangers[0]}, then change the id in the record at _mta-sts.{domain}.",
            "RFC 8461 section 4.1",
        )  # fmt: skip
    elif unused:
        yield Problem(Verdict.WARN, "sts_pattern", f"The policy names {unused[0]}, which is no mail host of {domain}.",
                      f"Remove it from the policy and change the id at _mta-sts.{domain}.", "RFC 8461 4.1")  # fmt: skip
    if policy.max_age < _SHORT:
        yield Problem(Verdict.WARN, "sts_max_age", f"The policy is forgotten after {policy.max_age} s.",
                      f"Set max_age to 1209600 and change the id at _mta-sts.{domain}.", "RFC 8461 3.2")  # fmt: skip
    if fetched.content_type not in ("text/plain", ""):
        yield Problem(Verdict.WARN, "sts_type", f"The policy is served as {fetched.content_type}.",
                      "Serve it as text/plain.", "RFC 8461 section 3.2")  # fmt: skip
    if policy.mode == "testing":
        yield Problem(Verdict.OK, "sts_testing", "The policy is being tested: nothing is kept back yet.")
