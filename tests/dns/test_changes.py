"""Changes in words, their direction, and the history that believes them only when they stand."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.changes import Direction, describe
from agent.dns.checks.base import MailStream, Subject, Verdict
from agent.dns.dependents import Sender
from agent.dns.history import History, Known
from agent.dns.inventory import Inventory, Plan, RecordSet, plan
from agent.dns.resolver import Resolver
from tests.dns.zone import Zone, answers, web
from tests.servers.dns import dns_server

DOMAIN = "shop.example"
SUBJECT = Subject(DOMAIN, dkim_selectors=("s1",))
W, S, O = Direction.WEAKER, Direction.STRONGER, Direction.OTHER  # noqa: E741


def key(bits: int) -> str:
    der = generate_private_key(65537, bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b64encode(der).decode()


SHORT, LONG = key(1024), key(2048)


def a_set(role: str, *records: str, name: str = DOMAIN) -> RecordSet:
    return RecordSet(name, "TXT" if role not in ("mx", "ns") else role.upper(), role, tuple(sorted(records)))


@pytest.mark.parametrize(
    ("role", "before", "after", "words", "direction"),
    [
        ("spf", ["v=spf1 -all"], [], "The SPF record of shop.example is gone", W),
        ("spf", [], ["v=spf1 -all"], "is published", S),
        ("spf", ["v=spf1 -all"], ["v=spf1 -all", "v=spf1 a ~all"], "stands there 2 times", W),
        ("spf", ["v=spf1 a -all"], ["v=spf1 a +all"], "anybody may send in its name", W),
        ("spf", ["v=spf1 a -all"], ["v=spf1 a all"], "anybody may send in its name", W),
        ("spf", ["v=spf1 a -all"], ["v=spf1 a ~all"], "now ends in ~all, before in -all", W),
        ("spf", ["v=spf1 a ?all"], ["v=spf1 a -all"], "now ends in -all, before in ?all", S),
        ("spf", ["v=spf1 a -all"], ["v=spf1 a"], "no longer ends in -all", W),
        ("spf", ["v=spf1 -all"], ["v=spf1 ip4:192.0.2.1 -all"], "shop.example now authorises 192.0.2.1", O),
        ("spf", ["v=spf1 ip6:2001:db8::/32 -all"], ["v=spf1 -all"], "no longer authorises 2001:db8::/32", O),
        ("spf", ["v=spf1 -all"], ["v=spf1 include:_spf.esp.example -all"], "authorises include:_spf.esp.example", O),
        ("spf", ["v=spf1 a -all"], ["v=spf1 ip4:nonsense -all"], "cannot be read any more", W),
        ("spf", ["v=spf1 A -all"], ["v=spf1 +a -all"], "means the same", O),
        ("include", ["v=spf1 -all"], ["v=spf1 ip4:198.51.100.0/24 -all"],
         "include:_spf.esp.example now authorises 198.51.100.0/24", O),
        ("include", ["v=spf1 -all"], [], "The SPF record of _spf.esp.example is gone", W),
        ("dmarc", ["v=DMARC1; p=reject"], ["v=DMARC1; p=none"], "the domain is now none, before reject", W),
        ("dmarc", ["v=DMARC1; p=none"], ["v=DMARC1; p=quarantine"], "now quarantine, before none", S),
        ("dmarc", ["v=DMARC1; p=reject"], ["v=DMARC1; p=reject; sp=none"], "for its subdomains is now none", W),
        ("dmarc", ["v=DMARC1; p=reject"], ["v=DMARC1; p=reject; np=none"], "that do not exist is now none", W),
        ("dmarc", ["v=DMARC1; p=reject"], ["v=DMARC1; p=reject; t=y"], "one level easier", W),
        ("dmarc", ["v=DMARC1; p=reject; aspf=s"], ["v=DMARC1; p=reject"], "(aspf=r)", W),
        ("dmarc", ["v=DMARC1; p=reject; rua=mailto:a@x.example"], ["v=DMARC1; p=reject"], "no longer asked for", W),
        ("dmarc", ["v=DMARC1; p=reject; rua=mailto:a@x.example"], ["v=DMARC1; p=reject; rua=mailto:b@x.example"],
         "somewhere else", O),
        ("dmarc", ["v=DMARC1; p=reject"], [], "is gone", W),
        ("dmarc", ["v=DMARC1; p=reject"], ["v=DMARC1;p=reject;"], "means the same", O),
        ("dkim", [f"v=DKIM1; p={LONG}"], [], "is gone", W),
        ("dkim", [f"v=DKIM1; p={LONG}"], ["v=DKIM1; p="], "is now revoked", W),
        ("dkim", [f"v=DKIM1; p={LONG}"], ["v=DKIM1; p=xx"], "is now unusable", W),
        ("dkim", [f"v=DKIM1; p={LONG}"], [f"v=DKIM1; p={SHORT}"], "1024 bits rsa, before 2048 bits rsa", W),
        ("dkim", [f"v=DKIM1; p={SHORT}"], [f"v=DKIM1; p={LONG}"], "2048 bits rsa, before 1024 bits rsa", O),
        ("dkim", [f"p={LONG}"], [f"v=DKIM1; t=y; p={LONG}"], "now marked as being tested", W),
        ("dkim", ["v=DKIM1; p="], [f"v=DKIM1; p={LONG}"], "can be used, before it was revoked", S),
        ("mx", ["10 a.example."], ["10 b.example."], "now has 10 b.example", O),
        ("mx", ["10 a.example."], [], "is gone", W),
        ("ns", ["ns1.example", "ns2.example"], ["ns1.example"], "no longer has ns2.example", O),
        ("mta_sts", ["v=STSv1; id=1"], ["v=STSv1; id=2"], "is another one: v=STSv1; id=2", O),
        ("mta_sts", ["v=STSv1; id=1"], [], "is gone", W),
        ("tls_rpt", [], ["v=TLSRPTv1; rua=mailto:x@y.example"], "is published", S),
        ("sts_policy", ["max_age: 1209600", "mode: enforce"], ["max_age: 1209600", "mode: testing"],
         "now in mode testing, before in mode enforce", W),
        ("sts_policy", ["max_age: 1209600", "mode: testing"], ["max_age: 1209600", "mode: enforce"], "enforce", S),
        ("sts_policy", ["max_age: 1209600", "mode: enforce"], ["max_age: 3600", "mode: enforce"],
         "kept for 3600 s, before for 14 days", W),
        ("sts_policy", ["mode: enforce", "mx: a.example"], ["mode: enforce", "mx: b.example"],
         "now names b.example", O),
    ],
)  # fmt: skip
def test_what_a_change_means(role: str, before: list[str], after: list[str], words: str, direction: Direction) -> None:
    name = "_spf.esp.example" if role == "include" else DOMAIN
    said, found = describe(a_set(role, *before, name=name), a_set(role, *after, name=name))
    assert words in "; ".join(said)
    assert found is direction


_RECORDS = st.lists(
    st.sampled_from(["v=spf1 -all", "v=DMARC1; p=none", "v=DKIM1; p=", "10 a.", "v=spf1 %", "v=STSv1"])
    | st.text(max_size=60),
    max_size=3,
)


@given(
    st.sampled_from(["spf", "include", "dkim", "dmarc", "mx", "ns", "mta_sts", "tls_rpt", "sts_policy"]),
    _RECORDS,
    _RECORDS,
)
def test_any_two_record_sets_have_words(role: str, before: list[str], after: list[str]) -> None:
    said, direction = describe(a_set(role, *before), a_set(role, *after))
    assert said
    assert direction in Direction


ZONE: dict[str, dict[str, list[str]]] = {
    DOMAIN: {"TXT": ["v=spf1 include:_spf.esp.example -all", "token=1"], "MX": ["10 mx.shop.example."],
             "NS": ["ns.shop.example"]},
    "_spf.esp.example": {"TXT": ["v=spf1 include:_a.esp.example redirect=_b.esp.example"]},
    "_a.esp.example": {"TXT": ["v=spf1 ip4:192.0.2.0/24 include:_spf.esp.example -all"]},  # a loop
    "_b.esp.example": {"TXT": ["v=spf1 include:%{i}.esp.example ~all"]},
    "s1._domainkey.shop.example": {"TXT": [f"p={LONG}"]},
    "_dmarc.shop.example": {"TXT": ["v=DMARC1; p=reject", "other"]},
}  # fmt: skip


def inventory(zone: Zone) -> Inventory:
    answer, going = answers(zone), plan(SUBJECT)
    questions = next(going)
    while True:
        try:
            questions = going.send(tuple(map(answer, questions)))
        except StopIteration as stop:
            found: Inventory = stop.value
            return found


def test_the_inventory_holds_what_decides_and_follows_vendors() -> None:
    found = inventory(ZONE)
    assert set(found) == {
        "spf shop.example", "dmarc _dmarc.shop.example", "mx shop.example", "ns shop.example",
        "mta_sts _mta-sts.shop.example", "tls_rpt _smtp._tls.shop.example", "dkim s1._domainkey.shop.example",
        "include _spf.esp.example", "include _a.esp.example", "include _b.esp.example",
    }  # fmt: skip
    assert found["spf shop.example"].records == ("v=spf1 include:_spf.esp.example -all",)
    assert found["mta_sts _mta-sts.shop.example"].records == ()


def test_a_mailbox_that_a_record_names_is_not_kept() -> None:
    record = "v=DMARC1; p=none; rua=mailto:jane.doe@x.example!10m,mailto:b+c@y.example; n=ask me@z.example"
    kept = inventory({**ZONE, "_dmarc.shop.example": {"TXT": [record]}})["dmarc _dmarc.shop.example"].records[0]
    assert "@" not in kept
    assert "jane" not in kept
    assert "<somebody at x.example>" in kept
    assert "y.example" in kept


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.definitive])
def test_what_nobody_could_tell_is_left_out(outcome: Outcome) -> None:
    found = inventory({**ZONE, "_dmarc.shop.example": outcome})
    assert "dmarc _dmarc.shop.example" not in found
    assert "spf shop.example" in found


class FakeResolver:
    """``zone`` for recursive questions, ``truth`` for those asked of the zone's own server."""

    def __init__(self, zone: Zone, truth: Zone | None = None) -> None:
        self.zone, self.truth = zone, truth

    def fresh(self) -> None: ...

    async def servers(self) -> tuple[str, ...]:
        return ()

    async def ask(self, question: Question) -> Answer:
        if question.server:
            if self.truth is None:
                return Answer(question, Outcome.TIMEOUT)
            held = answers({**self.truth, DOMAIN: {"SOA": ["x"], **self.truth.get(DOMAIN, {})}})  # type: ignore[dict-item]
            answer = held(Question(question.name, question.type))
            return Answer(question, answer.outcome, answer.records, ttl=answer.ttl, authoritative=True)
        glue = {"ns.shop.example": {"A": ["192.0.2.53"]}}
        return answers({**self.zone, **glue})(question)


