"""Questions whose flags matter, against a name server that errs as it is told and against real ones."""

from __future__ import annotations

import asyncio
import time

import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.resolver import Resolver
from agent.dns.wire import exchange
from tests.servers.base import free_port
from tests.servers.faulty_dns import Fault, FaultyDns, faulty, forged, lame, rcode, silent, truncated

RECORDS = {
    "a.test": {
        "TXT": ['"v=spf1 " "-all"'],
        "MX": ["10 MX.a.test."],
        "NS": ["NS.a.test."],
        "SOA": ["ns.a.test. Host.a.test. 7 1 2 3 4"],
        "DS": ["12345 13 2 " + "AB" * 32],
        "DNSKEY": ["257 3 13 " + "AQID" * 20],
        "CAA": ['0 issue "ca.example"'],
        "HTTPS": ["1 . alpn=h2"],
        "A": ["192.0.2.1"],
        "AAAA": ["2001:DB8::1"],
        "PTR": ["Host.a.test."],
        "SPF": ['"v=spf1"'],
    },
    "_25._tcp.mx.a.test": {"TLSA": ["3 1 1 " + "0aF0" * 16]},
    "_s._tcp.a.test": {"SRV": ["0 5 443 H.a.test."]},
    "two.a.test": {"CNAME": ["one.a.test."]},
    "one.a.test": {"CNAME": ["a.test."]},
    "out.a.test": {"CNAME": ["elsewhere.example."]},
    "loop.a.test": {"CNAME": ["loop.a.test."]},
}


async def direct(server: FaultyDns, name: str = "a.test", type_: str = "TXT", seconds: float = 1.0) -> Answer:
    return await exchange(Question(name, type_), "127.0.0.1", server.port, seconds=seconds, recurse=False)


async def test_every_type_reads_as_documented() -> None:
    async with faulty(RECORDS) as server:
        for name, type_, text in (
            ("a.test", "TXT", "v=spf1 -all"),
            ("a.test", "MX", "10 mx.a.test."),
            ("a.test", "NS", "ns.a.test"),
            ("a.test", "SOA", "ns.a.test host.a.test 7 1 2 3 4"),
            ("a.test", "DS", "12345 13 2 " + "ab" * 32),
            ("a.test", "DNSKEY", "257 3 13 " + "AQID" * 20),
            ("a.test", "CAA", '0 issue "ca.example"'),
            ("a.test", "HTTPS", '1 . alpn="h2"'),
            ("a.test", "A", "192.0.2.1"),
            ("a.test", "AAAA", "2001:db8::1"),
            ("a.test", "PTR", "host.a.test"),
            ("_25._tcp.mx.a.test", "TLSA", "3 1 1 " + "0af0" * 16),
            ("_s._tcp.a.test", "SRV", "0 5 443 h.a.test."),
            ("two.a.test", "CNAME", "one.a.test"),
        ):
            answer = await direct(server, name, type_)
            assert answer == Answer(
                Question(name, type_), Outcome.ANSWER, (text,), (), 300, server.address, authoritative=True
            )
        chained = await direct(server, "two.a.test", "A")
        assert (chained.records, chained.cnames) == (("192.0.2.1",), ("one.a.test", "a.test"))
        out = await direct(server, "out.a.test", "A")
        assert (out.records, out.cnames) == ((), ("elsewhere.example",))
        assert (await direct(server, "loop.a.test", "A")).records == ()


