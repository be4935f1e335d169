"""No recipient is found in anything the agent writes or shows, whatever it was sent and however it went wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import DAY
from agent.events import Event
from agent.intake.source import Source
from agent.ledger.sqlite import SqliteLedger
from agent.providers import PROVIDERS, WebhookRequest
from agent.simulate import SIMULATORS, Scenario, Traffic
from agent.simulate.send import simulate
from tests.ledger.conftest import KEY
from tests.providers.cases import FORM_FIELDS, packed, unpacked
from tests.servers.raw import exchange, request
from tests.stack.live import POSTMARK, SENDGRID, Live, live_agent, signed, taken

HOUR = 3600
# A person's address in the forms that remote texts, ids and URLs give it.
PERSON = "jane.q.public"
MAILBOX = "private-mailbox.example"
ADDRESS = f"{PERSON}@{MAILBOX}"
FORMS = (
    ADDRESS, ADDRESS.upper(), f"<{ADDRESS}>", f"smtp;{ADDRESS}", f'"{PERSON} x"@{MAILBOX}', f"{PERSON}+tag@{MAILBOX}",
    f"bounce+{PERSON}={MAILBOX}@verp.example", f"SRS0=HHH=TT={MAILBOX}={PERSON}@forwarder.example",
    f"{PERSON}%40{MAILBOX}", f"{PERSON}%2540{MAILBOX}", f"{PERSON}&#64;{MAILBOX}", f"{PERSON} @ {MAILBOX}",
    f"{PERSON}\\u0040{MAILBOX}", f"{PERSON}＠{MAILBOX}", f"{PERSON}@[192.0.2.77]", f"{PERSON}.jürgen@{MAILBOX}",
    f"prvs=1234={PERSON}@{MAILBOX}", f"mailto:{ADDRESS}?subject=x",
)  # fmt: skip
# Local parts that must not be found; of the simulated ones those of seed 5.
LOCAL_PARTS = (PERSON.encode(), b"mv.5.")
# Random bytes (hashes, sealed bodies) look like a short address now and then: in binary files only longer ones count.
_SHAPED, _SHAPED_LONG = (
    re.compile(
        rb"[\w.%%+=\"'-]{%d,64}@[\w-]{%d,63}(?:\.[\w-]{1,63})*\.[A-Za-z]{2,24}|[\w.+-]{2,64}(?:%%(?:25)?40|&#64;)\w"
        % (least, least)
    )
    for least in (1, 4)
)


def traces(data: bytes, binary: bool = False) -> list[bytes]:
    """Everything in a file or answer that is, or is shaped like, an address; known ones also as UTF-16 and base64."""
    found: list[bytes] = (_SHAPED_LONG if binary else _SHAPED).findall(data)
    lower = data.lower()
    for text in LOCAL_PARTS:
        found += [text for disguise in (text, text.decode().encode("utf-16-le")) if disguise in lower]
        found += [text for disguise in _in_base64(text) if disguise in data]
    return found


def _in_base64(text: bytes) -> Iterator[bytes]:
    """The characters that the text has in base64, wherever it begins; none when too few to be sure."""
    for before in range(3 if len(text) > 8 else 0):
        encoded = base64.b64encode(b"\0" * before + text)
        yield encoded[-(-before * 4 // 3) : (before + len(text)) * 4 // 3]


def test_the_search_finds_what_it_is_for() -> None:
    for text in (f"x {ADDRESS} y", ADDRESS.upper(), "MV.5.00000001", "someone@else.example", "a.b%40gmail.com"):
        assert traces(text.encode()), text
    assert traces(base64.b64encode(b"ab" + ADDRESS.encode()))
    assert not traces(b"<address> @ a@ @b mv.6.1 smtp; 5.1.1 user unknown")


def _scenario(messages: int) -> Scenario:
    now = time.time()
    return Scenario(
        start=now - DAY, duration=DAY, until=now, messages=messages, seed=5, hard=0.05, soft=0.03, block=0.03,
        undetermined=0.02, deferred=0.1, dropped=0.02, complained=0.01, unsubscribed=0.01, asynchronous=0.01,
    )  # fmt: skip


def _texts(live: Live) -> Iterator[dict[str, object]]:
    """SendGrid events that name a person wherever a payload has room for text."""
    for form in FORMS:
        for event in ("bounce", "dropped", "deferred"):
            yield live.fresh(
                email=form, event=event, reason=f"550 5.1.1 <{form}>: unknown {form}", response=form, status="5.1.1"
            )
        yield live.fresh(email=form, event=form, category=[form, "news"], url=f"https://x.test/?e={form}")
        yield live.fresh(email=form, event="click", url=f"https://x.test/{form}", useragent=form)
        yield live.fresh(
            email=form, event="bounce", status=form, type=form, bounce_classification=form, from_domain=form
        )
        yield live.fresh(email=form, **{"smtp-id": form, "sg_message_id": form, "sg_event_id": form, "attempt": form})


def _records(live: Live) -> Iterator[bytes]:
    """Postmark records of the same kind."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    for form in FORMS:
        bounce = {
            "RecordType": "Bounce",
            "Type": "HardBounce",
            "BouncedAt": at,
            "Email": form,
            "From": form,
            "ID": form,
        }
        yield live.record(**bounce, Details=f"smtp;550 5.1.1 {form}", Description=form, Subject=form, Content=form)
        yield live.record(**{**bounce, "Type": form})
        yield live.record(RecordType=form, MessageStream=form, Tag=form, Metadata={form: form})