def history(resolver: object, clock: list[float] | None = None, **more: object) -> History:
    now = clock or [1000.0]
    return History(resolver, [SUBJECT], confirm_after=0.0, clock=lambda: now[0], **more)  # type: ignore[arg-type]


def changed(**records: list[str]) -> dict[str, dict[str, list[str]]]:
    return {**ZONE, "_dmarc.shop.example": {"TXT": records["dmarc"]}}


async def test_a_change_that_the_zones_server_confirms_is_kept_with_its_share() -> None:
    weaker = changed(dmarc=["v=DMARC1; p=none"])
    resolver = FakeResolver(ZONE, ZONE)
    clock = [1000.0]
    one = history(resolver, clock, share=lambda domain, of: 0.25)
    assert await one.look(SUBJECT) == ()
    resolver.zone = resolver.truth = weaker
    (change,) = await one.look(SUBJECT)
    assert change.direction is W
    assert (change.at, change.share) == (1000.0, 0.25)
    assert await one.look(SUBJECT) == ()
    # The record's own check has its say first.
    assert [w.finding.verdict for w in one.findings()] == [Verdict.WARN]
    clock[0] += 601
    (finding,) = [w.finding for w in one.findings()]
    assert (finding.check, finding.subject, finding.verdict, finding.reason) == (
        "change", "dmarc _dmarc.shop.example", Verdict.FAIL, "weakened",
    )  # fmt: skip
    assert "25%" in finding.detail
    assert "v=DMARC1; p=reject" in finding.advice
    # What a check complains of already does not alarm twice.
    assert [w.finding.verdict for w in one.findings([(DOMAIN, "dmarc")])] == [Verdict.WARN]
    resolver.zone = resolver.truth = ZONE
    assert [c.direction for c in await one.look(SUBJECT)] == [S]
    assert one.findings() == ()
    clock[0] += 86400
    assert one.findings() == ()
    assert [c.direction for c in one.changes()] == [S, W]


