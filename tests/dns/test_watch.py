"""The watch on a clock of its own, and against a real name server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Finding, Plan, Subject, Verdict, Watched
from agent.dns.follow import run_check
from agent.dns.resolver import Resolver
from agent.dns.watch import Watch
from tests.dns.zone import answers
from tests.servers.dns import DnsServer, dns_server


class Fake(Resolver):
    """Answers out of a dict that tests change; counts channels. The zones' own servers answer out of ``authority``, by
    address, and where that has nothing, the same; ``others`` are what further resolvers say."""

    def __init__(self) -> None:
        super().__init__()
        self.authority: dict[str, dict[str, dict[str, list[str]] | Outcome] | Outcome] = {
            "192.0.2.1:53": Outcome.ANSWER
        }
        self.others: dict[str, dict[str, dict[str, list[str]] | Outcome]] = {}
        self.seconds: list[Question] = []
        self.zone: dict[str, dict[str, list[str]] | Outcome] = {}
        self.freshened = 0
        self.asked: list[Question] = []
        self.before: Callable[[Question], None] = lambda q: None

    async def ask(self, question: Question) -> Answer:
        if question.server:
            self.seconds.append(question)
            held = self.authority.get(question.server, Outcome.TIMEOUT)
            if isinstance(held, Outcome) and held is not Outcome.ANSWER:
                return Answer(question, held)
            answer = answers(self.zone if held is Outcome.ANSWER else held, ttl=120)(question)  # type: ignore[arg-type]
            if question.type == "SOA":
                answer = Answer(question, Outcome.ANSWER)
            return msgspec.structs.replace(answer, authoritative=True)
        if question.type in ("NS", "SOA"):
            return (
                Answer(question, Outcome.ANSWER, ("ns.test",))
                if question.name in ("a.com", "b.com")
                else self.none(question)
            )
        if question.name == "ns.test":
            addresses = tuple(server.partition(":")[0] for server in self.authority) * (question.type == "A")
            return Answer(question, Outcome.ANSWER if addresses else Outcome.NODATA, addresses)
        self.before(question)
        self.asked.append(question)
        return answers(self.zone, ttl=120)(question)  # type: ignore[arg-type]

    @staticmethod
    def none(question: Question) -> Answer:
        return Answer(question, Outcome.NODATA)

    async def servers(self) -> tuple[str, ...]:
        return tuple(self.others)

    async def ask_one(self, question: Question, server: str) -> Answer:
        return answers(self.others[server], ttl=120)(question)  # type: ignore[arg-type]

    def fresh(self) -> None:
        self.freshened += 1


class Probe:
    """A check of one TXT record: ``ok``, ``warn`` or ``fail`` as it says."""

    def plan(self, subject: Subject) -> Plan:
        (answer,) = yield (Question(subject.domain, "TXT"),)
        if not answer.outcome.definitive:
            return (Finding("probe", "", Verdict.UNKNOWN, "indeterminate", "?"),)
        verdict = Verdict(answer.records[0]) if answer.records else Verdict.FAIL
        return (Finding("probe", "", verdict, verdict.value, "!", ttl=answer.ttl),)


class Crash:
    def plan(self, subject: Subject) -> Plan:
        yield (Question(subject.domain, "TXT"),)
        raise RuntimeError("bug")


class Stillborn:
    def plan(self, subject: Subject) -> Plan:
        raise RuntimeError("bug")


class Now:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def dns() -> Fake:
    return Fake()


@pytest.fixture
def now() -> Now:
    return Now()


def watch(dns: Fake, now: Now, **options: object) -> Watch:
    defaults: dict[str, object] = {
        "checks": {"probe": Probe()},
        "confirm_after": 0.0,
        "clock": now,
        "rng": random.Random(1),
    }
    return Watch(dns, [Subject("a.com")], **{**defaults, **options})  # type: ignore[arg-type]


async def look(w: Watch) -> Watched:
    (watched,) = await w.check_now("a.com")
    return watched


async def test_good_news_is_published_at_once(dns: Fake, now: Now) -> None:
    dns.zone["a.com"] = {"TXT": ["ok"]}
    w = watch(dns, now)
    assert w.findings() == ()
    assert w.last_round_at == 0
    found = await look(w)
    assert (found.finding.verdict, found.since, found.checked_at, found.definitive_at) == (Verdict.OK, 1000, 1000, 1000)
    assert found.last_definitive == found.finding
    assert len(dns.asked) == 1
    assert w.last_round_at == 1000


async def test_only_the_confirming_look_has_pages_fetched_anew(
    dns: Fake, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []

    async def spy(*arguments: object, anew: bool = False, **options: object) -> object:
        looks.append(anew)
        return await run_check(*arguments, anew=anew, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("agent.dns.belief.run_check", spy)
    dns.zone["a.com"] = {"TXT": ["ok"]}
    w = watch(dns, now)
    await look(w)
    dns.zone["a.com"] = {"TXT": ["fail"]}
    await look(w)
    assert looks == [True], "the others are none that confirm"


async def test_bad_news_is_confirmed_on_a_fresh_channel(dns: Fake, now: Now) -> None:
    dns.zone["a.com"] = {"TXT": ["ok"]}
    changes: list[str] = []
    w = watch(dns, now, on_change=lambda c: changes.append(c.finding.verdict.value))
    await look(w)
    dns.zone["a.com"] = Outcome.NXDOMAIN
    before = dns.freshened
    assert (await look(w)).finding.verdict is Verdict.FAIL
    assert dns.freshened == before + 1
    assert len(dns.asked) == 3
    assert Question("a.com", "TXT", server="192.0.2.1:53") in dns.seconds
    dns.seconds.clear()
    await look(w)  # known bad news needs no confirmation
    assert len(dns.asked) == 4
    assert dns.seconds == []
    assert changes == ["ok", "fail"]


@pytest.mark.parametrize(
    ("second", "verdict"),
    [({"TXT": ["ok"]}, "ok"), ({"TXT": ["warn"]}, "warn"), (Outcome.TIMEOUT, "unknown"), (Outcome.NXDOMAIN, "fail")],
)
async def test_what_a_second_look_does_not_confirm_is_not_published(
    dns: Fake, now: Now, second: dict[str, list[str]] | Outcome, verdict: str
) -> None:
    dns.zone["a.com"] = {"TXT": ["ok"]}
    seen: list[str] = []
    w = watch(dns, now, on_change=lambda c: seen.append(c.finding.verdict.value))
    await look(w)
    dns.zone["a.com"] = Outcome.NXDOMAIN
    asked = len(dns.asked)

    def recover(question: Question) -> None:
        if len(dns.asked) > asked:
            dns.zone["a.com"] = second

    dns.before = recover
    found = await look(w)
    assert found.finding.verdict == verdict
    assert seen == ["ok"] + [verdict] * (verdict != "ok")
    if verdict == "unknown":
        assert found.last_definitive is not None
        assert found.last_definitive.verdict is Verdict.OK


async def test_the_first_bad_news_is_confirmed_too(dns: Fake, now: Now) -> None:
    assert (await look(watch(dns, now))).finding.verdict is Verdict.FAIL
    assert len(dns.asked) == 2


async def test_failed_lookups_keep_the_last_good_answer(dns: Fake, now: Now) -> None:
    dns.zone["a.com"] = {"TXT": ["ok"]}
    w = watch(dns, now)
    good = await look(w)
    now.at, dns.zone["a.com"] = 1100.0, Outcome.TIMEOUT
    first = await look(w)
    now.at = 1200.0
    later = await look(w)
    assert (first.finding.verdict, first.since, later.since, later.checked_at) == (Verdict.UNKNOWN, 1100, 1100, 1200)
    assert (later.last_definitive, later.definitive_at) == (good.finding, 1000)
    now.at, dns.zone["a.com"] = 1300.0, {"TXT": ["ok"]}
    assert (await look(w)).definitive_at == 1300


async def test_state_survives_as_json(dns: Fake, now: Now) -> None:
    dns.zone["a.com"] = {"TXT": ["fail"]}
    w = watch(dns, now)
    await look(w)
    stored = msgspec.json.decode(msgspec.json.encode(w.findings()), type=tuple[Watched, ...])
    stranger = msgspec.structs.replace(stored[0], domain="gone.com")
    selector = msgspec.structs.replace(stored[0], finding=msgspec.structs.replace(stored[0].finding, subject="old"))
    now.at, dns.asked = 2000.0, []
    again = watch(dns, now, restored=[*stored, stranger, selector])
    assert {(f.domain, f.finding.subject) for f in again.findings()} == {("a.com", ""), ("a.com", "old")}
    found = await look(again)
    assert len(dns.asked) == 1, "what was known before the restart is no news"
    assert (found.since, found.checked_at) == (1000, 2000)
    assert [f.finding.subject for f in again.findings()] == [""]


async def test_a_crashed_check_is_unknown_and_does_not_stop_others(dns: Fake, now: Now) -> None:
    dns.zone["a.com"] = {"TXT": ["ok"]}
    w = watch(dns, now, checks={"crash": Crash(), "probe": Probe(), "stillborn": Stillborn()})
    crash, probe, stillborn = await w.check_now("a.com")
    assert stillborn.finding.reason == "check_failed"
    assert (crash.finding.check, crash.finding.verdict, crash.finding.reason) == (
        "crash",
        Verdict.UNKNOWN,
        "check_failed",
    )
    assert probe.finding.verdict is Verdict.OK
    with pytest.raises(KeyError):
        await w.check_now("b.com")


async def test_a_stuck_resolver_ends_as_unknown(now: Now) -> None:
    class Stuck(Fake):
        async def ask(self, question: Question) -> Answer:
            await asyncio.sleep(60)
            raise AssertionError

    found = await look(watch(Stuck(), now, limit=0.05))
    assert found.finding.verdict is Verdict.UNKNOWN


def delays(w: Watch, *findings: Finding, times: int = 1) -> list[float]:
    return [w._next(("a.com", "probe"), findings) for _ in range(times)]


def finding(verdict: str, ttl: int = 0, reason: str = "x") -> Finding:
    return Finding("probe", "", Verdict(verdict), reason, "", ttl=ttl)


def test_the_next_look_follows_the_ttl_within_its_bounds(dns: Fake, now: Now) -> None:
    w = watch(dns, now, interval=300, min_interval=60)
    for ttl, least, most in ((1, 60, 66), (120, 120, 132), (295, 270, 300), (3600, 270, 300), (0, 270, 300)):
        for delay in delays(w, finding("ok", ttl), times=50):
            assert least <= delay <= most
    slow = watch(dns, now, interval=7200)
    assert all(900 <= d <= 990 for d in delays(slow, finding("fail"), times=50)), "what is missing is asked for sooner"
    assert all(3600 <= d <= 3960 for d in delays(slow, finding("ok", 3600), finding("warn", 5000), times=50))


def test_unknown_is_tried_again_soon_then_less_often(dns: Fake, now: Now) -> None:
    w = watch(dns, now, interval=300)
    got = delays(w, finding("unknown"), times=8)
    for delay, base in zip(got, (15, 30, 60, 120, 240), strict=False):
        assert base <= delay <= base * 1.1
    assert all(270 <= d <= 300 for d in got[5:])
    delays(w, finding("ok"))
    assert delays(w, finding("unknown"))[0] < 17
    assert delays(w, finding("unknown", reason="no_selectors"))[0] >= 270


async def test_run_looks_again_and_again_until_cancelled(dns: Fake) -> None:
    dns.zone["a.com"] = {"TXT": ["ok"]}
    dns.zone["b.com"] = {"TXT": ["warn"]}
    w = Watch(dns, [Subject("a.com"), Subject("b.com")], interval=0.05, min_interval=0.01, confirm_after=0.0,
              checks={"probe": Probe(), "crash": Crash()})  # fmt: skip
    task = asyncio.create_task(w.run())
    await asyncio.sleep(0.6)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(dns.asked) > 20
    verdicts = {(f.domain, f.finding.check): f.finding.verdict.value for f in w.findings()}
    assert verdicts == {
        ("a.com", "crash"): "unknown", ("a.com", "probe"): "ok", ("b.com", "crash"): "unknown", ("b.com",
        "probe"): "warn",
    }  # fmt: skip


class Slow(Fake):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def ask(self, question: Question) -> Answer:
        await self.let.wait()
        return await super().ask(question)


async def test_looks_of_one_check_take_turns(now: Now) -> None:
    dns = Slow()
    dns.zone["a.com"] = {"TXT": ["ok"]}
    w = watch(dns, now)
    looks = [asyncio.create_task(look(w)) for _ in range(3)]
    await asyncio.sleep(0.01)
    looks[2].cancel()
    dns.let.set()
    assert {(await one).finding.verdict for one in looks[:2]} == {Verdict.OK}
    await asyncio.sleep(0.01)
    assert not w._turns, "one that nobody waits for any more has its turn too"


async def test_the_end_of_the_watch_is_the_end_of_its_looks(now: Now) -> None:
    dns = Slow()
    w = watch(dns, now, checks={"one": Probe(), "two": Probe()})
    running = asyncio.create_task(w.run())
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(w.check_now("a.com"))
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.wait_for(waiting, 1) == (), "whoever waits for a look is not left waiting"
    assert not w._turns
    dns.let.set()
    await asyncio.sleep(0.01)
    assert w.findings() == ()


async def test_who_is_told_of_changes_cannot_stop_the_watch(dns: Fake, now: Now) -> None:
    def fails(watched: Watched) -> None:
        raise RuntimeError("bug")

    dns.zone["a.com"] = {"TXT": ["ok"]}
    w = watch(dns, now, on_change=fails, checks={"one": Probe(), "two": Probe()})
    await asyncio.wait_for(w.check_now("a.com"), 1)
    assert not w._turns


# Against a real name server

ZONE = """
@ TXT "v=spf1 ip4:192.0.2.0/24 -all"
@ MX 10 mx
mx A 192.0.2.1
@ A 192.0.2.1
s1._domainkey TXT "k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
_dmarc TXT "v=DMARC1; p=reject; rua=mailto:dmarc@example.test"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DnsServer]:
    # A long TTL, and a minimum that c-ares would keep a negative answer for.
    with dns_server(
        tmp_path, {"example.test": ZONE, "test": "", "2.0.192.in-addr.arpa": "1 PTR example.test."}, ttl=300
    ) as running:
        yield running


