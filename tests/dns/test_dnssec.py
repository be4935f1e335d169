"""Validation, told by a real validating resolver (Unbound) of zones signed by a real server (Knot)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from agent.dns.answer import Outcome, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Subject, Verdict
from agent.dns.follow import run_check
from agent.dns.resolver import Resolver
from tests.servers.dns import DnsServer, dns_server
from tests.servers.unbound import unbound

BIG = "\n".join(f'big TXT "{i:04d}{"x" * 200}"' for i in range(30))
ZONE = f"""
@ TXT "v=spf1 -all"
_25._tcp.mx TLSA 3 1 1 {"ab" * 32}
{BIG}
"""


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsServer]:
    zones = {"good.test": ZONE, "bad.test": ZONE, "plain.test": ZONE, "old.test": "", "late.test": ""}
    with dns_server(tmp_path_factory.mktemp("dns"), zones, ttl=60, signed=("good.test", "bad.test")) as running:
        yield running


DAY = 86_400.0
NOW = float(int(time.time()))


@pytest.fixture(scope="module")
def address(signed: DnsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    anchors = [signed.ds("good.test"), f"bad.test. DS 1 13 2 {'00' * 32}"]
    for name, end in (("old.test", NOW - DAY), ("late.test", NOW + DAY)):
        text, ds = signed.presigned(name, '@ TXT "v=spf1 -all"', NOW - 20 * DAY, end)
        signed.set_zone(name, text, whole=True)
        anchors.append(ds)
    stubs = dict.fromkeys(("good.test", "bad.test", "plain.test", "old.test", "late.test"), signed.address)
    with unbound(tmp_path_factory.mktemp("unbound"), stubs, anchors) as running:
        yield running


@pytest.fixture
async def resolver(address: str) -> AsyncIterator[Resolver]:
    async with contextlib.aclosing(Resolver([address], timeout=2.0)) as resolver:
        yield resolver


async def test_a_signed_zone_is_authentic(resolver: Resolver) -> None:
    for name, type_ in (("good.test", "TXT"), ("_25._tcp.mx.good.test", "TLSA"), ("good.test", "DNSKEY")):
        answer = await resolver.ask(Question(name, type_, dnssec=True))
        assert (answer.outcome, answer.authentic) == (Outcome.ANSWER, True), name
        assert not answer.authoritative
    gone = await resolver.ask(Question("gone.good.test", "TXT", dnssec=True))
    # Knot denies existence by the shortest chain, in which a name that does not exist shows as one without data.
    assert (gone.outcome in (Outcome.NXDOMAIN, Outcome.NODATA), gone.authentic) == (True, True)
    assert gone.ttl > 0
    (tlsa,) = (await resolver.ask(Question("_25._tcp.mx.good.test", "TLSA", dnssec=True))).records
    assert tlsa == f"3 1 1 {'ab' * 32}"
    assert (await resolver.ask(Question("good.test", "RRSIG", dnssec=True))).outcome in (Outcome.ANSWER, Outcome.NODATA)


async def test_an_unsigned_zone_is_answered_and_not_authentic(resolver: Resolver) -> None:
    answer = await resolver.ask(Question("plain.test", "TXT", dnssec=True))
    assert (answer.outcome, answer.records, answer.authentic) == (Outcome.ANSWER, ("v=spf1 -all",), False)


@pytest.mark.parametrize("dnssec", [True, False])
async def test_a_zone_that_does_not_validate_is_bogus(resolver: Resolver, dnssec: bool) -> None:
    answer = await resolver.ask(Question("bad.test", "TXT", dnssec=dnssec))
    assert (answer.outcome, answer.records) == (Outcome.BOGUS, ())
    assert not answer.outcome.definitive


async def test_it_is_known_when_signatures_end(resolver: Resolver) -> None:
    late = await resolver.ask(Question("late.test", "TXT", dnssec=True))
    assert (late.signed, late.authentic) == ((NOW - 20 * DAY, NOW + DAY), True)
    assert NOW <= late.at <= time.time()
    old = await resolver.ask(Question("old.test", "SOA", dnssec=True))
    assert (old.outcome, old.signed) == (Outcome.BOGUS, (NOW - 20 * DAY, NOW - DAY))
    plain = await resolver.ask(Question("plain.test", "TXT", dnssec=True))
    assert (plain.signed, (await resolver.ask(Question("late.test", "TXT"))).at) == ((0.0, 0.0), 0.0)


async def test_signatures_that_have_ended_are_called_so(resolver: Resolver) -> None:
    (finding,) = await run_check(resolver, CHECKS["dnssec"], Subject("old.test"))
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "dnssec_expired"), finding.detail
    assert datetime.fromtimestamp(NOW - DAY, UTC).strftime("%Y-%m-%d") in finding.detail


async def test_large_signed_answers_come_by_tcp(resolver: Resolver, signed: DnsServer) -> None:
    for question in (
        Question("big.good.test", "TXT", dnssec=True),
        Question("big.good.test", "TXT", server=signed.address),
    ):
        answer = await resolver.ask(question)
        assert (answer.outcome, len(answer.records)) == (Outcome.ANSWER, 30)


async def test_the_authoritative_server_tells_by_its_flag(resolver: Resolver, signed: DnsServer) -> None:
    answer = await resolver.ask(Question("plain.test", "TXT", server=signed.address))
    assert (answer.authoritative, answer.ttl, answer.server) == (True, 60, signed.address)
    gone = await resolver.ask(Question("gone.plain.test", "TXT", server=signed.address))
    assert (gone.outcome, gone.authoritative, gone.ttl) == (Outcome.NXDOMAIN, True, 60)
    assert (await resolver.ask(Question("elsewhere.test", "TXT", server=signed.address))).outcome is Outcome.REFUSED


async def test_a_resolver_asked_without_recursion_is_lame(resolver: Resolver, address: str) -> None:
    await resolver.ask(Question("plain.test", "TXT"))
    answer = await resolver.ask(Question("plain.test", "TXT", server=address))
    assert answer.outcome in (Outcome.LAME, Outcome.REFUSED)
    assert not answer.authoritative
