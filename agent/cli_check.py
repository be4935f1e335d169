"""``mailvitals check``: the whole posture of one domain, from the DNS alone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent.cli_common import console, load_settings

if TYPE_CHECKING:
    from rich.table import Table

    from agent.dns.blockwatch import Asked, Suspect
    from agent.dns.checks.base import Finding, Subject
    from agent.dns.resolver import Resolver
    from agent.sender_rules import Assessment

_CONFIRM = 1.0  # seconds until a failure is looked at again
_CONFIRM_LISTING = 2.0  # and a listing, since lists do not mind being asked twice, but not at once


class _Order(msgspec.Struct, frozen=True):
    """What is to be looked at. ``believed``: somebody wants to know what these resolvers say, whatever others do."""

    subject: Subject
    resolvers: tuple[str, ...]
    timeout: float
    believed: bool
    asked: tuple[Asked, ...]
    suspects: tuple[Suspect, ...]


@click.command()
@click.argument("domain")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings that configure the domain.")
@click.option("--selector", "selectors", multiple=True, help="DKIM selector in use; may be repeated.")
@click.option("--probe", is_flag=True, help="Look for the usual DKIM selectors although some are given.")
@click.option("--ip", "ips", multiple=True, help="Address that sends, and must pass SPF; may be repeated.")
@click.option("--helo", "helos", multiple=True, metavar="NAME", help="Greeting of all addresses, or one for each --ip.")
@click.option("--return-path", "return_paths", multiple=True, metavar="DOMAIN", help="Domain of envelope senders.")
@click.option("--link-domain", "link_domains", multiple=True, metavar="DOMAIN", help="Domain of tracked links.")
@click.option("--blocklist", "blocklists", multiple=True, metavar="NAME", help="Blocklist to ask; may be repeated.")
@click.option(
    "--nameserver", "nameservers", multiple=True, metavar="HOST:PORT", help="Ask this resolver, and no other."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    domain: str,
    config: Path | None,
    selectors: tuple[str, ...],
    probe: bool,
    ips: tuple[str, ...],
    helos: tuple[str, ...],
    return_paths: tuple[str, ...],
    link_domains: tuple[str, ...],
    blocklists: tuple[str, ...],
    nameservers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check what a domain's mail depends on in the DNS now, without an agent: what to fix first, with the records to
    publish, and what the large mailbox providers ask.

    Without --selector the usual DKIM selectors are looked for. With --config the domain's settings count, and options
    add to them. A failure is reported when the zone's own servers confirm it; with --nameserver, when that one says so.
    Exits 0 when all is ok, 1 on a warning, 2 on a failure, 3 when something could not be told.

    \b
    mailvitals check example.com --selector s1 --ip 192.0.2.1 --blocklist spamcop
    mailvitals check example.com --config /etc/mailvitals/mailvitals.yaml
    """
    from agent import log
    from agent.dns.checks.base import Subject, Verdict
    from agent.dns.report import as_json as to_json
    from agent.dns.report import render, worst
    from agent.sender_rules import assess
    from agent.settings import domain_name, ip_address

    given = Subject(
        _valid(domain_name, domain, "DOMAIN"), tuple(s.lower() for s in selectors),
        tuple(_valid(ip_address, ip, "--ip") for ip in ips), probe_selectors=probe,
        return_path_domains=tuple(_valid(domain_name, name, "--return-path") for name in return_paths),
        link_domains=tuple(_valid(domain_name, name, "--link-domain") for name in link_domains),
    )  # fmt: skip
    given = msgspec.structs.replace(given, helo=_greetings(given.sending_ips, helos))
    log.configure("error")  # what is found is said once, and not as an agent's log
    order = _order(config, given, blocklists, nameservers)
    findings, servers = _look(order, quiet=as_json)
    assessments = assess(findings)
    if as_json:
        sys.stdout.buffer.write(
            to_json(findings, domain=order.subject.domain, asked=servers, sender_rules=assessments)
        )  # fmt: skip
    else:
        console().print(render(findings, (*_rules(assessments), *_asked(servers, believed=order.believed))))
    return {Verdict.OK: 0, Verdict.WARN: 1, Verdict.FAIL: 2, Verdict.UNKNOWN: 3}[worst(findings)]


def _greetings(ips: Sequence[str], helos: Sequence[str]) -> dict[str, str]:
    if helos and len(helos) not in (1, len(ips)):
        raise click.BadParameter("give one name for all addresses, or one for each --ip", param_hint="--helo")
    if helos and not ips:
        raise click.BadParameter("goes with the --ip of the server that greets so", param_hint="--helo")
    for name in helos:
        if not (name.isascii() and name.isprintable() and 0 < len(name) <= 253) or " " in name:
            raise click.BadParameter("this is not a name", param_hint="--helo")
    return dict(zip(ips, [*helos] * len(ips) if len(helos) == 1 else helos, strict=False))


