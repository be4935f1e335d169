"""TLS-RPT: where other servers report failed TLS to the domain (RFC 8460). Without it the domain does as well."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from agent.dns.answer import Question
from agent.dns.checks.base import Plan, Problem, Subject, Verdict, conclude, lost
from agent.dns.taglist import lenient

_RFC = "RFC 8460 section 3"


def plan(subject: Subject) -> Plan:
    """One finding for the domain."""
    domain = subject.domain
    name = f"_smtp._tls.{domain}"
    answer, sts = yield (Question(name, "TXT"), Question(f"_mta-sts.{domain}", "TXT"))
    found = [text for text in answer.records if text.startswith("v=TLSRPTv1;")]
    like = [text for text in answer.records if "tlsrpt" in text.lower()]
    publish = f'Publish: {name} TXT "v=TLSRPTv1; rua=mailto:tls-reports@{domain}"'
    if not answer.outcome.definitive:
        problems = [lost(answer)]
    elif len(found) > 1:
        problems = [
            Problem(Verdict.FAIL, "multiple_records", f"{name} has {len(found)} TLS-RPT records; all are ignored.",
                    f'Leave one: {name} TXT "{found[0][:1000]}"', _RFC)
        ]  # fmt: skip
    elif found:
        problems = list(_record(name, found[0], publish))
    elif like:
        problems = [
            Problem(Verdict.FAIL, "syntax_error", f"The record at {name} does not begin v=TLSRPTv1;", publish, _RFC)
        ]  # fmt: skip
    elif any(text.startswith("v=STSv1;") for text in sts.records):
        problems = [
            Problem(Verdict.WARN, "rpt_missing", f"{domain} has MTA-STS and nobody is told when it keeps mail away.",
                    publish, _RFC)
        ]  # fmt: skip
    else:
        problems = [Problem(Verdict.OK, "rpt_absent", f"{domain} asks for no reports on TLS.", publish, _RFC)]
    finding = conclude(
        "tls_rpt", "", problems, ok="Reports on TLS have somewhere to go.", rfc=_RFC, records=found or like,
        answers=[answer],
    )  # fmt: skip
    return (finding,)


def _record(name: str, text: str, publish: str) -> Iterator[Problem]:
    rua = lenient(text).get("rua", "")
    if not rua:
        yield Problem(Verdict.FAIL, "rua_missing", f"The record at {name} names no place for reports.", publish, _RFC)
        return
    for uri in rua.split(",")[:20]:
        try:
            parts = urlsplit(uri.strip())
            good = (parts.scheme == "mailto" and "@" in parts.path) or (parts.scheme == "https" and parts.hostname)
        except ValueError:
            good = False
        if not good or "!" in uri:
            yield Problem(
                Verdict.FAIL, "syntax_error", f"In the record at {name}, {uri.strip()[:100]!r} is neither a "
                "mailto: nor "
                "an https: address.", publish, _RFC,
            )  # fmt: skip