async def test_a_resolver_that_lies_alone_changes_nothing() -> None:
    resolver = FakeResolver(ZONE, ZONE)
    one = history(resolver)
    await one.look(SUBJECT)
    for lie in (changed(dmarc=[]), changed(dmarc=["v=DMARC1; p=none"])):
        resolver.zone = lie
        for _ in range(10):
            assert await one.look(SUBJECT) == ()


async def test_where_no_other_server_can_be_asked_it_must_stand_for_some_looks() -> None:
    resolver = FakeResolver(ZONE)
    one = history(resolver)
    await one.look(SUBJECT)
    resolver.zone = changed(dmarc=["v=DMARC1; p=none"])
    looks = [len(await one.look(SUBJECT)) for _ in range(4)]
    assert looks == [0, 0, 1, 0]


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.definitive])
async def test_trouble_is_no_change(outcome: Outcome) -> None:
    resolver = FakeResolver(ZONE, ZONE)
    one = history(resolver)
    await one.look(SUBJECT)
    resolver.zone = dict.fromkeys(ZONE, outcome)
    for _ in range(5):
        assert await one.look(SUBJECT) == ()
    resolver.zone = ZONE
    assert await one.look(SUBJECT) == ()
    assert one.findings() == ()


async def test_a_vendors_include_is_watched_and_a_new_one_is_no_change_of_its_own() -> None:
    resolver = FakeResolver(ZONE, ZONE)
    one = history(resolver)
    await one.look(SUBJECT)
    more = {
        **ZONE,
        "_a.esp.example": {"TXT": ["v=spf1 ip4:192.0.2.0/24 ip4:198.51.100.0/24 include:_spf.esp.example -all"]},
    }
    resolver.zone, resolver.truth = more, None  # the vendor's servers are elsewhere
    found = [c for _ in range(3) for c in await one.look(SUBJECT)]
    assert [c.words for c in found] == [("include:_a.esp.example now authorises 198.51.100.0/24",)]
    assert one.findings() == ()


