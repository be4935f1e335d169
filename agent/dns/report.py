"""All checks of one domain at once, as ``mailvitals check`` prints them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.dns.checks import CHECKS
from agent.dns.checks.base import SEVERITY, Finding, Problem, Subject, Verdict
from agent.dns.follow import CHECK_LIMIT, run_check
from agent.dns.opinion import second_opinion
from agent.dns.resolver import Resolver

STYLE = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.UNKNOWN: "magenta"}


async def check_domain(
    resolver: Resolver,
    subject: Subject,
    *,
    confirm_after: float = 1.0,
    limit: float = CHECK_LIMIT,
    on_done: Callable[[str], None] | None = None,
    believed: bool = False,
    authority_port: int = 53,
) -> tuple[Finding, ...]:
    """The findings of every check, all run at once. A check with a ``fail`` among its findings is run again
    ``confirm_after`` seconds later, and what a second look does not confirm is not reported. Then the zone's own
    servers (at ``authority_port``) have to say the same, or two of the resolvers, or nobody can tell; unless the
    resolver is ``believed`` whatever others say. ``on_done`` is told the name of each check that has come to its end.
    """

    async def told(name: str) -> tuple[Finding, ...]:
        findings = await confirmed(name)
        if on_done:
            on_done(name)
        return findings

    async def confirmed(name: str) -> tuple[Finding, ...]:
        findings = await run_check(resolver, CHECKS[name], subject, limit=limit)
        if any(f.verdict is Verdict.FAIL for f in findings):
            await asyncio.sleep(confirm_after)
            again = await run_check(resolver, CHECKS[name], subject, limit=limit, anew=True)
            findings = confirm(findings, again)
        doubted = [] if believed else [f for f in findings if f.verdict is Verdict.FAIL]
        if not doubted:
            return findings
        weighed = await second_opinion(
            resolver, CHECKS[name], subject, doubted, limit=limit, port=authority_port
        )  # fmt: skip
        stands = {f.subject: finding for f, (_, finding) in zip(doubted, weighed, strict=True)}
        return tuple(stands.get(f.subject, f) for f in findings)

    return tuple(f for findings in await asyncio.gather(*map(told, CHECKS)) for f in findings)


def confirm(first: Iterable[Finding], second: Iterable[Finding]) -> tuple[Finding, ...]:
    """What two looks in a row, the first of them bad, amount to. For each subject: nobody could tell the second time,
    then nobody can tell; else the better of the two."""
    again = {f.subject: f for f in second}
    return tuple(_agreed(f, again.get(f.subject, f)) for f in first)


def _agreed(first: Finding, second: Finding) -> Finding:
    if first.verdict is Verdict.OK:
        return first
    if first.verdict is Verdict.UNKNOWN:
        return second if second.verdict is Verdict.OK else first
    if second.verdict is Verdict.UNKNOWN:
        return second
    return second if SEVERITY.index(second.verdict) >= SEVERITY.index(first.verdict) else first


def worst(findings: Iterable[Finding]) -> Verdict:
    """The verdict of the whole: fail before unknown before warn before ok; ``unknown`` of nothing."""
    verdicts = {f.verdict for f in findings}
    return next((v for v in SEVERITY if v in verdicts), Verdict.UNKNOWN)


def as_json(findings: Iterable[Finding], **beside: Any) -> bytes:
    """The findings, the verdict of the whole and what stands ``beside`` them as one JSON object, with a final
    newline."""
    findings = tuple(findings)
    return msgspec.json.encode({**beside, "verdict": worst(findings), "findings": findings}) + b"\n"


def render(findings: Iterable[Finding], beside: Iterable[RenderableType] = ()) -> RenderableType:
    """For a terminal: what to fix first, then all verdicts, then what stands ``beside`` them, and the result."""
    ordered = sorted(findings, key=lambda f: SEVERITY.index(f.verdict))
    parts: list[RenderableType] = []
    for finding in ordered:
        if finding.verdict is not Verdict.OK:
            parts += [_fix(finding), Text()]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Verdict", "Check", "Subject", "What was found"):
        table.add_column(column, overflow="fold")
    for finding in sorted(ordered, key=lambda f: (list(CHECKS).index(f.check) if f.check in CHECKS else 99, f.subject)):
        says = finding.detail if finding.verdict is Verdict.OK else finding.reason
        table.add_row(Text(finding.verdict, STYLE[finding.verdict]), finding.check, plain(finding.subject), plain(says))
    result = worst(ordered)
    parts += [table, Text(), *beside, Text.assemble("Result: ", (result.value, STYLE[result]))]
    return Group(*parts)


def _fix(finding: Finding) -> Table:
    """One finding that asks for something to be done."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    name = f"{finding.check} {finding.subject}".strip()
    style = STYLE[finding.verdict]
    grid.add_row(Text(finding.verdict.upper(), style), plain(f"{name}: {finding.reason}", "bold"))
    for record in finding.records:
        grid.add_row("found", plain(record))
    whole = Problem(finding.verdict, finding.reason, finding.detail, finding.advice, finding.rfc)
    for problem in finding.problems or (whole,):
        milder = problem.verdict is not finding.verdict
        grid.add_row(Text(problem.verdict, STYLE[problem.verdict]) if milder else "why", plain(problem.detail))
        if problem.advice:
            grid.add_row("do", plain(problem.advice, "bold"))
        if problem.rfc:
            grid.add_row("see", plain(problem.rfc))
    return grid


def plain(text: str, style: str = "") -> Text:
    """Anybody's text: no markup is read in it, and no control characters reach the terminal."""
    return Text("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text), style)
