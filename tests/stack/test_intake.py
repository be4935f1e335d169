"""The public listener of a real agent, over real sockets: what it takes, what it refuses, and how it says so."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator

import pytest

from agent.simulate import SIMULATORS
from tests.servers.raw import chunked, connect, exchange, read_answer, request
from tests.stack.live import (
    MAX_BODY,
    OTHER_POSTMARK,
    OTHER_SENDGRID,
    POSTMARK,
    SENDGRID,
    Live,
    live_agent,
    signed,
    taken,
    untroubled,
)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_agent(tmp_path_factory.mktemp("intake")) as one:
        yield one


# What is taken.


def test_takes_what_is_proved_with_any_live_secret(live: Live) -> None:
    before = live.events()
    with live.counts(accepted=5):
        for pair in (SENDGRID, OTHER_SENDGRID):
            body = live.batch(3)
            assert taken(live.post("sg", body, signed("sg", body, pair=pair)))
        for pair in (POSTMARK, OTHER_POSTMARK):
            body = live.record()
            assert taken(live.post("pm", body, signed("pm", body, pair=pair)))
        assert taken(live.post("pmh", live.record()))
    assert live.events() == before + 9, "counted before it was answered"


def test_header_names_are_found_in_any_case_and_body_in_any_encoding(live: Live) -> None:
    before = live.events()
    body = live.batch(2)
    headers = signed("sg", body)
    upper = {k.upper(): v for k, v in headers.items()}
    packed = live.batch(2)
    deflated = live.batch(2)
    pieces = live.batch(2)
    with live.counts(accepted=7):
        assert taken(live.post("sg", body, upper))
        for encoding, data in (("gzip", gzip.compress(packed)), ("GZIP", gzip.compress(packed))):
            assert taken(live.post("sg", data, signed("sg", packed), Content_Encoding=encoding))
        for data in (zlib.compress(deflated), zlib.compress(deflated, wbits=-15)):
            assert taken(live.post("sg", data, signed("sg", deflated), Content_Encoding="deflate"))
        assert taken(live.post("sg", body, Content_Encoding="identity"))
        whole = {**signed("sg", pieces), "Transfer-Encoding": "chunked"}
        parts = [pieces[i : i + 7] for i in range(0, len(pieces), 7)]
        assert taken(exchange(live.port, request("POST", "/webhooks/sg", whole, chunked(parts))))
    assert live.events() == before + 8


def test_one_connection_serves_many_and_leave_to_send_is_given(live: Live) -> None:
    body = live.batch()
    with live.counts(accepted=5), connect(live.port) as connection:
        for _ in range(2):
            body = live.batch()
            connection.sendall(request("POST", "/webhooks/sg", signed("sg", body), body))
            assert taken(read_answer(connection))
        connection.sendall(request("POST", "http://any.test/webhooks/sg", signed("sg", body), body))
        assert taken(read_answer(connection))
        both = [live.batch(), live.batch()]
        expecting = {**signed("sg", both[0]), "Expect": "100-continue"}
        connection.sendall(request("POST", "/webhooks/sg", expecting, length=len(both[0])))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(both[0])
        assert taken(read_answer(connection))
        connection.sendall(request("POST", "/webhooks/sg", signed("sg", both[1]), both[1]))
        assert taken(read_answer(connection))


def test_providers_may_look_whether_someone_is_there(live: Live) -> None:
    before = live.events()
    with live.counts(probe=3):
        for method in ("GET", "HEAD", "GET"):
            assert taken(exchange(live.port, request(method, "/webhooks/sg?x=1", {})))
    assert live.events() == before


def test_duplicates_count_once_and_what_has_no_id_counts_too(live: Live) -> None:
    before, repeats = live.events(), live.agent.counters("duplicate_events_total", "reason")
    again = live.fresh()
    body = json.dumps([again, again]).encode()
    bare = live.fresh(event="open", useragent="x")
    for name in ("sg_event_id", "sg_message_id", "email"):
        del bare[name]
    with live.counts(accepted=5):
        for _ in range(3):
            assert taken(live.post("sg", body))
        assert taken(live.post("sg", json.dumps([bare]).encode()))
        assert taken(live.post("sg", b"[]"))
    assert live.events() == before + 2
    assert live.agent.counters("duplicate_events_total", "reason") - repeats == Counter(same_outcome=5)


# What is refused.


def _unproved(live: Live) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    body = live.batch(2)
    right = signed("sg", body)
    signature, timestamp = (k for k in right if k.startswith("X-"))
    value = right[signature]
    now = int(time.time())
    yield "no headers", "sg", body, {}
    yield "signature missing", "sg", body, {k: v for k, v in right.items() if k != signature}
    yield "timestamp missing", "sg", body, {k: v for k, v in right.items() if k != timestamp}
    signatures = {
        "empty": "", "blank": " ", "not base64": "!" + value, "cut": value[:-5], "hex": "00" * 20, "html": "<b>",
        "odd bytes": "\xff\xfe",
    }  # fmt: skip
    timestamps = {
        "empty": "", "text": "now", "negative": "-5", "long": "9" * 400, "other": str(now - 1), "digits": "\xb2",
    }  # fmt: skip
    for name, bad in signatures.items():
        yield f"signature {name}", "sg", body, {**right, signature: bad}
    for name, bad in timestamps.items():
        yield f"timestamp {name}", "sg", body, {**right, timestamp: bad}
    for name, at in {"old": now - 86400 - 60, "ahead": now + 700}.items():
        yield f"timestamp {name}", "sg", body, signed("sg", body, at)
    yield "another key", "sg", body, signed("sg", body, pair=SIMULATORS["sendgrid"].new_credentials())
    yield "a byte altered", "sg", body[:-4] + b" " + body[-3:], right
    yield "line end stripped", "sg", body.rstrip(), right
    yield "serialised anew", "sg", json.dumps(json.loads(body), separators=(",", ":")).encode(), right
    yield "empty body", "sg", b"", right
    yield "Postmark's", "sg", body, signed("pm", body)
    record = live.record()
    password = POSTMARK.signing["password"]
    basic = {
        "missing": None, "empty": "", "scheme alone": "Basic", "not base64": "Basic !!",
        "bearer": f"Bearer {password}", "no colon": _basic(f"postmark{password}"),
        "wrong password": _basic("postmark:x"), "wrong user": _basic(f"x:{password}"),
        "case": _basic(f"POSTMARK:{password}"), "longer": _basic(f"postmark:{password}x"), "empty pair": _basic(":"),
        "not UTF-8": "Basic " + b64encode(b"\xff:\xff").decode(),
    }  # fmt: skip
    for name, given_value in basic.items():
        yield f"basic {name}", "pm", record, {} if given_value is None else {"Authorization": given_value}
    for name, header in {"missing": {}, "empty": {"X-Secret": ""}, "wrong": {"X-Secret": "s" * 19}}.items():
        yield f"secret {name}", "pmh", record, header


def _basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode()).decode()


def test_what_is_not_proved_is_answered_401_and_counts_nothing(live: Live) -> None:
    before = live.events()
    cases = list(_unproved(live))
    with live.counts(unauthorized=len(cases)):
        for name, source, body, headers in cases:
            answer = live.post(source, body, headers)
            assert answer.status == 401, name
            assert answer.headers["www-authenticate"].startswith("Basic "), name
    assert live.events() == before
    view = {s["name"]: s for s in live.agent.status()["sources"]}
    assert view["sg"]["requests"]["unauthorized"] > 0


def test_there_is_nothing_else(live: Live) -> None:
    paths = [
        "/", "/webhooks", "/webhooks/", "/webhooks/nobody", "/webhooks/sg/", "/webhooks/SG", "//webhooks/sg",
        "/webhooks/sg/x", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/webhooks/../metrics",
        "/webhooks/%00", "/webhooks/%ff%fe", "http://test/metrics", "http://test/webhooks/nobody",
    ]  # fmt: skip
    with live.counts(unknown_source=2 * len(paths), invalid=4):
        for path in paths:
            for method in ("POST", "GET"):
                assert exchange(live.port, request(method, path, {}, b"")).status == 404, path
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = exchange(live.port, request(method, "/webhooks/sg", {}, b""))
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_too_large_is_said_before_it_is_sent_and_while_it_is(live: Live) -> None:
    with live.counts(too_large=4):
        announced = request("POST", "/webhooks/sg", {}, length=MAX_BODY + 1)
        assert exchange(live.port, announced).status == 413
        expecting = request("POST", "/webhooks/sg", {"Expect": "100-continue"}, length=MAX_BODY + 1)
        with connect(live.port) as connection:
            connection.sendall(expecting)
            assert connection.recv(12) == b"HTTP/1.1 413"
        endless = chunked([b" " * 65536] * (MAX_BODY // 65536 + 2))
        head = request("POST", "/webhooks/sg", {"Transfer-Encoding": "chunked"})
        assert exchange(live.port, head + endless).status == 413
        bomb = gzip.compress(b" " * (200 * MAX_BODY))
        assert len(bomb) < MAX_BODY
        assert live.post("sg", bomb, {}, Content_Encoding="gzip").status == 413


def test_bodies_that_are_not_what_they_claim(live: Live) -> None:
    body = live.batch()
    packed = gzip.compress(body)
    unknown = ("compress", "gzip, gzip", "br", "zstd", "x")
    liars = {"gzip": (body, packed[:-20], packed + b"x", b"\x1f\x8b"), "deflate": (body, b"\x00" * 9)}
    with live.counts(invalid=len(unknown) + 6):
        for encoding in unknown:
            answer = live.post("sg", body, Content_Encoding=encoding)
            assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
        for encoding, bodies in liars.items():
            for data in bodies:
                assert live.post("sg", data, signed("sg", body), Content_Encoding=encoding).status == 400


def test_a_body_cut_short_counts_nothing(live: Live) -> None:
    before = live.events()
    body = live.batch(5)
    with live.counts(invalid=3):
        for cut in (0, 1, len(body) - 1):
            with connect(live.port) as connection:
                connection.sendall(request("POST", "/webhooks/sg", signed("sg", body), body[:cut], length=len(body)))
                time.sleep(0.05)
    chunks = {**signed("sg", body), "Transfer-Encoding": "chunked"}
    assert exchange(live.port, request("POST", "/webhooks/sg", chunks, b"5\r\nabcdeXX\r\n")).status in (0, 400)
    assert live.events() == before


# What is authentic but odd.


def test_what_cannot_be_read_is_sealed_and_taken(live: Live) -> None:
    before, events = live.agent.counters("quarantined_requests_total", "reason"), live.events()
    deep = b"[" * 300_000
    unreadable = [b"", b"{", b"not JSON", b"{}", b"null", b"3", b'"text"', b"\xff\xfe", deep, b'[{"a":' * 50_000]
    with live.counts(quarantined=len(unreadable) + 3):
        for body in unreadable:
            assert taken(live.post("sg", body)), body[:20]
        for body in (b"[]", b"{", b"[" * 100_000):
            assert taken(live.post("pm", body)), body[:20]
    assert live.agent.counters("quarantined_requests_total", "reason") - before == Counter(
        unreadable=len(unreadable) + 3
    )
    assert live.events() == events


def test_the_good_half_counts_and_the_whole_body_is_kept(live: Live) -> None:
    before, events = live.agent.counters("quarantined_requests_total", "reason"), live.events()
    nested: object = "x"
    for _ in range(200):
        nested = [nested]
    bad: list[object] = [
        None,
        7,
        "text",
        [],
        {},
        {"event": "delivered"},
        {"timestamp": 1},
        {"event": 3, "timestamp": "x"},
    ]
    body = json.dumps([item for one in bad for item in (live.fresh(category=nested), one)]).encode()
    with live.counts(quarantined=2):
        assert taken(live.post("sg", body))
        assert taken(live.post("sg", body))
    assert live.events() == events + len(bad)
    assert live.agent.counters("quarantined_requests_total", "reason") - before == Counter(malformed_items=2)


def test_after_all_of_it_nothing_is_wrong(live: Live) -> None:
    untroubled(live)
