"""Heads and frames that nobody should send, each with the answer it gets and the outcome under which it is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.servers.raw import chunked, request
from tests.stack.live import MAX_BODY

# Counted outcomes. Requests that are no HTTP count as ``invalid`` of the unknown source; nothing is counted of what
# does not come to an end.
NOTHING = ""
# fmt: off
SECRET = b"X-Secret: " + b"s" * 20


class Case(NamedTuple):
    """``status`` 0: the connection is closed without an answer. ``end``: nothing more is to come from the sender."""

    name: str
    data: bytes
    status: int
    counted: str
    end: bool = False


def broken_http() -> Iterator[Case]:
    """Every case; no two have one name."""
    yield from _no_http()
    yield from _targets()
    yield from _headers()
    yield from _framing()
    yield from _chunks()


def head(*lines: bytes, first: bytes = b"POST /webhooks/pmh HTTP/1.1") -> bytes:
    """A request's head with the secret of the source ``pmh``."""
    return b"\r\n".join((first, b"Host: a", SECRET, *lines, b"", b""))


def _no_http() -> Iterator[Case]:
    for name, data in {
        "NULs": b"\0" * 100,
        "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "SMTP": b"EHLO a.test\r\n",
        "Redis": b"*1\r\n$4\r\nPING\r\n",
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a word": b"hello\r\n\r\n",
        "a method": b"GET\r\n\r\n",
        "HTTP/9.9": b"POST /webhooks/pmh HTTP/9.9\r\nHost: a\r\n\r\n",
        "HTTP/1.": b"POST /webhooks/pmh HTTP/1.\r\nHost: a\r\n\r\n",
        "HTTP/1.10": b"POST /webhooks/pmh HTTP/1.10\r\nHost: a\r\n\r\n",
        "http in lower case": b"POST /webhooks/pmh http/1.1\r\nHost: a\r\n\r\n",
        "ICY": b"POST /webhooks/pmh ICY/1.1\r\nHost: a\r\n\r\n",
        "a tab": b"POST\t/webhooks/pmh\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "a blank in the path": b"POST /webhooks/p mh HTTP/1.1\r\nHost: a\r\n\r\n",
        "a NUL in the path": b"POST /webhooks/\0pmh HTTP/1.1\r\nHost: a\r\n\r\n",
        "a control in the path": b"POST /webhooks/\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "binary": bytes(range(256)) * 4,
        "a method of symbols": b"(@) /webhooks/pmh HTTP/1.1\r\nHost: a\r\n\r\n",
        "a long method": b"P" * 20_000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
        "a bare LF": b"POST /webhooks/pmh HTTP/1.1\nHost: a\n\n",
        "an endless line": b"POST /webhooks/" + b"a" * 300_000,
    }.items():
        yield Case(f"no HTTP: {name}", data, 400, "invalid")
    # Lenient, and harmless: what is not proved counts nothing.
    yield Case("HTTP/0.9", b"GET /webhooks/pmh\r\n\r\n", 200, "probe")
    for name, first in {
        "HTTP/2.0": b"POST /webhooks/pmh HTTP/2.0",
        "two blanks": b"POST  /webhooks/pmh HTTP/1.1",
    }.items():
        yield Case(name, first + b"\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 401, "unauthorized")
    for name, data in {
        "nothing": b"",
        "line ends": b"\r\n\r\n",
        "half a line": b"POST /webh",
        "half a head": head()[:-2],
    }.items():
        yield Case(f"no end: {name}", data, 0, NOTHING, end=True)


def _targets() -> Iterator[Case]:
    for target in (
        "/", "/webhooks", "/webhooks/", "/webhooks/nobody", "/webhooks/pmh/", "/webhooks//pmh", "//webhooks/pmh",
        "/webhooks/PMH", "/webhooks/%70mh", "/webhooks/pmh%00", "/webhooks/pmh%2f", "/webhooks/../webhooks/pmh",
        "/./webhooks/pmh", "/webhooks/pmh;a=b", "/metrics", "/healthz", "/api/v1/status", "/webhooks/%ff%fe",
        "/webhooks/..%2f..%2fetc%2fpasswd", "/webhooks/" + "a" * 8000, "/webhooks/${jndi:ldap://a}",
        "/webhooks/<script>alert(1)</script>", "/webhooks/' OR 1=1 --".replace(" ", "+"), "/webhooks/\xfc",
        "http://a.test/metrics", "http://a.test/webhooks/nobody", "https://a.test:99999/webhooks/pmh",
        "http://[::1/webhooks/pmh", "ftp://a.test/webhooks/nobody", "*", "a.test:443", "pmh",
        "file:///etc/passwd", "/webhooks/pmh#fragment/..",
    ):
        no_targets = {
            "http://[::1/webhooks/pmh", "https://a.test:99999/webhooks/pmh", "*", "a.test:443", "pmh",
            "file:///etc/passwd",
            "/webhooks/\xfc",
        }
        status, counted = (400, "invalid") if target in no_targets else (404, "unknown_source")
        yield Case(f"target {target[:50]}", request("POST", target, {"X-Secret": "s" * 20}, b"{}"), status, counted)
    for query in (
        "%00%ff",
        "a=" + "b" * 7000,
        "&" * 5000,
        "a=1&a=2&a[]=3",
        "%",
        "?????",
        "token=x&token=y",
        "../../etc",
    ):
        yield Case(
            f"query {query[:20]}", request("POST", f"/webhooks/pmh?{query}", {"X-Secret": "s" * 20}, b"{}"), 200,
            "quarantined",
        )
    for method in ("BREW", "post", "P\xd6ST", "GET,POST"):
        yield Case(f"method {method}", request(method, "/webhooks/pmh", {}), 400, "invalid")
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "SUBSCRIBE"):
        yield Case(f"method {method}", request(method, "/webhooks/pmh", {"X-Secret": "s" * 20}), 405, "invalid")