async def test_negative_answers_bear_the_ttl_of_the_soa() -> None:
    async with faulty(RECORDS, ttl=77) as server:
        gone = await direct(server, "gone.a.test")
        assert (gone.outcome, gone.ttl, gone.authoritative) == (Outcome.NXDOMAIN, 77, True)
        none = await direct(server, "one.a.test", "TXT")
        assert (none.outcome, none.cnames) == (Outcome.ANSWER, ("a.test",))
        empty = await direct(server, "_tcp.mx.a.test", "A")
        assert (empty.outcome, empty.ttl) == (Outcome.NODATA, 77)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (rcode(dns.rcode.SERVFAIL), Outcome.SERVFAIL),
        (rcode(dns.rcode.REFUSED), Outcome.REFUSED),
        (rcode(dns.rcode.NOTAUTH), Outcome.REFUSED),
        (rcode(dns.rcode.FORMERR), Outcome.MALFORMED),
        (silent, Outcome.TIMEOUT),
        (lame, Outcome.LAME),
        (truncated, Outcome.ANSWER),
        (forged, Outcome.ANSWER),
        (lambda s, q, truth, tcp: truth.to_wire()[:20], Outcome.MALFORMED),
        (lambda s, q, truth, tcp: b"" if tcp else truncated(s, q, truth, tcp), Outcome.MALFORMED),
        (lambda s, q, truth, tcp: None if tcp else truncated(s, q, truth, tcp), Outcome.TIMEOUT),
    ],
)
async def test_what_servers_do_is_told_apart(fault: Fault, outcome: Outcome) -> None:
    async with faulty(RECORDS, fault) as server:
        assert (await direct(server, seconds=0.3)).outcome is outcome


async def test_nobody_listening_is_unreachable() -> None:
    answer = await exchange(Question("a.test", "TXT"), "127.0.0.1", free_port(), seconds=1, recurse=False)
    assert answer.outcome is Outcome.UNREACHABLE


async def test_queries_are_small_flagged_and_each_from_a_port_of_its_own() -> None:
    async with faulty(RECORDS) as server:
        for _ in range(20):
            await direct(server)
        assert len(server.ports) >= 19
        assert len({query.id for query in server.queries}) >= 19
        for query in server.queries:
            assert (query.edns, query.payload, query.flags & dns.flags.RD) == (0, 1232, 0)
        resolver = Resolver([server.address])
        await resolver.ask(Question("a.test", "TXT", dnssec=True))
        asked = server.queries[-1]
        assert asked.flags & dns.flags.AD
        assert asked.flags & dns.flags.RD
        assert asked.ednsflags & dns.flags.DO
        await resolver.aclose()


async def test_a_server_without_edns_is_asked_without() -> None:
    def old(
        server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool
    ) -> bytes | list[bytes] | None:
        return rcode(dns.rcode.FORMERR)(server, query, truth, tcp) if query.edns >= 0 else truth.to_wire()

    async with faulty(RECORDS, old) as server:
        assert (await direct(server)).outcome is Outcome.ANSWER


async def test_a_referral_shows_the_delegation() -> None:
    def parent(server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool) -> bytes:
        truth.flags &= ~dns.flags.AA
        truth.authority, truth.answer = truth.answer, []
        return truth.to_wire()

    async with faulty(RECORDS, parent) as server:
        answer = await direct(server, "a.test", "NS")
        assert (answer.outcome, answer.records, answer.authoritative) == (Outcome.LAME, ("ns.a.test",), False)


@pytest.mark.alone
async def test_a_slow_server_holds_up_nobody_else() -> None:
    async with faulty(RECORDS, silent) as slow, faulty(RECORDS) as quick:
        resolver = Resolver([quick.address], timeout=0.5, tries=1)
        question = Question("a.test", "TXT", server=slow.address)
        waiting = [asyncio.ensure_future(resolver.ask(question)) for _ in range(20)]
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        good = await resolver.ask(Question("a.test", "TXT", server=quick.address))
        assert good.authoritative
        assert (await resolver.ask(Question("a.test", "TXT"))).outcome is Outcome.ANSWER
        assert time.monotonic() - begun < 0.3
        assert {a.outcome for a in await asyncio.gather(*waiting)} == {Outcome.TIMEOUT}
        assert not resolver._places
        with pytest.raises(ValueError, match="IP address"):
            await resolver.ask(Question("a.test", "TXT", server="ns.example"))
        await resolver.aclose()
        assert (await resolver.ask(Question("a.test", "TXT", server=quick.address))).outcome is Outcome.UNREACHABLE


