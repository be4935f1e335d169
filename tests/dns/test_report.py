"""What ``mailvitals check`` says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Problem, Subject, Verdict, conclude
from agent.dns.report import as_json, check_domain, confirm, render, worst
from agent.dns.resolver import Resolver
from tests.dns.zone import Zone, answers
from tests.servers.dns import dns_server

REVERSE = "2.0.192.in-addr.arpa"


def finding(verdict: str, check: str = "spf", subject: str = "", **more: str) -> Finding:
    return Finding(check, subject, Verdict(verdict), more.get("reason", "why"), more.get("detail", "It is so."),
                   more.get("advice", ""), more.get("rfc", ""),
                   (more["record"],) if "record" in more else ())  # fmt: skip


def shown(*findings: Finding) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(render(findings))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("verdicts", "result"),
    [("ok", "ok"), ("ok warn", "warn"), ("ok warn unknown", "unknown"), ("unknown fail ok", "fail"), ("", "unknown")],
)
def test_the_worst_verdict_is_the_whole(verdicts: str, result: str) -> None:
    assert worst([finding(v) for v in verdicts.split()]) == result


@pytest.mark.parametrize(
    ("first", "second", "agreed"),
    [("fail", "fail", "fail"), ("fail", "ok", "ok"), ("fail", "warn", "warn"), ("fail", "unknown", "unknown"),
     ("warn", "fail", "warn"), ("ok", "fail", "ok"), ("ok", "unknown", "ok"), ("unknown", "fail", "unknown"),
     ("unknown", "ok", "ok")],
)  # fmt: skip
def test_two_looks_agree_on_the_better(first: str, second: str, agreed: str) -> None:
    (result,) = confirm([finding(first)], [finding(second)])
    assert result.verdict == agreed


def test_fixes_come_first_with_record_reason_and_advice() -> None:
    text = shown(
        finding("ok", "mx", detail="All is well."),
        finding("warn", "dmarc", reason="policy_none"),
        finding("fail", "dkim", "s1", reason="key_missing", record="p=[bold]x", advice="Publish it.", rfc="RFC 6376"),
    )
    assert text.index("dkim s1: key_missing") < text.index("dmarc: policy_none") < text.index("All is well.")
    for part in ("p=[bold]x", "Publish it.", "RFC 6376", "Result: fail"):
        assert part in text


def test_hostile_records_cannot_steer_the_terminal() -> None:
    text = shown(finding("fail", record="\x1b[2J\x07[link=http://x]click[/link]"))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[2J\\x07[link=http://x]click[/link]" in text


def test_what_stands_beside_comes_before_the_result() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(render([finding("ok")], ["beside it"]))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.index("It is so.") < text.index("beside it") < text.index("Result: ok")
    assert json.loads(as_json([finding("ok")], domain="a.com"))["domain"] == "a.com"


def test_every_problem_has_its_own_fix() -> None:
    problems = [
        Problem(Verdict.OK, "note", "Fine as it is."),
        Problem(Verdict.WARN, "ptr_used", "ptr is slow.", "Remove ptr."),
        Problem(Verdict.FAIL, "plus_all", "Anybody may send.", "Publish -all.", "RFC 7208 section 5.1"),
        Problem(Verdict.WARN, "ptr_used", "ptr is slow.", "Remove ptr."),
    ]
    found = conclude("spf", "", problems, ok="", rfc="RFC 7208")
    assert (found.reason, found.advice) == ("plus_all", "Publish -all.")
    assert [(p.reason, p.advice, p.rfc) for p in found.problems] == [
        ("plus_all", "Publish -all.", "RFC 7208 section 5.1"), ("ptr_used", "Remove ptr.", "RFC 7208"),
    ]  # fmt: skip
    text = shown(found)
    order = ["spf: plus_all", "why  Anybody may send.", "Publish -all.", "warn ptr is slow.", "Remove ptr."]
    assert sorted(order, key=text.index) == order
    assert [p["advice"] for p in json.loads(as_json([found]))["findings"][0]["problems"]] == [
        "Publish -all.", "Remove ptr.",
    ]  # fmt: skip


def test_nothing_wrong_lists_no_problems() -> None:
    assert conclude("mta_sts", "", [Problem(Verdict.OK, "sts_absent", "None.")], ok="", rfc="r").problems == ()


def test_a_finding_stored_before_problems_were_listed_is_read() -> None:
    stored = b'{"check":"spf","subject":"","verdict":"fail","reason":"plus_all","detail":"d","advice":"a"}'
    old = msgspec.json.decode(stored, type=Finding)
    assert old.problems == ()
    assert "a" in shown(old)


def test_json_is_one_object() -> None:
    data = json.loads(as_json([finding("warn", record="v=spf1"), finding("ok")]))
    assert data["verdict"] == "warn"
    assert data["findings"][0] == {
        "check": "spf", "subject": "", "verdict": "warn", "reason": "why", "detail": "It is so.", "advice": "",
        "rfc": "",
        "records": ["v=spf1"], "ttl": 0, "problems": [],
    }  # fmt: skip


class Two(Resolver):
    """One answer for who asks a resolver, another for who asks the zone's own server; ``None``: it is not reached."""

    def __init__(self, told: Zone, truth: Zone | None) -> None:
        super().__init__()
        self.told, self.truth = told, truth

    async def servers(self) -> tuple[str, ...]:
        return ("192.0.2.1:53",)

    async def ask(self, question: Question) -> Answer:
        if not question.server:
            glue: Zone = {"a.example": {"NS": ["ns.a.example"]}, "ns.a.example": {"A": ["192.0.2.53"]}}
            return answers(glue if question.type in ("NS", "A") else self.told)(question)
        if self.truth is None or question.server != "192.0.2.53:53":
            return Answer(question, Outcome.TIMEOUT)
        return msgspec.structs.replace(answers(self.truth)(question), authoritative=True)