def _headers() -> Iterator[Case]:
    refused = {
        "no colon": b"nothing here", "no name": b": x", "a blank before the colon": b"X-A : x",
        "folded": b"X-A: 1\r\n 2",
        "folded at once": b" X-A: 1", "a NUL": b"X-A: a\0b", "a bare CR": b"X-A: a\rX-B: b",
        "a blank in a name": b"X A: x",
        "a control": b"X-A: \x01", "DEL in a name": b"X\x7f: x", "a long value": b"X-A: " + b"a" * 9000,
        "a long name": b"X" * 9000 + b": a", "too many": b"\r\n".join(b"X-%d: a" % i for i in range(200)),
        "a bomb": b"X-A: " + b"a" * 1_000_000, "brackets in a name": b"(X): a", "two hosts": b"Host: b",
    }
    for name, line in refused.items():
        yield Case(f"header with {name}", head(line, b"Content-Length: 2") + b"{}", 400, "invalid")
    taken = {
        "a large cookie": b"Cookie: " + b"a=b;" * 1900, "the same name 50 times": b"\r\n".join([b"X-A: a"] * 50),
        "bytes above ASCII": b"X-A: \xff\xfe", "an empty value": b"X-A:",
        "a forged origin": b"X-Forwarded-For: 127.0.0.1",
        "a hop-by-hop secret": b"Connection: close, X-Secret", "a format string": b"User-Agent: %s%n{0}${jndi:x}",
        "a range": b"Range: bytes=0-1,1-2,2-3", "another's method": b"X-HTTP-Method-Override: DELETE",
    }
    for name, line in taken.items():
        yield Case(f"header with {name}", head(line, b"Content-Length: 2") + b"{}", 200, "quarantined")
    yield Case("no Host", b"POST /webhooks/nobody HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400, "invalid")


# What a smuggled request would be counted as, were it served.
_SMUGGLED = b"PUT /webhooks/pmh HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


def _framing() -> Iterator[Case]:
    lengths = {
        "negative": b"-1", "signed": b"+2", "hex": b"0x2", "a list": b"2, 2", "a list of two": b"2, 3",
        "words": b"two",
        "blanks within": b"1 1", "a fraction": b"2.0", "an exponent": b"1e1", "long": b"9" * 5000,
        "above 64 bits": b"18446744073709551616", "other digits": "２".encode(), "superscript": "²".encode(),
        "empty": b"",
        "a semicolon": b"2;", "an underscore": b"1_0",
    }
    for name, value in lengths.items():
        yield Case(f"length {name}", head(b"Content-Length: " + value) + b"{}" + _SMUGGLED, 400, "invalid")
    for name, lines in {
        "two lengths": (b"Content-Length: 2", b"Content-Length: 3"),
        "the same length twice": (b"Content-Length: 2", b"Content-Length: 2"),
        "length and chunks": (b"Content-Length: 2", b"Transfer-Encoding: chunked"),
        "chunks and length": (b"Transfer-Encoding: chunked", b"Content-Length: 2"),
        "length and other chunks": (b"Content-Length: 2", b"Transfer-Encoding: xchunked"),
        "chunked twice": (b"Transfer-Encoding: chunked, chunked",),
        "chunked not last": (b"Transfer-Encoding: chunked, identity",),
        "a blank name": (b"Transfer-Encoding : chunked",),
        "folded chunked": (b"Transfer-Encoding:\r\n chunked",),
        "a vertical tab": (b"Transfer-Encoding: \x0bchunked",),
        "no coding": (b"Transfer-Encoding: ",),
        "unknown coding": (b"Transfer-Encoding: cow",),
        "quoted": (b'Transfer-Encoding: "chunked"',),
        "two codings in two lines": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    }.items():
        yield Case(f"framing: {name}", head(*lines) + b"0\r\n\r\n" + _SMUGGLED, 400, "invalid")
    old = head(b"Transfer-Encoding: chunked", first=b"POST /webhooks/pmh HTTP/1.0")
    yield Case("framing: chunks in HTTP/1.0", old + b"2\r\n{}\r\n0\r\n\r\n", 200, "quarantined")


def _chunks() -> Iterator[Case]:
    start = head(b"Transfer-Encoding: chunked")
    for name, body in {
        "a size too large": b"fffffffffffffffff\r\n", "a negative size": b"-1\r\n", "no size": b"\r\n{}\r\n0\r\n\r\n",
        "a size in words": b"two\r\n{}\r\n0\r\n\r\n", "a size with 0x": b"0x2\r\n{}\r\n0\r\n\r\n",
        "more than it says": b"2\r\n{}{}\r\n0\r\n\r\n", "no end of data": b"2\r\n{}0\r\n\r\n",
        "bare LF": b"2\n{}\n0\n\n", "an underscore": b"1_0\r\n" + b" " * 16 + b"\r\n0\r\n\r\n",
        "a signed size": b"+2\r\n{}\r\n0\r\n\r\n", "junk": b"\0\xff" * 50,
        "a blank before": b" 2\r\n{}\r\n0\r\n\r\n", "LF in an extension": b"2;a=\nb\r\n{}\r\n0\r\n\r\n",
        "a bad trailer": b"2\r\n{}\r\n0\r\nno colon\r\n\r\n",
        "a folded trailer": b"2\r\n{}\r\n0\r\nA: b\r\n c\r\n\r\n",
        "endless trailers": b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    }.items():
        yield Case(f"chunks: {name}", start + body, 400, "invalid")
    for name, body in {
        "none": b"",
        "an endless size": b"0" * 100_000,
        "an endless extension": b"2;" + b"a" * 100_000,
        "half a size": b"2",
        "half a chunk": b"a\r\n{}",
        "no last": b"2\r\n{}\r\n",
        "no trailer's end": b"2\r\n{}\r\n0\r\n",
    }.items():
        yield Case(f"chunks cut: {name}", start + body, 0, "invalid", end=True)
    for name, body in {
        "an extension": b'2;a="b;c"\r\n{}\r\n0\r\n\r\n',
        "a trailer that forges": b"2\r\n{}\r\n0\r\nX-Secret: x\r\n\r\n",
        "zeros before": b"0000002\r\n{}\r\n0\r\n\r\n",
        "of one byte each": chunked([b" "] * 5000 + [b"{}"]),
    }.items():
        yield Case(f"chunks with {name}", start + body, 200, "quarantined")
    too_long = chunked([b" " * 65536] * (MAX_BODY // 65536 + 2))
    yield Case("chunks beyond the limit", start + too_long, 413, "too_large")