def _order(config: Path | None, given: Subject, blocklists: Sequence[str], nameservers: tuple[str, ...]) -> _Order:
    """What options and settings together ask for."""
    from agent.dns.blocklists import BLOCKLISTS
    from agent.dns.blockwatch import Asked, Suspect
    from agent.settings_file import did_you_mean

    for name in blocklists:
        if name not in BLOCKLISTS:
            hint = did_you_mean(name, BLOCKLISTS)
            message = f"unknown blocklist{hint}; known: {', '.join(BLOCKLISTS)}"
            raise click.BadParameter(message, param_hint="--blocklist")
        if BLOCKLISTS[name].needs_key and config is None:
            raise click.BadParameter(f"{name} needs a key: name it in a settings file", param_hint="--blocklist")
    suspects = [Suspect(given.domain, one, addresses=len(given.sending_ips) or 1) for one in
                (given.domain, *given.link_domains, *given.sending_ips)]  # fmt: skip
    asked = {name: Asked(name) for name in blocklists if not BLOCKLISTS[name].needs_key}
    if config is None:
        return _Order(given, nameservers, 3.0, bool(nameservers), tuple(asked.values()), tuple(suspects))

    from agent import posture

    settings = load_settings(config)
    own = next((d for d in settings.domains if d.name == given.domain), None)
    if own is None:
        hint = did_you_mean(given.domain, [d.name for d in settings.domains])
        raise click.BadParameter(f"`{given.domain}` is not among the domains of {config}{hint}", param_hint="DOMAIN")
    keyed = {b.name: Asked(b.name, b.key.get_secret_value() if b.key else "") for b in settings.blocklists}
    for name in blocklists:
        if BLOCKLISTS[name].needs_key and name not in keyed:
            raise click.BadParameter(f"{name} has no key in {config}", param_hint="--blocklist")
    known = [s for s in posture.suspects(settings) if s.domain == given.domain]
    seen = {s.subject for s in known}
    return _Order(
        _joined(posture.subject_of(own, settings.dns), given),
        nameservers or settings.dns.resolvers, settings.dns.timeout, bool(nameservers),
        tuple({**asked, **keyed}.values()), (*known, *(s for s in suspects if s.subject not in seen)),
    )  # fmt: skip


def _joined(configured: Subject, given: Subject) -> Subject:
    def both(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*getattr(configured, name), *getattr(given, name))))

    lists = {name: both(name) for name in ("dkim_selectors", "sending_ips", "return_path_domains", "link_domains")}
    return msgspec.structs.replace(
        configured, **lists, helo={**configured.helo, **given.helo}, probe_selectors=given.probe_selectors
    )  # fmt: skip


def _look(order: _Order, *, quiet: bool) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """The findings, and the servers that were asked. On a terminal it says meanwhile which checks still wait."""
    from rich.console import Console

    from agent.dns.checks import CHECKS
    from agent.dns.report import check_domain
    from agent.dns.resolver import Resolver

    waiting = [*CHECKS, *(["blocklists"] if order.asked else [])]
    status = None if quiet or not sys.stderr.isatty() else Console(stderr=True).status("")

    def done(name: str) -> None:
        waiting.remove(name)
        said()

    def said() -> None:
        if status and waiting:
            status.update(f"Asking about {order.subject.domain}: {', '.join(waiting)} …")

    async def listings(resolver: Resolver) -> tuple[Finding, ...]:
        from agent.dns.blockwatch import BlocklistWatch

        if not order.asked:
            return ()
        watch = BlocklistWatch(resolver, order.asked, order.suspects, confirm_after=_CONFIRM_LISTING)
        found = tuple(watched.finding for watched in await watch.look())
        done("blocklists")
        return found

    async def look() -> tuple[tuple[Finding, ...], tuple[str, ...]]:
        try:
            resolver = Resolver(order.resolvers, timeout=order.timeout)
        except ValueError as e:
            raise click.BadParameter(str(e), param_hint="--nameserver") from None
        try:
            checked, listed = await asyncio.gather(
                check_domain(
                    resolver, order.subject, confirm_after=_CONFIRM, on_done=done, believed=order.believed
                ),
                listings(resolver),
            )  # fmt: skip
            return (*checked, *listed), await resolver.servers()
        finally:
            await resolver.aclose()

    said()
    with status or nullcontext():
        return asyncio.run(look())


def _asked(servers: Sequence[str], *, believed: bool) -> tuple[Any, ...]:
    from agent.dns.report import plain

    others = "nobody else" if believed else "of failures the zones' own servers too"
    return (plain(f"Asked: {', '.join(servers) or 'no name server is known'}; {others}.", "dim"),)


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