@pytest.mark.parametrize("believed", [False, True])
@pytest.mark.parametrize(("truth", "reason"), [("there", "split_answers"), ("gone", "missing_record"),
                                               ("silent", "unconfirmed")])  # fmt: skip
async def test_a_failure_needs_the_zones_own_servers_unless_somebody_wants_just_this_resolver(
    believed: bool, truth: str, reason: str
) -> None:
    soa = ["ns.a.example h.a.example 1 2 3 4 5"]
    own: dict[str, Zone | None] = {
        "there": {"a.example": {"TXT": ["v=spf1 -all"], "SOA": soa}}, "gone": {"a.example": {"SOA": soa}},
        "silent": None,
    }  # fmt: skip
    resolver = Two({"a.example": {"MX": ["0 ."]}}, own[truth])
    found = await check_domain(resolver, Subject("a.example"), confirm_after=0.0, believed=believed)
    (spf,) = [f for f in found if f.check == "spf"]
    assert spf.reason == ("missing_record" if believed else reason)
    await resolver.aclose()


async def test_all_checks_against_a_real_server(tmp_path: Path) -> None:
    zone = '@ TXT "v=spf1 ip4:192.0.2.1 -all"\n@ MX 10 mx\nmx A 192.0.2.1\n_dmarc TXT "v=DMARC1; p=none"\n'
    with dns_server(tmp_path, {"example.test": zone, "test": "", REVERSE: "1 PTR mx.example.test."}) as server:
        resolver = Resolver([server.address], timeout=1.0)
        subject = Subject("example.test", ("s1",), ("192.0.2.1", "192.0.2.2"))
        ended: list[str] = []
        found = await check_domain(resolver, subject, confirm_after=0.1, on_done=ended.append)
        assert sorted(ended) == sorted(CHECKS)
        assert {(f.check, f.subject): f.reason for f in found} == {
            ("spf", ""): "ok", ("spf", "192.0.2.1"): "ok", ("spf", "192.0.2.2"): "ip_not_authorised",
            ("dkim", "s1"): "key_missing", ("dmarc", ""): "policy_none", ("mx", ""): "ok",
                ("ptr", "192.0.2.1"): "ok", ("ptr", "192.0.2.2"): "ptr_missing",
                ("ns", ""): "ok", ("soa", ""): "soa_unusual",
    ("mta_sts", ""): "sts_absent",
    ("tls_rpt", ""): "rpt_absent",
    ("dane", ""): "dane_absent",
    ("dnssec", ""): "dnssec_absent",
    ("bimi", ""): "bimi_absent",
        }  # fmt: skip
        assert worst(found) is Verdict.FAIL
        unknown = await check_domain(resolver, Subject("example.test"), confirm_after=0.1)
        assert worst(unknown) is Verdict.UNKNOWN
        assert "--selector" in shown(*unknown)
        await resolver.aclose()
