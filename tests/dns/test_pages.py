"""Pages that plans ask for: fetched over TLS from where the resolver says, and kept only as long as allowed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from agent.dns.answer import Answer, Outcome, Question
from agent.dns.checks.base import Finding, Plan, Verdict, asked_once, drive
from agent.dns.follow import follow
from agent.dns.page import Fetch, Page, failed, get, page
from agent.dns.pages import Pages
from agent.dns.resolver import Resolver
from tests.servers.tls import Authority, Handler, answer, serving

HOST = "mta-sts.example.com"


class Here(Resolver):
    """Every name is at 127.0.0.1, unless it is ``gone``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Question] = []

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        if question.type != "A" or question.name.startswith("gone"):
            return Answer(question, Outcome.NODATA)
        return Answer(question, Outcome.ANSWER, ("127.0.0.1",))


class Now:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


def saying(*texts: bytes) -> tuple[Handler, list[bytes]]:
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(texts[min(len(asked), len(texts)) - 1])
        await writer.drain()

    return handle, asked


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def pages(authority: Authority, now: Now | None = None) -> Pages:
    return Pages(clock=now or Now(), tls=authority.client(), allowed=lambda address: True)


async def test_a_plan_asks_the_web_and_the_dns_in_one_breath(authority: Authority) -> None:
    handler, asked = saying(answer("200 OK", b"version: STSv1", "Content-Type: Text/Plain; charset=utf-8"))
    seen: list[Answer] = []

    def plan(port: int) -> Plan:
        wanted = get(f"https://{HOST}:{port}/x")
        seen.extend((yield (wanted, Question("example.com", "A"), wanted)))
        return (Finding("x", "", Verdict.OK, "ok", ""),)

    async with serving(handler, authority.server(HOST)) as port:
        (finding,) = await follow(Here(), asked_once(plan(port), {}), pages=pages(authority))
    assert finding.reason == "ok"
    got = page(seen[0])
    begin, end = got.certificate
    assert (end - begin, abs(begin - time.time() + 86_400) < 600) == (30 * 86_400, True)
    assert (got.status, got.content_type, got.body, got.at) == (200, "text/plain", b"version: STSv1", 1000.0)
    assert seen[1].records == ("127.0.0.1",)
    assert seen[2] == seen[0]
    assert len(asked) == 1


async def test_what_cannot_be_fetched_is_an_answer_too(authority: Authority) -> None:
    kept = pages(authority)
    async with serving(saying(answer("404 Not Found"))[0], authority.server("other.example.com")) as port:
        for url, problem, outcome in (
            (f"https://gone.example.com:{port}/", "dns", Outcome.UNREACHABLE),
            (f"https://{HOST}:{port}/", "tls", Outcome.MALFORMED),
            (f"http://{HOST}:{port}/", "url", Outcome.MALFORMED),
            ("https://[::", "url", Outcome.MALFORMED),
        ):
            got = await kept.get(get(url), Here())
            assert (got.problem, got.outcome, got.status) == (problem, outcome, 0)
        assert (await kept.get(get(f"https://other.example.com:{port}/"), Here())).status == 404
    private = await Pages().get(get(f"https://{HOST}/"), Here())
    assert private.problem == "address"


async def test_a_page_is_kept_only_where_the_question_allows_it(authority: Authority) -> None:
    handler, asked = saying(answer("200 OK", b"one"), answer("200 OK", b"two"), answer("429 Slow down"),
                            answer("200 OK", b"four"))  # fmt: skip
    now = Now()
    kept = pages(authority, now)
    async with serving(handler, authority.server(HOST)) as port:
        url = f"https://{HOST}:{port}/"
        daily = get(url, max_age=86400)
        assert (await kept.get(daily, Here())).body == b"one"
        now.at += 86399
        again = await kept.get(daily, Here())
        assert (again.body, again.at) == (b"one", now.at)
        assert (await kept.get(get(url), Here())).body == b"two", "who wants it fresh gets it fresh"
        now.at += 2
        assert (await kept.get(daily, Here())).status == 429
        now.at += 3599
        assert (await kept.get(daily, Here())).status == 429, "a busy server is left alone for an hour"
        now.at += 2
        assert (await kept.get(daily, Here())).body == b"four"
    assert len(asked) == 4


async def test_a_confirming_look_takes_no_kept_page(authority: Authority) -> None:
    handler, asked = saying(answer("200 OK", b"one"), answer("200 OK", b"two"))
    kept = pages(authority)

    def plan(url: str) -> Plan:
        (found,) = yield (get(url, max_age=86400),)
        return (Finding("x", "", Verdict.OK, page(found).body.decode(), ""),)

    async with serving(handler, authority.server(HOST)) as port:
        url = f"https://{HOST}:{port}/"
        looks = [(await follow(Here(), plan(url), pages=kept, anew=anew))[0].reason for anew in (False, False, True)]
        assert looks == ["one", "one", "two"]
        assert (await follow(Here(), plan(url), pages=kept))[0].reason == "two", "what it found is kept"
    assert len(asked) == 2


async def test_what_is_kept_stays_bounded(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.dns.pages._KEPT", 3)
    monkeypatch.setattr("agent.dns.pages._KEPT_BYTES", 250)
    handler, asked = saying(answer("200 OK", b"x" * 100))
    kept = pages(authority)
    async with serving(handler, authority.server(HOST)) as port:
        for n in (0, 1, 2, 2, 1, 0):
            await kept.get(get(f"https://{HOST}:{port}/{n}", max_age=60), Here())
    assert len(asked) == 4, "the oldest of three gave way"


def test_a_dict_drives_pages_as_it_does_questions() -> None:
    def plan() -> Plan:
        (answer,) = yield (get("https://a.com/x", limit=5, redirects=1),)
        got = page(answer)
        return (Finding("x", "", Verdict.OK, got.body.decode() or got.problem, ""),)

    wanted = Fetch("a.com", "GET", url="https://a.com/x", limit=5, redirects=1)
    held: dict[Question, Answer] = {wanted: Page(wanted, Outcome.ANSWER, status=200, body=b"hello")}
    assert drive(plan(), lambda q: held[q])[0].reason == "hello"
    assert drive(plan(), lambda q: failed(wanted, "timeout"))[0].reason == "timeout"
    assert drive(plan(), lambda q: Answer(q, Outcome.TIMEOUT))[0].reason == "timeout"
    assert hash(wanted) != hash(msgspec.structs.replace(wanted, url="https://a.com/y"))
    assert wanted != Question("a.com", "GET")