@pytest.mark.parametrize("lost", ["_spf.esp.example", "_a.esp.example", DOMAIN])
async def test_an_include_behind_a_failed_lookup_is_not_forgotten(lost: str) -> None:
    resolver = FakeResolver(ZONE, ZONE)
    one = history(resolver)
    await one.look(SUBJECT)
    # Something else changes while a record that leads to the include cannot be had.
    weaker = changed(dmarc=["v=DMARC1; p=none"])
    resolver.zone = {**weaker, lost: Outcome.SERVFAIL}
    resolver.truth = weaker
    assert [c.after.role for _ in range(3) for c in await one.look(SUBJECT)] == ["dmarc"]
    resolver.zone = {**weaker, "_a.esp.example": {"TXT": ["v=spf1 +all"]}}
    resolver.truth = None
    found = [c for _ in range(3) for c in await one.look(SUBJECT)]
    assert [(c.after.name, c.direction) for c in found] == [("_a.esp.example", W)]


async def test_an_include_that_is_no_longer_named_is_forgotten() -> None:
    resolver = FakeResolver(ZONE, ZONE)
    one = history(resolver)
    await one.look(SUBJECT)
    resolver.zone = resolver.truth = {**ZONE, DOMAIN: {**ZONE[DOMAIN], "TXT": ["v=spf1 -all"]}}  # type: ignore[dict-item]
    assert len(await one.look(SUBJECT)) == 1
    assert not [key for key in one.unsaved()[DOMAIN].records if key.startswith("include")]


