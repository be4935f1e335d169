"""The resolver against a real name server, and against sockets that misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.channel import Channel
from agent.dns.checks import CHECKS
from agent.dns.checks.base import MailStream, Subject, Verdict
from agent.dns.follow import run_check
from agent.dns.resolver import Resolver
from agent.dns.spf import check_host
from agent.views.metrics import Metrics
from tests.servers.base import free_port
from tests.servers.dns import DnsServer, dns_server
from tests.unit.views import states

ZONE = """
@ 300 TXT "v=spf1 ip4:192.0.2.0/24 " "include:more.example.test -all"
@ 300 MX 10 MX.example.test.
@ A 192.0.2.1
@ AAAA 2001:db8::1
mx A 192.0.2.2
more TXT "v=spf1 exists:%{l}.users.example.test -all"
user\\+tag.users A 127.0.0.2
null MX 0 .
two 600 CNAME one
one 60 CNAME @
nowhere CNAME gone
odd TXT "caf\\233"
"""
BIG = "big " + " ".join(f'TXT "{i:04d}{"x" * 200}"\nbig' for i in range(30)) + ' TXT "end"'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsServer]:
    with dns_server(tmp_path_factory.mktemp("dns"), {"example.test": ZONE + BIG}) as running:
        yield running


@pytest.fixture
async def resolver(server: DnsServer) -> AsyncIterator[Resolver]:
    resolver = Resolver([server.address], timeout=1.0)
    yield resolver
    await resolver.aclose()


async def ask(resolver: Resolver, name: str, type_: str) -> Answer:
    return await resolver.ask(Question(name, type_))


async def test_records_arrive_as_text(resolver: Resolver, server: DnsServer) -> None:
    txt = await ask(resolver, "example.test", "TXT")
    assert txt.records == ("v=spf1 ip4:192.0.2.0/24 include:more.example.test -all",)
    assert (txt.outcome, txt.ttl, txt.server) == (Outcome.ANSWER, 300, server.address)
    mx = await ask(resolver, "example.test", "MX")
    assert mx.records == ("10 mx.example.test.",)
    assert mx.mx() == [(10, "mx.example.test")]
    assert (await ask(resolver, "example.test", "A")).records == ("192.0.2.1",)
    assert (await ask(resolver, "example.test", "AAAA")).records == ("2001:db8::1",)
    assert (await ask(resolver, "example.test", "NS")).records == ("ns.example.test", "ns2.example.test")
    assert (await ask(resolver, "example.test", "SOA")).records[0].split()[:3] == [
        "ns.example.test", "hostmaster.example.test", "1",
    ]  # fmt: skip
    assert (await ask(resolver, "odd.example.test", "TXT")).records == ("caf\xe9",)


async def test_null_mx_is_an_empty_exchange(resolver: Resolver) -> None:
    answer = await ask(resolver, "null.example.test", "MX")
    assert answer.records == ("0 .",)
    assert answer.mx() == [(0, "")]


async def test_the_cname_chain_is_kept_and_its_lowest_ttl_counts(resolver: Resolver) -> None:
    answer = await ask(resolver, "two.example.test", "A")
    assert answer.cnames == ("one.example.test", "example.test")
    assert answer.records == ("192.0.2.1",)
    assert answer.ttl == 0
    alias = await ask(resolver, "two.example.test", "CNAME")
    assert (alias.records, alias.cnames, alias.ttl) == (("one.example.test",), (), 600)


async def test_a_cname_to_a_name_without_such_data_is_nodata(resolver: Resolver) -> None:
    answer = await ask(resolver, "one.example.test", "PTR")
    assert (answer.outcome, answer.records) == (Outcome.NODATA, ())


@pytest.mark.parametrize(
    ("name", "type_", "outcome"),
    [
        ("mx.example.test", "TXT", Outcome.NODATA),
        ("absent.example.test", "TXT", Outcome.NXDOMAIN),
        ("nowhere.example.test", "TXT", Outcome.NXDOMAIN),
        ("elsewhere.invalid", "TXT", Outcome.REFUSED),
        ("a..b", "TXT", Outcome.MALFORMED),
        ("x" * 64 + ".example.test", "TXT", Outcome.MALFORMED),
        ("caf\xe9.example.test", "TXT", Outcome.MALFORMED),
        ("nul\0.example.test", "TXT", Outcome.MALFORMED),
        ("", "TXT", Outcome.MALFORMED),
    ],
)
async def test_negative_answers_and_bad_names_are_outcomes(
    resolver: Resolver, name: str, type_: str, outcome: Outcome
) -> None:
    answer = await ask(resolver, name, type_)
    assert (answer.outcome, answer.records) == (outcome, ())


async def test_names_that_are_no_host_names_can_be_asked_for(resolver: Resolver) -> None:
    assert (await ask(resolver, "user+tag.users.example.test", "A")).records == ("127.0.0.2",)
    assert (await ask(resolver, "other+tag.users.example.test", "A")).outcome is Outcome.NXDOMAIN
    assert (await ask(resolver, "a=b.mx.example.test", "MX")).outcome is Outcome.NXDOMAIN
    assert (await ask(resolver, "a+b.elsewhere.invalid", "A")).outcome is Outcome.REFUSED


async def test_large_answers_come_by_tcp(resolver: Resolver) -> None:
    answer = await ask(resolver, "big.example.test", "TXT")
    assert answer.outcome is Outcome.ANSWER
    assert len(answer.records) == 31
    assert sum(map(len, answer.records)) > 6000


async def test_an_unknown_record_type_is_the_callers_error(resolver: Resolver) -> None:
    with pytest.raises(ValueError, match="record type"):
        await ask(resolver, "example.test", "NONSENSE")


async def test_spf_for_a_tagged_sender(resolver: Resolver) -> None:
    good = await check_host(resolver, ip="198.51.100.1", sender="user+tag@example.test", helo="h.example.test")
    assert good.result == "pass"
    bad = await check_host(resolver, ip="198.51.100.1", sender="user@example.test", helo="h.example.test")
    assert (bad.result, bad.term) == ("fail", "-all")


async def test_a_change_is_seen_in_spite_of_ttl(tmp_path: Path) -> None:
    with dns_server(tmp_path, {"example.test": ""}, ttl=3600) as server:
        resolver = Resolver([server.address], timeout=1.0)
        assert (await ask(resolver, "example.test", "TXT")).outcome is Outcome.NODATA
        server.set_zone("example.test", '@ TXT "one"')
        resolver.fresh()
        assert (await ask(resolver, "example.test", "TXT")).records == ("one",)
        server.set_zone("example.test", '@ TXT "two"')
        await asyncio.sleep(1.1)  # without being told, a channel is given up after a second
        assert (await ask(resolver, "example.test", "TXT")).records == ("two",)
        await resolver.aclose()


async def test_a_stopped_server_is_unreachable_and_a_check_is_unknown(tmp_path: Path) -> None:
    with dns_server(tmp_path, {"example.test": '@ TXT "v=spf1 -all"'}) as server:
        resolver = Resolver([server.address], timeout=0.5, tries=1)
        subject = Subject("example.test")
        assert [f.verdict for f in await run_check(resolver, CHECKS["spf"], subject)] == [Verdict.OK]
        server.stop()
        assert (await ask(resolver, "example.test", "TXT")).outcome in (Outcome.UNREACHABLE, Outcome.TIMEOUT)
        full = Subject(
            "example.test", ("s1",), ("192.0.2.1",), link_domains=("click.example.test",), rdap=True,
            mail_streams=(MailStream("bulk", "sendgrid", "bounce.example.test", "", ("s1",)),),
        )  # fmt: skip
        for check in CHECKS.values():
            assert {f.verdict for f in await run_check(resolver, check, full)} == {Verdict.UNKNOWN}
        assert (await check_host(resolver, ip="192.0.2.1", sender="a@example.test")).result == "temperror"
        await resolver.aclose()


@pytest.fixture
def silent() -> Iterator[str]:
    """A name server that takes questions and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{s.getsockname()[1]}"


