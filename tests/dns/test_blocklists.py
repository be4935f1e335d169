"""Blocklists: what their answers mean, when a list is believed, when a listing is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.blocklists import BLOCKLISTS, Blocklist, Health, Kind, Meaning, State, kind_of, prove, question, read
from agent.dns.blockwatch import Asked, BlocklistWatch, Suspect, finding_of
from agent.dns.checks.base import Finding, Verdict, Watched
from agent.dns.resolver import Resolver
from tests.servers.dns import dns_server

V4, V6, NAME = "192.0.2.99", "2001:db8::1", "mail.shop.example"
Table = dict[str, Outcome | list[str]]
PROVED: Table = {"2.0.0.127.bl.example": ["127.0.0.2"]}
LISTED: Table = {**PROVED, "99.2.0.192.bl.example": ["127.0.0.2"]}


def answering(table: Table, otherwise: Outcome = Outcome.NXDOMAIN) -> Callable[[Question], Answer]:
    def answer(asked: Question) -> Answer:
        held = table.get(asked.name, otherwise)
        if asked.type == "TXT":
            held = ["see https://bl.example/?q=1"] if isinstance(held, list) else held
        return Answer(asked, held) if isinstance(held, Outcome) else Answer(asked, Outcome.ANSWER, tuple(held), ttl=60)

    return answer


class FakeResolver:
    """Answers by what ``table`` says at the time."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.asked: list[Question] = []

    def fresh(self) -> None: ...

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return answering(self.table)(question)


def health(blocklist: Blocklist, kind: Kind, answer: Callable[[Question], Answer]) -> Health:
    proof = prove(blocklist, kind)
    questions = next(proof)
    with pytest.raises(StopIteration) as stop:
        proof.send(tuple(map(answer, questions)))
    result: Health = stop.value.value
    return result


SIMPLE = Blocklist(title="Example list", zone="bl.example", codes={"127.0.0.2": Meaning("bad", Verdict.FAIL)})
LISTS = {
    "simple": SIMPLE,
    "six": Blocklist(title="Six", zone="six.example", kinds=(Kind.IP4, Kind.IP6), codes=SIMPLE.codes),
    "names": Blocklist(title="Names", zone="names.example", kinds=(Kind.DOMAIN,), codes=SIMPLE.codes),
    "keyed": Blocklist(title="Keyed", zone="{key}.keyed.example", codes=SIMPLE.codes),
}