STS_URL = "https://mta-sts.shop.example/.well-known/mta-sts.txt"
DAY = 86_400.0


def policy(mode: str, *, age: int = 1209600, mx: str = "mx.shop.example") -> bytes:
    return f"version: STSv1\nmode: {mode}\nmax_age: {age}\nmx: {mx}\n".encode()


class Site:
    """A domain with a policy, seen at a time of its own; the zone's server says the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.txt, self.page, self.clock, self.anew = "v=STSv1; id=1", policy("testing"), [1000.0], list[bool]()
        monkeypatch.setattr("agent.dns.history.follow", self.follow)
        self.history = history(FakeResolver(ZONE), self.clock)

    async def follow(self, resolver: FakeResolver, plan: Plan, *, anew: bool = False) -> Inventory:
        self.anew.append(anew)
        zone = {**ZONE, "_mta-sts.shop.example": {"TXT": [self.txt]}}
        resolver.truth = zone
        answer = web(zone, {STS_URL: self.page} if self.page else {})
        questions = next(plan)
        while True:
            try:
                questions = plan.send(tuple(map(answer, questions)))
            except StopIteration as stop:
                found: Inventory = stop.value
                return found

    def said(self) -> set[str]:
        return {w.finding.reason for w in self.history.findings() if w.finding.verdict is Verdict.WARN}


async def test_a_policy_that_changes_under_the_same_id_is_told_until_senders_have_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(monkeypatch)
    await site.history.look(SUBJECT)
    site.page = policy("testing", mx="mx2.shop.example")
    (change,) = await site.history.look(SUBJECT)
    assert "now names mx2.shop.example" in change.words[0]
    assert site.anew == [False, False, True]
    assert site.said() == set(), "the id may follow"
    site.clock[0] += 3601
    assert site.said() == {"sts_same_id"}
    site.txt = "v=STSv1; id=2"
    await site.history.look(SUBJECT)
    assert site.said() == set()
    site.page = policy("testing", mx="mx3.shop.example")
    site.clock[0] += 2 * DAY
    await site.history.look(SUBJECT)
    site.clock[0] += 3601
    assert site.said() == {"sts_same_id"}
    site.clock[0] += 14 * DAY
    assert site.said() == set(), "who knew the old one has forgotten it"


async def test_a_policy_is_weaker_but_no_alarm_and_a_page_that_fails_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(monkeypatch)
    site.page = policy("enforce")
    await site.history.look(SUBJECT)
    site.page = b""
    assert await site.history.look(SUBJECT) == ()
    site.page, site.txt = policy("enforce", age=86_400), "v=STSv1; id=2"
    assert {c.direction for c in await site.history.look(SUBJECT)} == {W, O}
    site.clock[0] += 3601
    assert site.said() == {"weakened"}
    assert not [w for w in site.history.findings() if w.finding.verdict is Verdict.FAIL]


async def test_a_policy_tested_for_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch)
    await site.history.look(SUBJECT)
    site.clock[0] += 89 * DAY
    site.page, site.txt = policy("testing", age=1209601), "v=STSv1; id=2"
    await site.history.look(SUBJECT)
    assert site.said() == set()
    stored = msgspec.json.decode(msgspec.json.encode(site.history.unsaved()), type=dict[str, Known])
    again = history(FakeResolver(ZONE), site.clock, known=stored)
    site.clock[0] += 2 * DAY
    assert site.said() == {"sts_testing_long"}, "a longer max_age began no new test"
    assert [w.finding.reason for w in again.findings()] == ["sts_testing_long"]
    site.page, site.txt = policy("enforce", age=1209601), "v=STSv1; id=3"
    await site.history.look(SUBJECT)
    assert site.said() == set()


def test_what_was_stored_before_policies_were_watched_is_read() -> None:
    assert msgspec.json.decode(b'{"records":{}}', type=Known) == Known()


async def test_the_share_is_that_of_the_service_whose_record_it_is_and_return_paths_are_watched() -> None:
    subject = Subject(
        DOMAIN, ("s1",), return_path_domains=("send.shop.example",),
        mail_streams=(MailStream("bulk", "sendgrid", "bounce.shop.example"),),
    )  # fmt: skip
    paths = {"send.shop.example": {"TXT": ["v=spf1 -all"]},
             "bounce.shop.example": {"TXT": ["v=spf1 include:sendgrid.net ~all"]},
             "sendgrid.net": {"TXT": ["v=spf1 ip4:192.0.2.0/24 ~all"]}}  # fmt: skip
    resolver = FakeResolver({**ZONE, **paths}, {**ZONE, **paths})
    one = history(resolver, share=lambda domain, of: 0.4 if of else 1.0)
    await one.look(subject)
    assert "include sendgrid.net" in one.unsaved()[DOMAIN].records
    paths["bounce.shop.example"] = {"TXT": ["v=spf1 -all"]}
    resolver.zone = resolver.truth = {**ZONE, **paths}
    (change,) = await one.look(subject)
    assert (change.of, change.share) == ((Sender("bulk", "sendgrid"),), 0.4)
    assert "include sendgrid.net" not in one.unsaved()[DOMAIN].records


async def test_history_survives_a_restart() -> None:
    resolver = FakeResolver(ZONE, ZONE)
    one = history(resolver)
    await one.look(SUBJECT)
    resolver.zone = resolver.truth = changed(dmarc=["v=DMARC1; p=none"])
    again = history(resolver, known=one.unsaved())
    assert len(await again.look(SUBJECT)) == 1, "what changed while nobody looked is a change"
    unsaved = again.unsaved()
    again.saved(unsaved)
    assert not again.unsaved()
    third = history(resolver, known=unsaved, changes=again.changes())
    assert await third.look(SUBJECT) == ()
    assert len(third.changes()) == 1


async def test_against_a_real_name_server(tmp_path: Path) -> None:
    def zone(policy: str) -> str:
        return f'@ TXT "v=spf1 -all"\n_dmarc TXT "v=DMARC1; p={policy}"\n@ MX 10 mx\nmx A 192.0.2.25\n'

    with dns_server(tmp_path, {DOMAIN: zone("reject")}) as server:
        resolver = Resolver([server.address], timeout=1.0)
        one = History(
            resolver,
            [SUBJECT],
            interval=0.5,
            confirm_after=0.05,
            authority_port=server.port,
            share=lambda domain, of: None,
        )
        try:
            await one.look(SUBJECT)
            server.set_zone(DOMAIN, zone("none") + "@ MX 20 mx2\nmx2 A 192.0.2.26\n")
            found = await one.look(SUBJECT)
        finally:
            await resolver.aclose()
    assert {c.after.role: (c.words, c.direction) for c in found} == {
        "dmarc": (tuple(f"_dmarc.{DOMAIN}: the policy for {whose} is now none, before reject" for whose in
                        ("the domain", "its subdomains", "subdomains that do not exist")), W),
        "mx": ((f"The list of mail hosts of {DOMAIN} now has 20 mx2.{DOMAIN}",), O),
    }  # fmt: skip