def _misfortunes(live: Live) -> None:
    """Everything that can go wrong with a request, with a person in it."""
    for form in FORMS:
        name = form.encode("utf-8")
        for body in (name, b'{"email": "' + name, b"[" + json.dumps(form).encode() + b"]"):
            assert taken(live.post("sg", body))
            assert taken(live.post("pm", body))
        mixed = json.dumps([live.fresh(email=form), form, {form: form}, {"event": form, "timestamp": form}]).encode()
        assert taken(live.post("sg", mixed))
        quoted = "".join(c if c.isascii() and c not in ' <>"' else f"%{ord(c) & 255:02x}" for c in form)
        latin = form.encode().decode("latin-1")
        everywhere = {
            "User-Agent": latin, "X-Forwarded-For": latin, "Authorization": latin, "Cookie": latin, "X-Secret": latin,
            "X-Twilio-Email-Event-Webhook-Signature": latin, "X-Twilio-Email-Event-Webhook-Timestamp": latin,
        }  # fmt: skip
        for path in (
            "/webhooks/sg",
            "/webhooks/pm",
            "/webhooks/pmh",
            f"/webhooks/{quoted}",
            f"/{quoted}",
            f"/webhooks/sg?{quoted}",
        ):
            answer = exchange(live.port, request("POST", path, everywhere, name))
            assert answer.status in (400, 401, 404), path
            assert not traces(answer.body)
            exchange(live.port, request("GET", path, everywhere))
        exchange(live.port, request(quoted, "/webhooks/sg", everywhere))
        exchange(live.port, request("POST", "/webhooks/sg", everywhere, name, length=10_000), end=True)
        exchange(live.port, request("POST", "/webhooks/sg", {"Content-Encoding": "gzip", **everywhere}, name))
        exchange(live.port, name + b"\r\n\r\n", end=True)
        url = f"/webhooks/pm?email={quoted}"
        body = live.record(Recipient=form)
        assert taken(exchange(live.port, request("POST", url, signed("pm", body), body)))


@pytest.mark.parametrize("form", ["json", "console"])
async def test_a_day_of_mail_leaves_no_trace_of_any_recipient(tmp_path: Path, form: str) -> None:
    with live_agent(tmp_path, log={"level": "debug", "format": form}) as live:
        if form == "json":
            for provider, source, messages in (("sendgrid", "sg", 20_000), ("postmark", "pm", 2_000)):
                sent = await simulate(
                    provider, _scenario(messages), live.agent.webhook(source),
                    (SENDGRID if source == "sg" else POSTMARK).signing, batch=200,
                )  # fmt: skip
                assert sent.failed == 0
        events = list(_texts(live))
        assert taken(await asyncio.to_thread(live.post, "sg", json.dumps(events).encode()))
        assert all(taken(live.post("pm", body)) for body in _records(live))
        await asyncio.to_thread(_misfortunes, live)
        await asyncio.sleep(1.5)  # An evaluation.
        shown = [live.agent.get(path) for path in ("/metrics", "/api/v1/status", "/", "/healthz", "/readyz")]
        status = json.loads(shown[1])
        assert len(status["recent_bounces"]) == 50
        assert any("<address>" in bounce["reason"] for bounce in status["recent_bounces"])
        assert sum(source["quarantined"] for source in status["sources"]) > 100
        files = _files(tmp_path)  # With its -wal and -shm, as they lie there while it runs.
    files |= {f"{name}, at the end": data for name, data in _files(tmp_path).items()}
    assert {"ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.key", "agent.log"} <= set(files)
    assert len(files["agent.log, at the end"]) > 1000
    for name, data in files.items():
        assert traces(data, binary=name.startswith("ledger.db")) == [], name
    for data in (*shown, _texts_in(tmp_path / "ledger.db")):
        assert traces(data) == []
    assert await _sealed_bodies(tmp_path) > 100


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _texts_in(database: Path) -> bytes:
    """Every text and small document of a database."""
    db = sqlite3.connect(database)
    texts = []
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in db.execute(f"SELECT * FROM {table}"):
            texts += [value.encode() for value in row if isinstance(value, str)]
            texts += [value for value in row if isinstance(value, bytes) and table == "document"]
    db.close()
    assert len(texts) > 100
    return b"\n".join(texts)


