"""``mailvitals check``: the whole posture of one domain, from the DNS alone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from agent.cli_common import console

if TYPE_CHECKING:
    from rich.table import Table

    from agent.dns.checks.base import Finding, Subject
    from agent.sender_rules import Assessment


@click.command()
@click.argument("domain")
@click.option("--selector", "selectors", multiple=True, help="DKIM selector in use; may be repeated.")
@click.option("--probe", is_flag=True, help="Look for the usual DKIM selectors although some are given.")
@click.option("--ip", "ips", multiple=True, help="Address that must pass SPF; may be repeated.")
@click.option("--nameserver", "nameservers", multiple=True, metavar="HOST:PORT", help="Ask this resolver instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    domain: str,
    selectors: tuple[str, ...],
    probe: bool,
    ips: tuple[str, ...],
    nameservers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check what a domain's mail depends on in the DNS now, without an agent: what to fix first, with the records to
    publish, and what the large mailbox providers ask.

    Without --selector the usual DKIM selectors are looked for. Exits 0 when all is ok, 1 on a warning, 2 on a failure,
    3 when something could not be told.

    \b
    mailvitals check example.com --selector s1 --ip 192.0.2.1
    """
    from agent.dns.checks.base import Subject, Verdict
    from agent.dns.report import as_json as to_json
    from agent.dns.report import render, worst
    from agent.sender_rules import assess
    from agent.settings import domain_name, ip_address

    subject = Subject(
        _valid(domain_name, domain, "DOMAIN"), tuple(s.lower() for s in selectors),
        tuple(_valid(ip_address, ip, "--ip") for ip in ips), probe_selectors=probe,
    )  # fmt: skip
    findings = _look(subject, nameservers, quiet=as_json)
    assessments = assess(findings)
    if as_json:
        sys.stdout.buffer.write(to_json(findings, domain=subject.domain, sender_rules=assessments))
    else:
        console().print(render(findings, _rules(assessments)))
    return {Verdict.OK: 0, Verdict.WARN: 1, Verdict.FAIL: 2, Verdict.UNKNOWN: 3}[worst(findings)]


def _look(subject: Subject, nameservers: tuple[str, ...], *, quiet: bool) -> tuple[Finding, ...]:
    """The findings. On a terminal it says meanwhile which checks are still waiting for answers."""
    from rich.console import Console

    from agent.dns.checks import CHECKS
    from agent.dns.report import check_domain
    from agent.dns.resolver import Resolver

    waiting = list(CHECKS)
    status = None if quiet or not sys.stderr.isatty() else Console(stderr=True).status("")

    def done(name: str) -> None:
        waiting.remove(name)
        said()

    def said() -> None:
        if status and waiting:
            status.update(f"Asking about {subject.domain}: {', '.join(waiting)} …")

    async def look() -> tuple[Finding, ...]:
        try:
            resolver = Resolver(nameservers)
        except ValueError as e:
            raise click.BadParameter(str(e), param_hint="--nameserver") from None
        try:
            return await check_domain(resolver, subject, on_done=done)
        finally:
            await resolver.aclose()

    said()
    with status or nullcontext():
        return asyncio.run(look())


def _rules(assessments: Iterable[Assessment]) -> tuple[Any, ...]:
    """One line for each provider's rules that are broken or weak, and what nobody can see from here."""
    from rich.text import Text

    from agent.dns.checks.base import Verdict
    from agent.dns.report import STYLE, plain

    table: Table = _table("Sender rules", "So far", "Asked for and not kept, or weak", "Not to be seen here")
    for a in assessments:
        by = {v: [i.topic for i in a.items if i.verdict is v] for v in Verdict}
        bad = ", ".join([*by[Verdict.FAIL], *(f"{topic} (weak)" for topic in by[Verdict.WARN])])
        table.add_row(
            a.name, Text(a.verdict, STYLE[a.verdict]), plain(bad or "–"), plain(", ".join(by[Verdict.UNKNOWN]))
        )
    note = "Complaint rates and refusals need a running agent; one-click unsubscription and TLS need a message."
    return (table, Text(note, "dim"), Text())


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _valid(parse: Callable[[str], str], value: str, what: str) -> str:
    from pydantic_core import PydanticCustomError

    try:
        return parse(value)
    except PydanticCustomError as e:
        raise click.BadParameter(e.message(), param_hint=what) from None