def watch(resolver: object, *asked: Asked, suspects: list[Suspect] | None = None, **more: object) -> BlocklistWatch:
    return BlocklistWatch(
        resolver, asked or (Asked("simple"),), suspects or [Suspect("shop.example", V4)], confirm_after=0.0,
        lists=LISTS, clock=lambda: 1000.0, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def only(found: tuple[Watched, ...]) -> Finding:
    (one,) = found
    return one.finding


@pytest.mark.parametrize(
    ("name", "subject", "asks"),
    [
        ("spamcop", V4, "99.2.0.192.bl.spamcop.net"),
        ("spamhaus_zen", V6, "1.0.0.0" + ".0" * 20 + ".8.b.d.0.1.0.0.2.zen.spamhaus.org"),
        ("spamhaus_dbl", NAME, "mail.shop.example.dbl.spamhaus.org"),
        ("uribl", "a.b.shop.co.uk", "shop.co.uk.multi.uribl.com"),
        ("spamhaus_zen_dqs", V4, "99.2.0.192.k3y.zen.dq.spamhaus.net"),
    ],
)
def test_what_is_asked(name: str, subject: str, asks: str) -> None:
    """RFC 5782 sections 2.1, 2.4 and 3."""
    assert question(BLOCKLISTS[name], subject, "k3y").name == asks


def test_the_tests_of_rfc_5782_section_5() -> None:
    names = {kind: [q.name for q in next(prove(LISTS["six"], kind))] for kind in (Kind.IP4, Kind.IP6)}
    assert names[Kind.IP4] == ["2.0.0.127.six.example", "1.0.0.127.six.example"]
    assert names[Kind.IP6] == [f"{n}.0.0.0.0.0.f.7.f.f.f.f{'.0' * 20}.six.example" for n in (2, 1)]
    assert [q.name for q in next(prove(LISTS["names"], Kind.DOMAIN))] == ["test.names.example", "invalid.names.example"]


@pytest.mark.parametrize(
    ("name", "codes", "verdict"),
    [
        ("spamhaus_zen", ["127.0.0.2"], Verdict.FAIL),
        ("spamhaus_zen", ["127.0.0.4", "127.0.0.10"], Verdict.FAIL),
        ("spamhaus_zen", ["127.0.0.30"], Verdict.FAIL),
        ("spamhaus_dbl", ["127.0.1.102"], Verdict.FAIL),
        ("spamcop", ["127.0.0.2"], Verdict.WARN),
        ("mailspike", ["127.0.0.12"], Verdict.WARN),
        ("spamrats", ["127.0.0.37"], Verdict.WARN),
        ("abusix", ["127.0.0.200"], Verdict.FAIL),
        ("surbl", ["127.0.0.72"], Verdict.FAIL),
        ("uribl", ["127.0.0.2"], Verdict.FAIL),
        ("uribl", ["127.0.0.8"], Verdict.WARN),
    ],
)
def test_listed(name: str, codes: list[str], verdict: Verdict) -> None:
    reading = read(BLOCKLISTS[name], Answer(Question("x", "A"), Outcome.ANSWER, tuple(codes)))
    assert (reading.state, reading.verdict) == (State.LISTED, verdict)
    assert reading.words
    assert all(reading.words)


@pytest.mark.parametrize(
    ("name", "codes", "words"),
    [
        ("uceprotect_3", ["127.0.0.2"], True),  # says nothing of the address itself
        ("mailspike", ["127.0.0.13"], True),
        ("uribl", ["127.0.0.4"], True),
        ("spamhaus_zen", ["127.0.0.8"], False),  # undocumented
        ("spamcop", ["127.0.0.9"], False),
        ("surbl", ["127.0.1.4"], False),  # not of the mask's form
    ],
)
def test_known_and_not_listed(name: str, codes: list[str], words: bool) -> None:
    reading = read(BLOCKLISTS[name], Answer(Question("x", "A"), Outcome.ANSWER, tuple(codes)))
    assert reading.state is State.CLEAR
    assert bool(reading.words) is words


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("spamhaus_zen", ["127.255.255.254"]),
        ("spamhaus_zen", ["127.255.255.255"]),
        ("spamhaus_zen", ["127.0.0.2", "127.255.255.252"]),  # one error spoils all
        ("spamhaus_dbl", ["127.0.1.255"]),
        ("surbl", ["127.0.0.1"]),
        ("uribl", ["127.0.0.1"]),
        ("spamcop", ["127.255.255.255"]),
        ("spamcop", ["127.0.0.255"]),
        ("spamcop", ["203.0.113.7"]),  # NXDOMAIN rewritten, or the zone parked
        ("spamcop", ["127.0.0.2", "203.0.113.7"]),
        ("spamcop", ["nonsense"]),
    ],
)
def test_never_a_listing(name: str, codes: list[str]) -> None:
    reading = read(BLOCKLISTS[name], Answer(Question("x", "A"), Outcome.ANSWER, tuple(codes)))
    assert reading.state is State.UNKNOWN


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.definitive])
def test_what_went_wrong_is_unknown(outcome: Outcome) -> None:
    assert read(SIMPLE, Answer(Question("x", "A"), outcome)).state is State.UNKNOWN


@pytest.mark.parametrize("blocklist", BLOCKLISTS.values(), ids=list(BLOCKLISTS))
@given(codes=st.lists(st.one_of(st.ip_addresses(v=4).map(str), st.text(max_size=12)), min_size=1, max_size=4))
def test_only_a_lists_own_codes_are_a_listing(blocklist: Blocklist, codes: list[str]) -> None:
    reading = read(blocklist, Answer(Question("x", "A"), Outcome.ANSWER, tuple(codes)))
    if reading.state is State.LISTED:
        assert all(code.startswith("127.") for code in codes)
        assert blocklist.bits or set(codes) & set(blocklist.codes)
        assert reading.words


@pytest.mark.parametrize(
    ("table", "otherwise", "expected"),
    [
        (PROVED, Outcome.NXDOMAIN, Health.USABLE),
        ({}, Outcome.NXDOMAIN, Health.EMPTY),
        ({**PROVED, "1.0.0.127.bl.example": ["127.0.0.2"]}, Outcome.NXDOMAIN, Health.LISTS_ALL),
        ({"2.0.0.127.bl.example": ["127.255.255.254"]}, Outcome.NXDOMAIN, Health.REFUSED),
        ({}, Outcome.REFUSED, Health.REFUSED),
        ({}, Outcome.TIMEOUT, Health.UNREACHABLE),
        ({**PROVED, "1.0.0.127.bl.example": Outcome.SERVFAIL}, Outcome.NXDOMAIN, Health.UNREACHABLE),
        ({**PROVED, "1.0.0.127.bl.example": ["198.51.100.1"]}, Outcome.NXDOMAIN, Health.REWRITTEN),
        ({"2.0.0.127.bl.example": ["127.0.0.77"]}, Outcome.NXDOMAIN, Health.EMPTY),
    ],
)
def test_a_list_must_prove_itself(table: Table, otherwise: Outcome, expected: Health) -> None:
    assert health(SIMPLE, Kind.IP4, answering(table, otherwise)) is expected