async def test_silence_is_a_timeout_within_its_limits(silent: str) -> None:
    seen: list[tuple[str, float]] = []
    resolver = Resolver([silent], timeout=0.3, tries=2, on_query=lambda outcome, s: seen.append((outcome, s)))
    begun = time.monotonic()
    answers = await asyncio.gather(*(ask(resolver, f"n{i}.example.test", "TXT") for i in range(20)))
    assert {a.outcome for a in answers} == {Outcome.TIMEOUT}
    assert time.monotonic() - begun < 5
    assert [outcome for outcome, _ in seen] == ["timeout"] * 40
    assert all(seconds > 0.1 for _, seconds in seen)
    assert (await ask(resolver, "user+tag.example.test", "A")).outcome is Outcome.TIMEOUT
    await resolver.aclose()


async def test_a_slow_plan_ends_at_its_limit(silent: str) -> None:
    resolver = Resolver([silent], timeout=30, tries=1)
    begun = time.monotonic()
    findings = await run_check(resolver, CHECKS["dmarc"], Subject("example.test"), limit=0.3)
    assert time.monotonic() - begun < 3
    assert [f.verdict for f in findings] == [Verdict.UNKNOWN]
    await resolver.aclose()


async def test_a_dead_first_server_does_not_matter(server: DnsServer) -> None:
    resolver = Resolver([f"127.0.0.1:{free_port()}", server.address], timeout=1.0)
    assert (await ask(resolver, "example.test", "A")).records == ("192.0.2.1",)
    assert (await ask(resolver, "user+tag.users.example.test", "A")).records == ("127.0.0.2",)
    await resolver.aclose()