async def test_servfail_that_validation_makes_is_bogus_and_another_is_not() -> None:
    def bogus(
        server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool
    ) -> bytes | list[bytes] | None:
        return truth.to_wire() if query.flags & dns.flags.CD else rcode(dns.rcode.SERVFAIL)(server, query, truth, tcp)

    async with faulty(RECORDS, bogus) as server:
        resolver = Resolver([server.address], tries=1)
        seen: list[str] = []
        resolver._on_query = lambda outcome, seconds: seen.append(outcome)
        for dnssec in (False, True):
            assert (await resolver.ask(Question("a.test", "TXT", dnssec=dnssec))).outcome is Outcome.BOGUS
        server.fault = rcode(dns.rcode.SERVFAIL)
        assert (await resolver.ask(Question("a.test", "TXT"))).outcome is Outcome.SERVFAIL
        # A server that recovers between the two questions was never bogus.
        failed: list[int] = []

        def hiccup(
            server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool
        ) -> bytes | list[bytes] | None:
            failed.append(query.id)
            return truth.to_wire() if len(failed) > 1 else rcode(dns.rcode.SERVFAIL)(server, query, truth, tcp)

        server.fault = hiccup
        assert (await resolver.ask(Question("a.test", "TXT", dnssec=True))).outcome is Outcome.ANSWER
        await resolver.aclose()


def test_the_loop_of_the_daemon_is_served_too() -> None:
    async def main() -> list[Answer]:
        async with faulty(RECORDS, forged) as server, faulty(RECORDS, silent) as mute:
            resolver = Resolver([server.address], timeout=0.2, tries=1)
            asked = [Question("a.test", "TXT", server=s.address) for s in (server, mute)] * 30
            answers = await asyncio.gather(*map(resolver.ask, asked))
            await resolver.aclose()
            return answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answers = runner.run(main())
    assert [a.outcome for a in answers] == [Outcome.ANSWER, Outcome.TIMEOUT] * 30


async def first_attempt_fails(question: Question, fails: Fault, servers: int) -> list[str]:
    """The outcomes of all attempts, the first of which finds the first server failing."""
    seen: list[str] = []
    async with faulty(RECORDS) as server, faulty(RECORDS, silent) as mute:
        addresses = [server.address, mute.address][:servers]
        resolver = Resolver(addresses, timeout=0.3, on_query=lambda outcome, seconds: seen.append(outcome))
        await resolver.ask(Question("a.test", "MX"))  # now there is a channel
        seen.clear()
        failed: list[int] = []

        def once(
            server: FaultyDns, query: dns.message.Message, truth: dns.message.Message, tcp: bool
        ) -> bytes | list[bytes] | None:
            if tcp or failed:
                return truth.to_wire()
            failed.append(query.id)
            return fails(server, query, truth, tcp)

        server.fault = once
        answer = await asyncio.wait_for(resolver.ask(question), 8)
        assert (answer.outcome, len(answer.records)) == (Outcome.ANSWER, 1)
        assert failed
        assert resolver._turns._free == 64, "every place is given back"
        await resolver.aclose()
    return seen


async def test_what_fails_at_first_is_asked_again() -> None:
    """Whether c-ares asks or not, however it fails, and however many servers there are."""
    cases = [
        (Question("a.test", type_, dnssec=type_ == "DS"), fails, servers)
        for type_ in ("TXT", "DS", "SPF")
        for fails in (silent, rcode(dns.rcode.SERVFAIL), rcode(dns.rcode.REFUSED), truncated)
        for servers in (1, 2)
    ]
    # A server that does not know EDNS is asked without; where DNSSEC is asked for, that would be no answer.
    cases.append((Question("a.test", "SPF"), rcode(dns.rcode.FORMERR), 1))
    seen = await asyncio.gather(*(first_attempt_fails(*case) for case in cases))
    for case, outcomes in zip(cases, seen, strict=True):
        assert outcomes[-1] == "answer", case
        assert len(outcomes) <= 2, case
    told = {(q.type, fails, servers): o for (q, fails, servers), o in zip(cases, seen, strict=True)}
    for type_ in ("TXT", "DS"):
        assert told[type_, silent, 1] == ["timeout", "answer"]


async def test_the_end_of_a_resolver_is_the_end_of_its_questions() -> None:
    async with faulty(RECORDS, silent) as mute:
        resolver = Resolver([mute.address], timeout=30)
        asked = [asyncio.ensure_future(resolver.ask(Question("a.test", "DS"))) for _ in range(3)]
        await asyncio.sleep(0.05)
        await resolver.aclose()
        outcomes = {a.outcome for a in await asyncio.wait_for(asyncio.gather(*asked), 1)}
        assert outcomes == {Outcome.UNREACHABLE}
        assert not resolver._sent