@pytest.mark.parametrize("name", list(BLOCKLISTS))
def test_every_lists_own_test_entry_proves_it(name: str) -> None:
    blocklist = BLOCKLISTS[name]
    for kind in blocklist.kinds:
        positive, _ = next(prove(blocklist, kind))
        code = next(iter(blocklist.codes), "127.0.0.14")
        assert health(blocklist, kind, answering({positive.name: [code]})) is Health.USABLE


def test_kinds() -> None:
    assert [kind_of(s) for s in (V4, V6, NAME)] == [Kind.IP4, Kind.IP6, Kind.DOMAIN]


# The watch.


async def test_a_listing_is_found_confirmed_and_its_end_too() -> None:
    resolver = FakeResolver(dict(PROVED))
    changes: list[Watched] = []
    one = watch(resolver, on_change=changes.append)
    assert only(await one.look()).verdict is Verdict.OK
    resolver.table = LISTED
    finding = only(await one.look())
    assert (finding.verdict, finding.reason) == (Verdict.FAIL, "listed")
    assert finding.subject == f"{V4} simple"
    assert finding.records == ("127.0.0.2", "see https://bl.example/?q=1")
    assert [x.listed for x in one.listings()] == [True]
    resolver.table = PROVED
    assert only(await one.look()).verdict is Verdict.OK
    assert [x.listed for x in one.listings()] == [False]
    assert [c.finding.reason for c in changes] == ["ok", "listed", "ok"]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({**LISTED, "1.0.0.127.bl.example": ["127.0.0.2"]}, "lists_all"),
        ({"99.2.0.192.bl.example": ["127.0.0.2"]}, "empty"),
        ({**PROVED, "99.2.0.192.bl.example": ["127.255.255.254"]}, "refused"),
        ({"2.0.0.127.bl.example": Outcome.TIMEOUT, "99.2.0.192.bl.example": ["127.0.0.2"]}, "unreachable"),
        ({**PROVED, "99.2.0.192.bl.example": ["203.0.113.1"]}, "rewritten"),
        ({**PROVED, "99.2.0.192.bl.example": Outcome.SERVFAIL}, "unreachable"),
    ],
)
async def test_no_false_listing(table: Table, reason: str) -> None:
    one = watch(FakeResolver(table))
    finding = only(await one.look())
    assert (finding.verdict, finding.reason) == (Verdict.UNKNOWN, reason)
    assert [x.listed for x in one.listings()] == [None]


async def test_a_listing_seen_once_is_not_believed() -> None:
    class Flaps(FakeResolver):
        async def ask(self, question: Question) -> Answer:
            seen = sum(q.name.startswith("99.") for q in self.asked)
            self.table = LISTED if seen == 0 else dict(PROVED)
            return await super().ask(question)

    finding = only(await watch(Flaps({})).look())
    assert (finding.verdict, finding.reason) == (Verdict.UNKNOWN, "unconfirmed")


async def test_a_listing_outlives_a_list_that_falls_silent() -> None:
    resolver = FakeResolver(dict(LISTED))
    one = watch(resolver)
    await one.look()
    resolver.table = {"2.0.0.127.bl.example": Outcome.TIMEOUT}
    (known,) = await one.look()
    assert known.finding.verdict is Verdict.UNKNOWN
    assert known.last_definitive is not None
    assert known.last_definitive.reason == "listed"
    assert [x.listed for x in one.listings()] == [True]
    assert one.health() == {"simple": Health.UNREACHABLE}
    again = watch(resolver, restored=one.findings())
    assert [x.listed for x in again.listings()] == [True], "and a restart"


async def test_addresses_of_both_families_and_domains_each_on_their_own_lists() -> None:
    table: Table = {
        "2.0.0.127.six.example": ["127.0.0.2"],
        f"2.0.0.0.0.0.f.7.f.f.f.f{'.0' * 20}.six.example": ["127.0.0.2"],
        "test.names.example": ["127.0.0.2"],
        question(LISTS["six"], V6).name: ["127.0.0.2"],
        "shop.example.names.example": ["127.0.0.2"],
    }
    suspects = [Suspect("shop.example", s) for s in (V4, V6, "shop.example")]
    one = watch(FakeResolver(table), Asked("six"), Asked("names"), suspects=suspects)
    assert {w.finding.subject: w.finding.reason for w in await one.look()} == {
        f"{V4} six": "ok",
        f"{V6} six": "listed",
        "shop.example names": "listed",
    }