def wedged(resolver: Resolver) -> Channel:
    """Its channel, which from now on hears of nothing: the loop watches no socket of it, nor the time."""
    channel = resolver._channel
    assert channel is not None
    channel._dns._sock_state_cb = lambda *_: None  # type: ignore[method-assign]
    for fd in channel._dns._read_fds:
        asyncio.get_running_loop().remove_reader(fd)
    if channel._dns._timer:
        channel._dns._timer.cancel()
    return channel


async def test_a_channel_that_hangs_is_replaced_and_closed(server: DnsServer) -> None:
    metrics = Metrics(states.state, version="1.2.3")
    resolver = Resolver([server.address], timeout=0.2, on_restart=metrics.dns_restart)
    assert (await ask(resolver, "example.test", "A")).outcome is Outcome.ANSWER
    before = set(os.listdir("/proc/self/fd"))
    hanging = wedged(resolver)
    begun = time.monotonic()
    names = ("mx.example.test", "www.example.test", "example.test")
    answers = await asyncio.gather(*(ask(resolver, name, "A") for name in names))
    assert {a.outcome for a in answers} <= {Outcome.ANSWER, Outcome.NXDOMAIN}, "asked again on another channel"
    assert answers[0].records == ("192.0.2.2",)
    assert 1.4 < time.monotonic() - begun < 5
    shown, _ = metrics.render(states.state(), "")
    assert b"\nmailvitals_dns_resolver_restarts_total 1.0\n" in shown, "however many waited"
    assert resolver._channel is not hanging
    resolver.fresh()
    await until(lambda: not resolver._retired and not resolver._closing)
    await until(lambda: len(set(os.listdir("/proc/self/fd")) - before) <= 1)
    await resolver.aclose()


async def test_no_channel_has_a_thread_of_its_own(server: DnsServer) -> None:
    resolver = Resolver([server.address], timeout=0.5)
    await ask(resolver, "example.test", "A")
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(5):
        resolver.fresh()
        assert (await ask(resolver, "example.test", "A")).outcome is Outcome.ANSWER
    assert len(os.listdir("/proc/self/task")) == threads
    await resolver.aclose()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        await asyncio.sleep(0.02)


async def test_a_server_may_be_given_by_name(server: DnsServer) -> None:
    resolver = Resolver([f"localhost:{server.port}"], timeout=1.0)
    assert (await ask(resolver, "example.test", "A")).records == ("192.0.2.1",)
    await resolver.aclose()
    lost = Resolver(["no-such-host.invalid"], timeout=1.0, tries=1)
    assert (await ask(lost, "example.test", "A")).outcome in (Outcome.UNREACHABLE, Outcome.TIMEOUT)
    await lost.aclose()


async def test_many_questions_at_once_all_get_answers(resolver: Resolver) -> None:
    answers = await asyncio.gather(*(ask(resolver, f"n{i}.example.test", "A") for i in range(300)))
    assert {a.outcome for a in answers} == {Outcome.NXDOMAIN}


async def test_closing_is_final_and_idempotent(server: DnsServer, silent: str) -> None:
    resolver = Resolver([server.address])
    await ask(resolver, "example.test", "A")
    await resolver.aclose()
    await resolver.aclose()
    assert (await ask(resolver, "example.test", "A")).outcome is Outcome.UNREACHABLE
    waiting = Resolver([silent], timeout=30)
    task = asyncio.create_task(ask(waiting, "example.test", "A"))
    await asyncio.sleep(0.1)
    await waiting.aclose()
    assert (await asyncio.wait_for(task, 2)).outcome is Outcome.UNREACHABLE


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]", "[::1]:53", "dns.example", "dns:5353"])
def test_name_servers_are_given_in_these_forms(text: str) -> None:
    Resolver([text])


@pytest.mark.parametrize(
    "text", ["", ":53", "host:", "host:x", "host:0", "host:65536", "[::1", "a b:1:2", "[host]:53", "1:2:3"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="name server"):
        Resolver([text])
