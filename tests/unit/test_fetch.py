"""What the agent fetches because somebody else named the URL reaches public servers, and costs little."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.fetch import LONGEST_URL, Fetched, FetchError, fetch, is_public
from tests.servers.tls import DAY, Authority, Handler, answer, serving

HOST = "policy.example.com"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def to(port: int, *addresses: str) -> Callable[[str, int], Awaitable[list[tuple[str, int]]]]:
    """A resolver that sends every name to 127.0.0.1, or to the given addresses."""

    async def resolve(host: str, asked: int) -> list[tuple[str, int]]:
        return [(address, port) for address in addresses or ("127.0.0.1",)]

    return resolve


def saying(*answers: bytes) -> tuple[Handler, list[str]]:
    """A handler that gives each connection the next answer, and what it was asked."""
    asked: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answers[min(len(asked), len(answers)) - 1])
        await writer.drain()

    return handle, asked


async def get(authority: Authority, port: int, url: str = f"https://{HOST}/policy.txt", **options: Any) -> Fetched:
    given = {"tls": authority.client(), "resolve": to(port), "allowed": lambda a: True} | options
    return await fetch(url, **given)


async def reason(awaitable: Awaitable[Fetched]) -> str:
    with pytest.raises(FetchError) as caught:
        await awaitable
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


async def test_a_body_is_fetched_with_its_headers(authority: Authority) -> None:
    handler, asked = saying(answer("200 OK", b"version: STSv1\n", "Content-Type: text/plain"))
    async with serving(handler, authority.server(HOST)) as port:
        got = await get(authority, port, f"https://{HOST}/policy.txt?a=b%2Bc#part")
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"version: STSv1\n", "text/plain")
    assert asked[0].startswith("GET /policy.txt?a=b%2Bc HTTP/1.1\r\n")
    assert f"Host: {HOST}\r\n" in asked[0]
    assert "Accept-Encoding: identity\r\n" in asked[0]
    assert "cookie" not in asked[0].lower()


@pytest.mark.parametrize("status", [404, 410, 500, 503, 204, 304])
async def test_other_answers_are_the_callers_to_judge(authority: Authority, status: int) -> None:
    async with serving(saying(answer(f"{status} X"))[0], authority.server(HOST)) as port:
        assert (await get(authority, port)).status == status


async def test_a_compressed_body_stays_packed(authority: Authority) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    async with serving(saying(answer("200 OK", bomb, "Content-Encoding: gzip"))[0], authority.server(HOST)) as port:
        got = await get(authority, port)
    assert (got.body, got.headers["content-encoding"]) == (bomb, "gzip")


@pytest.mark.parametrize(
    "url",
    [
        "", "https://", f"http://{HOST}/", f"HTTPS:{HOST}/", f"//{HOST}/", "file:///etc/passwd", f"ftp://{HOST}/",
        f"https://user@{HOST}/", f"https://user:pass@{HOST}/", f"https://{HOST}\\@127.0.0.1/", f"https://{HOST}/a b",
        f"https://{HOST}/\r\nHost: x", f"https://{HOST}/é", "https://exämple.com/", f"https://{HOST}:0/",
        f"https://{HOST}:65536/", f"https://{HOST}:x/", f"https://{HOST}:/", f" https://{HOST}/", "https://[::1/",
        "https://[fe80::1%25lo]/", f"https://{HOST}/{'x' * LONGEST_URL}", f"https://{HOST}%2e/", "https:///x", "https://?",
    ],
)  # fmt: skip
async def test_what_is_no_plain_https_url_is_refused(url: str) -> None:
    async def never(host: str, port: int) -> list[tuple[str, int]]:
        raise AssertionError("asked for an address")

    assert await reason(fetch(url, resolve=never, allowed=lambda a: True)) == "url"


# Of each block its ends and a little of its middle; and the same within IPv6, where IPv4 can be written.
PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "127.0.0.1", "127.255.255.255",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "100::1", "2001::1", "2001:db8::1",
    "2001:10::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1",
    "fec0::1", "ff02::1", "fe80::1%lo",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1",
          "64:ff9b::8.8.8.8"]  # fmt: skip


def test_public_addresses() -> None:
    assert [a for a in PRIVATE if is_public(ip_address(a))] == []
    assert [a for a in PUBLIC if not is_public(ip_address(a))] == []


@settings(max_examples=200)
@given(st.ip_addresses())
def test_what_the_standard_library_calls_private_is_not_public(address: Any) -> None:
    if address.is_private or address.is_multicast or address.is_loopback or address.is_link_local:
        assert not is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_with_a_private_address_is_not_connected_to(address: str) -> None:
    for found in ((address,), ("8.8.8.8", address), (address, "8.8.8.8")):
        assert await reason(fetch(f"https://{HOST}/", resolve=to(443, *found))) == "address"


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1:8443"])
async def test_an_address_in_place_of_a_name_is_looked_at_as_well(host: str) -> None:
    assert await reason(fetch(f"https://{host}/latest/meta-data")) == "address"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "ip6-localhost", "localhost."])
async def test_the_systems_own_names_lead_nowhere(host: str) -> None:
    why = await reason(fetch(f"https://{host}/"))
    assert why == "address" or (why == "dns" and host.lower() != "localhost"), "not every system knows every one"


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0x7f000001"])
async def test_odd_ways_to_write_loopback_lead_nowhere(host: str) -> None:
    assert await reason(fetch(f"https://{host}/")) in ("address", "url", "dns")


async def test_a_name_that_changes_its_mind_is_asked_once(authority: Authority) -> None:
    handler, asked = saying(answer("200 OK", b"x"))
    answers = iter(["127.0.0.2", "127.0.0.1"])
    looked_at: list[str] = []

    def allowed(address: Any) -> bool:
        looked_at.append(str(address))
        return str(address) == "127.0.0.2"

    async with serving(handler, authority.server(HOST)) as port:

        async def rebinding(host: str, wanted: int) -> list[tuple[str, int]]:
            return [(next(answers), port)]

        # Nothing listens on 127.0.0.2: had the name been looked up again, it would have led to the server.
        assert await reason(get(authority, port, resolve=rebinding, allowed=allowed)) == "connect"
        assert (looked_at, asked) == (["127.0.0.2"], [])
        assert await reason(get(authority, port, resolve=rebinding, allowed=allowed)) == "address"
    assert asked == []


async def test_redirects_are_not_followed_unasked(authority: Authority) -> None:
    handler, asked = saying(answer("302 Found", b"", f"Location: https://{HOST}/b"))
    async with serving(handler, authority.server(HOST)) as port:
        assert await reason(get(authority, port)) == "redirect"
        assert len(asked) == 1
        assert await reason(get(authority, port, redirects=3)) == "redirect"
        assert len(asked) == 5


async def test_redirects_are_followed_as_far_as_allowed(authority: Authority) -> None:
    handler, asked = saying(answer("301 X", b"", "Location: /b?c#d"), answer("307 X", b"", f"Location: //{HOST}/e"),
                            answer("200 OK", b"x"))  # fmt: skip
    async with serving(handler, authority.server(HOST)) as port:
        assert (await get(authority, port, redirects=2)).body == b"x"
    assert [line.split()[1] for line in asked] == ["/policy.txt", "/b?c", "/e"]


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("https://127.0.0.1/", "address"), ("https://inside.example/", "address"), ("//[::1]/", "address"),
        ("http://policy.example.com/", "url"), ("https://a@policy.example.com/", "url"), ("file:///etc/passwd", "url"),
        ("gopher:x", "url"),
    ],
)  # fmt: skip
async def test_each_hop_is_looked_at_anew(authority: Authority, location: str, why: str) -> None:
    handler, asked = saying(answer("302 Found", b"", f"Location: {location}"))
    async with serving(handler, authority.server(HOST)) as port:

        async def resolve(host: str, wanted: int) -> list[tuple[str, int]]:
            return [("127.0.0.1" if host == HOST else "10.0.0.1", port)]

        allowed = iter([True])
        given: dict[str, Any] = {"resolve": resolve, "allowed": lambda a: next(allowed, False), "redirects": 5}
        assert await reason(get(authority, port, **given)) == why
    assert len(asked) == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_huge_body_is_not_read(authority: Authority, chunked: bool) -> None:
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        how = b"Transfer-Encoding: chunked" if chunked else b"Connection: close"
        writer.write(b"HTTP/1.1 200 OK\r\n" + how + b"\r\n\r\n")
        while True:
            writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n" if chunked else bytes(0x4000))
            await writer.drain()
            sent += 0x4000

    async with serving(handler, authority.server(HOST)) as port:
        assert await reason(get(authority, port, limit=100_000)) == "too_large"
    assert sent < 20_000_000


@pytest.mark.parametrize(("size", "limit", "fits"), [(100, 100, True), (101, 100, False), (0, 0, True)])
async def test_the_limit_is_exact(authority: Authority, size: int, limit: int, fits: bool) -> None:
    async with serving(saying(answer("200 OK", bytes(size)))[0], authority.server(HOST)) as port:
        if fits:
            assert len((await get(authority, port, limit=limit)).body) == size
        else:
            assert await reason(get(authority, port, limit=limit)) == "too_large"


@pytest.mark.parametrize("where", ["head", "body", "silent"])
async def test_a_slow_drip_ends_in_time(authority: Authority, where: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun = {"head": b"HTTP/1.1 200 OK\r\nX-Long: ", "body": b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"}
        writer.write(begun.get(where, b""))
        for _ in range(30):
            if where != "silent":
                writer.write(b"a")
                await writer.drain()
            await asyncio.sleep(0.05)

    async with serving(handler, authority.server(HOST)) as port:
        start = time.monotonic()
        assert await reason(get(authority, port, timeout=0.3)) == "timeout"
        assert time.monotonic() - start < 2


async def test_a_resolver_that_never_answers_ends_in_time() -> None:
    async def resolve(host: str, port: int) -> list[tuple[str, int]]:
        await asyncio.sleep(60)
        return []

    assert await reason(fetch(f"https://{HOST}/", timeout=0.1, resolve=resolve)) == "timeout"


async def test_a_name_without_address_is_dns() -> None:
    async def failing(host: str, port: int) -> list[tuple[str, int]]:
        raise OSError("NXDOMAIN")

    for resolve in (failing, _nothing):
        assert await reason(fetch(f"https://{HOST}/", resolve=resolve)) == "dns"
    assert await reason(fetch("https://a..example/")) in ("dns", "url")


async def _nothing(host: str, port: int) -> list[tuple[str, int]]:
    return []


async def test_a_closed_port_is_connect(authority: Authority, unused_tcp_port: int) -> None:
    assert await reason(get(authority, unused_tcp_port)) == "connect"


async def test_a_certificate_must_be_the_names_own_valid_and_trusted(authority: Authority, tmp_path: Path) -> None:
    handler, asked = saying(answer("200 OK"))
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    for context in (
        authority.server("other.example.com"),
        authority.server(HOST, begins=time.time() - 90 * DAY),
        stranger.server(HOST),
    ):
        async with serving(handler, context) as port:
            assert await reason(get(authority, port)) == "tls"
    async with serving(handler, authority.server(HOST)) as port:
        assert await reason(get(authority, port, tls=None)) == "tls", "the system does not know our authority"
    assert asked == []


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
                                  b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n"])  # fmt: skip
async def test_what_is_no_http_or_cut_short_is_http(authority: Authority, said: bytes) -> None:
    async with serving(saying(said)[0], authority.server(HOST)) as port:
        assert await reason(get(authority, port)) == "http"


@given(st.text(max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    async def run() -> None:
        for url in (text, "https://" + text, f"https://{HOST}/" + text):
            assert await reason(fetch(url, resolve=_nothing)) in ("url", "dns", "address")

    asyncio.run(run())
