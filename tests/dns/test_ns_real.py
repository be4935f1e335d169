"""Delegations as real servers make them: one zone above, one below, and a resolver (Unbound) that follows both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.dns.answer import Answer, Question
from agent.dns.checks import CHECKS
from agent.dns.checks.base import Finding, Subject
from agent.dns.follow import run_check
from agent.dns.resolver import Resolver
from tests.servers.dns import DnsServer, dns_server
from tests.servers.unbound import unbound

# Addresses that everybody can reach, since others are not asked; every question to them goes to this machine.
ONE, TWO, ABOVE = "45.90.1.1", "45.91.2.1", "45.92.3.1"
SOA = "@ 60 SOA ns1 h 1 3600 900 1209600 300\n"
GLUE = f"ns1{{0}} A {ONE}\nns2{{0}} A {TWO}\n"


class Here(Resolver):
    def __init__(self, resolver: str, places: dict[str, str]) -> None:
        super().__init__([resolver], timeout=1.0, tries=1)
        self.places = places

    async def ask(self, question: Question) -> Answer:
        if not question.server:
            return await super().ask(question)
        place = self.places[question.server.removesuffix(":53")]
        answer = await super().ask(msgspec.structs.replace(question, server=place))
        return msgspec.structs.replace(answer, question=question, server=question.server)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DnsServer, DnsServer, str]]:
    parent_folder, child_folder = tmp_path_factory.mktemp("parent"), tmp_path_factory.mktemp("child")
    with contextlib.ExitStack() as stack:
        parent = stack.enter_context(dns_server(parent_folder, {"org": ""}))
        child = stack.enter_context(dns_server(child_folder, {"shop.org": "", "other.org": ""}))
        stubs = {"org": parent.address, "shop.org": child.address}
        yield parent, child, stack.enter_context(unbound(tmp_path_factory.mktemp("unbound"), stubs))


def zones(servers: tuple[DnsServer, DnsServer, str], delegated: str, own: str) -> None:
    """``delegated`` and ``own`` are the name servers that the zone above and the zone itself name."""
    parent, child, _ = servers
    named = [f"@ 0 NS {host}\n" for host in own.split()]
    child.set_zone("shop.org", "$ORIGIN shop.org.\n$TTL 0\n" + SOA + "".join(named) + GLUE.format(""), whole=True)
    cut = [f"shop NS {host}.shop\n" for host in delegated.split()]
    above = f"$ORIGIN org.\n$TTL 0\n{SOA}@ NS a\na A {ABOVE}\n" + "".join(cut) + GLUE.format(".shop")
    parent.set_zone("org", above, whole=True)


async def ns(servers: tuple[DnsServer, DnsServer, str], two: str) -> Finding:
    parent, child, resolver = servers
    here = Here(resolver, {ONE: child.address, TWO: two, ABOVE: parent.address})
    try:
        (finding,) = await run_check(here, CHECKS["ns"], Subject("shop.org"))
    finally:
        await here.aclose()
    return finding


async def test_a_sound_delegation(servers: tuple[DnsServer, DnsServer, str]) -> None:
    zones(servers, "ns1 ns2", "ns1 ns2")
    found = await ns(servers, servers[1].address)
    assert (found.verdict, found.reason) == ("ok", "ok"), found.detail


async def test_a_server_that_is_not_in_charge_is_lame(servers: tuple[DnsServer, DnsServer, str]) -> None:
    """The server of the zone above refers back instead of answering, as one does that was never told of the zone."""
    zones(servers, "ns1 ns2", "ns1 ns2")
    found = await ns(servers, servers[0].address)
    assert (found.verdict, found.reason) == ("fail", "ns_lame"), found.detail
    assert "ns2.shop.org" in found.detail


async def test_the_zone_above_names_other_servers(servers: tuple[DnsServer, DnsServer, str]) -> None:
    zones(servers, "ns1", "ns1 ns2")
    found = await ns(servers, servers[1].address)
    assert (found.verdict, found.reason) == ("warn", "ns_differs"), found.detail
    assert "ns2.shop.org" in found.detail


async def test_several_things_wrong_have_each_their_fix(servers: tuple[DnsServer, DnsServer, str]) -> None:
    zones(servers, "ns1", "ns1 ns2")
    found = await ns(servers, servers[0].address)
    assert [p.reason for p in found.problems] == ["ns_lame", "ns_differs"]
    assert all(p.advice for p in found.problems)


async def test_a_server_that_is_frozen_is_silent_not_lame(
    servers: tuple[DnsServer, DnsServer, str], tmp_path: Path
) -> None:
    zones(servers, "ns1 ns2", "ns1 ns2")
    with dns_server(tmp_path, {"shop.org": ""}) as third:
        third.freeze()
        try:
            found = await ns(servers, third.address)
        finally:
            third.thaw()
    assert (found.verdict, found.reason) == ("warn", "ns_silent"), found.detail