@contextlib.asynccontextmanager
async def watching(server: DnsServer) -> AsyncIterator[Watch]:
    resolver = Resolver([server.address], timeout=0.5, tries=1)
    w = Watch(
        resolver, [Subject("example.test", ("s1",), ("192.0.2.1",))], interval=0.3, min_interval=0.1, confirm_after=0.1
    )
    task = asyncio.create_task(w.run())
    try:
        yield w
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await resolver.aclose()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


def state(w: Watch) -> dict[tuple[str, str], str]:
    return {(f.finding.check, f.finding.subject): f.finding.reason for f in w.findings()}


ALL_WELL = {
    ("dkim", "s1"): "ed25519_only",
    ("dmarc", ""): "ok",
    ("mx", ""): "ok",
    ("ptr", "192.0.2.1"): "ok",
    ("ns", ""): "ok",
    ("soa", ""): "soa_unusual",
    ("mta_sts", ""): "sts_absent",
    ("tls_rpt", ""): "rpt_absent",
    ("dane", ""): "dane_absent",
    ("dnssec", ""): "dnssec_absent",
    ("bimi", ""): "bimi_absent",
    ("spf", ""): "ok",
    ("spf", "192.0.2.1"): "ok",
}


async def test_a_removed_record_is_a_failure_and_its_return_is_seen(server: DnsServer) -> None:
    async with watching(server) as w:
        assert await until(lambda: state(w) == ALL_WELL) < 5
        for removed, key, reason in (
            ("_dmarc TXT", ("dmarc", ""), "missing_record"),
            ("s1._domainkey", ("dkim", "s1"), "key_missing"),
            ("@ TXT", ("spf", ""), "missing_record"),
            ("@ MX", ("mx", ""), "mx_none"),
        ):
            server.set_zone(
                "example.test", "\n".join(line for line in ZONE.split("\n") if not line.startswith(removed))
            )
            took = await until(lambda key=key, reason=reason: state(w)[key] == reason)  # type: ignore[misc]
            assert took < 3
            server.set_zone("example.test", ZONE)
            assert await until(lambda: state(w) == ALL_WELL) < 3


async def test_a_stopped_server_is_unknown_and_the_last_good_answer_is_kept(server: DnsServer) -> None:
    async with watching(server) as w:
        await until(lambda: state(w) == ALL_WELL)
        seen: set[Verdict] = set()
        w._on_change = lambda watched: seen.add(watched.finding.verdict)
        server.freeze()
        try:
            await until(lambda: set(state(w).values()) == {"indeterminate"})
        finally:
            server.thaw()
        await until(lambda: state(w) == ALL_WELL)
        assert Verdict.FAIL not in seen
        server.stop()
        await until(lambda: set(state(w).values()) == {"indeterminate"})
        for watched in w.findings():
            assert watched.finding.verdict is Verdict.UNKNOWN
            assert watched.last_definitive is not None
            assert watched.last_definitive.verdict in (Verdict.OK, Verdict.WARN)
            assert 0 < watched.definitive_at <= watched.since <= watched.checked_at