async def test_a_subject_of_many_domains_is_asked_about_once() -> None:
    resolver = FakeResolver(dict(PROVED))
    found = await watch(resolver, suspects=[Suspect(f"d{n}.example", V4) for n in range(50)]).look()
    assert len(found) == 50
    assert sum(q.name.startswith("99.") for q in resolver.asked) == 1


async def test_a_key_is_asked_with_and_never_shown() -> None:
    key = "s3cr3tk3y"
    table: Table = {
        f"2.0.0.127.{key}.keyed.example": ["127.0.0.2"],
        f"99.2.0.192.{key}.keyed.example": ["127.0.0.2"],
    }

    class Tells(FakeResolver):
        async def ask(self, question: Question) -> Answer:
            if question.type == "TXT":
                return Answer(question, Outcome.ANSWER, (f"https://x.example/{question.name}",))
            return await super().ask(question)

    finding = only(await watch(Tells(table), Asked("keyed", key)).look())
    assert finding.reason == "listed"
    assert key not in repr(finding)


@pytest.mark.parametrize(
    ("suspect", "verdict"),
    [
        (Suspect("a.example", V4), Verdict.FAIL),
        (Suspect("a.example", V4, addresses=4), Verdict.FAIL),
        (Suspect("a.example", V4, addresses=40), Verdict.WARN),
        (Suspect("a.example", V4, share=0.01), Verdict.WARN),
        (Suspect("a.example", V4, share=0.5, addresses=40), Verdict.FAIL),
        (Suspect("a.example", V4, shared=True), Verdict.WARN),
        (Suspect("a.example", "a.example"), Verdict.FAIL),
    ],
)
def test_a_listing_weighs_as_much_as_the_mail_behind_it(suspect: Suspect, verdict: Verdict) -> None:
    reading = read(SIMPLE, Answer(Question("x", "A"), Outcome.ANSWER, ("127.0.0.2",)))
    assert finding_of(suspect, "simple", SIMPLE, reading).verdict is verdict


async def test_against_a_real_name_server(tmp_path: Path) -> None:
    good = '2.0.0.127 A 127.0.0.2\n99.2.0.192 A 127.0.0.2\n99.2.0.192 TXT "listed for a reason"\n'
    six = question(LISTS["six"], V6).name.removesuffix(".six.example")
    test_six = f"2.0.0.0.0.0.f.7.f.f.f.f{'.0' * 20}"
    zones = {
        "bl.example": good,
        "six.example": f"{good}{test_six} A 127.0.0.2\n{six} A 127.0.0.2\n",
        "all.example": "* A 127.0.0.2\n",
        "over.example": "* A 127.255.255.254\n",
        "parked.example": "* A 203.0.113.9\n",
        "dead.example": "",
    }
    lists = {
        name.partition(".")[0]: Blocklist(
            title=name,
            zone=name,
            codes=SIMPLE.codes,
            kinds=LISTS["six"].kinds if name == "six.example" else (Kind.IP4,),
        )
        for name in (*zones, "elsewhere.example")
    }
    with dns_server(tmp_path, zones) as server:
        resolver = Resolver([server.address], timeout=1.0)
        one = BlocklistWatch(
            resolver, [Asked(name) for name in lists], [Suspect("shop.example", s) for s in (V4, "192.0.2.98", V6)],
            confirm_after=0.1, lists=lists,
        )  # fmt: skip
        try:
            found = {w.finding.subject: w.finding for w in await one.look()}
        finally:
            await resolver.aclose()
    assert {name: str(h) for name, h in one.health().items()} == {
        "bl": "usable", "six": "usable", "all": "lists_all", "over": "refused", "parked": "rewritten", "dead": "empty",
        "elsewhere": "refused",
    }  # fmt: skip
    listed = {subject for subject, finding in found.items() if finding.reason == "listed"}
    assert listed == {f"{V4} bl", f"{V4} six", f"{V6} six"}
    assert found[f"{V4} bl"].records == ("127.0.0.2", "listed for a reason")
    clear = {subject for subject, finding in found.items() if finding.verdict is Verdict.OK}
    assert clear == {"192.0.2.98 bl", "192.0.2.98 six"}


async def test_the_watch_goes_round_by_itself() -> None:
    resolver = FakeResolver(dict(LISTED))
    one = watch(resolver, interval=1.0)
    task = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(5):
            while not one.findings():
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
    assert only(one.findings()).reason == "listed"
