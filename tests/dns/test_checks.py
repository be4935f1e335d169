"""What holds for every check, whatever it is told."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, MailStream, Problem, Subject, Verdict, asked_once, conclude, drive
from tests.dns.zone import Zone, answers, findings, txt

ROOT = Path(__file__).parents[2]
STREAM = MailStream("bulk", "sendgrid", "bounce.example.com", "", ("s1",))
SUBJECT = Subject(
    "example.com", ("s1", "s2"), ("192.0.2.1", "2001:db8::1"), mail_streams=(STREAM,),
    link_domains=("click.example.com",), rdap=True,
)  # fmt: skip
OPTIONAL = {"mta_sts", "tls_rpt", "dane", "dnssec", "bimi"}  # technologies that a domain may do without
every_check = pytest.mark.parametrize("check", CHECKS)


def all_answer(check: str, outcome: Outcome, records: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    return drive(CHECKS[check].plan(SUBJECT), lambda q: Answer(q, outcome, records))


@every_check
@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.definitive])
def test_trouble_is_unknown_and_never_a_failure(check: str, outcome: Outcome) -> None:
    for finding in all_answer(check, outcome):
        if outcome is Outcome.BOGUS and check in ("dane", "dnssec"):
            # The resolver has looked, and validation fails: what these two are about.
            assert (finding.verdict, finding.reason) == (Verdict.FAIL, "dnssec_bogus")
            continue
        assert (finding.verdict, finding.reason) == (Verdict.UNKNOWN, "indeterminate")
        assert outcome in finding.detail


@every_check
@pytest.mark.parametrize("outcome", [Outcome.NODATA, Outcome.NXDOMAIN])
def test_nothing_there_is_a_failure_with_advice(check: str, outcome: Outcome) -> None:
    for finding in all_answer(check, outcome) if check != "expiry" else ():
        assert finding.verdict is (Verdict.OK if check in OPTIONAL else Verdict.FAIL)
        assert finding.reason != "ok"
        assert "example.com" in finding.advice
        assert finding.rfc.startswith("RFC ")


@every_check
@pytest.mark.parametrize(
    "text",
    ["", "x" * 65000, "v=spf1 " + "a:x.com " * 8000, "v=spf1 " + "include:x.com " * 5000, "v=DMARC1;" + "a=b;" * 16000,
     "v=DMARC1; p=none; rua=" + "mailto:a@b.com," * 4000, "p=" + "A" * 65000, "v= " + " " * 60000 + "x", "\0\xff;=\\",
     "10 " + "x" * 60000, "99999999999999999999 x.com.", "v=spf1 a:" + "%{d}" * 15000,
     "v=spf1 include:" + "a." * 30000 + "com"],
    ids=range(13),
)  # fmt: skip
def test_absurd_records_end_soon_and_findings_stay_small(check: str, text: str) -> None:
    begun = time.process_time()  # a busy machine is not what is tested
    for finding in all_answer(check, Outcome.ANSWER, (text,) * 3) + all_answer(check, Outcome.ANSWER, (text,)):
        assert finding.verdict in Verdict
        assert len(msgspec.json.encode(finding)) < 60_000
    assert time.process_time() - begun < 3


@every_check
def test_an_answer_without_records_ends(check: str) -> None:
    assert all_answer(check, Outcome.ANSWER)


PIECES = st.one_of(
    st.text(max_size=30),
    st.sampled_from([
        "v=spf1", "v=spf1 a mx include:a.com redirect=b.com", "v=spf1 include:example.com +all",
        "v=spf1 exists:%{p}.a.com",
        "v=DMARC1; p=reject", "v=DMARC1; psd=y", "v=DMARC1; p=x; rua=mailto:a@b.com", "v=DKIM1; p=", "p=MIIB",
        "k=ed25519; p=AAAA",
        "10 mx.a.com.", "0 .", "10 192.0.2.1.", "10 a..b", "x y z", "192.0.2.1", "10.0.0.1", "::1", "a.com",
    ]),
)  # fmt: skip


@every_check
@given(data=st.data())
def test_any_answers_end_in_one_finding_per_subject(check: str, data: st.DataObject) -> None:
    asked: list[Question] = []

    def answer(question: Question) -> Answer:
        asked.append(question)
        assert len(asked) < 1000
        outcome = data.draw(st.sampled_from([Outcome.ANSWER] * 4 + list(Outcome)))
        records = tuple(data.draw(st.lists(PIECES, max_size=3))) if outcome is Outcome.ANSWER else ()
        return Answer(question, outcome, records, tuple(data.draw(st.lists(st.just("c.com"), max_size=1))), 60)

    found = drive(CHECKS[check].plan(SUBJECT), answer)
    # Of a selector, delegation speaks only when anyone could take it over.
    assert [f.subject for f in found if "_domainkey" not in f.subject] == SUBJECTS.get(check, [""])
    assert {f.check for f in found} == {check}
    assert all(f.detail and f.reason for f in found)
    assert all(f.advice for f in found if f.verdict is not Verdict.OK)


SUBJECTS = {
    "spf": ["", "192.0.2.1", "2001:db8::1"], "dkim": ["s1", "s2"], "ptr": ["192.0.2.1", "2001:db8::1"],
    "alignment": ["bulk"], "delegation": ["click.example.com"],
}  # fmt: skip

GOOD: Zone = {
    "example.com": {
        "TXT": ["v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/64 ~all"],
        "MX": ["10 mx.example.com."],
        "A": ["192.0.2.1"],
    },
    "mx.example.com": {"A": ["192.0.2.2"]},
    "_dmarc.example.com": txt("v=DMARC1; p=reject; rua=mailto:dmarc@example.com"),
    "s1._domainkey.example.com": txt("k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="),
    "s2._domainkey.example.com": {"CNAME": ["key.esp.com"]},
}


@pytest.mark.parametrize("check", ["spf", "dmarc", "mx"])
def test_a_sound_domain_is_ok_and_carries_its_record_and_ttl(check: str) -> None:
    for finding in findings(check, SUBJECT, GOOD):
        assert (finding.verdict, finding.reason, finding.ttl, finding.advice) == (Verdict.OK, "ok", 300, "")
        assert finding.records


@every_check
def test_no_question_is_asked_twice(check: str) -> None:
    asked: list[Question] = []
    zone = answers({**GOOD, "example.com": {**GOOD["example.com"],
    "TXT": ["v=spf1 a a mx mx include:x.com include:x.com -all"]},  # type: ignore[dict-item]
                    "x.com": txt("v=spf1 include:y.com -all"), "y.com": txt("v=spf1 a:example.com -all")})  # fmt: skip

    def answer(question: Question) -> Answer:
        asked.append(question)
        return zone(question)

    drive(CHECKS[check].plan(SUBJECT), answer)
    assert len(asked) == len(set(asked))
    assert all(q.name == q.name.lower() and not q.name.endswith(".") for q in asked)


def test_a_definite_failure_stands_whatever_else_is_unknown() -> None:
    problems = [Problem(v, v.value, f"It is {v}.", f"do {v}") for v in (Verdict.WARN, Verdict.UNKNOWN, Verdict.FAIL)]
    finding = conclude("x", "", problems, ok="fine", rfc="RFC 1")
    assert (finding.verdict, finding.reason, finding.advice) == (Verdict.FAIL, "fail", "do fail")
    assert finding.detail == "It is fail. It is unknown. It is warn."
    assert conclude("x", "", problems[:2], ok="fine", rfc="RFC 1").verdict is Verdict.UNKNOWN
    assert conclude("x", "", [], ok="fine", rfc="RFC 1") == Finding("x", "", Verdict.OK, "ok", "fine", rfc="RFC 1")


def test_the_ttl_is_the_lowest_of_the_answers_that_hold_data() -> None:
    question = Question("a.com", "TXT")
    held = [Answer(question, Outcome.ANSWER, ("x",), ttl=t) for t in (300, 60)] + [Answer(question, Outcome.NODATA)]
    assert conclude("x", "", [], ok="", rfc="", answers=held).ttl == 60


def test_asked_once_gives_the_plan_all_its_answers() -> None:
    one, two = Question("a.com", "A"), Question("b.com", "A")
    seen = []

    def plan():  # type: ignore[no-untyped-def]
        seen.append((yield (one, two, one)))
        seen.append((yield (two, one)))
        return ()

    known: dict[Question, Answer] = {}
    drive(asked_once(plan(), known), lambda q: Answer(q, Outcome.NODATA))
    assert [[a.question for a in batch] for batch in seen] == [[one, two, one], [two, one]]
    assert set(known) == {one, two}


def reasons_in_code() -> set[str]:
    """The literal reason of every call that makes a problem, a finding or a key's error."""
    place = {"Problem": 1, "Finding": 3, "KeyRecordError": 0, "warn": 0, "fail": 0, "_limit": 0}
    found = {"ok"}
    for file in (ROOT / "agent/dns").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(getattr(node, "func", None), "id", "")
            if isinstance(node, ast.Call) and name in place and len(node.args) > place[name]:
                argument = node.args[place[name]]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.add(argument.value)
    return found


def test_every_reason_is_documented_and_no_other() -> None:
    documented = set(
        re.findall(r"^\| `([a-z0-9_]+)` \| (?:ok|warn|fail|unknown)", Path("docs/checks.md").read_text(), re.M)
    )
    assert documented - {"ok", "warn", "fail", "unknown"} == reasons_in_code() - {"ok"}