async def _sealed_bodies(folder: Path) -> int:
    """How many bodies in quarantine do name someone, once unsealed: they were kept, and kept unreadable."""
    ledger = SqliteLedger(folder / "ledger.db", (folder / "ledger.db.key").read_bytes().strip())
    bodies = [(await ledger.unseal(q.id))[1] for q in await ledger.quarantined()]
    await ledger.close()
    return sum(PERSON.encode() in body.lower() for body in bodies)


# The same search, one event at a time, straight into a store.


IN_ARRAYS = ("sendgrid", "sparkpost")  # These post nothing but arrays.


def _stored(provider: str, documents: Sequence[dict[str, Any]], folder: Path) -> dict[str, bytes]:
    async def count() -> None:
        ledger = SqliteLedger(folder / "ledger.db", KEY)
        source = Source("main", provider, PROVIDERS[provider], {}, streams=["news"], domains=["example.com"])
        for document in documents:
            alone = provider not in IN_ARRAYS and provider not in FORM_FIELDS
            body = packed(provider, json.dumps(document if alone else [document]).encode())
            prepared = source.read(WebhookRequest("POST", "/", "", {}, body, time.time()))
            await ledger.apply([prepared.batch], time.time())
        await ledger.close()

    asyncio.run(count())
    return _files(folder)


@pytest.mark.parametrize("provider", sorted(SIMULATORS))
def test_simulated_events_leave_nothing_even_one_by_one(tmp_path: Path, provider: str) -> None:
    simulator = SIMULATORS[provider]
    documents = []
    for sent in simulator.requests(Traffic(_scenario(300), simulator.VOICE), 1):
        body = unpacked(provider, sent.body)
        form = not body.startswith((b"{", b"["))
        value = dict(parse_qsl(body.decode())) if form else json.loads(body)
        documents += value if isinstance(value, list) else [value]
    assert any(b"mv.5." in json.dumps(document).encode() for document in documents)
    for name, data in _stored(provider, documents, tmp_path).items():
        assert traces(data, binary=True) == [], name
    assert traces(_texts_in(tmp_path / "ledger.db")) == []


_atoms = st.text(st.sampled_from("abcXYZ019.!#$%&'*+/=?^_`{|}~-äß日本"), min_size=3, max_size=12)
_domains = st.sampled_from(
    [MAILBOX, "münchen.example", "例え.jp", "GMAIL.COM", "[192.0.2.9]", "[IPv6:2001:db8::1]", "localhost"]
)
_around = st.sampled_from(["", " ", "<", "smtp;", "rcpt=", "to:", '"', "(", "550 5.1.1 ", "=", "/", "\t"])


@settings(max_examples=200, deadline=None)
@given(local=_atoms, domain=_domains, before=_around, after=_around, quoted=st.booleans())
def test_a_reason_never_keeps_an_address(local: str, domain: str, before: str, after: str, quoted: bool) -> None:
    address = f'"{local}"@{domain}' if quoted else f"{local}@{domain}"
    text = f"550 5.1.1 {before}{address}{after} user unknown"
    document = {"email": address, "event": "bounce", "timestamp": int(time.time()), "reason": text, "status": "5.1.1"}
    body = json.dumps([document]).encode()
    (event,) = PROVIDERS["sendgrid"].parse(WebhookRequest("POST", "/", "", {}, body, time.time()))
    assert isinstance(event, Event)
    assert f"{local}@" not in event.reason
    assert f'{local}"@' not in event.reason
    assert "@" not in event.reason
    assert "user unknown" in event.reason
